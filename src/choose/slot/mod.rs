// SPDX-License-Identifier: GPL-3.0-or-later
//! Build slots: how many builds may run on a machine at once, agreed on between all hooks of this host by file locks.
//!
//! A process takes slot N of a machine by locking the file `STATE/offload/NAME:PORT/N`, as `guix offload` does. The
//! file's modification time says since when. However the holder dies, the slot is free again.

pub mod lock;

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::OFlags;

use crate::ground::directories::for_daemons_user;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::state_dir::StateDir;
use crate::machine::BuildMachine;
use lock::{Held, Range};

/// A taken slot. Dropping it frees the slot.
#[derive(Debug)]
pub struct Lock {
    _held: Held,
    name: PathBuf,
}

impl Lock {
    /// Returns the name of the lock file.
    pub fn name(&self) -> &Path {
        &self.name
    }
}

/// The build slots of the machines that a process knows. Builds that wait for the same machine share its open files:
/// with files of their own, hundreds of builds would run out of descriptors.
#[derive(Debug, Default)]
pub struct Slots(Mutex<HashMap<Key, SharedSlots>>);

/// The slots of one machine.
pub type SharedSlots = Arc<Mutex<LockDirectory>>;

/// Name and port of a machine, and how many slots it has.
type Key = (String, u16, u32);

impl Slots {
    /// Returns the slots of `machine`. `state` is where offloading keeps its state, always the same.
    pub fn of(&self, state: &Path, machine: &BuildMachine) -> Result<SharedSlots> {
        let key = (machine.name.clone(), machine.port, machine.parallel_builds);
        self.share(key, || LockDirectory::slots(state, machine))
    }

    fn share(&self, key: Key, make: impl FnOnce() -> Result<LockDirectory>) -> Result<SharedSlots> {
        let mut known = self.0.lock();
        if let Some(slots) = known.get(&key) {
            return Ok(Arc::clone(slots));
        }
        let slots = Arc::new(Mutex::new(make()?));
        known.insert(key, Arc::clone(&slots));
        Ok(slots)
    }
}

/// Returns whether a build slot in the directory `label` of `state` is taken, or may be, whatever the number of slots.
pub fn is_any_taken(state: &Path, label: &str) -> bool {
    let directory = StateDir::named(state, label);
    let (Ok(open), Ok(files)) = (directory.open(), std::fs::read_dir(directory.path(""))) else { return true };
    let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).any(|name| {
        let file = open.open(&name, OFlags::RDONLY | OFlags::NONBLOCK);
        file.and_then(|file| lock::is_locked(&file, Range::Whole)).unwrap_or(true)
    })
}

/// A directory of interchangeable lock files, named `0` to `count - 1`.
///
/// Its files stay open between attempts, so that each attempt costs one system call a file.
#[derive(Debug)]
pub struct LockDirectory {
    directory: StateDir,
    count: u32,
    /// The files that were tried so far; `None`: a taken [`Lock`] has the file.
    files: Vec<Option<File>>,
}

impl LockDirectory {
    /// Returns the build slots of `machine`. `state` is where offloading keeps its state (`STATE/offload`).
    pub fn slots(state: &Path, machine: &BuildMachine) -> Result<Self> {
        Self::new(StateDir::named(state, machine.label()), machine.parallel_builds)
    }

    /// Returns how many build slots of `machine` hooks of this host have taken. Takes none, and creates no file.
    pub fn count_taken(state: &Path, machine: &BuildMachine) -> Result<u32> {
        Self::taken_for(state, machine).map(|ages| ages.len() as u32)
    }

    /// Returns how long each taken build slot of `machine` has been taken. Takes none, and creates no file.
    pub fn taken_for(state: &Path, machine: &BuildMachine) -> Result<Vec<Duration>> {
        let now = SystemTime::now();
        let taken = Self::taken(state, machine)?.into_iter();
        Ok(taken.map(|(_, since)| now.duration_since(since).unwrap_or_default()).collect())
    }

    /// Returns the same of those slots that were taken before the one with the lock file `own`, a taken slot of
    /// `machine`.
    pub fn taken_before(state: &Path, machine: &BuildMachine, own: &Path) -> Result<Vec<Duration>> {
        let now = SystemTime::now();
        let taken = Self::taken(state, machine)?;
        let name = own.file_name().unwrap_or_default();
        let own = taken.iter().find(|(other, _)| name == other.as_str()).map_or(now, |(_, since)| *since);
        let before = taken.iter().filter(|(other, since)| *since < own || *since == own && name > other.as_str());
        Ok(before.map(|(_, since)| now.duration_since(*since).unwrap_or_default()).collect())
    }

    /// Returns the names of the taken build slots of `machine`, and when they were taken.
    fn taken(state: &Path, machine: &BuildMachine) -> Result<Vec<(String, SystemTime)>> {
        let directory = StateDir::named(state, machine.label());
        let what = |name: &str| format!("looking at '{}'", directory.path(name).display());
        let open = match directory.open() {
            Ok(open) => open,
            Err(error) if error.kind() == NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).io_context(ErrorKind::Store, || what("")),
        };
        let mut taken = Vec::new();
        for name in (0..machine.parallel_builds).map(|number| number.to_string()) {
            match open.open(&name, OFlags::RDONLY | OFlags::NONBLOCK) {
                Ok(file) => {
                    if lock::is_locked(&file, Range::Whole).io_context(ErrorKind::Store, || what(&name))? {
                        let since = file.metadata().and_then(|metadata| metadata.modified());
                        let since = since.io_context(ErrorKind::Store, || what(&name))?;
                        taken.push((name, since));
                    }
                }
                // Slots are tried in order, so the files of slots that were never tried are missing.
                Err(error) if error.kind() == NotFound => break,
                Err(error) => return Err(error).io_context(ErrorKind::Store, || what(&name)),
            }
        }
        Ok(taken)
    }

    fn new(directory: StateDir, count: u32) -> Result<Self> {
        directory
            .create()
            .io_context(ErrorKind::Store, || format!("creating the directory '{}'", directory.path("").display()))?;
        Ok(LockDirectory { directory, count, files: Vec::new() })
    }

    /// Takes the first lock that is free; `None`: all are taken.
    pub fn try_take(&mut self) -> Result<Option<Lock>> {
        for number in 0..self.count as usize {
            if number == self.files.len() {
                self.files.push(None);
            }
            let file = &mut self.files[number];
            let name = self.directory.path(&number.to_string());
            let open = match file.take() {
                Some(open) => open,
                None => open_lock_file(&self.directory, number).map_err(|error| cannot_open(error, &name))?,
            };
            let what = || format!("locking '{}'", name.display());
            match Held::try_new(open).io_context(ErrorKind::Store, what)? {
                Ok(held) => {
                    // `guix offload` leaves the time of taking the slot, too, as it empties the file.
                    let _ = held.file().set_modified(SystemTime::now());
                    return Ok(Some(Lock { _held: held, name }));
                }
                Err(open) => *file = Some(open),
            }
        }
        Ok(None)
    }
}

fn cannot_open(error: std::io::Error, file: &Path) -> Error {
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    let error = Error::io(ErrorKind::Store, format!("opening the lock file '{}'", file.display()), error);
    match file.parent().and_then(Path::parent).filter(|_| denied) {
        Some(above) => {
            error.hint(for_daemons_user("write to it", |user| format!("chown -R {user} {}", above.display())))
        }
        None => error,
    }
}

fn open_lock_file(directory: &StateDir, number: usize) -> std::io::Result<File> {
    directory.open()?.open(&number.to_string(), OFlags::RDWR | OFlags::CREATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    fn slots(state: &Path, count: u32) -> LockDirectory {
        LockDirectory::new(StateDir::named(state, "m:22"), count).unwrap()
    }

    #[test]
    fn as_many_are_taken_as_there_are() {
        let state = tempfile::tempdir().unwrap();
        let (mut ours, mut theirs) = (slots(state.path(), 2), slots(state.path(), 2));
        let first = ours.try_take().unwrap().unwrap();
        let second = theirs.try_take().unwrap().unwrap();
        assert_ne!(first.name(), second.name());
        assert!(ours.try_take().unwrap().is_none());
        assert!(theirs.try_take().unwrap().is_none());
        drop(first);
        assert!(theirs.try_take().unwrap().is_some());
    }

    /// Python locks as `guix offload` does, with F_SETLK.
    const SCRIPT: &str = "
import fcntl, sys
f = open(sys.argv[1], 'w')
try:
    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print('taken', flush=True)
except OSError:
    print('busy', flush=True)
sys.stdin.read()";

    fn script(file: &Path) -> (std::process::Child, String) {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed to test against fcntl(F_SETLK)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line)
    }

    fn end(mut child: std::process::Child) {
        drop(child.stdin.take().map(|mut i| i.write_all(b"")));
        child.wait().unwrap();
    }

    #[test]
    fn locks_of_the_script_and_ours_exclude_each_other() {
        let state = tempfile::tempdir().unwrap();
        let mut ours = slots(state.path(), 1);
        let file = state.path().join("m:22/0");
        let (child, said) = script(&file);
        assert_eq!(said, "taken\n");
        assert!(ours.try_take().unwrap().is_none());
        end(child);
        let slot = ours.try_take().unwrap().unwrap();
        let (child, said) = script(&file);
        assert_eq!(said, "busy\n");
        end(child);
        drop(slot);
        let (child, said) = script(&file);
        assert_eq!(said, "taken\n");
        end(child);
    }

    #[test]
    fn taken_slots_are_counted_whoever_took_them() {
        let state = tempfile::tempdir().unwrap();
        let machine = BuildMachine { parallel_builds: 3, ..crate::machine::tests::machine("m") };
        let count = || LockDirectory::count_taken(state.path(), &machine).unwrap();
        assert_eq!(count(), 0);
        assert!(!state.path().join("m:22").exists());
        let mut ours = LockDirectory::slots(state.path(), &machine).unwrap();
        let (first, _second) = (ours.try_take().unwrap().unwrap(), ours.try_take().unwrap().unwrap());
        assert_eq!(count(), 2);
        drop(first);
        assert_eq!(count(), 1);
        let (child, said) = script(&state.path().join("m:22/0"));
        assert_eq!((said.as_str(), count()), ("taken\n", 2));
        end(child);
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_slot_says_since_when_it_is_taken() {
        let state = tempfile::tempdir().unwrap();
        let machine = crate::machine::tests::machine("m");
        let mut ours = LockDirectory::slots(state.path(), &machine).unwrap();
        drop(ours.try_take().unwrap().unwrap());
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        File::options().write(true).open(state.path().join("m:22/0")).unwrap().set_modified(long_ago).unwrap();
        let _slot = ours.try_take().unwrap().unwrap();
        let ages = LockDirectory::taken_for(state.path(), &machine).unwrap();
        assert!(ages.len() == 1 && ages[0] < Duration::from_secs(60), "{ages:?}");
    }

    #[test]
    fn slots_that_are_never_tried_cost_nothing() {
        let state = tempfile::tempdir().unwrap();
        assert!(slots(state.path(), u32::MAX).try_take().unwrap().is_some());
    }

    #[test]
    fn a_link_in_place_of_a_lock_file_is_not_followed() {
        let state = tempfile::tempdir().unwrap();
        let mut ours = slots(state.path(), 1);
        std::os::unix::fs::symlink("/nonexistent/target", state.path().join("m:22/0")).unwrap();
        assert!(ours.try_take().is_err());
    }

    #[test]
    fn a_machine_without_slots_has_none_to_take() {
        let state = tempfile::tempdir().unwrap();
        assert!(slots(state.path(), 0).try_take().unwrap().is_none());
    }

    #[test]
    fn two_entries_for_one_machine_share_its_slots() {
        let (state, slots) = (tempfile::tempdir().unwrap(), Slots::default());
        let one = BuildMachine { parallel_builds: 2, ..crate::machine::tests::machine("m") };
        // For another system, with more slots.
        let other = BuildMachine { systems: vec!["i686-linux".into()], parallel_builds: 3, ..one.clone() };
        let [one, other] = [one, other].map(|machine| slots.of(state.path(), &machine).unwrap());
        let take = |slots: &SharedSlots| slots.lock().try_take().unwrap();
        let taken = [take(&one), take(&other), take(&other)];
        assert!(taken.iter().all(Option::is_some));
        assert!(take(&one).is_none() && take(&other).is_none());
    }

    #[test]
    fn builds_that_wait_for_the_same_machine_share_its_files() {
        let state = tempfile::tempdir().unwrap();
        let known = Slots::default();
        let shared = |count| known.share(("m".into(), 22, count), || Ok(slots(state.path(), count))).unwrap();
        let (one, other) = (shared(2), shared(2));
        assert!(Arc::ptr_eq(&one, &other));
        let first = one.lock().try_take().unwrap().unwrap();
        let second = other.lock().try_take().unwrap().unwrap();
        assert_ne!(first.name(), second.name());
        assert!(one.lock().try_take().unwrap().is_none());
        drop(first);
        let _first = other.lock().try_take().unwrap().unwrap();
        assert!(shared(3).lock().try_take().unwrap().is_some(), "a machine that was given another slot has it");
    }
}
