// SPDX-License-Identifier: GPL-3.0-or-later
//! What this host remembers of a machine from one build to the next: its load, that it could not be reached, that its
//! link is slow.
//!
//! One small file a machine, `STATE/offload/NAME:PORT/history`, shared by all hooks and replaced as a whole. It is
//! advice, nothing more: a file that is missing, old or damaged is a machine of which nothing is known.
//!
//! ```text
//! load LOAD SECONDS       at that time (since the epoch) the load, normalised by cores, was that
//! failed COUNT SECONDS    so many attempts to reach it have failed since the last success, the last at that time
//! slow RATE SECONDS       at that time the link to it moved no more than so many bytes a second
//! ```

use std::io::{Read, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::machine::BuildMachine;
use crate::state::Directory;

/// How long a load is worth knowing, in seconds: that of /proc/loadavg is the average of one minute.
const LOAD_LIFETIME: u64 = 60;
/// How long a link is taken to be as slow as it was, in seconds.
const LINK_LIFETIME: u64 = 60 * 60;
/// How long a machine is left alone after its first failure, in seconds. Doubles with every further one.
const FIRST_BACK_OFF: u64 = 5;
/// How long it is left alone at most, in seconds.
const LONGEST_BACK_OFF: u64 = 60;
/// The file's name in the machine's directory.
const NAME: &str = "history";
/// Larger than any file that is written here, in bytes.
const MAX_SIZE: u64 = 4096;

/// What is remembered of one machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    load: Option<(f64, u64)>,
    failed: Option<(u32, u64)>,
    slow: Option<(f64, u64)>,
}

impl History {
    /// Reads what is remembered of `machine`. `state` is where offloading keeps its state (`STATE/offload`).
    pub fn read(state: &Path, machine: &BuildMachine) -> Self {
        let directory = Directory::of_machine(state, machine).open();
        let file = directory.and_then(|directory| directory.open(NAME, OFlags::RDONLY | OFlags::NONBLOCK));
        let text = file.ok().and_then(|file| {
            let mut text = String::new();
            file.take(MAX_SIZE).read_to_string(&mut text).ok().map(|_| text)
        });
        text.map_or_else(History::default, |text| Self::parse(&text))
    }

    /// The machine's load, if it was seen lately.
    pub fn recent_load(&self) -> Option<f64> {
        self.load.filter(|(_, at)| now().abs_diff(*at) < LOAD_LIFETIME).map(|(load, _)| load)
    }

    /// Has the machine failed so lately that it should be left alone?
    pub fn in_back_off(&self) -> bool {
        self.failed.is_some_and(|(count, at)| {
            let doubled = FIRST_BACK_OFF.saturating_mul(1 << (count - 1).min(16));
            now().abs_diff(at) < doubled.min(LONGEST_BACK_OFF)
        })
    }

    /// The rate of the link to it, in bytes a second, if that was very slow lately.
    pub fn slow_link(&self) -> Option<f64> {
        self.slow.filter(|(_, at)| now().abs_diff(*at) < LINK_LIFETIME).map(|(rate, _)| rate)
    }

    /// Remembers that `machine` answered, with this load.
    pub fn note_load(state: &Path, machine: &BuildMachine, load: f64) {
        let History { slow, .. } = Self::read(state, machine);
        History { load: Some((load, now())), failed: None, slow }.write(state, machine);
    }

    /// Remembers that `machine` could not be reached.
    pub fn note_failure(state: &Path, machine: &BuildMachine) {
        let History { failed, slow, .. } = Self::read(state, machine);
        let count = failed.map_or(0, |(count, _)| count);
        History { load: None, failed: Some((count.saturating_add(1), now())), slow }.write(state, machine);
    }

    /// Remembers that the link to `machine` is very slow: so many bytes a second.
    pub fn note_slow_link(state: &Path, machine: &BuildMachine, rate: f64) {
        History { slow: Some((rate, now())), ..Self::read(state, machine) }.write(state, machine);
    }

    fn parse(text: &str) -> Self {
        let mut history = History::default();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["load", load, at] => {
                    history.load = load.parse().ok().filter(|load: &f64| *load >= 0.0).zip(at.parse().ok());
                }
                ["failed", count, at] => {
                    history.failed = count.parse().ok().filter(|count| *count > 0).zip(at.parse().ok());
                }
                ["slow", rate, at] => {
                    history.slow = rate.parse().ok().filter(|rate: &f64| *rate >= 0.0).zip(at.parse().ok());
                }
                _ => {}
            }
        }
        history
    }

    /// Replaces the file. What cannot be written is not remembered: no build fails for that.
    fn write(&self, state: &Path, machine: &BuildMachine) {
        let Ok(directory) = Directory::of_machine(state, machine).open() else { return };
        let fresh = format!("{NAME}.{}", std::process::id());
        let mut text = String::new();
        if let Some((load, at)) = self.load {
            text += &format!("load {load} {at}\n");
        }
        if let Some((count, at)) = self.failed {
            text += &format!("failed {count} {at}\n");
        }
        if let Some((rate, at)) = self.slow {
            text += &format!("slow {rate} {at}\n");
        }
        let written = directory
            .open(&fresh, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| directory.rename(&fresh, NAME));
        if written.is_err() {
            let _ = directory.remove(&fresh);
        }
    }
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_forgotten_after_a_minute() {
        let recent = History::parse(&format!("load 0.25 {}\n", now() - 5));
        assert_eq!(recent.recent_load(), Some(0.25));
        assert_eq!(History::parse(&format!("load 0.25 {}\n", now() - 61)).recent_load(), None);
    }

    #[test]
    fn the_back_off_grows_and_ends() {
        let failed = |count: u32, ago: u64| History::parse(&format!("failed {count} {}\n", now() - ago)).in_back_off();
        assert!(failed(1, 1) && !failed(1, 6));
        assert!(failed(3, 15) && !failed(3, 21));
        assert!(failed(u32::MAX, 50) && !failed(u32::MAX, 61));
    }

    #[test]
    fn a_slow_link_is_remembered_for_an_hour_whatever_else_happens() {
        let state = tempfile::tempdir().unwrap();
        let machine = crate::machine::tests::machine("m");
        Directory::of_machine(state.path(), &machine).create().unwrap();
        History::note_slow_link(state.path(), &machine, 12.5e6);
        History::note_failure(state.path(), &machine);
        assert!(History::read(state.path(), &machine).in_back_off());
        History::note_load(state.path(), &machine, 0.5);
        assert_eq!(History::read(state.path(), &machine).slow_link(), Some(12.5e6));
        assert_eq!(History::parse(&format!("slow 12500000 {}\n", now() - 3601)).slow_link(), None);
    }

    #[test]
    fn the_file_is_private_and_a_link_in_its_place_is_not_followed() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let state = tempfile::tempdir().unwrap();
        let state = state.path().join("offload");
        let machine = crate::machine::tests::machine("m");
        let directory = Directory::of_machine(&state, &machine);
        directory.create().unwrap();
        History::note_load(&state, &machine, 0.5);
        assert_eq!(History::read(&state, &machine).recent_load(), Some(0.5));
        let mode = std::fs::metadata(directory.path(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);

        let other = state.join("other");
        std::fs::rename(directory.path(NAME), &other).unwrap();
        symlink(&other, directory.path(NAME)).unwrap();
        assert_eq!(History::read(&state, &machine), History::default());
        symlink(&other, directory.path(&format!("{NAME}.{}", std::process::id()))).unwrap();
        History::note_load(&state, &machine, 0.75);
        assert!(std::fs::read_to_string(&other).unwrap().starts_with("load 0.5 "));
    }

    #[test]
    fn damage_is_ignorance() {
        for text in ["", "load", "load x 1", "failed 0 1", "failed -1 1", "load NaN 1", "slow NaN 1", "slow 1", "\0\0"]
        {
            assert_eq!(History::parse(text), History::default(), "{text:?}");
        }
    }
}
