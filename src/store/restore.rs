// SPDX-License-Identifier: GPL-3.0-or-later
//! Restoring the files of an archive, exactly as guix-daemon leaves them in the store
//! (`canonicalisePathMetaData` in Guix's `nix/libstore/local-store.cc`).
//!
//! Files are 0444 or 0555, directories 0555. Everything has a modification time of one second after the epoch and
//! belongs to the user of the process. Files of 8 KiB and more are deduplicated as they come, without reading them
//! again. Like the daemon, this module does not wait for the disk (no `fsync`). After a power failure,
//! `guix gc --verify=contents` tells whether the last items are intact.
//!
//! Zeros are not written: they become holes, as in Guix itself since 1.5 (`find-holes` in
//! `guix/store/deduplication.scm`). No space is allocated before a file's contents come: that would fill the holes, and
//! some file systems do not compress space that was allocated beforehand.
//!
//! Every name is used relative to the descriptor of the directory that it is made in, and must be new there. So no
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

/// Size, in bytes, of the pieces of a file that are checked for being all zeros: the same as in Guix. The blocks of
/// most file systems have this size or a multiple of it.
const GRAIN: usize = 1024;

/// A modification time of one second after the epoch. The time of access stays.
const TIMES: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
};

/// Restores one archive as it is read. After a failure the caller must remove what is left, with
/// [`remove_tree`](super::remove_tree).
pub struct Restorer<'a> {
    links: &'a mut Links,
    top: BorrowedFd<'a>,
    /// The innermost directory.
    here: OwnedFd,
    /// The name of the next node in it.
    name: Vec<u8>,
    file: Option<OpenFile>,
}

/// The file whose contents are coming.
struct OpenFile {
    file: File,
    executable: bool,
    /// Offset after the contents that have come, zeros included, and offset after the last byte that was written.
    position: u64,
    written: u64,
    /// Hash of the file's own nar up to now, and the bytes of that nar that follow the contents.
    hash: Option<(Sha256, Vec<u8>)>,
}

impl OpenFile {
    /// Writes the contents that come next, except for zeros.
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

/// Returns the length of the run that `bytes` begins with, and whether it is a run of zeros: of grains that are all
/// zeros, or that all are not. `bytes` is not empty, and at `position` in the file. Grains count from the start of the
/// file.
fn next_run(bytes: &[u8], position: u64) -> (usize, bool) {
    static ZEROS: [u8; GRAIN] = [0; GRAIN];
    let is_zero = |grain: &[u8]| *grain == ZEROS[..grain.len()];
    let first = (GRAIN - (position % GRAIN as u64) as usize).min(bytes.len());
    let zeros = is_zero(&bytes[..first]);
    let more = bytes[first..].chunks(GRAIN).take_while(|grain| is_zero(grain) == zeros).map(<[u8]>::len).sum::<usize>();
    (first + more, zeros)
}

impl<'a> Restorer<'a> {
    /// Prepares to restore to `name` in the directory `top`. Nobody else writes there, and nothing of that name exists.
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

/// Gives a complete file or directory the mode and time of things in the store.
pub(super) fn seal(file: BorrowedFd, executable: bool) -> rustix::io::Result<()> {
    fchmod(file, Mode::from_raw_mode(if executable { 0o555 } else { 0o444 }))?;
    futimens(file, &TIMES)
}

#[cfg(test)]
#[path = "restore_tests.rs"]
pub(super) mod tests;
