// SPDX-License-Identifier: GPL-3.0-or-later
//! Files of equal contents share one inode, by way of `.links` in the store
//! (`LocalStore::optimisePath_` in Guix's `nix/libstore/optimise-store.cc`).
//!
//! `.links/HASH` is a hard link to every file whose nar, as that of a lone file, has the SHA-256 HASH, in nix-base32.
//! The nar tells executable files from others, so files that share an inode agree on their mode, too.
//!
//! An entry's name vouches for its contents, so one may be made before anybody vouched for the archive that they came
//! in. If that archive is then refused, its entries are left with one link: what `guix gc` removes. So that they do
//! not take space until then, [`Links::remove_unused`] removes them at once.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Stat, fstat, linkat, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::remove::OPEN_DIRECTORY;
use crate::ground::error::{ErrorKind, IoContext, Result};
use crate::ground::store_path::base32;

/// Files below this size, in bytes, are not deduplicated (`deduplicationMinSize`).
pub(super) const MIN_SIZE: u64 = 8192;

/// Name of a link on its way to replacing a file.
const TEMPORARY: &str = ".link";

/// So many new entries are remembered, to bound memory at 2 MiB; what they exceed is left to `guix gc`.
const MAX_REMEMBERED: usize = 1 << 16;

/// The directory `.links` of a store.
pub struct Links {
    directory: OwnedFd,
    /// Hashes of the entries that were made here.
    made: Vec<[u8; 32]>,
}

impl Links {
    /// Opens `.links` in `store`, which is created if it is missing.
    pub fn open(store: BorrowedFd) -> Result<Self> {
        let what = || "opening .links in the store";
        match mkdirat(store, ".links", Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).io_context(ErrorKind::Store, what),
        }
        let directory = openat(store, ".links", OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
        Ok(Links { directory, made: Vec::new() })
    }

    /// Makes `file`, which is complete and called `name` in `parent`, share its inode with the file of the same
    /// `hash`, or be the one to share with. If the file system will not have another link, or what has that hash
    /// looks different, the file stays as it is. `scratch` is a directory for a temporary link.
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
        // Again if the garbage collector removes the entry between two steps.
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
        // Some file systems count a link more while they rename.
        if error == Errno::MLINK { Ok(()) } else { Err(error).io_context(ErrorKind::Store, what) }
    }

    /// Removes the entries made here that no other link shares any more. One that somebody begins to share at this
    /// moment may go as well: that file merely stays alone.
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

/// Would one be missed if the other took its place? The contents are equal already. An entry that is damaged or
/// writable, or that belongs to somebody else, does not look like a file that was just restored.
fn same_attributes(ours: &Stat, theirs: &Stat) -> bool {
    let look = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime);
    look(ours) == look(theirs)
}
