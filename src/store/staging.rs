// SPDX-License-Identifier: GPL-3.0-or-later
//! Items on their way into the store.
//!
//! All items are restored into one temporary directory in the store. Nobody looks into it: it has the name of an item
//! that is not valid, and a temporary root protects it from the garbage collector. Once all items were received and
//! their signatures verified, they move to their places and are registered in one transaction.
//!
//! The store is sound whenever the process is killed. What is left is that directory, or an item that is not valid.
//! `guix gc` removes both, and guix-daemon removes the item before it builds it. The only other things made are
//! entries of `.links`; [`super::dedup`] says why they do no harm.
//!
//! No output locks are taken: guix-daemon holds them, and temporary roots for the outputs, while its build hook runs.
//! For a build that it did not ask for, `build/output_locks.rs` takes them.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, fchmod, mkdirat, open, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::remove::OPEN_DIRECTORY;
use super::restore::seal;
use super::{Database, Links, Restorer, ValidPath, remove_tree};
use crate::archive::{self, Acl};
use crate::ground::directories::Directories;
use crate::ground::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::{StoreDir, StorePath, base32};

/// Most attempts to make the directory: the garbage collector may take it before it has its temporary root.
const MAX_ATTEMPTS: usize = 16;

/// Bytes of the hash part of a store item's name.
const HASH_BYTES: usize = 20;

/// Descriptors that `remove_tree` needs: for a directory, for another one inside it, and to list that one.
const REMOVAL: usize = 3;

/// The items being received. Dropped, it removes those that were not committed.
pub struct Staging {
    store_dir: StoreDir,
    store: OwnedFd,
    /// Name of the directory in the store.
    path: StorePath,
    directory: OwnedFd,
    links: Links,
    received: Vec<ValidPath>,
    /// Descriptors that are closed before the removal, which therefore needs no others.
    reserve: Vec<OwnedFd>,
}

impl Staging {
    /// Makes a directory for items being received. `add_temp_root` must make the daemon protect the directory for as
    /// long as this value lives. It is the RPC `add-temp-root`, whose effect lasts as long as the connection.
    pub fn new(directories: &Directories, add_temp_root: &mut dyn FnMut(&StorePath) -> Result<()>) -> Result<Self> {
        let name = directories.store.as_str();
        let store =
            open(name, OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, || format!("opening {name}"))?;
        Self::in_store(store, directories.store.clone(), add_temp_root)
    }

    fn in_store(
        store: OwnedFd,
        store_dir: StoreDir,
        add_temp_root: &mut dyn FnMut(&StorePath) -> Result<()>,
    ) -> Result<Self> {
        let links = Links::open(store.as_fd())?;
        let reserve = (0..REMOVAL).map(|_| store.try_clone()).collect::<io::Result<_>>();
        let reserve = reserve.io_context(ErrorKind::Store, || "keeping descriptors in reserve")?;
        for _ in 0..MAX_ATTEMPTS {
            let path = temporary_name(&store_dir)?;
            let what = || format!("creating {path}");
            mkdirat(&store, path.base_name(), Mode::RWXU).io_context(ErrorKind::Store, what)?;
            let rooted = add_temp_root(&path);
            // The garbage collector may have taken the directory before it had its temporary root.
            match openat(&store, path.base_name(), OPEN_DIRECTORY, Mode::empty()) {
                Ok(directory) => {
                    let received = Vec::new();
                    let staging = Staging { store_dir, store, path, directory, links, received, reserve };
                    return rooted
                        .context(|| "protecting a temporary directory from the garbage collector")
                        .map(|()| staging);
                }
                Err(Errno::NOENT) => rooted?,
                Err(error) => {
                    let _ = unlinkat(&store, path.base_name(), AtFlags::REMOVEDIR);
                    return Err(error).io_context(ErrorKind::Store, what);
                }
            }
        }
        Err(Error::new(ErrorKind::Store, format!("directories in {} disappear at once", store_dir.as_str())))
    }

    /// Receives one item from `reader`, and reads nothing after its last byte. The item must be `expected` and have a
    /// signature that `acl` authorizes.
    ///
    /// `deriver` is the derivation for which the item was requested. It is recorded instead of the one that the archive
    /// names, if any: several derivations can have the same output, and the other machine may know it by another one.
    ///
    /// After an error nothing of the item is left, and other items can still be received.
    pub fn receive(
        &mut self,
        reader: &mut dyn Read,
        acl: &Acl,
        expected: &StorePath,
        deriver: Option<&StorePath>,
    ) -> Result<()> {
        if self.received.iter().any(|item| item.path == *expected) {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{expected} was received already")));
        }
        let name = expected.base_name();
        let item = self.restore(reader, acl, expected).context(|| format!("receiving {expected}"));
        match item {
            Ok(item) => {
                let deriver = deriver.cloned().or(item.deriver);
                self.received.push(ValidPath { deriver, ..item });
                Ok(())
            }
            Err(error) => {
                // A failure here would hide the error. Dropping `self` removes the whole directory anyway.
                let _ = remove_tree(self.directory.as_fd(), name.as_bytes());
                Err(error)
            }
        }
    }

    fn restore(&mut self, reader: &mut dyn Read, acl: &Acl, expected: &StorePath) -> Result<ValidPath> {
        let mut restorer = Restorer::new(self.directory.as_fd(), expected.base_name(), &mut self.links)?;
        let item = archive::read_item(reader, &self.store_dir, &mut restorer)?;
        archive::verify(item.signature.as_deref(), &item.signed_hash, acl, &item.path)?;
        if item.path != *expected {
            return Err(Error::new(ErrorKind::Untrusted, format!("{} came instead of it", item.path)));
        }
        Ok(ValidPath {
            path: item.path,
            nar_hash: item.nar_hash,
            nar_size: item.nar_size,
            deriver: item.deriver,
            references: item.references,
        })
    }

    /// Moves the items to their places in the store and makes them valid, except those that became valid in the
    /// meantime. Returns those that it made valid. After an error it has made none valid, and left none in its place.
    pub fn commit(mut self, registrar: &mut dyn Registrar) -> Result<Vec<StorePath>> {
        let items = std::mem::take(&mut self.received);
        registrar.make_valid(&Received {
            store: self.store.as_fd(),
            directory: self.directory.as_fd(),
            path: &self.path,
            items: &items,
        })
    }
}

/// Items that were received completely into a directory, and are not valid yet.
pub struct Received<'a> {
    store: BorrowedFd<'a>,
    directory: BorrowedFd<'a>,
    /// The name of that directory in the store.
    pub path: &'a StorePath,
    /// The items' records for the database.
    pub items: &'a [ValidPath],
}

/// Makes received items valid: it holds the locks on them, or acts for the process that does.
pub trait Registrar {
    /// Moves the items to their places and makes them valid; see [`Staging::commit`].
    fn make_valid(&mut self, received: &Received<'_>) -> Result<Vec<StorePath>>;
}

impl Registrar for Database {
    fn make_valid(&mut self, received: &Received<'_>) -> Result<Vec<StorePath>> {
        received.install(self)
    }
}

/// Makes `items` valid, which another process has received into the directory `path`; see [`Staging::commit`]. That
/// process still removes the directory.
pub fn install(
    directories: &Directories,
    path: &StorePath,
    items: &[ValidPath],
    database: &mut Database,
) -> Result<Vec<StorePath>> {
    let name = directories.store.as_str();
    let store = open(name, OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, || format!("opening {name}"))?;
    let directory = openat(&store, path.base_name(), OPEN_DIRECTORY, Mode::empty())
        .io_context(ErrorKind::Store, || format!("opening {path}"))?;
    Received { store: store.as_fd(), directory: directory.as_fd(), path, items }.install(database)
}

impl Received<'_> {
    fn install(&self, database: &mut Database) -> Result<Vec<StorePath>> {
        let mut installed = Vec::new();
        let result = database.register(self.items, |item| {
            self.set_aside(&item.path, installed.len())?;
            installed.push(item.path.clone());
            move_item(self.directory, item.path.base_name(), self.store, item.path.base_name())
        });
        if result.is_err() {
            // Only an item that is certainly not valid goes back. If another one is left without being valid,
            // guix-daemon removes it when it needs the place.
            for path in installed.iter().filter(|path| matches!(database.is_valid(path), Ok(false))) {
                let _ = move_item(self.store, path.base_name(), self.directory, path.base_name());
            }
        }
        result
    }

    /// Moves what is in the place of an item that is not valid into the directory, to be removed with it.
    fn set_aside(&self, path: &StorePath, number: usize) -> Result<()> {
        if !exists(self.store, path.base_name()) {
            return Ok(());
        }
        // Not the name of any item.
        let aside = format!("leftover-{number}");
        move_item(self.store, path.base_name(), self.directory, &aside)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is garbage: it has the name of an item which is not valid.
        self.reserve.clear();
        let _ = remove_tree(self.store.as_fd(), self.path.base_name().as_bytes());
        self.links.remove_unused();
    }
}

/// Returns an unpredictable name of a store item.
fn temporary_name(store: &StoreDir) -> Result<StorePath> {
    let mut random = [0u8; HASH_BYTES];
    getrandom(&mut random, GetRandomFlags::empty()).io_context(ErrorKind::Store, || "asking for random bytes")?;
    store.parse(&format!("{}/{}-guix-offload-incoming", store.as_str(), base32(&random)))
}

fn exists(directory: BorrowedFd, name: &str) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Moves an item from one directory to another. A directory must be writable for that, as its `..` changes.
fn move_item(from: BorrowedFd, name: &str, to: BorrowedFd, new_name: &str) -> Result<()> {
    let what = || format!("moving {name} to {new_name}");
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).io_context(ErrorKind::Store, what)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return renameat(from, name, to, new_name).io_context(ErrorKind::Store, what);
    }
    let directory = openat(from, name, OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
    fchmod(&directory, Mode::RWXU).io_context(ErrorKind::Store, what)?;
    let moved = renameat(from, name, to, new_name);
    seal(directory.as_fd(), true).io_context(ErrorKind::Store, what)?;
    moved.io_context(ErrorKind::Store, what)
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
