// SPDX-License-Identifier: GPL-3.0-or-later
//! File locks, on whole files or on single bytes, between the processes of this host.
//!
//! They belong to the open file (`F_OFD_SETLK`, see fcntl(2)). They and the locks of `guix offload`, which uses
//! `F_SETLK`, exclude each other. They also exclude other threads of this process that opened the file by themselves.
//! The kernel releases them when the last descriptor of the open file is closed, however its holder died. A child that
//! was just forked has another descriptor until it executes a program. So a lock that must end before its process does
//! is unlocked, not just closed.
#![allow(unsafe_code)] // fcntl(F_OFD_SETLK), which has no safe wrapper.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Pause between two attempts to lock what another process has locked for a moment.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

/// The part of a file that is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of it, whatever its size.
    Whole,
    /// The byte at this offset, which need not exist.
    Byte(u64),
}

impl Range {
    fn describe(self, kind: libc::c_int) -> io::Result<libc::flock> {
        let (start, length) = match self {
            Range::Whole => (0, 0),
            Range::Byte(at) => (libc::off_t::try_from(at).map_err(|_| io::ErrorKind::InvalidInput)?, 1),
        };
        // SAFETY: `flock` is plain data for which all zeros is a valid value, and the l_pid of 0 is what F_OFD_SETLK
        // and F_OFD_GETLK ask for.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        (lock.l_start, lock.l_len) = (start, length);
        Ok(lock)
    }
}

/// A file that is locked as a whole. Dropping this unlocks the file, even if a forked child still has it open.
#[derive(Debug)]
pub struct Held(File);

impl Held {
    /// Locks all of `file`, which is open for writing. Returns the file if another holder has locked some of it.
    pub fn try_new(file: File) -> io::Result<Result<Held, File>> {
        Ok(if try_lock(&file, Range::Whole)? { Ok(Held(file)) } else { Err(file) })
    }

    /// Locks all of `file`, which is open for writing, as [`lock_within`] does.
    pub fn within(file: File, limit: Duration) -> io::Result<Held> {
        lock_within(&file, Range::Whole, limit)?;
        Ok(Held(file))
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // If this fails, closing the file unlocks it, or the end of the process does.
        let _ = unlock(&self.0, Range::Whole);
    }
}

/// Locks `range` of `file`, which is open for writing; `false`: another holder has locked some of it.
pub fn try_lock(file: &File, range: Range) -> io::Result<bool> {
    match set(file, range, libc::F_WRLCK) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks `range` of `file`, which is open for writing, as soon as no other holder has locked some of it. Fails after
/// `limit`.
pub fn lock_within(file: &File, range: Range, limit: Duration) -> io::Result<()> {
    let begun = Instant::now();
    while !try_lock(file, range)? {
        if begun.elapsed() > limit {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "another process has it locked"));
        }
        std::thread::sleep(RETRY_PAUSE);
    }
    Ok(())
}

/// Unlocks `range` of `file`.
pub fn unlock(file: &File, range: Range) -> io::Result<()> {
    set(file, range, libc::F_UNLCK)
}

/// Returns whether some of `range` is locked through another open file than `file`.
pub fn is_locked(file: &File, range: Range) -> io::Result<bool> {
    let mut lock = range.describe(libc::F_WRLCK)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and `lock`, which is written to, outlives the
    // call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

fn set(file: &File, range: Range, kind: libc::c_int) -> io::Result<()> {
    let lock = range.describe(kind)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and `lock` outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_locked_one_by_one() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let open = || File::options().write(true).read(true).open(&path).unwrap();
        let (one, other) = (open(), open());
        assert!(try_lock(&one, Range::Byte(7)).unwrap());
        assert!(try_lock(&other, Range::Byte(8)).unwrap() && !try_lock(&other, Range::Byte(7)).unwrap());
        assert!(is_locked(&other, Range::Byte(7)).unwrap() && is_locked(&one, Range::Byte(8)).unwrap());
        assert!(!is_locked(&one, Range::Byte(7)).unwrap(), "one's own lock is no other's");
        unlock(&one, Range::Byte(7)).unwrap();
        assert!(try_lock(&other, Range::Byte(7)).unwrap());
        drop(other);
        assert!(!is_locked(&one, Range::Whole).unwrap(), "a lock ends with its file");
    }

    #[test]
    fn a_lock_is_waited_for_until_it_is_free_or_the_time_is_over() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let open = || File::options().write(true).open(&path).unwrap();
        let held = Held::try_new(open()).unwrap().unwrap();
        let error = Held::within(open(), Duration::from_millis(5)).unwrap_err();
        assert_eq!((error.kind(), &*error.to_string()), (io::ErrorKind::TimedOut, "another process has it locked"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Held::within(open(), Duration::from_secs(60)));
            std::thread::sleep(Duration::from_millis(5));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_lock_that_is_dropped_is_free_whoever_has_its_file_open() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let open = || File::options().write(true).open(&path).unwrap();
        let file = open();
        let of_a_child = file.try_clone().unwrap(); // as fork(2) makes one
        let held = Held::try_new(file).unwrap().unwrap();
        assert!(Held::try_new(open()).unwrap().is_err());
        drop(held);
        assert!(Held::try_new(open()).unwrap().is_ok());
        drop(of_a_child);
    }
}
