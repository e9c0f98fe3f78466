// SPDX-License-Identifier: GPL-3.0-or-later
//! What hooks of this host remember of a machine, in `STATE/offload/NAME:PORT/history`. This keeps them from waiting
//! for a machine that did not answer the last hook, from asking again a machine that had no room a moment ago, and from
//! accepting a build that could not begin for hours. It is advice, nothing more: if the file is missing, old or
//! damaged, nothing is known of the machine.

mod file;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::choose::drained;
use crate::choose::memory_use::MemoryUse;
use crate::choose::slot::lock::Held;
use crate::ground::clock::Clock;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind};
use crate::ground::file_identity::FileIdentity;
use crate::ground::state_dir::{OpenStateDir, StateDir};
use crate::machine::BuildMachine;
use crate::machine::suitability::Unsuitable;

/// How long a known load is used, in seconds: the load of /proc/loadavg is the average of one minute.
const LOAD_LIFETIME: u64 = 60;
/// How long a known load at present is used, in seconds: it follows from averages of ten seconds.
const CURRENT_LIFETIME: u64 = 20;
/// How long after an answer a machine is assumed to be there, in seconds.
pub(super) const ANSWER_LIFETIME: u64 = 10;
/// How long a link that was slow is assumed to be as slow, in seconds.
const LINK_LIFETIME: u64 = 60 * 60;
/// How long the measured rate of a link counts, in seconds.
const RATE_LIFETIME: u64 = 24 * 60 * 60;
/// How long the times of the last builds count for the next ones, in seconds.
const BUILDS_LIFETIME: u64 = 24 * 60 * 60;
/// Most builds whose time is remembered.
const BUILDS: usize = 8;
/// Back-off after the first setback of a machine, in seconds. It doubles with every further setback of the same kind,
/// except lack of room.
const FIRST_BACK_OFF: u64 = 5;
/// Longest back-off of a machine that is away or misconfigured, in seconds.
const LONGEST_BACK_OFF: u64 = 60;
/// How long no build asks a misconfigured machine again, though it could be done nowhere else, in seconds.
const MEND_TIME: u64 = 2;
/// Back-off of a machine that turned out to be this host itself, in seconds: another host may get that name.
const THIS_HOST_BACK_OFF: u64 = 60 * 60;
/// Times in a row that another machine must have answered first before a machine is backed off as away.
const UNANSWERED: u32 = 2;
/// The file's name in the machine's directory.
pub(super) const NAME: &str = "history";
/// The file that a process locks while it changes the history.
const LOCK: &str = "history.lock";
/// How long to wait while another process changes the history of a machine. Then it is changed without the lock.
const HISTORY_LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest history that is read, in bytes: larger than any that is written.
const MAX_SIZE: u64 = 16 << 10;

/// Why a machine could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetbackKind {
    /// It cannot be reached, or does not work as a build machine.
    Away,
    /// It is overloaded or full: it may take a build in a moment.
    NoRoom,
    /// Something is wrong that waiting does not repair.
    Misconfigured,
    /// It is this host itself.
    ThisHost,
    /// An administrator has drained it (see [`drained`]).
    Drained,
}

impl SetbackKind {
    /// Returns the kind of setback that `error`, which a machine caused, means.
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

impl Setback {
    /// Returns the back-off of the machine after this setback, in seconds.
    fn back_off(&self) -> u64 {
        match self.kind {
            SetbackKind::ThisHost => THIS_HOST_BACK_OFF,
            SetbackKind::Drained => u64::MAX,
            SetbackKind::NoRoom => FIRST_BACK_OFF,
            SetbackKind::Away | SetbackKind::Misconfigured => {
                (FIRST_BACK_OFF << (self.count - 1).min(16)).min(LONGEST_BACK_OFF)
            }
        }
    }
}

/// Returns the fingerprint of a machine's configuration: of its description, its private key, and the keys that are
/// authorized here. A setback counts only as long as that is the same.
pub fn mark(machine: &BuildMachine, acl: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{machine:?}").hash(&mut hasher);
    for file in [&*machine.private_key, acl] {
        FileIdentity::of(file).hash(&mut hasher);
    }
    hasher.finish()
}

/// The last load that a machine reported.
#[derive(Clone, Copy, Debug)]
struct Load {
    load: f64,
    at: u64,
    mark: u64,
}

/// The histories of machines. Any thread.
#[derive(Clone)]
pub struct Histories {
    state: PathBuf,
    acl: PathBuf,
    clock: Arc<dyn Clock>,
}

/// The history of one machine, as it was when it was read.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// When it was read, in seconds since the epoch; and the fingerprint of the machine's configuration then.
    now: u64,
    mark: u64,
    load: Option<Load>,
    current: Option<(f64, u64)>,
    answered: Option<Duration>,
    unanswered: u32,
    setback: Option<Setback>,
    /// A setback that no answer of the machine ends. Not in the file: it has a mark of its own.
    drained: Option<Setback>,
    address: Option<IpAddr>,
    slow: Option<(f64, u64)>,
    rate: Option<(f64, u64)>,
    took: VecDeque<Duration>,
    took_until: u64,
    memory: MemoryUse,
}

impl Histories {
    /// Returns the histories that the hooks of the host with these `directories` keep.
    pub fn new(directories: &Directories, clock: &Arc<dyn Clock>) -> Self {
        Histories { state: directories.offload_state(), acl: directories.acl_file(), clock: Arc::clone(clock) }
    }

    /// Reads the history of `machine`.
    pub fn of(&self, machine: &BuildMachine) -> History {
        let directory = StateDir::named(&self.state, machine.label()).open();
        self.read_in(directory.as_ref().ok(), machine)
    }

    fn read_in(&self, directory: Option<&OpenStateDir>, machine: &BuildMachine) -> History {
        let opened = directory.and_then(|open| open.open(NAME, OFlags::RDONLY | OFlags::NONBLOCK).ok());
        let text = opened.and_then(|file| {
            let mut text = String::new();
            file.take(MAX_SIZE).read_to_string(&mut text).ok().map(|_| text)
        });
        let known = text.map_or_else(History::default, |text| History::parse(&text));
        let (now, mark) = (self.clock.since_epoch(), mark(machine, &self.acl));
        let drained = directory.and_then(|open| drained::since(open, now)).map(|at| {
            let reason = drained::reason(machine, now.saturating_sub(at));
            Setback { kind: SetbackKind::Drained, reason, count: 1, at, mark }
        });
        History { now, mark, drained, ..known }
    }

    /// Remembers that `machine` answered, with this `load`. `current`: its load at present, if it said that. `after`
    /// is how long connecting took, for a new connection.
    pub fn note_answer(&self, machine: &BuildMachine, load: f64, current: Option<f64>, after: Option<Duration>) {
        self.change(machine, |history| {
            history.load = Some(Load { load, at: history.now, mark: history.mark });
            history.current = current.map(|current| (current, history.now)).or(history.current);
            history.answered = after.or(history.answered);
            history.unanswered = 0;
            if !history.is_distrusted() {
                history.setback = None;
            }
        });
    }

    /// Remembers that `machine` could not be used, and why.
    pub fn note_setback(&self, machine: &BuildMachine, kind: SetbackKind, reason: &Error) {
        self.change(machine, |history| history.set_back(kind, reason));
    }

    /// Remembers that `machine` was started: that it could not be reached does not count any more.
    pub fn note_started(&self, machine: &BuildMachine) {
        self.change(machine, |history| {
            if !history.is_distrusted() {
                history.setback = None;
            }
        });
    }

    /// Remembers that this host does not accept the archives of `machine`, or the machine does not accept ours.
    pub fn note_distrust(&self, machine: &BuildMachine, reason: &Error) {
        self.note_setback(machine, SetbackKind::of(reason), reason);
    }

    /// Remembers that another machine answered first, when `machine` had not answered for as long as `waited`. That
    /// does not count if `machine` usually takes half of that, or more. After `UNANSWERED` times in a row, it is a
    /// setback with this `reason`.
    pub fn note_unanswered(&self, machine: &BuildMachine, waited: Duration, reason: &Error) {
        self.change(machine, |history| {
            if history.answered.is_some_and(|usual| waited <= usual * 2) {
                return;
            }
            history.unanswered = history.unanswered.saturating_add(1);
            if history.unanswered >= UNANSWERED {
                history.set_back(SetbackKind::Away, reason);
            }
        });
    }

    /// Remembers that the link to `machine` is very slow: `rate` bytes a second.
    pub fn note_slow_link(&self, machine: &BuildMachine, rate: f64) {
        self.change(machine, |history| history.slow = Some((rate, history.now)));
    }

    /// Remembers that items were sent to `machine` at this `rate`, in bytes of nars a second. What is remembered is an
    /// average, in which the last rate has the weight of all before it.
    pub fn note_rate(&self, machine: &BuildMachine, rate: f64) {
        self.change(machine, |history| {
            let average = history.link_rate().map_or(rate, |before| (before + rate) / 2.0);
            history.rate = Some((average, history.now));
        });
    }

    /// Remembers which address of `machine` answered; `None`: the one that the resolver returns first.
    pub fn note_address(&self, machine: &BuildMachine, address: Option<IpAddr>) {
        self.change(machine, |history| history.address = address);
    }

    /// Remembers that `machine` has so much `available` memory, in bytes, while this host has so many `builds` there.
    pub fn note_memory(&self, machine: &BuildMachine, available: u64, builds: u32) {
        self.change(machine, |history| history.memory.note(available, builds, history.now));
    }

    /// Remembers for how long a build held a slot of `machine`.
    pub fn note_build(&self, machine: &BuildMachine, took: Duration) {
        self.change(machine, |history| {
            history.setback = None;
            history.took.push_back(took);
            if history.took.len() > BUILDS {
                history.took.pop_front();
            }
            history.took_until = history.now;
        });
    }

    /// Replaces the history by what `change` makes of it. If it cannot be written, nothing is remembered: no build
    /// fails for that.
    fn change(&self, machine: &BuildMachine, change: impl FnOnce(&mut History)) {
        let named = StateDir::named(&self.state, machine.label());
        // A machine has no directory before somebody takes a slot of it.
        let Ok(directory) = named.open().or_else(|_| named.create().and_then(|()| named.open())) else { return };
        // Held until the end. Without the lock, what another process notes at the same time may be lost.
        let _lock = locked(&directory);
        let mut history = self.read_in(Some(&directory), machine);
        change(&mut history);
        let _ = directory.replace(NAME, history.text().as_bytes());
    }
}

impl History {
    /// Returns whether the time `at` is less than `seconds` away from now.
    fn within(&self, at: u64, seconds: u64) -> bool {
        self.now.abs_diff(at) < seconds
    }

    /// Returns the machine's load, if it was seen lately.
    pub fn recent_load(&self) -> Option<f64> {
        self.load.filter(|seen| self.within(seen.at, LOAD_LIFETIME)).map(|seen| seen.load)
    }

    /// Returns the machine's load at present, if it was seen lately; otherwise as [`History::recent_load`].
    pub fn current_load(&self) -> Option<f64> {
        let current = self.current.filter(|(_, at)| self.within(*at, CURRENT_LIFETIME)).map(|(current, _)| current);
        self.recent_load().map(|load| current.unwrap_or(load))
    }

    /// Returns the machine's load, if it answered less than `seconds` ago, was configured as now, and nothing was wrong
    /// with it since. Then the machine is there, as far as can be known without asking it.
    pub fn fresh_load(&self, seconds: u64) -> Option<f64> {
        let usable = self.setback().is_none() && !self.is_distrusted();
        let fresh = |seen: &Load| seen.mark == self.mark && self.within(seen.at, seconds);
        self.load.filter(|seen| usable && fresh(seen)).map(|seen| seen.load)
    }

    /// Returns why the machine is in back-off or drained, if it is. A setback under another configuration does not
    /// count: see [`mark`].
    pub fn setback(&self) -> Option<&Setback> {
        let counts = |setback: &&Setback| setback.mark == self.mark && self.within(setback.at, setback.back_off());
        self.drained.as_ref().or(self.setback.as_ref().filter(counts))
    }

    /// Returns whether the machine is in back-off because it was misconfigured more than a moment ago. It may have been
    /// mended since, which only the machine can tell.
    pub fn may_be_mended(&self) -> bool {
        self.setback()
            .is_some_and(|setback| setback.kind == SetbackKind::Misconfigured && !self.within(setback.at, MEND_TIME))
    }

    /// Returns how long the back-off after `setback` lasts from now on; `None`: until the machine is resumed.
    pub fn time_left(&self, setback: &Setback) -> Option<Duration> {
        let end = setback.at.checked_add(setback.back_off()).filter(|_| setback.kind != SetbackKind::Drained)?;
        Some(Duration::from_secs(end.saturating_sub(self.now)))
    }

    /// Returns whether the last setback is that this host does not accept the machine's archives, or the machine does
    /// not accept ours. It counts however long ago it was: the machine has to show that this has changed.
    pub fn is_distrusted(&self) -> bool {
        self.setback.as_ref().is_some_and(|setback| setback.reason.kind() == ErrorKind::Untrusted)
    }

    /// Returns the rate of the link to the machine, in bytes a second, if the link was very slow lately.
    pub fn slow_link(&self) -> Option<f64> {
        self.slow.filter(|(_, at)| self.within(*at, LINK_LIFETIME)).map(|(rate, _)| rate)
    }

    /// Returns the rate at which items were sent to the machine lately, in bytes of nars a second.
    pub fn link_rate(&self) -> Option<f64> {
        self.rate.filter(|(_, at)| self.within(*at, RATE_LIFETIME)).map(|(rate, _)| rate)
    }

    /// Returns the address of the machine that should be tried first.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns how long connecting to the machine took, the last time that it worked.
    pub fn connect_time(&self) -> Option<Duration> {
        self.answered
    }

    /// Returns how long a build holds a slot of the machine, the average of the last ones; `None`: not known.
    pub fn build_time(&self) -> Option<Duration> {
        let recent = !self.took.is_empty() && self.within(self.took_until, BUILDS_LIFETIME);
        recent.then(|| self.took.iter().sum::<Duration>() / self.took.len() as u32)
    }

    /// Returns how many more builds find the memory that one takes there, where those of this host have held their
    /// slots for these times.
    pub fn more_builds(&self, taken_for: &[Duration]) -> u32 {
        self.memory.more_builds(taken_for, self.now)
    }

    /// Checks that one more build finds the memory that it needs there. See [`History::more_builds`].
    pub fn check_memory(&self, taken_for: &[Duration]) -> Result<(), Unsuitable> {
        self.memory.check(taken_for, self.now)
    }

    fn set_back(&mut self, kind: SetbackKind, reason: &Error) {
        let before = self.setback.take().filter(|before| before.kind == kind && before.mark == self.mark);
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        if kind != SetbackKind::NoRoom {
            self.load = None;
        }
        self.setback = Some(Setback { kind, reason: reason.clone(), count, at: self.now, mark: self.mark });
    }
}

/// Locks the history in `directory` for a change. Returns `None` if another process holds the lock for too long, or the
/// file cannot be locked.
fn locked(directory: &OpenStateDir) -> Option<Held> {
    Held::within(directory.open(LOCK, OFlags::RDWR | OFlags::CREATE).ok()?, HISTORY_LOCK_TIMEOUT).ok()
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
