// SPDX-License-Identifier: GPL-3.0-or-later
//! The locks with which guix-daemon makes sure that an output is built once (`PathLocks` in Guix's
//! `nix/libstore/pathlocks.cc`), for builds that no guix-daemon asks for.
//!
//! The lock on an output is one on the whole file `OUTPUT.lock`. Whoever has it removes the file before giving the lock
//! up, and writes a letter into it: who was waiting then has the lock on a file that nobody else finds, and tries
//! again. The garbage collector of the daemon leaves the file alone as long as the output has a temporary root.

use std::fs::{File, OpenOptions, metadata};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use parking_lot::Mutex;

use super::local_guix::LocalGuix;
use crate::choose::slot::lock::Held;
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;

/// Pause between two attempts to lock an output that somebody else builds.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The locks on the outputs of a build. Dropping them gives them up.
pub struct OutputLocks {
    _locks: Vec<OutputLock>,
    /// The connection to the daemon that protects the lock files, and the derivation, from the garbage collector.
    _protection: Mutex<LocalGuix>,
}

impl OutputLocks {
    /// Locks `outputs`, which `derivation` makes, and waits for those that others have locked. Returns the locks, and
    /// the outputs that are not valid then.
    pub fn take(
        directories: &Directories,
        derivation: &StorePath,
        outputs: &[StorePath],
        cancel: &Cancel,
    ) -> Result<(Self, Vec<StorePath>)> {
        cancel.check()?;
        // What the cancellation cuts off fails in other ways.
        Self::wait(directories, derivation, outputs, cancel).or_else(|error| cancel.check().and(Err(error)))
    }

    fn wait(
        directories: &Directories,
        derivation: &StorePath,
        outputs: &[StorePath],
        cancel: &Cancel,
    ) -> Result<(Self, Vec<StorePath>)> {
        let mut local = LocalGuix::connect(directories, cancel)?;
        local.check_can_write()?;
        let guard = local.cut_when_cancelled(cancel);
        let mut outputs = outputs.to_vec();
        // In this order everywhere: so nobody waits for the second lock of somebody who waits for the first.
        outputs.sort();
        outputs.dedup();
        for item in outputs.iter().chain([derivation]) {
            local.add_temp_root(item)?;
        }
        let locks = outputs.iter().map(|output| OutputLock::take(output, cancel)).collect::<Result<_>>()?;
        let missing = local.database().missing_of(&outputs)?;
        drop(guard);
        Ok((OutputLocks { _locks: locks, _protection: Mutex::new(local) }, missing))
    }
}

/// The lock on one output.
struct OutputLock {
    name: String,
    held: Held,
}

impl OutputLock {
    fn take(output: &StorePath, cancel: &Cancel) -> Result<Self> {
        let name = format!("{output}.lock");
        let doing = || format!("locking '{name}'");
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let mut file = options.open(&name).io_context(ErrorKind::Store, doing)?;
            let held = loop {
                match Held::try_new(file).io_context(ErrorKind::Store, doing)? {
                    Ok(held) => break held,
                    Err(taken) => file = taken,
                }
                cancel.sleep(RETRY_PAUSE)?;
            };
            if is_in_use(held.file()).io_context(ErrorKind::Store, doing)? {
                return Ok(OutputLock { name, held });
            }
            drop(held);
            // A file with contents that nobody removes is never a lock, for guix-daemon either.
            cancel.sleep(RETRY_PAUSE)?;
        }
    }
}

/// Returns whether the lock file is one that others find.
fn is_in_use(file: &File) -> std::io::Result<bool> {
    let status = file.metadata()?;
    Ok(status.len() == 0 && status.nlink() > 0)
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        let mut file = self.held.file();
        // It is not removed if it is another one by now. A file that cannot be removed stays empty, and so a lock.
        let identity = |status: std::fs::Metadata| (status.dev(), status.ino());
        let is_ours = file.metadata().ok().map(identity) == metadata(&self.name).ok().map(identity);
        if is_ours && std::fs::remove_file(&self.name).is_err() {
            return;
        }
        let _ = file.write_all(b"d");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::ground::store_path::StoreDir;

    fn output(directory: &tempfile::TempDir) -> StorePath {
        let store = StoreDir::new(directory.path().to_str().unwrap()).unwrap();
        store.parse(&format!("{}/{}-x", store.as_str(), "a".repeat(32))).unwrap()
    }

    #[test]
    fn a_lock_is_waited_for_and_its_file_goes_with_it() {
        let scratch = tempfile::tempdir().unwrap();
        let output = output(&scratch);
        let first = OutputLock::take(&output, &Cancel::default()).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| OutputLock::take(&output, &Cancel::default()).unwrap());
            std::thread::sleep(RETRY_PAUSE * 2);
            assert!(!second.is_finished());
            drop(first);
            let second = second.join().unwrap();
            assert!(is_in_use(second.held.file()).unwrap(), "not the file of the first, which is gone");
        });
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_was_given_up_is_no_lock() {
        let scratch = tempfile::tempdir().unwrap();
        let output = output(&scratch);
        let lock = OutputLock::take(&output, &Cancel::default()).unwrap();
        let file = lock.held.file().try_clone().unwrap();
        std::fs::remove_file(&lock.name).unwrap();
        assert!(!is_in_use(&file).unwrap(), "removed");
        let other = OutputLock::take(&output, &Cancel::default()).unwrap();
        drop(lock);
        assert!(is_in_use(other.held.file()).unwrap(), "not removed by the holder of another file");
        std::fs::write(&other.name, "d").unwrap();
        assert!(!is_in_use(other.held.file()).unwrap(), "marked");
    }

    #[test]
    fn a_file_that_is_marked_and_stays_does_not_hold_up_a_cancellation() {
        let scratch = tempfile::tempdir().unwrap();
        let (output, cancel) = (output(&scratch), Cancel::default());
        std::fs::write(format!("{output}.lock"), "d").unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| OutputLock::take(&output, &cancel).map(|_| ()).unwrap_err());
            std::thread::sleep(RETRY_PAUSE);
            cancel.cancel();
            assert_eq!(waiting.join().unwrap().kind(), ErrorKind::Cancelled);
        });
    }

    #[test]
    fn who_waits_for_a_lock_can_be_stopped() {
        let scratch = tempfile::tempdir().unwrap();
        let (output, cancel) = (output(&scratch), Cancel::default());
        let _first = OutputLock::take(&output, &cancel).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| OutputLock::take(&output, &cancel).map(|_| ()).unwrap_err());
            std::thread::sleep(RETRY_PAUSE);
            let begun = Instant::now();
            cancel.cancel();
            assert_eq!(second.join().unwrap().kind(), ErrorKind::Cancelled);
            assert!(begun.elapsed() < Duration::from_secs(10));
        });
    }
}
