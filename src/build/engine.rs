// SPDX-License-Identifier: GPL-3.0-or-later
//! The engine behind all entry points of this library. This file decides about builds; `run` does them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::request::{Accepted, Inquiry, Reply, Request, Spot};
use super::site::{Common, Site};
use super::transfer::in_flight::InFlight;
use super::transfer::substitutes::Substitutes;
use crate::choose::history::Histories;
use crate::choose::holdings::Holdings;
use crate::choose::on_demand::{OnDemand, Tell};
use crate::choose::pool::Pool;
use crate::choose::queue::Queue;
use crate::choose::slot::Slots;
use crate::choose::{Awaited, Candidates, Choice, KnownRoom, Lease, Resources};
use crate::daemon::BuildOptions;
use crate::ground::cancel::Cancel;
use crate::ground::clock::{Clock, SystemClock};
use crate::ground::directories::Directories;
use crate::ground::error::Result;
use crate::ground::store_path::StorePath;
use crate::machine::{BuildMachine, Requirements};
use crate::remote::{Connection, Connector, Limits, Ssh};
use crate::report::log::{Listener, Log, Logged};
use crate::report::phases::{self, PhaseTimer};
use crate::report::{Event, Observer};
use crate::store::Closure;

/// Longest expected wait of a build that is accepted: guix-daemon asks again after this time (`pollInterval` in Guix's
/// `nix/libstore/globals.cc`).
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Divisor of a build's time limits, for its longest expected wait: guix-daemon counts the wait as build time.
const WAIT_SHARE: u32 = 20;

/// Most builds of this host that may wait for a slot at once.
const QUEUE_LENGTH: usize = 64;

/// How long a connection without a build keeps its temporary roots. To release them, it replaces the connection to the
/// daemon, which then has to start its signing process anew. In a sequence of builds, the next one comes sooner.
const REST_AFTER: Duration = Duration::from_secs(2);

/// The engine that all builds of a process share, with its directories and the connections to use again. Any thread.
pub struct Engine {
    pub(super) common: Arc<Common>,
    idle_limit: Duration,
}

impl Engine {
    /// How long connections wait for the next build, by default.
    pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

    /// Makes an engine, and starts nothing yet. Fails only if a trace is asked for that cannot be written (see
    /// [`crate::report::phases`]).
    pub fn new(directories: Directories, idle_limit: Duration) -> Result<Self> {
        Self::with_limits(directories, idle_limit, Limits::DEFAULT)
    }

    /// Makes an engine with other limits for how long a build waits for its machine.
    pub fn with_limits(directories: Directories, idle_limit: Duration, limits: Limits) -> Result<Self> {
        Self::with(directories, idle_limit, Arc::new(Ssh { limits }), Arc::new(SystemClock))
    }

    pub(super) fn with(
        directories: Directories,
        idle_limit: Duration,
        connector: Arc<dyn Connector>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let rest = |remote: &mut Box<dyn Connection>| remote.drop_temp_roots().is_ok();
        let pool = Pool::with_rest(idle_limit, REST_AFTER.min(idle_limit), rest, Arc::clone(&clock));
        let queue = Queue::new(&directories.offload_state());
        let (histories, holdings, slots) =
            (Histories::new(&directories, &clock), Holdings::default(), Slots::default());
        let on_demand = OnDemand::new(&directories, &histories);
        let resources =
            Arc::new(Resources { directories, histories, holdings, on_demand, slots, queue, pool, connector, clock });
        let (locals, trace, log) = (Pool::with_limit(idle_limit), phases::open()?, Log::open()?);
        let common = Common {
            resources,
            locals,
            database: Mutex::default(),
            in_flight: InFlight::default(),
            substitutes: Substitutes::default(),
            trace,
            log,
        };
        Ok(Engine { common: Arc::new(common), idle_limit })
    }

    /// Makes `listener` receive what `GUIX_OFFLOAD_LOG` would write. Only for an engine that was not used yet.
    pub fn with_listener(mut self, listener: Option<Listener>) -> Self {
        if let (Some(listener), Some(common)) = (listener, Arc::get_mut(&mut self.common)) {
            common.log = Some(Log::to(listener));
        }
        self
    }

    /// Returns how long connections wait for the next build.
    pub fn idle_limit(&self) -> Duration {
        self.idle_limit
    }

    /// Returns the directories of this host.
    pub fn directories(&self) -> &Directories {
        &self.common.resources.directories
    }

    /// Returns what is remembered of machines.
    pub fn histories(&self) -> &Histories {
        &self.common.resources.histories
    }

    /// Begins to stop the machines that were started on demand and have had no build for a while. Returns whether one
    /// of them is to be stopped, now or later, or is being started.
    pub fn stop_idle(&self) -> bool {
        let common = Arc::clone(&self.common);
        let tell: Tell = Arc::new(move |error| {
            if let Some(log) = &common.log {
                log.write(None, error.to_string());
            }
        });
        let on_demand = &self.common.resources.on_demand;
        on_demand.stop_idle(&tell) || on_demand.is_running()
    }

    /// Returns how many builds of this host wait for a machine.
    #[cfg(test)]
    pub(super) fn count_waiting(&self) -> usize {
        self.common.resources.queue.ahead_of(None).len()
    }

    /// Decides what to do with a build.
    ///
    /// Fails if every machine that could do the build is misconfigured, and this host could not do it: postponing would
    /// hide that forever.
    pub fn ask(&self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Reply> {
        let mut logged = Logged::new(observer, self.common.log.as_ref(), Some(&inquiry.request.derivation));
        let reply = self.decide(inquiry, cancel, &mut logged);
        match &reply {
            Ok(Reply::Decline) => logged.detail(format_args!("is declined")),
            Ok(Reply::Postpone) => logged.detail(format_args!("is postponed")),
            Ok(Reply::Accept(accepted)) => match accepted.lease {
                Some(_) => logged.detail(format_args!("is accepted, with a machine")),
                None => logged.detail(format_args!("is accepted, to wait for a machine")),
            },
            Err(_) => logged.failed(&reply),
        }
        reply
    }

    /// Decides for [`Engine::ask`].
    fn decide(&self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Reply> {
        let Inquiry { machines, request, options, could_build_here } = *inquiry;
        let Some(mut accepted) = self.accept(machines, request)? else {
            observer.detail(format_args!("none of {} machines can ever do it", machines.len()));
            return Ok(Reply::Decline);
        };
        self.look_up_inputs(&mut accepted.candidates, &request.derivation, longest_wait(options), cancel, observer);
        // guix-daemon does nothing else until it has its answer. So as few builds as possible make it wait for a
        // machine.
        let has_room = match accepted.candidates.known_room() {
            KnownRoom::Sure => true,
            KnownRoom::Likely => !could_build_here(),
            KnownRoom::Unknown => false,
        };
        if let Some(spot) = has_room.then(|| Spot::join(&accepted.candidates, |_| true, None)).flatten() {
            observer.detail(format_args!("there is room, as other builds saw a moment ago"));
            accepted.spot = Some(spot);
            return Ok(Reply::Accept(Box::new(accepted)));
        }
        let observer = &mut PhaseTimer::new(observer, self.common.trace.as_ref(), &request.derivation, "", "choose");
        match accepted.candidates.choose(|_| true, None, cancel, observer)? {
            Choice::Machine(lease) => accepted.lease = Some(lease),
            Choice::Busy(awaited) => match spot_in_queue(&accepted.candidates, awaited, options, observer) {
                Some(spot) => accepted.spot = Some(spot),
                None => return Ok(Reply::Postpone),
            },
            Choice::Away | Choice::Misconfigured(_) if could_build_here() => {
                observer.event(&Event::BuiltHere { derivation: &request.derivation });
                return Ok(Reply::Decline);
            }
            Choice::NoRoom | Choice::Away => return Ok(Reply::Postpone),
            Choice::Misconfigured(error) => return Err(error),
        }
        Ok(Reply::Accept(Box::new(accepted)))
    }

    /// Chooses a machine that meets `requirements`, for a caller who then does the steps one by one. `derivation`, if
    /// known, is for log and trace. Returns `None` if no machine can ever do the build.
    pub fn choose(
        &self,
        machines: &[BuildMachine],
        requirements: &Requirements,
        derivation: Option<&StorePath>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Option<Choice>> {
        let Some(mut candidates) = self.candidates(machines, requirements)? else {
            return Ok(None);
        };
        let mut logged = Logged::new(observer, self.common.log.as_ref(), derivation);
        if let Some(derivation) = derivation {
            self.look_up_inputs(&mut candidates, derivation, Duration::ZERO, cancel, &mut logged);
        }
        let mut choose = |observer: &mut dyn Observer| candidates.choose(|_| true, None, cancel, observer).map(Some);
        match derivation {
            Some(derivation) => {
                choose(&mut PhaseTimer::new(&mut logged, self.common.trace.as_ref(), derivation, "", "choose"))
            }
            None => choose(&mut logged),
        }
    }

    /// Accepts `request` at once, for a build that may wait for its machine as long as it takes. Returns `None` if no
    /// machine can ever do it.
    pub fn accept(&self, machines: &[BuildMachine], request: &Request) -> Result<Option<Accepted>> {
        let candidates = self.candidates(machines, &request.requirements)?;
        Ok(candidates.map(|candidates| {
            let request = request.clone();
            Accepted { request, candidates, lease: None, spot: None, asked: Instant::now() }
        }))
    }

    /// Makes the choice among `candidates` depend on which of them have what `derivation` reads. The build may wait for
    /// one of these, at most for `patience`. If nobody knows what it reads, the choice does not depend on it.
    pub(super) fn look_up_inputs(
        &self,
        candidates: &mut Candidates,
        derivation: &StorePath,
        patience: Duration,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) {
        if let Err(error) = self.set_inputs(candidates, derivation, patience, cancel) {
            observer.detail(format_args!("what it reads is not known: {error}"));
        }
    }

    /// As [`Engine::look_up_inputs`], but fails if it is not known what `derivation` reads.
    pub(super) fn set_inputs(
        &self,
        candidates: &mut Candidates,
        derivation: &StorePath,
        patience: Duration,
        cancel: &Cancel,
    ) -> Result<()> {
        if candidates.count() >= 2 && !self.common.resources.holdings.is_empty() {
            candidates.set_inputs(self.common.inputs_of(derivation, cancel)?, patience);
        }
        Ok(())
    }

    /// Returns what the build of `derivation` needs, and which of its outputs are missing, as the store's database
    /// says. `cancel` ends waiting for a lock on that.
    pub fn closure_of(&self, derivation: &StorePath, cancel: &Cancel) -> Result<Closure> {
        self.common.ask_database(cancel, |database| database.closure_of(derivation))
    }

    /// Returns whether one of `machines` can ever do a build with these requirements.
    pub fn has_candidates(machines: &[BuildMachine], requirements: &Requirements) -> bool {
        machines.iter().any(|machine| is_candidate(machine, requirements))
    }

    fn candidates(&self, machines: &[BuildMachine], requirements: &Requirements) -> Result<Option<Candidates>> {
        let matching: Vec<_> = machines.iter().filter(|m| is_candidate(m, requirements)).cloned().collect();
        if matching.is_empty() {
            return Ok(None);
        }
        Candidates::new(&self.common.resources, matching).map(Some)
    }

    /// Returns the machine of a `lease`, to work on. `cancel` stops the work there.
    pub fn site(&self, lease: Lease, cancel: &Cancel) -> Site {
        Site::of(&self.common, lease, cancel)
    }

    /// Connects to `machine`, to work on it without a slot.
    pub fn connect(&self, machine: &BuildMachine, cancel: &Cancel) -> Result<Site> {
        Site::connect(&self.common, machine, cancel)
    }
}

/// Returns whether `machine` can ever do a build with these requirements.
pub(super) fn is_candidate(machine: &BuildMachine, requirements: &Requirements) -> bool {
    machine.parallel_builds > 0 && machine.matches(requirements)
}

/// Returns how long a build with these `options` may be expected to wait if it is accepted.
pub(super) fn longest_wait(options: &BuildOptions) -> Duration {
    let limits = [options.timeout, options.max_silent_time].into_iter().filter(|&seconds| seconds > 0);
    limits.map(|seconds| Duration::from_secs(seconds) / WAIT_SHARE).fold(LONGEST_WAIT, Duration::min)
}

/// Returns a spot in the queue for a build that one of `candidates` is to do, or the one that is `awaited`; `None` if
/// the build could not begin soon.
fn spot_in_queue(
    candidates: &Candidates,
    awaited: Option<Awaited>,
    options: &BuildOptions,
    observer: &mut dyn Observer,
) -> Option<Spot> {
    if let Some(Awaited { candidate, .. }) = awaited {
        return Spot::join(candidates, |index| index == candidate, Some(candidate));
    }
    let longest = longest_wait(options);
    let (expected, waiting) = (candidates.expected_wait(), candidates.count_waiting());
    observer.detail(format_args!("{waiting} builds wait for its machines, it would for {expected:?}, of {longest:?}"));
    if !may_wait(candidates, longest) {
        return None;
    }
    Spot::join(candidates, |_| true, None) // a queue that cannot be written is no place to wait in
}

/// Returns whether a build that some of `candidates` has to do may join the queue, as it is expected to begin within
/// `longest`.
pub(super) fn may_wait(candidates: &Candidates, longest: Duration) -> bool {
    candidates.expected_wait().is_some_and(|wait| wait <= longest) && candidates.count_waiting() < QUEUE_LENGTH
}
