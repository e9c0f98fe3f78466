// SPDX-License-Identifier: GPL-3.0-or-later
//! The store's database, `/var/guix/db/db.sqlite`: which items are valid, and what they refer to
//! (`openDB` and `registerValidPaths` in Guix's `nix/libstore/local-store.cc`; its schema has been version 7 for ever).
//!
//! ```text
//! ValidPaths (id, path, hash = "sha256:" and base 16, registrationTime in seconds since the epoch, deriver, narSize)
//! Refs       (referrer, reference), both an id; an item may refer to itself
//! ```
//!
//! The database is shared with guix-daemon: it is never created here, and its journal mode is never changed.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::{Directories, StoreDir, StorePath, base16};
use crate::error::{Error, ErrorKind, IoContext, Result};

const SCHEMA: &str = "7";
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the database. For one thread at a time.
pub struct Database {
    file: PathBuf,
    store: StoreDir,
    connection: Connection,
}

/// What is in the tables about an item.
struct Row {
    hash: String,
    deriver: Option<String>,
    nar_size: Option<i64>,
    references: Vec<String>,
}

impl Row {
    fn into_info(self, path: &StorePath, store: &StoreDir) -> Result<ValidPath> {
        let wrong = || Error::new(ErrorKind::Store, format!("what it says about {path} is malformed"));
        Ok(ValidPath {
            path: path.clone(),
            nar_hash: self.hash.strip_prefix("sha256:").and_then(unhex).ok_or_else(wrong)?,
            nar_size: self.nar_size.unwrap_or(0).try_into().map_err(|_| wrong())?,
            deriver: self
                .deriver
                .filter(|deriver| !deriver.is_empty())
                .map(|deriver| store.parse(&deriver))
                .transpose()?,
            references: self.references.iter().map(|reference| store.parse(reference)).collect::<Result<_>>()?,
        })
    }
}

/// The bytes of a SHA-256 in base 16.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (digits.len() == 64).then_some(bytes)
}

/// What the database says about a valid item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidPath {
    /// The item's name.
    pub path: StorePath,
    /// SHA-256 of its nar.
    pub nar_hash: [u8; 32],
    /// Size of its nar in bytes.
    pub nar_size: u64,
    /// The derivation that made it. As in guix-daemon, it is forgotten unless it is valid itself.
    pub deriver: Option<StorePath>,
    /// The items that it refers to, possibly itself among them.
    pub references: Vec<StorePath>,
}

impl Database {
    /// Opens the database of the store, which must exist.
    pub fn open(directories: &Directories) -> Result<Self> {
        let file = directories.database.join("db.sqlite");
        check_schema(directories)?;
        // Settings are those of guix-daemon: a power failure may undo the last transactions, but not damage the
        // database, and moving the log into the database proper is left to guix-daemon most of the time.
        Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .and_then(|connection| {
                connection.busy_timeout(BUSY_TIMEOUT)?;
                connection.pragma_update(None, "foreign_keys", true)?;
                connection.pragma_update(None, "synchronous", "normal")?;
                connection.pragma_update(None, "wal_autocheckpoint", 40_000)?;
                Ok(connection)
            })
            .map_err(|error| failed("opening the store database", error).context(file.display().to_string()))
            .map(|connection| Database { file, store: directories.store.clone(), connection })
    }

    /// Is the item valid?
    pub fn is_valid(&self, path: &StorePath) -> Result<bool> {
        find(&self.connection, path)
            .map(|id| id.is_some())
            .map_err(|error| failed(&format!("looking up {path}"), error).context(self.file.display().to_string()))
    }

    /// What is known about the item; `None`: it is not valid.
    pub fn info(&self, path: &StorePath) -> Result<Option<ValidPath>> {
        self.query_info(path)
            .map_err(|error| failed(&format!("looking up {path}"), error))
            .and_then(|row| row.map(|row| row.into_info(path, &self.store)).transpose())
            .map_err(|error| error.context(self.file.display().to_string()))
    }

    fn query_info(&self, path: &StorePath) -> rusqlite::Result<Option<Row>> {
        let mut statement =
            self.connection.prepare_cached("SELECT id, hash, deriver, narSize FROM ValidPaths WHERE path = ?")?;
        let found = statement
            .query_row([path.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((id, hash, deriver, nar_size)) = found else { return Ok(None) };
        let mut statement = self.connection.prepare_cached(
            "SELECT path FROM Refs JOIN ValidPaths ON reference = id WHERE referrer = ? ORDER BY path",
        )?;
        let references = statement.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(Some(Row { hash, deriver, nar_size, references }))
    }

    /// Registers `items`, but for those that are valid already, and returns which ones that were. All are registered,
    /// or, after an error, none.
    ///
    /// What an item refers to must be valid or be registered with it, or the items are [`ErrorKind::Untrusted`]. `install` is called for each before it is
    /// registered, to put it in place: the database is locked then, so nobody else can register the item meanwhile.
    pub fn register(
        &mut self,
        items: &[ValidPath],
        mut install: impl FnMut(&ValidPath) -> Result<()>,
    ) -> Result<Vec<StorePath>> {
        let file = self.file.display().to_string();
        let failed = |error| failed("registering store items", error).context(&file);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;

        let mut pending = Vec::new();
        for item in items {
            if find(&transaction, &item.path).map_err(failed)?.is_none() {
                pending.push(item);
            }
        }
        // What is referred to comes first, so a cycle, which guix-daemon could never delete, comes to a halt.
        let mut registered = Vec::new();
        while !pending.is_empty() {
            let before = pending.len();
            let mut waiting = Vec::new();
            for item in pending {
                if missing_reference(&transaction, item).map_err(failed)?.is_some() {
                    waiting.push(item);
                    continue;
                }
                install(item)?;
                insert(&transaction, item)?;
                registered.push(item.path.clone());
            }
            if waiting.len() == before {
                return Err(unresolved(&transaction, &waiting).map_err(failed)?);
            }
            pending = waiting;
        }
        transaction.commit().map_err(failed)?;
        Ok(registered)
    }
}

fn check_schema(directories: &Directories) -> Result<()> {
    let file = directories.database.join("schema");
    let version =
        std::fs::read_to_string(&file).io_context(ErrorKind::Store, || format!("reading {}", file.display()))?;
    if version.trim() != SCHEMA {
        let why = format!("{} says version {:?}, only {SCHEMA} is supported", file.display(), version.trim());
        return Err(Error::new(ErrorKind::Store, why));
    }
    Ok(())
}

/// The id of an item, if it is valid.
fn find(connection: &Connection, path: &StorePath) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare("SELECT id FROM ValidPaths WHERE path = ?")?;
    statement.query_row([path.as_str()], |row| row.get(0)).optional()
}

/// Something that `item` refers to, not being itself, that is not valid.
fn missing_reference<'a>(connection: &Connection, item: &'a ValidPath) -> rusqlite::Result<Option<&'a StorePath>> {
    for reference in item.references.iter().filter(|&reference| *reference != item.path) {
        if find(connection, reference)?.is_none() {
            return Ok(Some(reference));
        }
    }
    Ok(None)
}

/// Why none of `items` could be registered.
fn unresolved(connection: &Connection, items: &[&ValidPath]) -> rusqlite::Result<Error> {
    for item in items {
        for reference in &item.references {
            let comes_with_it = items.iter().any(|other| other.path == *reference);
            if !comes_with_it && find(connection, reference)?.is_none() {
                let why = format!("{} refers to {reference}, which is not in the store", item.path);
                return Ok(Error::new(ErrorKind::Untrusted, why));
            }
        }
    }
    let names: Vec<_> = items.iter().map(|item| item.path.as_str()).collect();
    Ok(Error::new(ErrorKind::Untrusted, format!("store items refer to each other in a circle: {}", names.join(", "))))
}

fn insert(transaction: &Transaction, item: &ValidPath) -> Result<()> {
    let error = |error| failed(&format!("registering {}", item.path), error);
    if item.path.is_derivation() {
        // Its outputs would have to be listed as well, or the garbage collector would take them for unrelated.
        let why = format!("{} is a derivation, which only guix-daemon can register", item.path);
        return Err(Error::new(ErrorKind::InvalidArgument, why));
    }
    let size = i64::try_from(item.nar_size)
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, format!("{} is too large", item.path)))?;
    let mut deriver = None;
    if let Some(path) = &item.deriver
        && find(transaction, path).map_err(error)?.is_some()
    {
        deriver = Some(path.as_str());
    }
    let hash = base16(&item.nar_hash);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64);

    let row = params![item.path.as_str(), format!("sha256:{hash}"), now, deriver, size];
    transaction
        .execute("INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize) VALUES (?, ?, ?, ?, ?)", row)
        .map_err(error)?;
    let id = transaction.last_insert_rowid();
    for reference in &item.references {
        transaction
            .execute(
                "INSERT OR REPLACE INTO Refs (referrer, reference)
                 VALUES (?, (SELECT id FROM ValidPaths WHERE path = ?))",
                params![id, reference.as_str()],
            )
            .map_err(error)?;
    }
    Ok(())
}

fn failed(doing: &str, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let busy = code == Some(rusqlite::ErrorCode::DatabaseBusy);
    let exhausted = match code {
        Some(rusqlite::ErrorCode::CannotOpen) => out_of_descriptors(),
        code => code == Some(rusqlite::ErrorCode::OutOfMemory),
    };
    let kind = if exhausted { ErrorKind::Exhausted } else { ErrorKind::Store };
    let error = Error::new(kind, format!("{doing}: {error}"));
    if busy { error.hint("another process kept the database locked for 30 seconds; try again") } else { error }
}

/// Are there too few descriptors for SQLite, which keeps to itself why it cannot open a file?
fn out_of_descriptors() -> bool {
    const FILES: usize = 3; // the database, its log, and the index of that
    let opened: Result<Vec<OwnedFd>, Errno> =
        (0..FILES).map(|_| open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())).collect();
    matches!(opened, Err(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
#[path = "database_tests.rs"]
pub(super) mod tests;
