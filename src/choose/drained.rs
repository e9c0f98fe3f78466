// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that an administrator has drained: they get no new builds until they are resumed, and finish those that
//! they have.
//!
//! The mark of a drained machine is the file `STATE/offload/NAME:PORT/drained`. It holds when the machine was drained,
//! in seconds since the epoch. Every choice of a machine looks for it, in whatever process, so the mark counts at once,
//! and after a reboot.

use std::io::{ErrorKind::NotFound, Read};
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, statat};

use crate::ground::directories::for_daemons_user;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::state_dir::{OpenStateDir, StateDir};
use crate::machine::BuildMachine;

/// The mark's name in the machine's directory.
const NAME: &str = "drained";

/// Most that is read of a mark, in bytes: more than the longest one has.
const MAX_SIZE: u64 = 64;

/// Drains `machine`. `state` is where offloading keeps its state (`STATE/offload`), `now` is in seconds since the
/// epoch. Returns `false` if the machine was drained before; then its mark stays as it is.
pub fn drain(state: &Path, machine: &BuildMachine, now: u64) -> Result<bool> {
    let directory = StateDir::named(state, machine.label());
    let written = directory.create().and_then(|()| directory.open()).and_then(|open| match since(&open, now) {
        Some(_) => Ok(false),
        None => open.replace(NAME, format!("{now}\n").as_bytes()).map(|()| true),
    });
    written.map_err(|error| cannot("writing", &directory, state, error))
}

/// Lets `machine` have builds again. Returns `false` if it was not drained.
pub fn resume(state: &Path, machine: &BuildMachine) -> Result<bool> {
    let directory = StateDir::named(state, machine.label());
    match directory.open().and_then(|open| open.remove(NAME)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == NotFound => Ok(false),
        Err(error) => Err(cannot("removing", &directory, state, error)),
    }
}

/// Returns for how many seconds `machine` has been drained; `None`: it is not.
pub fn seconds(state: &Path, machine: &BuildMachine, now: u64) -> Option<u64> {
    let open = StateDir::named(state, machine.label()).open().ok()?;
    since(&open, now).map(|since| now.saturating_sub(since))
}

/// Returns when the machine with this `directory` was drained, in seconds since the epoch; `None`: it is not drained.
/// With a mark that is damaged, or cannot be read, it was drained `now`.
pub(super) fn since(directory: &OpenStateDir, now: u64) -> Option<u64> {
    match directory.open(NAME, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => {
            let mut text = String::new();
            let read = file.take(MAX_SIZE).read_to_string(&mut text);
            Some(read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(now))
        }
        Err(error) if error.kind() == NotFound => None,
        // It counts if it is there, whatever it is. This process may lack descriptors: that drains no machine.
        Err(_) => statat(directory, NAME, AtFlags::SYMLINK_NOFOLLOW).ok().map(|_| now),
    }
}

/// Returns why `machine`, which has been drained for this many `seconds`, gets no builds.
pub fn reason(machine: &BuildMachine, seconds: u64) -> Error {
    Error::new(ErrorKind::Unavailable, format!("it was drained {} ago", age(seconds)))
        .hint(format!("to let it have builds again: guix-offload resume {}", machine.label()))
        .on_machine(&machine.name)
}

/// Returns a time as people say it, in its largest unit.
pub fn age(seconds: u64) -> String {
    let units = [(24 * 60 * 60, "days"), (60 * 60, "h"), (60, "min")];
    let unit = units.iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or_else(|| format!("{seconds} s"), |(length, name)| format!("{} {name}", seconds / length))
}

fn cannot(doing: &str, directory: &StateDir, state: &Path, error: std::io::Error) -> Error {
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    let error = Error::io(ErrorKind::Store, format!("{doing} '{}'", directory.path(NAME).display()), error);
    match denied {
        true => error.hint(for_daemons_user("write to it", |user| format!("chown -R {user} {}", state.display()))),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn a_machine_is_drained_until_it_is_resumed() {
        let state = tempfile::tempdir().unwrap();
        let (state, m) = (state.path().join("offload"), machine("m"));
        let other_port = BuildMachine { port: 2222, ..machine("m") };
        assert!(!resume(&state, &m).unwrap() && !state.exists(), "there is nothing to resume, and nothing is made");
        assert!(drain(&state, &m, 1000).unwrap());
        assert_eq!((seconds(&state, &m, 1060), seconds(&state, &other_port, 1060)), (Some(60), None));
        assert!(!drain(&state, &m, 1060).unwrap());
        assert_eq!(seconds(&state, &m, 1060), Some(60), "it has been drained since the first time");
        let for_other_system = BuildMachine { systems: vec!["i686-linux".into()], ..m.clone() };
        assert_eq!(seconds(&state, &for_other_system, 990), Some(0), "also if the clock was set back");
        assert!(resume(&state, &m).unwrap() && !resume(&state, &m).unwrap());
        assert_eq!(seconds(&state, &m, 1060), None);
    }

    #[test]
    fn a_damaged_mark_counts() {
        let state = tempfile::tempdir().unwrap();
        let m = machine("m");
        drain(state.path(), &m, 1000).unwrap();
        let file = state.path().join("m:22/drained");
        for damage in ["", "soon", "\u{0}", "-1"] {
            std::fs::write(&file, damage).unwrap();
            assert_eq!(seconds(state.path(), &m, 2000), Some(0), "{damage:?}");
        }
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/nonexistent", &file).unwrap();
        assert_eq!(seconds(state.path(), &m, 2000), Some(0));
        assert!(resume(state.path(), &m).unwrap());
    }

    /// Marks a process that runs a test alone.
    const ALONE: &str = "GUIX_OFFLOAD_TEST_ALONE";

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn without_descriptors_only_drained_machines_are_drained() {
        if std::env::var_os(ALONE).is_none() {
            let name = "choose::drained::tests::without_descriptors_only_drained_machines_are_drained";
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            let output = command.args(["--exact", name]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            return assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        let state = tempfile::tempdir().unwrap();
        let machines = [machine("drained"), machine("other")];
        let directories = machines.each_ref().map(|machine| {
            drain(state.path(), machine, 1000).unwrap();
            StateDir::named(state.path(), machine.label()).open().unwrap()
        });
        resume(state.path(), &machines[1]).unwrap();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let none = rustix::process::Rlimit { current: Some(0), ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, none).unwrap();
        let found = directories.each_ref().map(|directory| since(directory, 2000));
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        assert_eq!(found, [Some(2000), None]);
    }

    #[test]
    fn a_state_directory_that_is_none_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let m = machine("m");
        let errors = [drain(file.path(), &m, 0), resume(file.path(), &m)].map(|result| result.unwrap_err().to_string());
        assert!(errors.iter().all(|error| error.contains("m:22/drained")), "{errors:?}");
    }

    #[test]
    fn ages_are_in_their_largest_unit() {
        let expected = ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"];
        assert_eq!([0, 119, 120, 7199, 7200, 172_799, 172_800].map(age), expected.map(String::from));
    }
}
