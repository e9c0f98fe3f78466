// SPDX-License-Identifier: GPL-3.0-or-later
//! This host's own Guix, as sending and retrieving need it: its database and store, its daemon, its signing key.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use once_cell::sync::OnceCell;
use rustix::fs::{Mode, OFlags, open};

use crate::archive::KeyPair;
use crate::cancel::{Cancel, Guard};
use crate::daemon::{Client, LocalStream};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::gcrypt::{Sha256, sha256};
use crate::store::{self, Database, Directories, Dump, Export, StorePath, ValidPath};

/// This host's own Guix. Used by one thread at a time. Its failures are no machine's: all are of [`ErrorKind::Store`],
/// but for those that come of a lack of resources.
pub struct Local {
    directories: Directories,
    client: Client,
    stream: LocalStream,
    database: Database,
    store: OwnedFd,
    /// The signing key, once it is needed.
    keys: OnceCell<KeyPair>,
}

impl Local {
    /// Connects to the daemon, which `cancel` cuts off, and opens the store and its database.
    pub fn connect(directories: &Directories, cancel: &Cancel) -> Result<Self> {
        let unusable = |error| refusal(error, "be used");
        let stream = LocalStream::connect(directories).map_err(unusable)?;
        let _guard = guard(cancel, &stream);
        let client = Client::handshake(Box::new(stream.clone()), &directories.store).map_err(unusable)?;
        // A store that nobody used yet gets its database when the daemon gets its first client.
        let name = directories.store.as_str();
        let store = open(name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .io_context(ErrorKind::Store, || format!("opening {name}"))?;
        let database = Database::open(directories, cancel)?;
        Ok(Local { directories: directories.clone(), client, stream, database, store, keys: OnceCell::new() })
    }

    /// Cuts the connection to the daemon off when cancelled, for as long as the guard lives, and does not wait for the
    /// database any longer.
    #[must_use]
    pub fn guard(&self, cancel: &Cancel) -> Guard {
        self.database.obey(cancel);
        guard(cancel, &self.stream)
    }

    /// Can it be used for another build, as far as is known?
    pub fn is_usable(&self) -> bool {
        self.client.is_idle()
    }

    /// Does the daemon still answer? It may have been restarted.
    pub fn answers(&mut self) -> bool {
        self.client.valid_paths(&[]).is_ok()
    }

    /// Where things are on this host.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// The database.
    pub fn database(&mut self) -> &mut Database {
        &mut self.database
    }

    /// What is known about `item`, which must be valid.
    pub fn info(&self, item: &StorePath) -> Result<ValidPath> {
        self.database.info(item)?.ok_or_else(|| {
            Error::new(ErrorKind::Store, format!("'{item}' is to be sent, but is not valid in the local store"))
        })
    }

    /// The nar of `item`, which is a small one.
    pub fn nar(&self, item: &ValidPath) -> Result<Vec<u8>> {
        let mut nar = Vec::with_capacity(item.nar_size as usize);
        self.dump(item)?
            .take(item.nar_size + 1)
            .read_to_end(&mut nar)
            .io_context(ErrorKind::Store, || format!("reading '{}'", item.path))?;
        if sha256(&nar)? == item.nar_hash { Ok(nar) } else { Err(store::damaged(item)) }
    }

    /// Begins to read the nar of `item`, whatever its hash.
    pub fn dump(&self, item: &ValidPath) -> Result<Dump> {
        Dump::new(self.store.as_fd(), &item.path)
    }

    /// Fails if the nar of `item` has another hash than when it was registered.
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
        let keys = self.keys.get_or_try_init(|| KeyPair::load(&self.directories.configuration))?;
        Export::new(self.store.as_fd(), item, keys)
    }

    /// Adds a text file to the local store, protected from the garbage collector while the connection lives.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        self.client.add_text(name, text).map_err(|error| refusal(error, &format!("add '{name}' to the store")))
    }

    /// Protects `path`, which need not exist yet, from the garbage collector while the connection lives.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.client.add_temp_root(path).map_err(|error| refusal(error, &format!("protect '{path}'")))
    }

    /// Has the daemon import `archive`, a bundle that holds `item`, which is then protected from the garbage collector
    /// while the connection lives.
    pub fn import(&mut self, item: &StorePath, mut archive: &[u8]) -> Result<()> {
        let imported = self.client.add_temp_root(item).and_then(|()| self.client.import(&mut archive));
        imported.map(|_| ()).map_err(|error| refusal(error, &format!("import '{item}'")))
    }
}

fn guard(cancel: &Cancel, stream: &LocalStream) -> Guard {
    let stream = stream.clone();
    cancel.guard(move |_| stream.cut_off())
}

/// A failure of the daemon, which could not do `what`.
fn refusal(error: Error, what: &str) -> Error {
    let kind = if error.kind() == ErrorKind::Exhausted { ErrorKind::Exhausted } else { ErrorKind::Store };
    Error::new(kind, format!("the local daemon cannot {what}: {error}"))
}
