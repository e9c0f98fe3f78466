// SPDX-License-Identifier: GPL-3.0-or-later
//! The choice among candidates. They are tried in turn, each a moment after the one before it, until one is ready.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::history::{History, SetbackKind};
use super::order::{self, Ranked};
use super::queue::Place;
use super::slot::LockDirectory;
use super::summary::{ChoiceSummary, Full, Ranking};
use super::taken_slot::TakenSlot;
use super::{Candidates, Choice, Lease, Resources, cut_when_cancelled};
use crate::archive::Acl;
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::failpoint;
use crate::ground::thread;
use crate::machine::suitability;
use crate::remote::{Connecting, Connection, Line};
use crate::report::{Event, Observer};

/// How long the best machine may take to answer before the next one is tried beside it, unless the best one is known to
/// take longer. Each further machine gets half the time of the one before it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Longest time that a machine which is known to be slow may take to answer before the next one is tried beside it.
const LONGEST_HEAD_START: Duration = Duration::from_secs(3);

/// Shortest time that a machine may take to answer before the next one is tried beside it. With it, ten dead machines
/// before a good one cost two thirds of a second.
const SHORTEST_HEAD_START: Duration = Duration::from_millis(30);

/// Most that a machine's clock may be behind without a warning, in seconds: the answer takes a while.
pub const CLOCK_TOLERANCE: i64 = 2;

/// How old the last probe of a machine may be if its connection is used again.
const PROBE_LIFETIME: Duration = Duration::from_secs(30);

/// How old the last probe of a machine may be if its connection is used again and the machine was far from being
/// overloaded or full.
const SAFE_PROBE_LIFETIME: Duration = Duration::from_secs(60);

/// How old the last probe of a machine may be if its memory may be too little for another build.
const MEMORY_LIFETIME: Duration = Duration::from_secs(2);

/// Idle time below which a connection is assumed to be alive, without asking the machine.
const ASSUME_ALIVE_FOR: Duration = Duration::from_secs(1);

/// Timeout of the liveness check of a connection that was idle for `ASSUME_ALIVE_FOR` or longer. Without an answer, a
/// new connection replaces it.
const IDLE_PING_TIMEOUT: Duration = Duration::from_secs(2);

/// A machine that is being connected to.
struct Attempt {
    begun: Instant,
    line: Arc<dyn Line>,
    slot: TakenSlot,
    guard: Guard,
}

/// The attempts under way. Dropping them gives them up.
#[derive(Default)]
struct Attempts(HashMap<usize, Attempt>);

impl Drop for Attempts {
    fn drop(&mut self) {
        for Attempt { line, .. } in self.0.values() {
            line.leave(Error::new(ErrorKind::Cancelled, "no machine is chosen any more"));
        }
    }
}

/// The index of a candidate, and its connection or error.
type Outcome = (usize, Result<Box<dyn Connection>>);

/// The result of looking for an idle connection.
enum Idle {
    Usable(Box<dyn Connection>, Guard),
    /// Its machine has no room for the build.
    Full(Full),
    /// There is none, or it was lost.
    Gone,
}

impl Candidates {
    /// Chooses among the candidates for which `eligible` holds, for the build with this `place` in the queue, or for a
    /// new build. Uses an idle connection again if it can.
    pub fn choose(
        &mut self,
        eligible: impl Fn(usize) -> bool,
        place: Option<&Place>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Choice> {
        let mut choice = self.try_machines(&eligible, place, false, cancel, observer);
        // What was mended on a machine must not stay unknown if the build would fail for that.
        let may_be_mended = || self.machines.iter().any(|machine| self.resources.histories.of(machine).may_be_mended());
        if matches!(choice, Ok(Choice::Misconfigured(_))) && may_be_mended() {
            choice = self.try_machines(&eligible, place, true, cancel, observer);
        }
        if let Some(place) = place.filter(|_| !matches!(choice, Ok(Choice::Machine(_)))) {
            self.resources.queue.set_has_slot(place, false);
        }
        choice
    }

    /// Chooses once. `again`: also among the machines that were misconfigured more than a moment ago.
    fn try_machines(
        &mut self,
        eligible: impl Fn(usize) -> bool,
        place: Option<&Place>,
        again: bool,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Choice> {
        let resources = Arc::clone(&self.resources);
        let Resources { histories: memory, on_demand, pool, clock, queue, .. } = &*resources;
        let histories: Vec<History> = self.machines.iter().map(|machine| memory.of(machine)).collect();
        let outlooks: Vec<_> = (0..histories.len()).map(|index| self.outlook(index, &histories[index])).collect();
        let build_time = Self::usual_build_time(&histories);
        let mut order = order::order(&self.machines, build_time, |index| outlooks[index], &mut self.random);
        let mut summary = ChoiceSummary::default();
        order.retain(|ranked| eligible(ranked.index));
        order.retain(|&Ranked { index, .. }| {
            if let Some(reason) = on_demand.is_under_way(&self.machines[index]) {
                summary.add(SetbackKind::Away, &reason);
                summary.starts = true;
                summary.left_alone.push((index, reason));
                return false;
            }
            let setback = histories[index].setback().filter(|_| !(again && histories[index].may_be_mended()));
            if let Some(setback) = setback {
                let reason = setback.reason.clone().on_machine(&self.machines[index].name);
                summary.add(setback.kind, &reason);
                summary.left_alone.push((index, reason));
            }
            setback.is_none()
        });
        observer
            .detail(format_args!("may go to {}", Ranking { order: &order, candidates: self, histories: &histories }));
        let ahead = queue.ahead_of(place);
        let mut order = order.into_iter().peekable();

        let (answers, inbox) = mpsc::channel::<Outcome>();
        let mut attempts = Attempts::default();
        let mut next_start = clock.now();
        let mut head_start = HEAD_START;
        loop {
            cancel.check()?;
            while attempts.0.is_empty() || clock.now() >= next_start {
                let Some(ranked @ Ranked { index, .. }) = order.next() else { break };
                let Some(slot) = self.take_slot(index, &ahead, place.is_some())? else {
                    let name = &self.machines[index].name;
                    observer.detail(format_args!("{name}: no slot is free, or those are that others wait for"));
                    summary.busy = true;
                    let next = order.peek().filter(|_| attempts.0.is_empty());
                    if let Some(awaited) = next.and_then(|next| self.awaits(&ranked, next)) {
                        return Ok(Choice::Busy(Some(awaited)));
                    }
                    continue;
                };
                // What stops an idle machine looks at its slots before it begins, and may just have done so.
                if let Some(reason) = on_demand.is_under_way(&self.machines[index]) {
                    summary.add(SetbackKind::Away, &reason);
                    summary.left_alone.push((index, reason));
                    continue;
                }
                let since = clock.now();
                observer.event(&Event::SlotTaken { slot: slot.name() });
                if let Some(place) = place {
                    queue.set_has_slot(place, true);
                }
                match self.idle_connection(index, &histories[index], &slot, cancel, observer) {
                    Idle::Usable(remote, guard) => {
                        observer.detail(format_args!("{}: an idle connection is used again", remote.machine().name));
                        self.cancel_others(attempts, clock.now(), observer);
                        let lease = Lease { remote, candidate: index, reused: true, slot, since, guard };
                        return Ok(chosen(lease, observer));
                    }
                    Idle::Full(full) => {
                        summary.add_full(full);
                        continue;
                    }
                    Idle::Gone => {}
                }
                match self.start_connecting(index, &histories[index], &answers) {
                    Ok(line) => {
                        observer.detail(format_args!("{}: is connected to", self.machines[index].name));
                        let guard = cut_when_cancelled(cancel, Arc::clone(&line));
                        attempts.0.insert(index, Attempt { begun: since, line, slot, guard });
                        let usual = histories[index].connect_time().unwrap_or_default();
                        next_start = clock.now() + head_start.max((usual * 2).min(LONGEST_HEAD_START));
                        head_start = (head_start / 2).max(SHORTEST_HEAD_START);
                    }
                    Err(error) => self.note_failure(index, error, &mut summary, observer)?,
                }
            }
            if attempts.0.is_empty() {
                break;
            }
            let answer = if order.peek().is_none() {
                inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(next_start.saturating_duration_since(clock.now()))
            };
            let Ok((index, result)) = answer else {
                next_start = clock.now(); // the head start is over
                continue;
            };
            cancel.check()?;
            let Some(Attempt { begun, slot, guard, .. }) = attempts.0.remove(&index) else { continue };
            let address = result.as_ref().ok().map(|remote| remote.address());
            if let Some(address) = address.filter(|address| *address != histories[index].address()) {
                memory.note_address(&self.machines[index], address);
            }
            match result {
                Ok(remote) if remote.is_daemon_at(&resources.directories.daemon_socket) => {
                    let reason = suitability::this_host(&self.machines[index]);
                    self.pass_over(index, SetbackKind::ThisHost, &reason, &mut summary, observer);
                }
                Ok(mut remote) => {
                    let after = Some(clock.now() - begun);
                    let taken_for = self.taken_before(index, &slot);
                    match self.check_suitability(index, &*remote, taken_for, true, after, observer) {
                        Ok(()) => {
                            self.cancel_others(attempts, begun, observer);
                            remote.set_slow_link(histories[index].slow_link());
                            let lease = Lease { remote, candidate: index, reused: false, slot, since: begun, guard };
                            return Ok(chosen(lease, observer));
                        }
                        Err(full) => {
                            summary.add_full(full);
                            // The connection is not at fault: the next build for which the machine has room may use it.
                            drop(guard);
                            if remote.is_usable() {
                                pool.put(remote);
                            }
                        }
                    }
                }
                Err(error) => self.note_failure(index, error, &mut summary, observer)?,
            }
        }
        // One at a time: it may do for all builds that wait.
        let start = |index: &usize| Some((&self.machines[*index].name, on_demand.start(&self.machines[*index])?));
        if let Some((machine, started)) = summary.unreached.iter().filter(|_| !summary.starts).find_map(start) {
            let reason = started.unwrap_or_else(|error| error);
            observer.event(&Event::PassedOver { machine, reason: &reason });
        }
        for (index, reason) in &summary.left_alone {
            observer.event(&Event::PassedOver { machine: &self.machines[*index].name, reason });
        }
        observer.detail(format_args!("no machine can be used now: {summary}"));
        Ok(summary.verdict())
    }

    /// Gives up `attempts`: a machine whose attempt began at `begun` is chosen. Machines that were tried earlier were
    /// too slow, which is remembered.
    fn cancel_others(&self, mut attempts: Attempts, begun: Instant, observer: &mut dyn Observer) {
        for (index, Attempt { begun: tried, line, slot, guard }) in attempts.0.drain() {
            drop(slot); // first: others may use it
            let (machine, waited) = (&self.machines[index], self.resources.clock.now() - tried);
            line.leave(Error::new(ErrorKind::Cancelled, "another machine was chosen"));
            drop(guard);
            if tried < begun {
                let ms = waited.as_millis();
                let message = format!("it has not answered for {ms} ms, and another machine has");
                let reason = Error::new(ErrorKind::Unavailable, message).on_machine(&machine.name);
                observer.event(&Event::PassedOver { machine: &machine.name, reason: &reason });
                // Nobody has waited to see whether it is slow or away: builds need not, an administrator can.
                let reason = reason.hint("if it goes on, see what is wrong with it: guix-offload test");
                self.resources.histories.note_unanswered(machine, waited, &reason);
            }
        }
    }

    /// Looks for an idle connection to a candidate, and checks that the machine is still suitable.
    fn idle_connection(
        &self,
        index: usize,
        history: &History,
        slot: &TakenSlot,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Idle {
        let pool = &self.resources.pool;
        loop {
            let Some((mut remote, idle)) = pool.take(|remote| *remote.machine() == self.machines[index]) else {
                return Idle::Gone;
            };
            if !remote.is_usable() {
                continue;
            }
            let guard = cut_when_cancelled(cancel, remote.line());
            // A connection can be lost without a sign. Then a new one shows whether the machine is away.
            let alive = idle < ASSUME_ALIVE_FOR || remote.answers(IDLE_PING_TIMEOUT);
            let is_safe = suitability::is_far_from_unsuitable(remote.machine(), remote.probe());
            let taken_for = self.taken_before(index, slot);
            let lifetime = match &taken_for {
                // With other builds there, this one may be one too many.
                Some(taken_for) if !taken_for.is_empty() && history.more_builds(taken_for) < 2 => MEMORY_LIFETIME,
                _ if is_safe => SAFE_PROBE_LIFETIME,
                _ => PROBE_LIFETIME,
            };
            let Some(asked) = alive.then(|| remote.probe_again(lifetime).ok()).flatten() else { return Idle::Gone };
            return match self.check_suitability(index, &*remote, taken_for, asked, None, observer) {
                Ok(()) => Idle::Usable(remote, guard),
                Err(full) => {
                    drop(guard);
                    pool.put(remote);
                    Idle::Full(full)
                }
            };
        }
    }

    /// Starts to connect to a candidate, first at the address in its `history`. The result will go to `answers`. A
    /// machine that was not trusted must first prove that its signatures are accepted now.
    fn start_connecting(
        &self,
        index: usize,
        history: &History,
        answers: &mpsc::Sender<Outcome>,
    ) -> Result<Arc<dyn Line>> {
        let (machine, directories) = (self.machines[index].clone(), self.resources.directories.clone());
        let (distrusted, answers) = (history.is_distrusted(), answers.clone());
        let Connecting { line, wait } =
            self.resources.connector.start(&machine, &directories.store, history.address())?;
        thread::spawn("guix-offload-connect", move || {
            let established = catch_unwind(AssertUnwindSafe(|| {
                failpoint::hit("connect");
                let mut remote = wait()?;
                // An ACL that cannot be read is not the fault of this machine, and is noticed before any build.
                let acl = distrusted.then(|| Acl::load(&directories.acl_file()).ok()).flatten();
                if let Some(acl) = acl {
                    remote.require_trust(&Arc::new(acl))?;
                }
                Ok(remote)
            }))
            .unwrap_or_else(|panic| Err(Error::panicked(&*panic).on_machine(&machine.name)));
            // Nobody listens any more if another machine was faster.
            let _ = answers.send((index, established));
        })?;
        Ok(line)
    }

    /// Returns how long those slots of a candidate have been taken that were taken before `slot`; `None`: not known.
    fn taken_before(&self, index: usize, slot: &TakenSlot) -> Option<Vec<Duration>> {
        let state = self.resources.directories.offload_state();
        LockDirectory::taken_before(&state, &self.machines[index], slot.name()).ok()
    }

    /// Reports and remembers the answer of a candidate, and checks it. `taken_for`: how long the slots were taken that
    /// other builds took before this one, if that is known. `asked`: the answer is new. `after` is how long connecting
    /// took, for a new connection. Fails if the machine is full.
    fn check_suitability(
        &self,
        index: usize,
        remote: &dyn Connection,
        taken_for: Option<Vec<Duration>>,
        asked: bool,
        after: Option<Duration>,
        observer: &mut dyn Observer,
    ) -> Result<(), Full> {
        let (machine, probe) = (&self.machines[index], remote.probe());
        let current = probe.current_load().filter(|_| asked);
        self.resources.histories.note_answer(machine, probe.load, current, after);
        observer.event(&Event::Load { machine: &machine.name, load: probe.load });
        if let Some(offset) = probe.clock_offset.filter(|offset| *offset < -CLOCK_TOLERANCE) {
            observer.event(&Event::ClockBehind { machine: &machine.name, seconds: offset.unsigned_abs() });
        }
        if let Err(unsuitable) = suitability::check_suitability(machine, probe) {
            let reason = unsuitable.error(machine);
            observer.event(&Event::PassedOver { machine: &machine.name, reason: &reason });
            self.resources.histories.note_setback(machine, SetbackKind::NoRoom, &reason);
            return Err(Full::NoRoom(reason));
        }
        let Some(taken_for) = taken_for else { return Ok(()) };
        if asked && probe.memory > 0 {
            self.resources.histories.note_memory(machine, probe.memory, taken_for.len() as u32);
        }
        self.resources.histories.of(machine).check_memory(&taken_for).map_err(|unsuitable| {
            observer.detail(format_args!("{}: {unsuitable}", machine.name));
            Full::Memory
        })
    }

    /// Reports why a candidate that failed is passed over, and remembers it. Fails if this process is exhausted.
    fn note_failure(
        &self,
        index: usize,
        error: Error,
        summary: &mut ChoiceSummary,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if error.kind() == ErrorKind::Exhausted {
            return Err(error);
        }
        if error.kind() == ErrorKind::Unavailable {
            summary.unreached.push(index);
        }
        self.pass_over(index, SetbackKind::of(&error), &error, summary, observer);
        Ok(())
    }

    /// Reports a candidate as passed over, and remembers why.
    fn pass_over(
        &self,
        index: usize,
        kind: SetbackKind,
        reason: &Error,
        summary: &mut ChoiceSummary,
        observer: &mut dyn Observer,
    ) {
        let machine = &self.machines[index];
        observer.event(&Event::PassedOver { machine: &machine.name, reason });
        self.resources.histories.note_setback(machine, kind, reason);
        summary.add(kind, reason);
    }
}

fn chosen(lease: Lease, observer: &mut dyn Observer) -> Choice {
    observer.event(&Event::Chosen { machine: &lease.remote.machine().name });
    Choice::Machine(Box::new(lease))
}
