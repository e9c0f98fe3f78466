// SPDX-License-Identifier: GPL-3.0-or-later
//! This host's own Guix, as sending and retrieving need it: its database and store, its daemon, its signing key, and
//! the keys that it authorizes.

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use once_cell::sync::OnceCell;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open};

use crate::archive::{self, Acl, KeyPair};
use crate::daemon::{Client, LocalStream};
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::file_identity::FileIdentity;
use crate::ground::gcrypt::{Sha256, sha256};
use crate::ground::store_path::StorePath;
use crate::store::{self, Database, Dump, Export, ValidPath};

/// Most items that one connection protects before another one takes its place: the daemon forgets none of them while
/// the connection lives, and its collector reads them all.
const MAX_ROOTS: usize = 1000;

/// This host's own Guix. Used by one thread at a time. No machine is to blame for its failures: all are of kind
/// [`ErrorKind::Store`], except those for lack of resources.
pub struct LocalGuix {
    directories: Directories,
    client: Client,
    stream: LocalStream,
    database: Database,
    store: OwnedFd,
    /// The signing key, once it is needed.
    keys: OnceCell<KeyPair>,
    /// The identities of the key's files before it was read.
    key_files: [Option<FileIdentity>; 2],
    /// How many items the connection has protected.
    roots: usize,
    /// The list of authorized keys, as it was last read, and the identity of its file at that time.
    acl: RefCell<Option<(FileIdentity, Arc<Acl>)>>,
}

impl LocalGuix {
    /// Connects to the daemon, and opens the store and its database. `cancel` cuts the connection off.
    pub fn connect(directories: &Directories, cancel: &Cancel) -> Result<Self> {
        let unusable = |error| local_daemon_error(error, "be used");
        let stream = LocalStream::connect(directories).map_err(unusable)?;
        let _guard = cut_when_cancelled(cancel, &stream);
        let client = Client::handshake(Box::new(stream.clone()), &directories.store).map_err(unusable)?;
        // The daemon makes the database of a new store when it gets its first client.
        let name = directories.store.as_str();
        let store = open(name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .io_context(ErrorKind::Store, || format!("opening {name}"))?;
        let database = Database::open(directories, cancel)?;
        let (directories, keys, acl) = (directories.clone(), OnceCell::new(), RefCell::new(None));
        let key_files = KeyPair::identity(&directories.configuration);
        Ok(LocalGuix { directories, client, stream, database, store, keys, key_files, roots: 0, acl })
    }

    /// Returns a guard. While it lives, a cancellation cuts off the connection to the daemon, and ends waiting for the
    /// database.
    #[must_use]
    pub fn cut_when_cancelled(&self, cancel: &Cancel) -> Guard {
        self.database.obey(cancel);
        cut_when_cancelled(cancel, &self.stream)
    }

    /// Returns whether it can be used for another build, as far as is known.
    pub fn is_usable(&self) -> bool {
        self.client.is_idle()
            && self.roots < MAX_ROOTS
            && self.key_files == KeyPair::identity(&self.directories.configuration)
    }

    /// Returns whether the daemon still answers. It may have been restarted.
    pub fn answers(&mut self) -> bool {
        self.client.valid_paths(&[]).is_ok()
    }

    /// Returns the directories of this host.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Returns the database.
    pub fn database(&mut self) -> &mut Database {
        &mut self.database
    }

    /// Returns the current list of authorized keys: the same [`Arc`] as before, unless its file has changed.
    pub fn acl(&self) -> Result<Arc<Acl>> {
        let file = self.directories.acl_file();
        let version = FileIdentity::of(&file);
        let mut known = self.acl.borrow_mut();
        if let Some((_, acl)) = known.as_ref().filter(|(known, _)| version == Some(*known)) {
            return Ok(Arc::clone(acl));
        }
        let acl = Arc::new(Acl::load(&file)?);
        *known = version.map(|version| (version, Arc::clone(&acl)));
        Ok(acl)
    }

    /// Fails if no output could be brought in. That is better known before a build than after it.
    pub fn check_can_import(&self) -> Result<()> {
        self.acl()?;
        self.check_can_write()
    }

    /// Fails if nothing can be written to the store.
    pub fn check_can_write(&self) -> Result<()> {
        let store = self.directories.store.as_str();
        accessat(CWD, store, Access::WRITE_OK, AtFlags::EACCESS)
            .io_context(ErrorKind::Store, || format!("outputs cannot be brought into '{store}'"))
            .map_err(|error| {
                error.hint(
                    "have guix-daemon itself run this: only its user may write to the store, and often only in its own \
                     mount namespace",
                )
            })
    }

    /// Returns the database's record of `item`, which must be valid.
    pub fn info(&self, item: &StorePath) -> Result<ValidPath> {
        self.database.info(item)?.ok_or_else(|| {
            Error::new(ErrorKind::Store, format!("'{item}' is to be sent, but is not valid in the local store"))
        })
    }

    /// Returns the `items` that no other of them refers to, and none of `others` either.
    pub fn heads(&self, items: &[StorePath], others: &[ValidPath]) -> Result<Vec<StorePath>> {
        self.database.heads(items, others)
    }

    /// Returns the nar of `item`, which must be small. Fails if it does not have its registered hash.
    pub fn nar(&self, item: &ValidPath) -> Result<Vec<u8>> {
        let mut nar = Vec::with_capacity(item.nar_size as usize);
        self.dump(item)?
            .take(item.nar_size + 1)
            .read_to_end(&mut nar)
            .io_context(ErrorKind::Store, || format!("reading '{}'", item.path))?;
        if sha256(&nar)? == item.nar_hash { Ok(nar) } else { Err(store::damaged(item)) }
    }

    /// Begins to read the nar of `item`, without a check of its hash.
    pub fn dump(&self, item: &ValidPath) -> Result<Dump> {
        Dump::new(self.store.as_fd(), &item.path)
    }

    /// Fails if the nar of `item` no longer has the hash with which it was registered.
    pub fn verify(&self, item: &ValidPath) -> Result<()> {
        let (mut hash, mut dump, mut buffer) = (Sha256::new()?, self.dump(item)?, vec![0; 64 << 10]);
        loop {
            match dump.read(&mut buffer).io_context(ErrorKind::Store, || format!("reading '{}'", item.path))? {
                0 => break,
                length => hash.update(&buffer[..length]),
            }
        }
        if hash.finish() == item.nar_hash { Ok(()) } else { Err(store::damaged(item)) }
    }

    /// Begins to export `item`, signed.
    pub fn export<'a>(&'a self, item: &'a ValidPath) -> Result<Export<'a>> {
        Export::new(self.store.as_fd(), item, self.keys()?)
    }

    fn keys(&self) -> Result<&KeyPair> {
        self.keys.get_or_try_init(|| KeyPair::load(&self.directories.configuration))
    }

    /// Returns a signed bundle of one item, a text file called `name`. The item need not be in the store.
    pub fn bundle_of_text(&self, name: &str, text: &str) -> Result<Vec<u8>> {
        let (path, mut item) = store::text_item(&self.directories.store, name, text)?;
        item.extend(archive::encode_metadata(&path, &[], None));
        let signature = self.keys()?.sign(&sha256(&item)?)?;
        item.extend(archive::encode_signature(&signature));
        Ok(archive::bundle::of_one(&item))
    }

    /// Adds a text file to the local store, protected from the garbage collector while the connection lives.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        self.client
            .add_text(name, text)
            .map_err(|error| local_daemon_error(error, &format!("add '{name}' to the store")))
    }

    /// Protects `path`, which need not exist yet, from the garbage collector while the connection lives.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.roots += 1;
        self.client.add_temp_root(path).map_err(|error| local_daemon_error(error, &format!("protect '{path}'")))
    }

    /// Makes the daemon import `archive`, a bundle that holds `item`. Protects the item from the garbage collector
    /// while the connection lives.
    pub fn import(&mut self, item: &StorePath, mut archive: &[u8]) -> Result<()> {
        let imported = self.client.add_temp_root(item).and_then(|()| self.client.import(&mut archive));
        imported.map(|_| ()).map_err(|error| local_daemon_error(error, &format!("import '{item}'")))
    }
}

fn cut_when_cancelled(cancel: &Cancel, stream: &LocalStream) -> Guard {
    let stream = stream.clone();
    cancel.guard(move |_| stream.cut_off())
}

/// Returns the error for a local daemon that could not do `what`.
fn local_daemon_error(error: Error, what: &str) -> Error {
    let kind = if error.kind() == ErrorKind::Exhausted { ErrorKind::Exhausted } else { ErrorKind::Store };
    Error::new(kind, format!("the local daemon cannot {what}: {error}"))
}
