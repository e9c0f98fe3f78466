// SPDX-License-Identifier: GPL-3.0-or-later
//! This host's own Guix, as sending and retrieving need it: its database and store, its daemon, its signing key.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

use crate::archive::KeyPair;
use crate::daemon::{self, Addition, Client};
use crate::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::store::{self, Contents, Database, Directories, Dump, Export, StorePath, ValidPath};

/// This host's own Guix. Used by one thread at a time.
pub struct Local {
    directories: Directories,
    client: Client,
    database: Database,
    store: OwnedFd,
    /// The signing key, once it is needed.
    keys: Option<KeyPair>,
}

impl Local {
    /// Opens the database, and connects to the daemon, which nothing waits for.
    pub fn connect(directories: &Directories) -> Result<Self> {
        let name = directories.store.as_str();
        let store = open(name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .io_context(ErrorKind::Store, || format!("opening {name}"))?;
        let (directories, database) = (directories.clone(), Database::open(directories)?);
        Ok(Local { client: daemon::connect(&directories)?, directories, database, store, keys: None })
    }

    /// Where things are on this host.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// The database.
    pub fn database(&mut self) -> &mut Database {
        &mut self.database
    }

    /// Can it be used for another build, as far as is known?
    pub fn is_usable(&self) -> bool {
        self.client.is_idle()
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
        let dump = Dump::new(self.store.as_fd(), &item.path)?;
        dump.take(item.nar_size + 1)
            .read_to_end(&mut nar)
            .io_context(ErrorKind::Store, || format!("reading '{}'", item.path))?;
        if crate::gcrypt::sha256(&nar)? == item.nar_hash { Ok(nar) } else { Err(store::damaged(item)) }
    }

    /// Begins to export `item`, signed.
    pub fn export<'a>(&'a mut self, item: &'a ValidPath) -> Result<Export<'a>> {
        let keys = match &mut self.keys {
            Some(keys) => keys,
            keys => keys.insert(KeyPair::load(&self.directories.configuration)?),
        };
        Export::new(self.store.as_fd(), item, keys)
    }

    /// Adds a text file to the local store, protected from the garbage collector while the connection lives.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        let item = Addition { name, contents: Contents::Text(text.as_bytes()), references: &[] };
        let mut names = self.client.add(&[item]).context(|| "adding a file to the local store")?;
        names.pop().ok_or_else(|| Error::new(ErrorKind::Internal, "no name came back"))
    }

    /// Protects `path`, which need not exist yet, from the garbage collector while the connection lives.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.client.add_temp_root(path).map_err(|error| {
            let kind = if error.kind() == ErrorKind::Exhausted { ErrorKind::Exhausted } else { ErrorKind::Store };
            Error::new(kind, format!("the local daemon cannot protect '{path}': {error}"))
        })
    }

    /// Has the local daemon import `item`, which is all that the bundle `archive` holds.
    pub fn import(&mut self, item: &StorePath, mut archive: &[u8]) -> Result<()> {
        self.client
            .add_temp_root(item)
            .and_then(|()| self.client.import(&mut archive))
            .map_err(|error| Error::new(ErrorKind::Store, format!("the local daemon does not import '{item}': {error}")))?;
        Ok(())
    }
}
