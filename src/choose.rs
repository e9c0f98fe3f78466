// SPDX-License-Identifier: GPL-3.0-or-later
//! Choosing a machine: the best one that has a free slot, answers, and is neither overloaded nor full.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Result};
use crate::history::History;
use crate::machine::BuildMachine;
use crate::observer::{Event, Observer};
use crate::remote::Remote;
use crate::schedule::{self, Probe, Random};
use crate::slot::{Lock, LockDirectory};
use crate::ssh::Session;
use crate::store::Directories;

/// How long the best machine may take to answer before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// By how many seconds a machine's clock may be behind before it is worth a warning: the answer takes a while.
const CLOCK_TOLERANCE: i64 = 2;

/// A connected machine and a build slot on it. Dropping it closes the connection and frees the slot.
pub struct Lease {
    /// The machine.
    pub remote: Remote,
    /// Which of the candidates it is.
    pub candidate: usize,
    _slot: Lock,
}

/// What came of an attempt to choose.
pub enum Choice {
    /// This machine.
    Machine(Box<Lease>),
    /// None now, but some machine is only short of a slot.
    Busy,
    /// None now: nobody can be reached, or all are overloaded.
    Nobody,
    /// None ever: what is wrong with every machine is a matter of configuration. The first such error.
    Misconfigured(Error),
}

/// The machines that can do a build, and their slots.
pub struct Candidates {
    directories: Directories,
    machines: Vec<BuildMachine>,
    slots: Vec<LockDirectory>,
    random: Random,
}

/// A machine that is being connected to.
struct Attempt {
    session: Session,
    slot: Lock,
}

type Answer = (usize, Result<(Remote, Probe)>);

impl Candidates {
    /// Takes `machines`, all of which match what the build requires.
    pub fn new(directories: &Directories, machines: Vec<BuildMachine>) -> Result<Self> {
        let state = directories.offload_state();
        let slots = machines.iter().map(|machine| LockDirectory::slots(&state, machine)).collect::<Result<_>>()?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let random = Random::new(seed ^ u64::from(std::process::id()));
        Ok(Candidates { directories: directories.clone(), machines, slots, random })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.machines.len()
    }

    /// Chooses among those candidates for which `eligible` holds.
    pub fn choose(&mut self, eligible: impl Fn(usize) -> bool, observer: &mut dyn Observer) -> Result<Choice> {
        let state = self.directories.offload_state();
        let histories: Vec<History> = self.machines.iter().map(|machine| History::read(&state, machine)).collect();
        let known_load = |index: usize| histories[index].recent_load();
        let order = schedule::order(&self.machines, known_load, &mut self.random);
        let mut queue = order.into_iter().filter(|&index| eligible(index) && !histories[index].in_back_off());

        let (answers, inbox) = mpsc::channel::<Answer>();
        let mut attempts: HashMap<usize, Attempt> = HashMap::new();
        let mut next_start = Instant::now();
        let mut exhausted = false;
        let (mut busy, mut waiting_helps, mut misconfigured) = (false, false, None);
        loop {
            while !exhausted && (attempts.is_empty() || Instant::now() >= next_start) {
                let Some(index) = queue.next() else {
                    exhausted = true;
                    break;
                };
                let Some(slot) = self.slots[index].try_take()? else {
                    busy = true;
                    continue;
                };
                observer.event(&Event::SlotTaken { slot: slot.name() });
                match self.attempt(index, &answers) {
                    Ok(session) => {
                        attempts.insert(index, Attempt { session, slot });
                        next_start = Instant::now() + HEAD_START;
                    }
                    Err(error) => {
                        waiting_helps |= self.pass_over(index, &error, &mut misconfigured, observer);
                    }
                }
            }
            if attempts.is_empty() {
                break;
            }
            let answer = if exhausted {
                inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(next_start.saturating_duration_since(Instant::now()))
            };
            let Ok((index, result)) = answer else {
                continue; // the head start is over
            };
            let attempt = attempts.remove(&index).expect("an answer comes from an attempt");
            match result {
                Ok((remote, probe)) if self.is_suitable(index, &probe, observer) => {
                    for (_, other) in attempts {
                        other.session.abort(Error::new(ErrorKind::Cancelled, "another machine was chosen"));
                    }
                    return Ok(Choice::Machine(Box::new(Lease { remote, candidate: index, _slot: attempt.slot })));
                }
                Ok(_) => waiting_helps = true,
                Err(error) => waiting_helps |= self.pass_over(index, &error, &mut misconfigured, observer),
            }
        }
        Ok(match misconfigured {
            _ if busy => Choice::Busy,
            Some(error) if !waiting_helps => Choice::Misconfigured(error),
            _ => Choice::Nobody,
        })
    }

    /// Starts to connect to a candidate, whose answer will go to `answers`.
    fn attempt(&self, index: usize, answers: &mpsc::Sender<Answer>) -> Result<Session> {
        let machine = self.machines[index].clone();
        let session = Remote::start(&machine)?;
        let (ours, store, answers) = (session.clone(), self.directories.store.clone(), answers.clone());
        std::thread::Builder::new()
            .name("guix-offload-connect".into())
            .spawn(move || {
                // Nobody listens any more when another machine was faster.
                let _ = answers.send((index, Remote::establish(session, &machine, &store)));
            })
            .map_err(|error| Error::io(ErrorKind::Exhausted, "starting a thread", error))?;
        Ok(ours)
    }

    /// Looks at what a candidate says of itself.
    fn is_suitable(&self, index: usize, probe: &Probe, observer: &mut dyn Observer) -> bool {
        let machine = &self.machines[index];
        History::note_load(&self.directories.offload_state(), machine, probe.load);
        observer.event(&Event::Load { machine: &machine.name, load: probe.load });
        if let Some(offset) = probe.clock_offset.filter(|offset| *offset < -CLOCK_TOLERANCE) {
            observer.event(&Event::ClockBehind { machine: &machine.name, seconds: offset.unsigned_abs() });
        }
        let Err(unsuitable) = schedule::accept(machine, probe) else {
            return true;
        };
        let reason = Error::new(ErrorKind::Unavailable, unsuitable.to_string());
        observer.event(&Event::PassedOver { machine: &machine.name, reason: &reason });
        false
    }

    /// Says why a candidate that failed is passed over, and remembers it. Returns whether waiting might help.
    fn pass_over(
        &self,
        index: usize,
        error: &Error,
        misconfigured: &mut Option<Error>,
        observer: &mut dyn Observer,
    ) -> bool {
        let machine = &self.machines[index];
        observer.event(&Event::PassedOver { machine: &machine.name, reason: error });
        match error.kind() {
            ErrorKind::Configuration | ErrorKind::Authentication => {
                misconfigured.get_or_insert_with(|| error.clone());
                false
            }
            ErrorKind::Unavailable | ErrorKind::Protocol => {
                History::note_failure(&self.directories.offload_state(), machine);
                true
            }
            _ => true,
        }
    }
}
