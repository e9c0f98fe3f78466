// SPDX-License-Identifier: GPL-3.0-or-later
//! Choosing a machine: the best one that has a free slot, answers, and is neither overloaded nor full.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cancel::{Cancel, Guard};
use crate::error::{Error, ErrorKind, Result};
use crate::history::History;
use crate::machine::BuildMachine;
use crate::observer::{Event, Observer};
use crate::panic_point;
use crate::pool::Pool;
use crate::remote::Remote;
use crate::schedule::{self, Random};
use crate::slot::{Lock, SharedSlots, Slots};
use crate::ssh::Session;
use crate::store::Directories;
use crate::thread;

/// How long the best machine may take to answer before the next one is tried beside it. Each one after it gets half of
/// what the one before it got, ...
const HEAD_START: Duration = Duration::from_millis(250);

/// ... but not less than this: so ten dead machines before a good one cost two thirds of a second.
const SHORTEST_HEAD_START: Duration = Duration::from_millis(30);

/// By how many seconds a machine's clock may be behind before it is worth a warning: the answer takes a while.
pub const CLOCK_TOLERANCE: i64 = 2;

/// How old the answer of a machine may be that is still connected since the last build.
const PROBE_LIFETIME: Duration = Duration::from_secs(30);

/// How long a connection may have been idle that is taken to be alive without asking.
const TRUSTED: Duration = Duration::from_secs(1);

/// How long the machine of any other may take to answer before it is connected to anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connected machine and a build slot on it. Dropping it closes the connection and frees the slot.
pub struct Lease {
    /// The machine.
    pub remote: Remote,
    /// Which of the candidates it is.
    pub candidate: usize,
    /// Whether the connection is one that had been idle: if it fails, that says nothing about the machine.
    pub reused: bool,
    /// The slot.
    pub slot: Lock,
    guard: Guard,
}

impl Lease {
    /// Gives the connection to `keep`, and then frees the slot: so whoever takes that finds the connection.
    pub fn release(self, keep: impl FnOnce(Remote)) {
        let Lease { remote, slot, guard, .. } = self;
        drop(guard);
        keep(remote);
        drop(slot);
    }
}

/// What came of an attempt to choose.
pub enum Choice {
    /// This machine.
    Machine(Box<Lease>),
    /// None now, but some machine is only short of a slot.
    Busy,
    /// None now: nobody can be reached, or all are overloaded.
    Nobody,
    /// None ever: with every machine something is wrong that waiting does not mend. The first such error.
    Misconfigured(Error),
}

/// The machines that can do a build, and their slots.
pub struct Candidates {
    directories: Directories,
    machines: Vec<BuildMachine>,
    slots: Vec<SharedSlots>,
    random: Random,
}

/// A machine that is being connected to.
struct Attempt {
    begun: Instant,
    session: Session,
    slot: Lock,
    guard: Guard,
}

/// What an attempt at the machine of that index came to.
type Answer = (usize, Result<Remote>);

/// What is learnt while choosing.
#[derive(Default)]
struct Findings {
    busy: bool,
    waiting_helps: bool,
    misconfigured: Option<Error>,
}

impl Candidates {
    /// Takes `machines`, all of which match what the build requires.
    pub fn new(directories: &Directories, machines: Vec<BuildMachine>, slots: &Slots) -> Result<Self> {
        let state = directories.offload_state();
        let slots = machines.iter().map(|machine| slots.of(&state, machine)).collect::<Result<_>>()?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let random = Random::new(seed ^ u64::from(std::process::id()));
        Ok(Candidates { directories: directories.clone(), machines, slots, random })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.machines.len()
    }

    /// Chooses among those candidates for which `eligible` holds. A connection that is idle in `pool` is used again.
    pub fn choose(
        &mut self,
        eligible: impl Fn(usize) -> bool,
        pool: &Pool<Remote>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Choice> {
        let state = self.directories.offload_state();
        let histories: Vec<History> = self.machines.iter().map(|machine| History::read(&state, machine)).collect();
        let known_load = |index: usize| histories[index].recent_load();
        let order = schedule::order(&self.machines, known_load, &mut self.random);
        let mut queue =
            order.into_iter().filter(|&index| eligible(index) && !histories[index].in_back_off()).peekable();

        let (answers, inbox) = mpsc::channel::<Answer>();
        let mut attempts: HashMap<usize, Attempt> = HashMap::new();
        let mut next_start = Instant::now();
        let mut head_start = HEAD_START;
        let mut findings = Findings::default();
        loop {
            cancel.check()?;
            while attempts.is_empty() || Instant::now() >= next_start {
                let Some(index) = queue.next() else { break };
                let Some(slot) = self.slots[index].lock().try_take()? else {
                    findings.busy = true;
                    continue;
                };
                observer.event(&Event::SlotTaken { slot: slot.name() });
                if let Some((remote, guard)) = self.idle_connection(index, pool, cancel, observer) {
                    self.leave_behind(attempts, Instant::now(), observer);
                    return Ok(chosen(Lease { remote, candidate: index, reused: true, slot, guard }, observer));
                }
                match self.attempt(index, &answers) {
                    Ok(session) => {
                        let guard = guard(cancel, &session);
                        attempts.insert(index, Attempt { begun: Instant::now(), session, slot, guard });
                        next_start = Instant::now() + head_start;
                        head_start = (head_start / 2).max(SHORTEST_HEAD_START);
                    }
                    Err(error) => self.pass_over(index, error, &mut findings, observer)?,
                }
            }
            if attempts.is_empty() {
                break;
            }
            let answer = if queue.peek().is_none() {
                inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(next_start.saturating_duration_since(Instant::now()))
            };
            let Ok((index, result)) = answer else {
                continue; // the head start is over
            };
            cancel.check()?;
            let Some(Attempt { begun, slot, guard, .. }) = attempts.remove(&index) else { continue };
            match result {
                Ok(mut remote) if self.is_suitable(index, &remote, observer) => {
                    self.leave_behind(attempts, begun, observer);
                    remote.set_slow_link(histories[index].slow_link());
                    return Ok(chosen(Lease { remote, candidate: index, reused: false, slot, guard }, observer));
                }
                Ok(_) => findings.waiting_helps = true,
                Err(error) => self.pass_over(index, error, &mut findings, observer)?,
            }
        }
        Ok(match findings {
            Findings { busy: true, .. } => Choice::Busy,
            Findings { misconfigured: Some(error), waiting_helps: false, .. } => Choice::Misconfigured(error),
            _ => Choice::Nobody,
        })
    }

    /// Gives up `attempts`, as the machine is chosen that was tried at `begun`. Those tried before that were too slow.
    fn leave_behind(&self, attempts: HashMap<usize, Attempt>, begun: Instant, observer: &mut dyn Observer) {
        for (index, attempt) in attempts {
            let (machine, waited) = (&self.machines[index].name, attempt.begun.elapsed().as_millis());
            attempt.session.abort(Error::new(ErrorKind::Cancelled, "another machine was chosen"));
            if attempt.begun < begun {
                let message = format!("it has not answered for {waited} ms, and another machine has");
                let reason = Error::new(ErrorKind::Unavailable, message).on_machine(machine);
                observer.event(&Event::PassedOver { machine, reason: &reason });
            }
        }
    }

    /// A connection to a candidate that is idle and whose machine is still suitable.
    fn idle_connection(
        &self,
        index: usize,
        pool: &Pool<Remote>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Option<(Remote, Guard)> {
        loop {
            let (mut remote, idle) = pool.take(|remote| *remote.machine() == self.machines[index])?;
            if !remote.is_usable() {
                continue;
            }
            let guard = guard(cancel, remote.session());
            // A connection can be lost without a sign: then a new one says whether the machine is away.
            let alive = idle < TRUSTED || remote.answers(PATIENCE);
            let suitable =
                alive && remote.probe_again(PROBE_LIFETIME).is_ok() && self.is_suitable(index, &remote, observer);
            return suitable.then_some((remote, guard));
        }
    }

    /// Starts to connect to a candidate, whose answer will go to `answers`.
    fn attempt(&self, index: usize, answers: &mpsc::Sender<Answer>) -> Result<Session> {
        let machine = self.machines[index].clone();
        let session = Remote::start(&machine)?;
        let (ours, store, answers) = (session.clone(), self.directories.store.clone(), answers.clone());
        thread::spawn("guix-offload-connect", move || {
            let established = catch_unwind(AssertUnwindSafe(|| {
                panic_point::pass("connect");
                Remote::establish(session, &machine, &store)
            }))
            .unwrap_or_else(|panic| Err(Error::panicked(&*panic).on_machine(&machine.name)));
            // Nobody listens any more when another machine was faster.
            let _ = answers.send((index, established));
        })?;
        Ok(ours)
    }

    /// Looks at what a candidate says of itself.
    fn is_suitable(&self, index: usize, remote: &Remote, observer: &mut dyn Observer) -> bool {
        let (machine, probe) = (&self.machines[index], remote.probe());
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

    /// Says why a candidate that failed is passed over, and remembers it. Fails if it was this process that failed.
    fn pass_over(
        &self,
        index: usize,
        error: Error,
        findings: &mut Findings,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if error.kind() == ErrorKind::Exhausted {
            return Err(error);
        }
        let machine = &self.machines[index];
        observer.event(&Event::PassedOver { machine: &machine.name, reason: &error });
        match error.kind() {
            ErrorKind::Configuration | ErrorKind::Authentication | ErrorKind::Internal => {
                findings.misconfigured.get_or_insert(error);
                return Ok(());
            }
            ErrorKind::Unavailable | ErrorKind::Protocol => {
                History::note_failure(&self.directories.offload_state(), machine);
            }
            _ => {}
        }
        findings.waiting_helps = true;
        Ok(())
    }
}

/// Cuts `session` off when cancelled.
pub fn guard(cancel: &Cancel, session: &Session) -> Guard {
    let session = session.clone();
    cancel.guard(move |error| session.abort(error))
}

fn chosen(lease: Lease, observer: &mut dyn Observer) -> Choice {
    observer.event(&Event::Chosen { machine: &lease.remote.machine().name });
    Choice::Machine(Box::new(lease))
}
