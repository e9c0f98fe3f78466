// SPDX-License-Identifier: GPL-3.0-or-later
//! Choosing a machine: the best one that has a free slot, answers, and is neither overloaded nor full.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::archive::Acl;
use crate::cancel::{Cancel, Guard};
use crate::error::{Error, ErrorKind, Result};
use crate::forecast;
use crate::history::{self, History, SetbackKind};
use crate::machine::BuildMachine;
use crate::observer::{Event, Observer};
use crate::panic_point;
use crate::pool::Pool;
use crate::queue::{Place, Queue, Waiting};
use crate::remote::Remote;
use crate::schedule::{self, Random};
use crate::slot::{Lock, LockDirectory, SharedSlots, Slots};
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

/// How long a build that waits sees a slot free before it takes it although others came first: they had their chance, and
/// their processes may have been stopped.
const OVERTAKE: Duration = Duration::from_secs(2);

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
    /// Since when the slot is taken.
    pub since: Instant,
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
    /// None now: some machine is overloaded or full.
    NoRoom,
    /// None now: no machine can be reached, those aside with which something is wrong that waiting does not mend.
    Away,
    /// None ever: with every machine something is wrong that waiting does not mend. The first such error.
    Misconfigured(Error),
}

/// The machines that can do a build, and their slots.
pub struct Candidates {
    directories: Directories,
    machines: Vec<BuildMachine>,
    slots: Vec<SharedSlots>,
    queue: Arc<Queue>,
    /// Since when a slot of each has been free that others, who came first, do not take.
    untaken: Vec<Option<Instant>>,
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
    no_room: bool,
    away: bool,
    misconfigured: Option<Error>,
    /// Machines that are left alone for what was found earlier, and why.
    left_alone: Vec<(usize, Error)>,
}

impl Findings {
    fn add(&mut self, kind: SetbackKind, reason: &Error) {
        match kind {
            SetbackKind::NoRoom => self.no_room = true,
            SetbackKind::Away => self.away = true,
            SetbackKind::Misconfigured => {
                self.misconfigured.get_or_insert_with(|| reason.clone());
            }
        }
    }

    fn verdict(self) -> Choice {
        match self {
            Findings { busy: true, .. } => Choice::Busy,
            Findings { no_room: true, .. } => Choice::NoRoom,
            Findings { misconfigured: Some(error), away: false, .. } => Choice::Misconfigured(error),
            _ => Choice::Away,
        }
    }
}

/// What became of an idle connection.
enum Idle {
    Usable(Box<Remote>, Guard),
    /// Its machine has no room.
    NoRoom(Error),
    /// There is none, or it was lost.
    Gone,
}

impl Candidates {
    /// Takes `machines`, all of which match what the build requires.
    pub fn new(
        directories: &Directories,
        machines: Vec<BuildMachine>,
        slots: &Slots,
        queue: &Arc<Queue>,
    ) -> Result<Self> {
        let state = directories.offload_state();
        let slots = machines.iter().map(|machine| slots.of(&state, machine)).collect::<Result<_>>()?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let random = Random::new(seed ^ u64::from(std::process::id()));
        let (queue, untaken) = (Arc::clone(queue), vec![None; machines.len()]);
        Ok(Candidates { directories: directories.clone(), machines, slots, queue, untaken, random })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.machines.len()
    }

    /// How many build slots they have.
    pub fn slot_count(&self) -> usize {
        self.machines.iter().map(|machine| machine.parallel_builds as usize).sum()
    }

    /// How many builds that wait, and came before the one with `place`, if it has one, can be done by one of them.
    pub fn count_ahead(&self, place: Option<&Place>) -> usize {
        let ahead = self.queue.ahead_of(place);
        ahead.iter().filter(|waiting| self.machines.iter().any(|machine| waiting.wants(machine))).count()
    }

    /// How long a build that joins the queue now waits for a slot, as far as can be told; `None`: there is no telling.
    pub fn expected_wait(&self) -> Option<Duration> {
        let state = self.directories.offload_state();
        let slots = |machine: &BuildMachine| {
            let history = History::read(&state, machine);
            let left_alone = history.setback(self.mark(machine)).is_some();
            let taken_for = LockDirectory::taken_for(&state, machine).ok().filter(|_| !left_alone)?;
            Some(forecast::Slots { count: machine.parallel_builds, taken_for, build_time: history.build_time() })
        };
        let slots: Vec<_> = self.machines.iter().filter_map(slots).collect();
        forecast::expected_wait(self.count_ahead(None), &slots)
    }

    /// Joins the queue, for a build that those candidates can do for which `eligible` holds.
    pub fn join_queue(&self, eligible: impl Fn(usize) -> bool) -> Result<Place> {
        let machines = self.machines.iter().enumerate().filter(|(index, _)| eligible(*index));
        self.queue.join(&machines.map(|(_, machine)| machine.clone()).collect::<Vec<_>>())
    }

    /// Chooses among those candidates for which `eligible` holds, for the build with this `place` in the queue, or a new
    /// one. A connection that is idle in `pool` is used again.
    pub fn choose(
        &mut self,
        eligible: impl Fn(usize) -> bool,
        place: Option<&Place>,
        pool: &Pool<Remote>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Choice> {
        let state = self.directories.offload_state();
        let histories: Vec<History> = self.machines.iter().map(|machine| History::read(&state, machine)).collect();
        let known_load = |index: usize| histories[index].recent_load();
        let order = schedule::order(&self.machines, known_load, &mut self.random);
        let mut findings = Findings::default();
        let mut order = order.into_iter().filter(|&index| eligible(index)).collect::<Vec<_>>();
        order.retain(|&index| {
            let setback = histories[index].setback(self.mark(&self.machines[index]));
            if let Some(setback) = setback {
                let reason = setback.reason.clone().on_machine(&self.machines[index].name);
                findings.add(setback.kind, &reason);
                findings.left_alone.push((index, reason));
            }
            setback.is_none()
        });
        let ahead = self.queue.ahead_of(place);
        let mut order = order.into_iter().peekable();

        let (answers, inbox) = mpsc::channel::<Answer>();
        let mut attempts: HashMap<usize, Attempt> = HashMap::new();
        let mut next_start = Instant::now();
        let mut head_start = HEAD_START;
        loop {
            cancel.check()?;
            while attempts.is_empty() || Instant::now() >= next_start {
                let Some(index) = order.next() else { break };
                let Some(slot) = self.take_slot(index, &ahead, place.is_some())? else {
                    findings.busy = true;
                    continue;
                };
                let since = Instant::now();
                observer.event(&Event::SlotTaken { slot: slot.name() });
                match self.idle_connection(index, pool, cancel, observer) {
                    Idle::Usable(remote, guard) => {
                        self.leave_behind(attempts, Instant::now(), observer);
                        let lease = Lease { remote: *remote, candidate: index, reused: true, slot, since, guard };
                        return Ok(chosen(lease, observer));
                    }
                    Idle::NoRoom(reason) => {
                        findings.add(SetbackKind::NoRoom, &reason);
                        continue;
                    }
                    Idle::Gone => {}
                }
                match self.attempt(index, &histories[index], &answers) {
                    Ok(session) => {
                        let guard = guard(cancel, &session);
                        attempts.insert(index, Attempt { begun: since, session, slot, guard });
                        next_start = Instant::now() + head_start;
                        head_start = (head_start / 2).max(SHORTEST_HEAD_START);
                    }
                    Err(error) => self.pass_over(index, error, &mut findings, observer)?,
                }
            }
            if attempts.is_empty() {
                break;
            }
            let answer = if order.peek().is_none() {
                inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(next_start.saturating_duration_since(Instant::now()))
            };
            let Ok((index, result)) = answer else {
                continue; // the head start is over
            };
            cancel.check()?;
            let Some(Attempt { begun, slot, guard, .. }) = attempts.remove(&index) else { continue };
            if let Ok(remote) = &result
                && remote.session().address() != histories[index].address()
            {
                History::note_address(&state, &self.machines[index], remote.session().address());
            }
            match result {
                Ok(mut remote) => match self.check_suitability(index, &remote, Some(begun.elapsed()), observer) {
                    Ok(()) => {
                        self.leave_behind(attempts, begun, observer);
                        remote.set_slow_link(histories[index].slow_link());
                        let lease = Lease { remote, candidate: index, reused: false, slot, since: begun, guard };
                        return Ok(chosen(lease, observer));
                    }
                    Err(reason) => {
                        findings.add(SetbackKind::NoRoom, &reason);
                        // It was no fault of the connection's: the next build that there is room for has it.
                        drop(guard);
                        if remote.is_usable() {
                            pool.put(remote);
                        }
                    }
                },
                Err(error) => self.pass_over(index, error, &mut findings, observer)?,
            }
        }
        for (index, reason) in &findings.left_alone {
            observer.event(&Event::PassedOver { machine: &self.machines[*index].name, reason });
        }
        Ok(findings.verdict())
    }

    /// Remembers that a candidate's archives are not let in here, or ours not there.
    pub fn distrust(&self, index: usize, reason: &Error) {
        let (state, machine) = (self.directories.offload_state(), &self.machines[index]);
        History::note_setback(&state, machine, self.mark(machine), SetbackKind::of(reason), reason);
    }

    /// Takes a slot of a candidate, unless builds that are `ahead` in the queue will take all that are free.
    fn take_slot(&mut self, index: usize, ahead: &[Waiting], waits: bool) -> Result<Option<Lock>> {
        let machine = &self.machines[index];
        let rivals = ahead.iter().filter(|waiting| waiting.wants(machine)).count();
        if !waits && rivals >= machine.parallel_builds as usize {
            return Ok(None);
        }
        let Some(slot) = self.slots[index].lock().try_take()? else {
            self.untaken[index] = None;
            return Ok(None);
        };
        if rivals > 0 {
            let taken = LockDirectory::count_taken(&self.directories.offload_state(), machine)?;
            let free = machine.parallel_builds.saturating_sub(taken) as usize;
            let since = *self.untaken[index].get_or_insert_with(Instant::now);
            if rivals > free && !(waits && since.elapsed() > OVERTAKE) {
                return Ok(None);
            }
        }
        self.untaken[index] = None;
        Ok(Some(slot))
    }

    fn mark(&self, machine: &BuildMachine) -> u64 {
        history::mark(machine, &self.directories.acl_file())
    }

    /// Gives up `attempts`, as the machine is chosen that was tried at `begun`. Those tried before that were too slow.
    fn leave_behind(&self, attempts: HashMap<usize, Attempt>, begun: Instant, observer: &mut dyn Observer) {
        let state = self.directories.offload_state();
        for (index, Attempt { begun: tried, session, slot, guard }) in attempts {
            drop(slot); // first: others may use it
            let (machine, waited) = (&self.machines[index], tried.elapsed());
            session.leave(Error::new(ErrorKind::Cancelled, "another machine was chosen"));
            drop(guard);
            if tried < begun {
                let ms = waited.as_millis();
                let message = format!("it has not answered for {ms} ms, and another machine has");
                let reason = Error::new(ErrorKind::Unavailable, message).on_machine(&machine.name);
                observer.event(&Event::PassedOver { machine: &machine.name, reason: &reason });
                History::note_unanswered(&state, machine, self.mark(machine), waited, &reason);
            }
        }
    }

    /// Looks for a connection to a candidate that is idle and whose machine is still suitable.
    fn idle_connection(&self, index: usize, pool: &Pool<Remote>, cancel: &Cancel, observer: &mut dyn Observer) -> Idle {
        loop {
            let Some((mut remote, idle)) = pool.take(|remote| *remote.machine() == self.machines[index]) else {
                return Idle::Gone;
            };
            if !remote.is_usable() {
                continue;
            }
            let guard = guard(cancel, remote.session());
            // A connection can be lost without a sign: then a new one says whether the machine is away.
            let alive = idle < TRUSTED || remote.answers(PATIENCE);
            if !alive || remote.probe_again(PROBE_LIFETIME).is_err() {
                return Idle::Gone;
            }
            return match self.check_suitability(index, &remote, None, observer) {
                Ok(()) => Idle::Usable(Box::new(remote), guard),
                Err(reason) => {
                    drop(guard);
                    pool.put(remote);
                    Idle::NoRoom(reason)
                }
            };
        }
    }

    /// Starts to connect to a candidate, whose answer will go to `answers`: first at the address that its `history` has.
    /// One that is distrusted has to show first that its archives would be let in by now.
    fn attempt(&self, index: usize, history: &History, answers: &mpsc::Sender<Answer>) -> Result<Session> {
        let machine = self.machines[index].clone();
        let (session, distrusted) = (Remote::start_at(&machine, history.address())?, history.is_distrusted());
        let (ours, directories, answers) = (session.clone(), self.directories.clone(), answers.clone());
        thread::spawn("guix-offload-connect", move || {
            let established = catch_unwind(AssertUnwindSafe(|| {
                panic_point::pass("connect");
                let mut remote = Remote::establish(session, &machine, &directories.store)?;
                if remote.is_daemon_at(&directories.daemon_socket) {
                    return Err(is_this_host(&machine));
                }
                if distrusted {
                    remote.require_trust_by_text(&Arc::new(Acl::load(&directories.acl_file())?))?;
                }
                Ok(remote)
            }))
            .unwrap_or_else(|panic| Err(Error::panicked(&*panic).on_machine(&machine.name)));
            // Nobody listens any more when another machine was faster.
            let _ = answers.send((index, established));
        })?;
        Ok(ours)
    }

    /// Looks at what a candidate says of itself; if it was connected to for that, after how long. Fails if it has no room.
    fn check_suitability(
        &self,
        index: usize,
        remote: &Remote,
        after: Option<Duration>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (machine, probe) = (&self.machines[index], remote.probe());
        let state = self.directories.offload_state();
        History::note_answer(&state, machine, probe.load, after);
        observer.event(&Event::Load { machine: &machine.name, load: probe.load });
        if let Some(offset) = probe.clock_offset.filter(|offset| *offset < -CLOCK_TOLERANCE) {
            observer.event(&Event::ClockBehind { machine: &machine.name, seconds: offset.unsigned_abs() });
        }
        let Err(unsuitable) = schedule::accept(machine, probe) else {
            return Ok(());
        };
        let reason = Error::new(ErrorKind::Unavailable, unsuitable.to_string()).on_machine(&machine.name);
        observer.event(&Event::PassedOver { machine: &machine.name, reason: &reason });
        History::note_setback(&state, machine, self.mark(machine), SetbackKind::NoRoom, &reason);
        Err(reason)
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
        let kind = SetbackKind::of(&error);
        History::note_setback(&self.directories.offload_state(), machine, self.mark(machine), kind, &error);
        findings.add(kind, &error);
        Ok(())
    }
}

/// The error for a machine whose daemon is the one that asks.
fn is_this_host(machine: &BuildMachine) -> Error {
    let name = &machine.name;
    Error::new(ErrorKind::Configuration, format!("'{name}' is this host itself, which cannot offload to itself"))
        .hint(format!("take '{name}' out of the machine file"))
        .on_machine(name)
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
