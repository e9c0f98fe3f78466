// SPDX-License-Identifier: GPL-3.0-or-later
//! The store's database, `/var/guix/db/db.sqlite`: which items are valid, and which items they refer to (`openDB` and
//! `registerValidPaths` in Guix's `nix/libstore/local-store.cc`). The version of its schema has always been 7.
//!
//! ```text
//! ValidPaths (id, path, hash = "sha256:" and base 16, registrationTime in seconds since the epoch, deriver, narSize)
//! Refs       (referrer, reference), both an id; an item may refer to itself
//! DerivationOutputs (drv = an id of ValidPaths, id = "out" and such, path)
//! ```
//!
//! The database is shared with guix-daemon: this module never creates it, and never changes its journal mode. While
//! another process keeps it locked, a call waits as long as guix-daemon would, unless it is cancelled.

mod closure;

use std::cell::RefCell;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, MAIN_DB, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::directories::for_daemons_user;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::{StoreDir, StorePath, base16};

pub use closure::Closure;

const SCHEMA: &str = "7";

/// Longest wait for a locked database: as long as guix-daemon waits.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long SQLite itself waits for a locked database before each check for cancellation.
const BUSY_TIMEOUT: Duration = Duration::from_millis(200);

/// A connection to the database. Used by one thread at a time.
pub struct Database {
    file: PathBuf,
    store: StoreDir,
    connection: Connection,
    /// Ends waiting for a lock.
    cancel: RefCell<Cancel>,
}

/// The row of an item.
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

/// Returns the bytes of a SHA-256 written in base 16.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (digits.len() == 64).then_some(bytes)
}

/// The database's record of a valid item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidPath {
    /// The item's name.
    pub path: StorePath,
    /// SHA-256 of its nar.
    pub nar_hash: [u8; 32],
    /// Size of its nar in bytes.
    pub nar_size: u64,
    /// The derivation that made it. As in guix-daemon, it is recorded only if it is valid itself.
    pub deriver: Option<StorePath>,
    /// The items that it refers to, possibly itself among them.
    pub references: Vec<StorePath>,
}

impl Database {
    /// Opens the database of the store, which must exist. `cancel` ends each wait for a lock on it, now and later.
    pub fn open(directories: &Directories, cancel: &Cancel) -> Result<Self> {
        let file = directories.database.join("db.sqlite");
        check_schema(directories)?;
        let doing = "opening the store database";
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = patiently(cancel, &file, doing, || {
            let connection = Connection::open_with_flags(&file, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // The settings are guix-daemon's. A power failure may undo the last transactions, but not damage the
            // database. Checkpoints, which move the log into the database, are mostly left to guix-daemon.
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.pragma_update(None, "wal_autocheckpoint", 40_000)?;
            // This query shows that the database can be read.
            connection.query_row("SELECT 1 FROM ValidPaths LIMIT 1", [], |_| Ok(())).optional()?;
            Ok(connection)
        })?;
        // SQLite silently opens a file read-only if it may not write to it.
        if connection.is_readonly(MAIN_DB).unwrap_or(true) {
            let error = Error::new(ErrorKind::Store, format!("{doing}: it cannot be written to"));
            return Err(error.context(file.display().to_string()).hint(writable(&file)));
        }
        Ok(Database { file, store: directories.store.clone(), connection, cancel: RefCell::new(cancel.clone()) })
    }

    /// Makes `cancel` end each wait for a lock from now on.
    pub fn obey(&self, cancel: &Cancel) {
        *self.cancel.borrow_mut() = cancel.clone();
    }

    fn patiently<T>(&self, doing: &str, attempt: impl FnMut() -> rusqlite::Result<T>) -> Result<T> {
        patiently(&self.cancel.borrow(), &self.file, doing, attempt)
    }

    /// Returns whether the item is valid.
    pub fn is_valid(&self, path: &StorePath) -> Result<bool> {
        self.patiently(&format!("looking up {path}"), || find(&self.connection, path)).map(|id| id.is_some())
    }

    /// Returns the record of the item; `None` if it is not valid.
    pub fn info(&self, path: &StorePath) -> Result<Option<ValidPath>> {
        let row = self.patiently(&format!("looking up {path}"), || self.query_info(path))?;
        row.map(|row| row.into_info(path, &self.store))
            .transpose()
            .map_err(|error| error.context(self.file.display().to_string()))
    }

    /// Returns what the derivation reads, and the sizes of the nars in bytes: the valid ones of its sources, and of all
    /// outputs of the derivations that it refers to. What these refer to in turn is left out.
    pub fn inputs_of(&self, derivation: &StorePath) -> Result<Vec<(StorePath, u64)>> {
        let rows = self.patiently(&format!("looking up what {derivation} reads"), || self.query_inputs(derivation))?;
        rows.iter().map(|(path, size)| Ok((self.store.parse(path)?, (*size).try_into().unwrap_or(0)))).collect()
    }

    fn query_inputs(&self, derivation: &StorePath) -> rusqlite::Result<Vec<(String, i64)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT input.path, ifnull(input.narSize, 0) FROM ValidPaths derivation
             JOIN Refs ON referrer = derivation.id
             JOIN ValidPaths reference ON reference.id = Refs.reference
             LEFT JOIN DerivationOutputs output ON output.drv = reference.id
             JOIN ValidPaths input ON input.path = ifnull(output.path, reference.path)
             WHERE derivation.path = ?",
        )?;
        let rows = statement.query_map([derivation.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
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

    /// Returns the `items` that no other of them refers to, and none of `others` either. From these and `others`, all
    /// `items` can be reached by references. An item that is not valid is returned, too.
    pub fn heads(&self, items: &[StorePath], others: &[ValidPath]) -> Result<Vec<StorePath>> {
        self.patiently("looking up references", || self.query_heads(items, others))
    }

    fn query_heads(&self, items: &[StorePath], others: &[ValidPath]) -> rusqlite::Result<Vec<StorePath>> {
        let mut find = self.connection.prepare_cached("SELECT id FROM ValidPaths WHERE path = ?")?;
        let mut id = |path: &StorePath| find.query_row([path.as_str()], |row| row.get::<_, i64>(0)).optional();
        let ids = items.iter().map(&mut id).collect::<rusqlite::Result<Vec<_>>>()?;
        let mut referred: HashSet<i64> = HashSet::new();
        for reference in others.iter().flat_map(|other| &other.references) {
            referred.extend(id(reference)?);
        }
        let mut references = self.connection.prepare_cached("SELECT reference FROM Refs WHERE referrer = ?")?;
        for referrer in ids.iter().flatten() {
            let mut rows = references.query([referrer])?;
            while let Some(row) = rows.next()? {
                let reference: i64 = row.get(0)?;
                if reference != *referrer {
                    referred.insert(reference);
                }
            }
        }
        let is_head = |id: &Option<i64>| id.is_none_or(|id| !referred.contains(&id));
        Ok(items.iter().zip(&ids).filter(|(_, id)| is_head(id)).map(|(item, _)| item.clone()).collect())
    }

    /// Registers those `items` that are not valid yet, and returns their names. After an error none is registered.
    ///
    /// An item may only refer to items that are valid or registered with it; otherwise this fails with
    /// [`ErrorKind::Untrusted`]. Calls `install` for each item before it is registered, to put it in place. The
    /// database is locked then, so nobody else can register the item. Once cancelled, puts nothing in place any more.
    pub fn register(
        &mut self,
        items: &[ValidPath],
        mut install: impl FnMut(&ValidPath) -> Result<()>,
    ) -> Result<Vec<StorePath>> {
        let doing = "registering store items";
        let begin = || Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
        let transaction = self.patiently(doing, begin)?;
        let failed = |error| failed(doing, error, &self.file);

        let mut pending = Vec::new();
        for item in items {
            if find(&transaction, &item.path).map_err(failed)?.is_none() {
                pending.push(item);
            }
        }
        // References are registered first. So a cycle, which guix-daemon could never delete, is never registered.
        let mut registered = Vec::new();
        while !pending.is_empty() {
            let before = pending.len();
            let mut waiting = Vec::new();
            for item in pending {
                if missing_reference(&transaction, item).map_err(failed)?.is_some() {
                    waiting.push(item);
                    continue;
                }
                // The items before this one may have taken long.
                self.cancel.borrow().check()?;
                install(item)?;
                insert(&transaction, item).map_err(|error| error.context(self.file.display().to_string()))?;
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
    let version = std::fs::read_to_string(&file)
        .io_context(ErrorKind::Store, || format!("reading {}", file.display()))
        .map_err(|error| error.hint(writable(&file)))?;
    if version.trim() != SCHEMA {
        let why = format!("{} says version {:?}, only {SCHEMA} is supported", file.display(), version.trim());
        return Err(Error::new(ErrorKind::Store, why));
    }
    Ok(())
}

/// Returns the id of an item, if it is valid.
fn find(connection: &Connection, path: &StorePath) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare("SELECT id FROM ValidPaths WHERE path = ?")?;
    statement.query_row([path.as_str()], |row| row.get(0)).optional()
}

/// Returns an item that `item` refers to and that is not valid, other than `item` itself.
fn missing_reference<'a>(connection: &Connection, item: &'a ValidPath) -> rusqlite::Result<Option<&'a StorePath>> {
    for reference in item.references.iter().filter(|&reference| *reference != item.path) {
        if find(connection, reference)?.is_none() {
            return Ok(Some(reference));
        }
    }
    Ok(None)
}

/// Returns the reason why none of `items` could be registered.
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
    let error = |error: rusqlite::Error| Error::new(ErrorKind::Store, format!("registering {}: {error}", item.path));
    if item.path.is_derivation() {
        // Its outputs would have to be recorded as well, or the garbage collector would not know that it has any.
        let why = format!("{} is a derivation, which only guix-daemon can register", item.path);
        return Err(Error::new(ErrorKind::InvalidArgument, why));
    }
    let size = i64::try_from(item.nar_size)
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, format!("{} is too large", item.path)))?;
    let deriver = match &item.deriver {
        Some(path) if find(transaction, path).map_err(error)?.is_some() => Some(path.as_str()),
        _ => None,
    };
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

/// Repeats `attempt` while the database in `file` is locked.
fn patiently<T>(
    cancel: &Cancel,
    file: &Path,
    doing: &str,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_locked(&error) && begun.elapsed() < LOCK_TIMEOUT => cancel.check()?,
            result => return result.map_err(|error| failed(doing, error, file)),
        }
    }
}

fn is_locked(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

fn failed(doing: &str, error: rusqlite::Error, file: &Path) -> Error {
    use rusqlite::ErrorCode::{CannotOpen, OutOfMemory, PermissionDenied, ReadOnly};
    let (code, locked) = (error.sqlite_error_code(), is_locked(&error));
    let exhausted = match code {
        Some(CannotOpen) => out_of_descriptors(),
        code => code == Some(OutOfMemory),
    };
    let kind = if exhausted { ErrorKind::Exhausted } else { ErrorKind::Store };
    let error = Error::new(kind, format!("{doing}: {error}")).context(file.display().to_string());
    match code {
        _ if exhausted => error,
        _ if locked => error.hint(format!(
            "another process has kept the database locked for {} minutes: find it with 'fuser {}'",
            LOCK_TIMEOUT.as_secs() / 60,
            file.display()
        )),
        Some(CannotOpen | PermissionDenied | ReadOnly) => error.hint(writable(file)),
        _ => error,
    }
}

fn writable(file: &Path) -> String {
    let directory = file.parent().unwrap_or(file);
    for_daemons_user("write to it and beside it", |user| format!("chown -R {user} {}", directory.display()))
}

/// Returns whether too few descriptors are left for SQLite, which does not say why it cannot open a file.
fn out_of_descriptors() -> bool {
    const FILES: usize = 3; // the database, its log, and the index of that
    let opened: Result<Vec<OwnedFd>, Errno> =
        (0..FILES).map(|_| open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())).collect();
    matches!(opened, Err(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
#[path = "database_tests.rs"]
pub(super) mod tests;
