// SPDX-License-Identifier: GPL-3.0-or-later
//! What hooks of this host remember of a machine, in `STATE/offload/NAME:PORT/history`: it spares them waiting for a
//! machine that did not answer the last one, asking one again that had no room a moment ago, and accepting a build that
//! could not begin for hours. It is advice, nothing more: a file that is missing, old or damaged is a machine of which
//! nothing is known.

mod file;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::choose::slot::lock::Held;
use crate::ground::clock::Clock;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind};
use crate::ground::file_identity::FileIdentity;
use crate::ground::state_dir::{OpenStateDir, StateDir};
use crate::machine::BuildMachine;

/// How long a load is worth knowing, in seconds: that of /proc/loadavg is the average of one minute.
const LOAD_LIFETIME: u64 = 60;
/// How long a machine that answered is taken to do so still, in seconds.
const ANSWER_LIFETIME: u64 = 10;
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
/// How long the head itself, in its own list, is left alone, in seconds: another host may get that name.
const THIS_HOST_BACK_OFF: u64 = 60 * 60;
/// How often in a row others may answer before a machine that has never answered is left alone.
const UNANSWERED: u32 = 2;
/// The file's name in the machine's directory.
const NAME: &str = "history";
/// The file that is locked by whoever changes it.
const LOCK: &str = "history.lock";
/// How long another process may take to change it, before this one does without the lock.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(1);
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
    /// It is the host that asks.
    ThisHost,
}

impl SetbackKind {
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

impl Setback {
    /// How long the machine is left alone after it, in seconds.
    fn back_off(&self) -> u64 {
        match self.kind {
            SetbackKind::ThisHost => THIS_HOST_BACK_OFF,
            SetbackKind::NoRoom => FIRST_BACK_OFF,
            SetbackKind::Away | SetbackKind::Misconfigured => {
                (FIRST_BACK_OFF << (self.count - 1).min(16)).min(LONGEST_BACK_OFF)
            }
        }
    }
}

/// Stands for how a machine is configured: its description, its private key, and the keys that are authorized here. A
/// setback counts as long as that is the same.
pub fn mark(machine: &BuildMachine, acl: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{machine:?}").hash(&mut hasher);
    for file in [&*machine.private_key, acl] {
        FileIdentity::of(file).hash(&mut hasher);
    }
    hasher.finish()
}

/// What a machine said last.
#[derive(Clone, Copy, Debug)]
struct Load {
    load: f64,
    at: u64,
    mark: u64,
}

/// What is remembered of machines. Any thread.
#[derive(Clone)]
pub struct Histories {
    state: PathBuf,
    acl: PathBuf,
    clock: Arc<dyn Clock>,
}

/// What is remembered of one machine, as of the moment at which that was read.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// That moment, in seconds since the epoch, and how the machine was configured then.
    now: u64,
    mark: u64,
    load: Option<Load>,
    answered: Option<Duration>,
    unanswered: u32,
    setback: Option<Setback>,
    address: Option<IpAddr>,
    slow: Option<(f64, u64)>,
    took: VecDeque<Duration>,
    took_until: u64,
}

impl Histories {
    /// Those that the hooks of the host keep whose `directories` these are.
    pub fn new(directories: &Directories, clock: &Arc<dyn Clock>) -> Self {
        Histories { state: directories.offload_state(), acl: directories.acl_file(), clock: Arc::clone(clock) }
    }

    /// Reads what is remembered of `machine`.
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
        History { now: self.clock.since_epoch(), mark: mark(machine, &self.acl), ..known }
    }

    /// Remembers that `machine` answered, with this load; if it was connected to, after how long.
    pub fn note_answer(&self, machine: &BuildMachine, load: f64, after: Option<Duration>) {
        self.change(machine, |history| {
            history.load = Some(Load { load, at: history.now, mark: history.mark });
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

    /// Remembers that the archives of `machine` are not let in here, or ours not there.
    pub fn note_distrust(&self, machine: &BuildMachine, reason: &Error) {
        self.note_setback(machine, SetbackKind::of(reason), reason);
    }

    /// Remembers that another machine answered, and `machine` had not for as long as `waited`. Once that is no mere
    /// distance, it could not be used, for that `reason`.
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

    /// Remembers that the link to `machine` is very slow: so many bytes a second.
    pub fn note_slow_link(&self, machine: &BuildMachine, rate: f64) {
        self.change(machine, |history| history.slow = Some((rate, history.now)));
    }

    /// Remembers which of its addresses answered; `None`: the one that the resolver has first.
    pub fn note_address(&self, machine: &BuildMachine, address: Option<IpAddr>) {
        self.change(machine, |history| history.address = address);
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

    /// Replaces the file by what `change` makes of it. What cannot be written is not remembered: no build fails for
    /// that.
    fn change(&self, machine: &BuildMachine, change: impl FnOnce(&mut History)) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let named = StateDir::named(&self.state, machine.label());
        // A machine of which nobody has taken a slot yet has none.
        let Ok(directory) = named.open().or_else(|_| named.create().and_then(|()| named.open())) else { return };
        // Held until the end. Without it, what another process notes at the same time may be lost.
        let _lock = locked(&directory);
        let mut history = self.read_in(Some(&directory), machine);
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

impl History {
    /// Was something that happened `at` that time less than so many seconds ago?
    fn within(&self, at: u64, seconds: u64) -> bool {
        self.now.abs_diff(at) < seconds
    }

    /// The machine's load, if it was seen lately.
    pub fn recent_load(&self) -> Option<f64> {
        self.load.filter(|seen| self.within(seen.at, LOAD_LIFETIME)).map(|seen| seen.load)
    }

    /// The machine's load, if it answered a moment ago, being configured as it is now, and nothing was wrong with it
    /// since: it is there, as far as can be known without asking it.
    pub fn fresh_load(&self) -> Option<f64> {
        let usable = self.setback().is_none() && !self.is_distrusted();
        let fresh = |seen: &Load| seen.mark == self.mark && self.within(seen.at, ANSWER_LIFETIME);
        self.load.filter(|seen| usable && fresh(seen)).map(|seen| seen.load)
    }

    /// Why the machine should be left alone for a while, if it should, being configured as it is now: see [`mark`].
    pub fn setback(&self) -> Option<&Setback> {
        self.setback.as_ref().filter(|setback| setback.mark == self.mark && self.within(setback.at, setback.back_off()))
    }

    /// How long it should be left alone for that from now on.
    pub fn time_left(&self, setback: &Setback) -> Duration {
        Duration::from_secs(setback.at.saturating_add(setback.back_off()).saturating_sub(self.now))
    }

    /// Was the last that is known of it that its archives are not let in here, or ours not there? However long ago: it
    /// has to show that this has changed.
    pub fn is_distrusted(&self) -> bool {
        self.setback.as_ref().is_some_and(|setback| setback.reason.kind() == ErrorKind::Untrusted)
    }

    /// The rate of the link to it, in bytes a second, if that was very slow lately.
    pub fn slow_link(&self) -> Option<f64> {
        self.slow.filter(|(_, at)| self.within(*at, LINK_LIFETIME)).map(|(rate, _)| rate)
    }

    /// The one of its addresses that should be tried first.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// How long connecting to it took, the last time that it worked.
    pub fn answered(&self) -> Option<Duration> {
        self.answered
    }

    /// How long a build holds a slot of it, going by the last ones; `None`: not known.
    pub fn build_time(&self) -> Option<Duration> {
        let recent = !self.took.is_empty() && self.within(self.took_until, BUILDS_LIFETIME);
        recent.then(|| self.took.iter().sum::<Duration>() / self.took.len() as u32)
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

/// The lock of whoever changes what is in `directory`, or nothing if another process has it for too long.
fn locked(directory: &OpenStateDir) -> Option<Held> {
    let mut file = directory.open(LOCK, OFlags::RDWR | OFlags::CREATE).ok()?;
    let begun = Instant::now();
    loop {
        file = match Held::try_new(file).ok()? {
            Ok(held) => return Some(held),
            Err(_) if begun.elapsed() > CHANGE_TIMEOUT => return None,
            Err(file) => file,
        };
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
