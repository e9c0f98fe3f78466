// SPDX-License-Identifier: GPL-3.0-or-later
//! What hooks of this host remember of a machine, in `STATE/offload/NAME:PORT/history`: it spares them waiting for a
//! machine that did not answer the last one, asking one again that had no room a moment ago, and accepting a build that
//! could not begin for hours. It is advice, nothing more: a file that is missing, old or damaged is a machine of which
//! nothing is known.
//!
//! ```text
//! load LOAD SECONDS                     at that time (since the epoch) the load, normalised by cores, was that
//! answered MS                           connecting to it took so many milliseconds, the last time that it worked
//! unanswered COUNT                      so many times in a row others answered first, and it had not answered by then
//! setback KIND COUNT SECONDS MARK       it could not be used, so many times in a row, the last time then; MARK stands
//! reason ERROR TEXT                     for how the machine was configured
//! hint TEXT
//! address IP                            of its addresses, this one answered, and not the one that the resolver has first
//! slow RATE SECONDS                     at that time the link to it moved no more than so many bytes a second
//! took SECONDS MS MS...                 so long the last builds held a slot of it, the last of them until then
//! ```

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::error::{Error, ErrorKind};
use crate::machine::BuildMachine;
use crate::slot::lock::{self, Range};
use crate::state::{Directory, OpenDirectory};

/// How long a load is worth knowing, in seconds: that of /proc/loadavg is the average of one minute.
const LOAD_LIFETIME: u64 = 60;
/// How long a link is taken to be as slow as it was, in seconds.
const LINK_LIFETIME: u64 = 60 * 60;
/// How long builds are taken to last as long as they did, in seconds.
const BUILDS_LIFETIME: u64 = 24 * 60 * 60;
/// Of how many builds the time is remembered.
const BUILDS: usize = 8;
/// How long a machine is left alone after its first setback, in seconds. Doubles with every further one of its kind,
/// unless that is a want of room.
const FIRST_BACK_OFF: u64 = 5;
/// How long it is left alone at most, in seconds.
const LONGEST_BACK_OFF: u64 = 60;
/// How often in a row others may answer before a machine that has never answered is left alone.
const UNANSWERED: u32 = 2;
/// The file's name in the machine's directory.
const NAME: &str = "history";
/// The file that is locked by whoever changes it.
const LOCK: &str = "history.lock";
/// How long another process may take to change it, before this one does without the lock.
const CHANGE_TIMEOUT: Duration = Duration::from_millis(200);
/// Longest text that is remembered, in bytes.
const MAX_TEXT: usize = 2000;
/// Larger than any file that is written here, in bytes.
const MAX_SIZE: u64 = 16 << 10;

/// Why a machine could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetbackKind {
    /// It cannot be reached, or does not work as a build machine.
    Away,
    /// It is overloaded or full: it may take a build in a moment.
    NoRoom,
    /// Something is wrong that waiting does not mend.
    Misconfigured,
}

impl SetbackKind {
    const WORDS: [(&str, SetbackKind); 3] =
        [("away", SetbackKind::Away), ("no-room", SetbackKind::NoRoom), ("misconfigured", SetbackKind::Misconfigured)];

    /// What an error that a machine caused means.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Untrusted | ErrorKind::Internal => SetbackKind::Misconfigured,
            kind if kind.is_misconfiguration() => SetbackKind::Misconfigured,
            _ => SetbackKind::Away,
        }
    }
}

/// A machine that could not be used, and why.
#[derive(Clone, Debug)]
pub struct Setback {
    /// What kind of reason it is.
    pub kind: SetbackKind,
    /// The reason.
    pub reason: Error,
    count: u32,
    at: u64,
    mark: u64,
}

/// The kinds of error that are remembered as themselves. Of all others it is only remembered that there was one.
const ERROR_WORDS: [(&str, ErrorKind); 7] = [
    ("unavailable", ErrorKind::Unavailable),
    ("configuration", ErrorKind::Configuration),
    ("authentication", ErrorKind::Authentication),
    ("host-key", ErrorKind::HostKey),
    ("no-guix", ErrorKind::NoGuix),
    ("untrusted", ErrorKind::Untrusted),
    ("internal", ErrorKind::Internal),
];

/// Stands for how a machine is configured: its description, its private key, and the keys that are authorized here. A
/// setback counts as long as that is the same.
pub fn mark(machine: &BuildMachine, acl: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{machine:?}").hash(&mut hasher);
    for file in [&*machine.private_key, acl] {
        let identity = std::fs::metadata(file)
            .map(|seen| (seen.dev(), seen.ino(), seen.size(), seen.mode(), seen.ctime(), seen.ctime_nsec()));
        identity.ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// What is remembered of one machine.
#[derive(Clone, Debug, Default)]
pub struct History {
    load: Option<(f64, u64)>,
    answered: Option<Duration>,
    unanswered: u32,
    setback: Option<Setback>,
    address: Option<IpAddr>,
    slow: Option<(f64, u64)>,
    took: VecDeque<Duration>,
    took_until: u64,
}

impl History {
    /// Reads what is remembered of `machine`. `state` is where offloading keeps its state (`STATE/offload`).
    pub fn read(state: &Path, machine: &BuildMachine) -> Self {
        Directory::of_machine(state, machine).open().map_or_else(|_| History::default(), |open| Self::read_in(&open))
    }

    fn read_in(directory: &OpenDirectory) -> Self {
        let text = directory.open(NAME, OFlags::RDONLY | OFlags::NONBLOCK).ok().and_then(|file| {
            let mut text = String::new();
            file.take(MAX_SIZE).read_to_string(&mut text).ok().map(|_| text)
        });
        text.map_or_else(History::default, |text| Self::parse(&text))
    }

    /// The machine's load, if it was seen lately.
    pub fn recent_load(&self) -> Option<f64> {
        self.load.filter(|(_, at)| now().abs_diff(*at) < LOAD_LIFETIME).map(|(load, _)| load)
    }

    /// Why the machine should be left alone for a while, if it should, being configured as `mark` says: see [`mark`].
    pub fn setback(&self, mark: u64) -> Option<&Setback> {
        self.setback.as_ref().filter(|setback| {
            let doublings = if setback.kind == SetbackKind::NoRoom { 0 } else { (setback.count - 1).min(16) };
            let back_off = (FIRST_BACK_OFF << doublings).min(LONGEST_BACK_OFF);
            setback.mark == mark && now().abs_diff(setback.at) < back_off
        })
    }

    /// Was the last that is known of it that its archives are not let in here, or ours not there? However long ago: it has
    /// to show that this has changed.
    pub fn is_distrusted(&self) -> bool {
        self.setback.as_ref().is_some_and(|setback| setback.reason.kind() == ErrorKind::Untrusted)
    }

    /// The rate of the link to it, in bytes a second, if that was very slow lately.
    pub fn slow_link(&self) -> Option<f64> {
        self.slow.filter(|(_, at)| now().abs_diff(*at) < LINK_LIFETIME).map(|(rate, _)| rate)
    }

    /// The one of its addresses that should be tried first.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// How long a build holds a slot of it, going by the last ones; `None`: not known.
    pub fn build_time(&self) -> Option<Duration> {
        let recent = !self.took.is_empty() && now().abs_diff(self.took_until) < BUILDS_LIFETIME;
        recent.then(|| self.took.iter().sum::<Duration>() / self.took.len() as u32)
    }

    /// Remembers that `machine` answered, with this load; if it was connected to, after how long.
    pub fn note_answer(state: &Path, machine: &BuildMachine, load: f64, after: Option<Duration>) {
        Self::change(state, machine, |history| {
            history.load = Some((load, now()));
            history.answered = after.or(history.answered);
            history.unanswered = 0;
            if !history.is_distrusted() {
                history.setback = None;
            }
        });
    }

    /// Remembers that `machine`, configured as `mark` says, could not be used, and why.
    pub fn note_setback(state: &Path, machine: &BuildMachine, mark: u64, kind: SetbackKind, reason: &Error) {
        Self::change(state, machine, |history| history.set_back(kind, reason, mark));
    }

    fn set_back(&mut self, kind: SetbackKind, reason: &Error, mark: u64) {
        let before = self.setback.take().filter(|before| before.kind == kind && before.mark == mark);
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        if kind != SetbackKind::NoRoom {
            self.load = None;
        }
        self.setback = Some(Setback { kind, reason: reason.clone(), count, at: now(), mark });
    }

    /// Remembers that another machine answered, and `machine` had not for as long as `waited`. Once that is no mere
    /// distance, it could not be used, for that `reason`.
    pub fn note_unanswered(state: &Path, machine: &BuildMachine, mark: u64, waited: Duration, reason: &Error) {
        Self::change(state, machine, |history| {
            if history.answered.is_some_and(|usual| waited <= usual * 2) {
                return;
            }
            history.unanswered = history.unanswered.saturating_add(1);
            if history.unanswered >= UNANSWERED {
                history.set_back(SetbackKind::Away, reason, mark);
            }
        });
    }

    /// Remembers that the link to `machine` is very slow: so many bytes a second.
    pub fn note_slow_link(state: &Path, machine: &BuildMachine, rate: f64) {
        Self::change(state, machine, |history| history.slow = Some((rate, now())));
    }

    /// Remembers which of its addresses answered; `None`: the one that the resolver has first.
    pub fn note_address(state: &Path, machine: &BuildMachine, address: Option<IpAddr>) {
        Self::change(state, machine, |history| history.address = address);
    }

    /// Remembers for how long a build held a slot of `machine`.
    pub fn note_build(state: &Path, machine: &BuildMachine, took: Duration) {
        Self::change(state, machine, |history| {
            history.setback = None;
            history.took.push_back(took);
            if history.took.len() > BUILDS {
                history.took.pop_front();
            }
            history.took_until = now();
        });
    }

    fn parse(text: &str) -> Self {
        let mut history = History::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, &*rest.split(' ').collect::<Vec<_>>()) {
                ("load", [load, at]) => {
                    history.load = load.parse().ok().filter(|load: &f64| *load >= 0.0).zip(at.parse().ok());
                }
                ("answered", [ms]) => history.answered = milliseconds(ms),
                ("unanswered", [count]) => history.unanswered = count.parse().unwrap_or(0),
                ("setback", [kind, count, at, mark]) => {
                    let kind = SetbackKind::WORDS.iter().find(|(word, _)| word == kind);
                    let count = count.parse().ok().filter(|count: &u32| *count > 0);
                    if let (Some((_, kind)), Some(count), Ok(at), Ok(mark)) = (kind, count, at.parse(), mark.parse()) {
                        let reason = Error::new(ErrorKind::Unavailable, "it could not be used");
                        history.setback = Some(Setback { kind: *kind, reason, count, at, mark });
                    }
                }
                ("reason", [kind, ..]) => {
                    let known = ERROR_WORDS.iter().find(|(word, _)| word == kind);
                    let text = rest.split_once(' ').map_or("", |(_, text)| text);
                    if let (Some(setback), Some((_, kind))) = (&mut history.setback, known) {
                        setback.reason = Error::new(*kind, text);
                    }
                }
                ("hint", _) => {
                    if let Some(setback) = &mut history.setback {
                        setback.reason = setback.reason.clone().hint(rest);
                    }
                }
                ("address", [address]) => history.address = address.parse().ok(),
                ("slow", [rate, at]) => {
                    history.slow = rate.parse().ok().filter(|rate: &f64| *rate >= 0.0).zip(at.parse().ok());
                }
                ("took", [until, times @ ..]) => {
                    history.took_until = until.parse().unwrap_or(0);
                    history.took = times.iter().take(BUILDS).filter_map(|ms| milliseconds(ms)).collect();
                }
                _ => {}
            }
        }
        history
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |line: String| text.extend([&line, "\n"]);
        if let Some((load, at)) = self.load {
            add(format!("load {load} {at}"));
        }
        if let Some(answered) = self.answered {
            add(format!("answered {}", answered.as_millis()));
        }
        if self.unanswered > 0 {
            add(format!("unanswered {}", self.unanswered));
        }
        if let Some(Setback { kind, reason, count, at, mark }) = &self.setback {
            let word = SetbackKind::WORDS.iter().find(|(_, known)| known == kind).map_or("", |(word, _)| word);
            add(format!("setback {word} {count} {at} {mark}"));
            let known = ERROR_WORDS.iter().find(|(_, known)| *known == reason.kind());
            add(format!("reason {} {}", known.map_or("unavailable", |(word, _)| word), short(&reason.to_string())));
            if let Some(hint) = reason.hint_text() {
                add(format!("hint {}", short(hint)));
            }
        }
        if let Some(address) = self.address {
            add(format!("address {address}"));
        }
        if let Some((rate, at)) = self.slow {
            add(format!("slow {rate} {at}"));
        }
        if !self.took.is_empty() {
            let times: Vec<_> = self.took.iter().map(|time| time.as_millis().to_string()).collect();
            add(format!("took {} {}", self.took_until, times.join(" ")));
        }
        text
    }

    /// Replaces the file by what `change` makes of it. What cannot be written is not remembered: no build fails for that.
    fn change(state: &Path, machine: &BuildMachine, change: impl FnOnce(&mut History)) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let Ok(directory) = Directory::of_machine(state, machine).open() else { return };
        // Held until the end. Without it, what another process notes at the same time may be lost.
        let _lock = locked(&directory);
        let mut history = Self::read_in(&directory);
        change(&mut history);
        let fresh = format!("{NAME}.{}.{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let written = directory
            .open(&fresh, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NONBLOCK)
            .and_then(|mut file| file.write_all(history.text().as_bytes()))
            .and_then(|()| directory.rename(&fresh, NAME));
        if written.is_err() {
            let _ = directory.remove(&fresh);
        }
    }
}

/// The lock of whoever changes what is in `directory`, or nothing if another process has it for too long.
fn locked(directory: &OpenDirectory) -> Option<std::fs::File> {
    let file = directory.open(LOCK, OFlags::RDWR | OFlags::CREATE).ok()?;
    let begun = Instant::now();
    while !lock::try_lock(&file, Range::Whole).ok()? {
        if begun.elapsed() > CHANGE_TIMEOUT {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(file)
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(|ms: u32| Duration::from_millis(ms.into()))
}

/// As much of `text` as is remembered.
fn short(text: &str) -> &str {
    let ends = text.char_indices().map(|(at, char)| at + char.len_utf8());
    &text[..ends.take_while(|end| *end <= MAX_TEXT).last().unwrap_or(0)]
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
