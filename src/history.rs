// SPDX-License-Identifier: GPL-3.0-or-later
//! What this host remembers of a machine from one build to the next: its load, and that it could not be reached.
//!
//! One small file a machine, `STATE/offload/NAME:PORT/history`, shared by all hooks and replaced as a whole. It is
//! advice, nothing more: a file that is missing, old or damaged is a machine of which nothing is known.
//!
//! ```text
//! load LOAD SECONDS       at that time (since the epoch) the load, normalised by cores, was that
//! failed COUNT SECONDS    so many attempts to reach it have failed since the last success, the last at that time
//! ```

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};

use crate::machine::BuildMachine;

/// How long a load is worth knowing, in seconds: that of /proc/loadavg is the average of one minute.
const LOAD_LIFETIME: u64 = 60;
/// How long a machine is left alone after its first failure, in seconds. Doubles with every further one.
const FIRST_BACK_OFF: u64 = 5;
/// How long it is left alone at most, in seconds.
const LONGEST_BACK_OFF: u64 = 60;
/// Larger than any file that is written here, in bytes.
const MAX_SIZE: u64 = 4096;

/// What is remembered of one machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    load: Option<(f64, u64)>,
    failed: Option<(u32, u64)>,
}

impl History {
    /// Reads what is remembered of `machine`. `state` is where offloading keeps its state (`STATE/offload`).
    pub fn read(state: &Path, machine: &BuildMachine) -> Self {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let text = rustix::fs::open(file_name(state, machine), flags, Mode::empty()).ok().and_then(|file| {
            let mut text = String::new();
            std::fs::File::from(file).take(MAX_SIZE).read_to_string(&mut text).ok().map(|_| text)
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

    /// Remembers that `machine` answered, with this load.
    pub fn note_load(state: &Path, machine: &BuildMachine, load: f64) {
        History { load: Some((load, now())), failed: None }.write(state, machine);
    }

    /// Remembers that `machine` could not be reached.
    pub fn note_failure(state: &Path, machine: &BuildMachine) {
        let count = Self::read(state, machine).failed.map_or(0, |(count, _)| count);
        History { load: None, failed: Some((count.saturating_add(1), now())) }.write(state, machine);
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
                _ => {}
            }
        }
        history
    }

    /// Replaces the file. What cannot be written is not remembered: no build fails for that.
    fn write(&self, state: &Path, machine: &BuildMachine) {
        let name = file_name(state, machine);
        let fresh = name.with_extension(std::process::id().to_string());
        let mut text = String::new();
        if let Some((load, at)) = self.load {
            text += &format!("load {load} {at}\n");
        }
        if let Some((count, at)) = self.failed {
            text += &format!("failed {count} {at}\n");
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let written = rustix::fs::open(&fresh, flags, Mode::RUSR | Mode::WUSR)
            .map_err(std::io::Error::from)
            .and_then(|file| std::fs::File::from(file).write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&fresh, &name));
        if written.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
    }
}

fn file_name(state: &Path, machine: &BuildMachine) -> PathBuf {
    state.join(format!("{}:{}", machine.name, machine.port)).join("history")
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
    fn damage_is_ignorance() {
        for text in ["", "load", "load x 1", "failed 0 1", "failed -1 1", "load NaN 1", "\0\0"] {
            assert_eq!(History::parse(text), History::default(), "{text:?}");
        }
    }
}
