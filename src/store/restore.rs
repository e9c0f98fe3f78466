// SPDX-License-Identifier: GPL-3.0-or-later
//! Making files of an archive, just as guix-daemon leaves them in the store
//! (`canonicalisePathMetaData` in Guix's `nix/libstore/local-store.cc`).
//!
//! Files are 0444 or 0555, directories 0555, everything has a modification time of one second after the epoch and
//! belongs to the user of the process. Files of 8 KiB and more are deduplicated as they come, without reading them
//! again. Like the daemon, nothing here waits for the disk (no `fsync`): after a power failure
//! `guix gc --verify=contents` tells whether the last items are whole.
//!
//! Zeros are not written: they become holes, as with Guix's own restoration since 1.5 (`find-holes` in
//! `guix/store/deduplication.scm`). No room is taken for a file before its contents come: that would fill the holes,
//! and some file systems do not compress what was allocated beforehand.
//!
//! Every name is used relative to the descriptor of the directory that it was made in, and must be new there, so no
//! archive can make anything outside its own tree. Only one directory is open at a time, however deep the tree.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, mkdirat, openat, symlinkat, utimensat,
};

use super::dedup::{self, Links};
use super::remove::OPEN_DIRECTORY;
use crate::archive::{Visitor, nar};
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::gcrypt::Sha256;

/// How much of a file is looked at whether it is all zeros, in bytes: as much as Guix looks at. File systems have
/// blocks of this size or a multiple of it, as a rule.
const GRAIN: usize = 1024;

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
    /// The name of the next node there.
    name: Vec<u8>,
    file: Option<OpenFile>,
}

/// The file whose contents are coming.
struct OpenFile {
    file: File,
    executable: bool,
    /// How much has come, and how much of that reaches up to the last byte that was written.
    position: u64,
    written: u64,
    /// Of the file's own nar, and what it still lacks after the contents.
    hash: Option<(Sha256, Vec<u8>)>,
}

impl OpenFile {
    /// Writes the contents that come next, but for zeros.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (run, is_zero) = next_run(bytes, self.position);
            if !is_zero {
                self.file.write_all_at(&bytes[..run], self.position)?;
                self.written = self.position + run as u64;
            }
            self.position += run as u64;
            bytes = &bytes[run..];
        }
        Ok(())
    }
}

/// How many of `bytes`, of which there are some, are all zeros, grain by grain, or have something in each; and which of
/// both. `position` is where in the file they are: that is where grains begin.
fn next_run(bytes: &[u8], position: u64) -> (usize, bool) {
    static ZEROS: [u8; GRAIN] = [0; GRAIN];
    let is_zero = |grain: &[u8]| *grain == ZEROS[..grain.len()];
    let first = (GRAIN - (position % GRAIN as u64) as usize).min(bytes.len());
    let zeros = is_zero(&bytes[..first]);
    let more = bytes[first..].chunks(GRAIN).take_while(|grain| is_zero(grain) == zeros).map(<[u8]>::len).sum::<usize>();
    (first + more, zeros)
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
        let mut hash = None;
        if size >= dedup::MIN_SIZE {
            let (before, after) = nar::file_nar_frame(executable, size);
            let mut state = Sha256::new()?;
            state.update(&before);
            hash = Some((state, after));
        }
        self.file = Some(OpenFile { file, executable, position: 0, written: 0, hash });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let open = self.open_file()?;
        if let Some((hash, _)) = &mut open.hash {
            hash.update(bytes);
        }
        open.write(bytes).io_context(ErrorKind::Store, || self.describe("writing"))
    }

    fn end_file(&mut self) -> Result<()> {
        self.open_file()?;
        let Some(OpenFile { file, executable, position, written, hash }) = self.file.take() else { return Ok(()) };
        if written < position {
            file.set_len(position).io_context(ErrorKind::Store, || self.describe("writing"))?;
        }
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
