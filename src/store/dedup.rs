// SPDX-License-Identifier: GPL-3.0-or-later
//! Deduplication: files of equal contents share one inode, through `.links` in the store (`LocalStore::optimisePath_`
//! in Guix's `nix/libstore/optimise-store.cc`).
//!
//! `.links/HASH` is a hard link to all files of equal contents. HASH is the SHA-256, in nix-base32, of the nar of one
//! such file by itself. The nar says whether a file is executable, so files that share an inode agree on their mode.
//!
//! The name of an entry vouches for its contents. So an entry may be made before the archive that it comes from is
//! verified. If the archive is refused, its entries are left with one link, and `guix gc` removes these.
//! [`Links::remove_unused`] removes them at once, so that they take no space until then.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Stat, fstat, linkat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::remove::OPEN_DIRECTORY;
use crate::ground::error::{ErrorKind, IoContext, Result};
use crate::ground::store_path::base32;

/// Files below this size, in bytes, are not deduplicated (`deduplicationMinSize`).
pub(super) const MIN_SIZE: u64 = 8192;

/// Name of the temporary link that is renamed to replace a file.
const TEMPORARY: &str = ".link";

/// Most new entries that are remembered, to bound memory at 2 MiB. Further ones are left to `guix gc`.
const MAX_REMEMBERED: usize = 1 << 16;

/// The directory `.links` of a store.
pub struct Links {
    directory: OwnedFd,
    /// Hashes of the entries that were made through this value.
    made: Vec<[u8; 32]>,
}

impl Links {
    /// Opens `.links` in `store`, and creates it if it is missing.
    pub fn open(store: BorrowedFd) -> Result<Self> {
        let what = || "opening .links in the store";
        match mkdirat(store, ".links", Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).io_context(ErrorKind::Store, what),
        }
        let directory = openat(store, ".links", OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
        Ok(Links { directory, made: Vec::new() })
    }

    /// Makes `file` share its inode with the file of the same `hash`, or be the first of them. `file` is complete and
    /// called `name` in `parent`. It stays as it is if the file system allows no other link, or if the entry of that
    /// hash looks different. `scratch` is a directory for a temporary link.
    pub fn share(
        &mut self,
        hash: &[u8; 32],
        file: BorrowedFd,
        parent: BorrowedFd,
        name: &[u8],
        scratch: BorrowedFd,
    ) -> Result<()> {
        let what = || format!("deduplicating '{}'", name.escape_ascii());
        let entry = base32(hash);
        // Repeats if the garbage collector removes the entry between two steps.
        loop {
            match linkat(parent, name, &self.directory, &entry, AtFlags::empty()) {
                Ok(()) => {
                    if self.made.len() < MAX_REMEMBERED {
                        self.made.push(*hash);
                    }
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                Err(Errno::NOSPC | Errno::MLINK) => return Ok(()),
                Err(error) => return Err(error).io_context(ErrorKind::Store, what),
            }
            let ours = fstat(file).io_context(ErrorKind::Store, what)?;
            match statat(&self.directory, &entry, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(theirs) if same_attributes(&ours, &theirs) => {}
                Ok(_) => return Ok(()),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error).io_context(ErrorKind::Store, what),
            }
            match linkat(&self.directory, &entry, scratch, TEMPORARY, AtFlags::empty()) {
                Ok(()) => break,
                Err(Errno::NOENT) => continue,
                Err(Errno::NOSPC | Errno::MLINK) => return Ok(()),
                Err(error) => return Err(error).io_context(ErrorKind::Store, what),
            }
        }
        let Err(error) = renameat(scratch, TEMPORARY, parent, name) else { return Ok(()) };
        unlinkat(scratch, TEMPORARY, AtFlags::empty()).io_context(ErrorKind::Store, what)?;
        // Some file systems count one link more during a rename.
        if error == Errno::MLINK { Ok(()) } else { Err(error).io_context(ErrorKind::Store, what) }
    }

    /// Removes the entries made here that no file shares any more. This can also hit an entry that somebody begins to
    /// share at this moment; that file is then merely not deduplicated.
    pub fn remove_unused(&mut self) {
        for hash in self.made.drain(..) {
            let entry = base32(&hash);
            if statat(&self.directory, &entry, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_nlink == 1) {
                // A failure is harmless: the garbage collector tries again.
                let _ = unlinkat(&self.directory, &entry, AtFlags::empty());
            }
        }
    }
}

/// Returns whether nobody would notice if one took the place of the other; their contents are equal already. An entry
/// that is damaged or writable, or that belongs to somebody else, does not look like a file that was just restored.
fn same_attributes(ours: &Stat, theirs: &Stat) -> bool {
    let look = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime);
    look(ours) == look(theirs)
}
