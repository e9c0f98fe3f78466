// SPDX-License-Identifier: GPL-3.0-or-later
//! Making files of an archive, just as guix-daemon leaves them in the store
//! (`canonicalisePathMetaData` in Guix's `nix/libstore/local-store.cc`).
//!
//! Files are 0444 or 0555, directories 0555, everything has a modification time of one second after the epoch and
//! belongs to the user of the process. Files of 8 KiB and more are deduplicated as they come, without reading them
//! again. Like the daemon, nothing here waits for the disk (no `fsync`): after a power failure
//! `guix gc --verify=contents` tells whether the last items are whole.
//!
//! Every name is used relative to the descriptor of the directory that it was made in, and must be new there, so no
//! archive can make anything outside its own tree. Only one directory is open at a time, however deep the tree.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FallocateFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fallocate, fchmod, fstatvfs, futimens,
    mkdirat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::dedup::{self, Links};
use super::remove::OPEN_DIRECTORY;
use crate::archive::{Visitor, nar};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::gcrypt::Sha256;

/// Files of this many bytes and more get their room on the disk at once.
const MIN_PREALLOCATED: u64 = 1024 * 1024;

/// A modification time of one second after the epoch. The time of access stays.
const TIMES: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
};

/// Restores one archive as it is read. What a failed restoration leaves is for the caller to remove, with
/// [`remove_tree`](super::remove_tree).
pub struct Restorer<'a> {
    links: &'a mut Links,
    top: BorrowedFd<'a>,
    /// The innermost directory.
    here: OwnedFd,
    /// What the next node is called there.
    name: Vec<u8>,
    file: Option<OpenFile>,
}

/// The file whose contents are coming.
struct OpenFile {
    file: File,
    executable: bool,
    /// Of the file's own nar, and what it still lacks after the contents.
    hash: Option<(Sha256, Vec<u8>)>,
}

impl<'a> Restorer<'a> {
    /// Restores to `name` in the directory `top`, which nobody else writes to. There must be nothing of that name.
    pub fn new(top: BorrowedFd<'a>, name: &str, links: &'a mut Links) -> Result<Self> {
        let here = openat(top, ".", OPEN_DIRECTORY, Mode::empty())
            .io_context(ErrorKind::Store, || "opening the directory to restore to")?;
        Ok(Restorer { links, top, here, name: name.into(), file: None })
    }

    fn describe(&self, doing: &str) -> String {
        format!("{doing} '{}'", self.name.escape_ascii())
    }

    fn open_file(&mut self) -> Result<&mut OpenFile> {
        self.file.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "contents without a file"))
    }
}

impl Visitor for Restorer<'_> {
    fn directory(&mut self) -> Result<()> {
        let what = || self.describe("creating directory");
        mkdirat(&self.here, &self.name, Mode::RWXU).io_context(ErrorKind::Store, what)?;
        self.here = openat(&self.here, &self.name, OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
        Ok(())
    }

    fn entry(&mut self, name: &[u8]) -> Result<()> {
        self.name.clear();
        self.name.extend_from_slice(name);
        Ok(())
    }

    fn end_directory(&mut self) -> Result<()> {
        let what = || "completing a directory";
        let parent = openat(&self.here, "..", OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
        seal(self.here.as_fd(), true).io_context(ErrorKind::Store, what)?;
        self.here = parent;
        Ok(())
    }

    fn file(&mut self, executable: bool, size: u64) -> Result<()> {
        let what = || self.describe("creating file");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File =
            openat(&self.here, &self.name, flags, Mode::RUSR | Mode::WUSR).io_context(ErrorKind::Store, what)?.into();
        if size >= MIN_PREALLOCATED {
            // A size that is a lie must not take the whole disk away from others, if only for a moment.
            let room = fstatvfs(&file).io_context(ErrorKind::Store, what)?;
            let free = room.f_bavail.saturating_mul(room.f_frsize);
            if size > free {
                let message = format!("{}: it has {} MiB, but only {} are free", what(), size >> 20, free >> 20);
                return Err(Error::new(ErrorKind::Store, message));
            }
            match fallocate(&file, FallocateFlags::empty(), 0, size) {
                // Not every file system can; a full disk is better known now than later.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(error) => return Err(error).io_context(ErrorKind::Store, what),
            }
        }
        let mut hash = None;
        if size >= dedup::MIN_SIZE {
            let (before, after) = nar::around_file(executable, size);
            let mut state = Sha256::new()?;
            state.update(&before);
            hash = Some((state, after));
        }
        self.file = Some(OpenFile { file, executable, hash });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let open = self.open_file()?;
        if let Some((hash, _)) = &mut open.hash {
            hash.update(bytes);
        }
        open.file.write_all(bytes).io_context(ErrorKind::Store, || self.describe("writing"))
    }

    fn end_file(&mut self) -> Result<()> {
        self.open_file()?;
        let Some(OpenFile { file, executable, hash }) = self.file.take() else { return Ok(()) };
        seal(file.as_fd(), executable).io_context(ErrorKind::Store, || self.describe("completing"))?;
        if let Some((mut hash, after)) = hash {
            hash.update(&after);
            self.links.share(&hash.finish(), file.as_fd(), self.here.as_fd(), &self.name, self.top)?;
        }
        Ok(())
    }

    fn symlink(&mut self, target: &[u8]) -> Result<()> {
        let what = || self.describe("creating symbolic link");
        symlinkat(target, &self.here, &self.name).io_context(ErrorKind::Store, what)?;
        utimensat(&self.here, &self.name, &TIMES, AtFlags::SYMLINK_NOFOLLOW).io_context(ErrorKind::Store, what)
    }
}

/// Gives a file or directory that is complete the mode and time that things in the store have.
pub(super) fn seal(file: BorrowedFd, executable: bool) -> rustix::io::Result<()> {
    fchmod(file, Mode::from_raw_mode(if executable { 0o555 } else { 0o444 }))?;
    futimens(file, &TIMES)
}

#[cfg(test)]
#[path = "restore_tests.rs"]
pub(super) mod tests;
