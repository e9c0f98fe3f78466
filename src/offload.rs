// SPDX-License-Identifier: GPL-3.0-or-later
//! One build from request to outcome: the engine behind every door of this library.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::choose::{Candidates, Choice, Lease};
use crate::daemon::BuildOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::history::History;
use crate::local::Local;
use crate::machine::{BuildMachine, Requirements};
use crate::observer::{Event, Observer};
use crate::pool::Pool;
use crate::queue::{Place, Queue};
use crate::remote::Remote;
use crate::slot::Slots;
use crate::store::{Directories, StorePath};
use crate::trace::{self, Tracer};
use crate::transfer;

/// How often a build that is among the next to get a slot looks for one: this share of the time that it has been ...
const POLL_SHARE: u32 = 20;
/// ... but not more often than this, ...
const POLL_SHORTEST: Duration = Duration::from_millis(10);
/// ... nor less often than this.
const POLL_LONGEST: Duration = Duration::from_millis(250);
/// How often a build further back looks whether it is among the next.
const POLL_BACK: Duration = Duration::from_millis(100);

/// How long a build may be expected to wait that is accepted all the same: guix-daemon asks again as late as this
/// (`pollInterval` in Guix's `nix/libstore/globals.cc`).
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Of a build's time limits, the share that it may be expected to wait: guix-daemon counts that as the build's time.
const WAIT_SHARE: u32 = 20;

/// How many builds of this host may wait for a slot at once.
const QUEUE_LENGTH: usize = 64;

/// How long an accepted build waits before it tries machines again that were all down or overloaded.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long a build that a machine has failed goes on while no other can be used at all.
const GIVE_UP: Duration = Duration::from_secs(10 * 60);

/// After how long without a build a connection lets a machine's collector have what builds needed and made there: a sequence
/// of builds has the next one before, and would have its daemon's signing process started anew.
const REST_AFTER: Duration = Duration::from_secs(2);

/// For how long a connection may protect anything on a machine if there is no such pause.
const LONGEST_PROTECTION: Duration = Duration::from_secs(30);

/// How many machines may fail a build before it is given up.
const MAX_ATTEMPTS: usize = 5;

/// What all builds of a process share: where things are on this host, and connections to use again. Any thread.
pub struct Engine {
    directories: Directories,
    slots: Slots,
    queue: Arc<Queue>,
    remotes: Pool<Remote>,
    locals: Pool<Local>,
    idle_limit: Duration,
    trace: Option<File>,
}

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the build requires of a machine.
    pub requirements: Requirements,
    /// The derivation.
    pub derivation: StorePath,
}

/// A build, once it is known what belongs to it.
#[derive(Clone, Debug)]
pub struct Work {
    /// The closure of all that the build needs.
    pub inputs: Vec<StorePath>,
    /// The outputs that are to become valid.
    pub outputs: Vec<StorePath>,
    /// Limits and trace.
    pub options: BuildOptions,
}

/// What came of a request.
pub enum Reply {
    /// No machine can ever do this build, or none can now and this host can.
    Decline,
    /// No machine can do it now.
    Postpone,
    /// It will be done.
    Accept(Box<Accepted>),
}

/// A build that was accepted: a machine is ready for it, or it has a place in the queue.
pub struct Accepted {
    request: Request,
    candidates: Candidates,
    lease: Option<Box<Lease>>,
    place: Option<Place>,
}

impl Engine {
    /// How long connections wait for the next build, unless something else is said.
    pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

    /// Starts nothing yet. Fails only if a trace is asked for that cannot be written (see [`crate::trace`]).
    pub fn new(directories: Directories, idle_limit: Duration) -> Result<Self> {
        let rest = |remote: &mut Remote| remote.let_go().is_ok();
        let remotes = Pool::with_rest(idle_limit, REST_AFTER.min(idle_limit), rest);
        let locals = Pool::with_limit(idle_limit);
        let queue = Queue::new(&directories.offload_state());
        Ok(Engine { directories, remotes, locals, slots: Slots::default(), queue, idle_limit, trace: trace::open()? })
    }

    /// How long connections wait for the next build.
    pub fn idle_limit(&self) -> Duration {
        self.idle_limit
    }

    /// Where things are on this host.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Decides what to do with `request`, given all `machines` there are; `could_build_here`: could this host do it as well?
    ///
    /// Fails where every machine that could do the build is misconfigured, and this host could not: postponing would hide
    /// that for ever.
    pub fn ask(
        &self,
        machines: &[BuildMachine],
        request: &Request,
        options: &BuildOptions,
        could_build_here: &dyn Fn() -> bool,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Reply> {
        let Some(mut accepted) = self.accept(machines, request)? else {
            return Ok(Reply::Decline);
        };
        let observer = &mut Tracer::new(observer, self.trace.as_ref(), &request.derivation, "", "choose");
        match accepted.candidates.choose(|_| true, None, &self.remotes, cancel, observer)? {
            Choice::Machine(lease) => accepted.lease = Some(lease),
            Choice::Busy => match place_in_queue(&accepted.candidates, options) {
                Some(place) => accepted.place = Some(place),
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

    /// Chooses a machine for what `requirements` says, for a caller who then does the steps one by one; `None`: no
    /// machine can ever do it.
    pub fn choose(
        &self,
        machines: &[BuildMachine],
        requirements: &Requirements,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Option<Choice>> {
        let Some(mut candidates) = self.candidates(machines, requirements)? else {
            return Ok(None);
        };
        candidates.choose(|_| true, None, &self.remotes, cancel, observer).map(Some)
    }

    /// Accepts `request` at once, for a build that may wait for its machine as long as it takes; `None`: no machine can
    /// ever do it.
    pub fn accept(&self, machines: &[BuildMachine], request: &Request) -> Result<Option<Accepted>> {
        let candidates = self.candidates(machines, &request.requirements)?;
        Ok(candidates.map(|candidates| {
            let request = request.clone();
            Accepted { request, candidates, lease: None, place: None }
        }))
    }

    /// Can one of `machines` do a build that requires this, ever?
    pub fn has_candidates(machines: &[BuildMachine], requirements: &Requirements) -> bool {
        machines.iter().any(|machine| is_candidate(machine, requirements))
    }

    fn candidates(&self, machines: &[BuildMachine], requirements: &Requirements) -> Result<Option<Candidates>> {
        let matching: Vec<_> = machines.iter().filter(|m| is_candidate(m, requirements)).cloned().collect();
        if matching.is_empty() {
            return Ok(None);
        }
        Candidates::new(&self.directories, matching, &self.slots, &self.queue).map(Some)
    }

    /// Keeps a connection for the next build, if it is good for one. Unless that comes soon, what it protected on the
    /// machine is not any more.
    pub fn keep(&self, mut remote: Remote) {
        let long = remote.protects_for() > LONGEST_PROTECTION;
        if remote.is_usable() && (!long || remote.let_go().is_ok()) {
            self.remotes.put(remote);
        }
    }

    /// As [`Engine::keep`], after a build with these `options`.
    fn keep_after(&self, remote: Remote, options: &BuildOptions) {
        if !options.stay() {
            self.keep(remote);
        }
    }

    /// Does a build that was accepted: sends those of its inputs that the machine lacks, builds, and makes the outputs
    /// valid in the local store.
    ///
    /// A failure that is the machine's, not the build's, has the build tried on another machine.
    pub fn run(&self, accepted: Accepted, work: Work, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        let Accepted { request: Request { derivation, .. }, mut candidates, mut lease, mut place } = accepted;
        let Work { inputs: mut items, outputs, options } = work;
        if !items.contains(&derivation) {
            items.push(derivation.clone());
        }
        let (machine, phase) = match &lease {
            Some(lease) => (lease.remote.machine().name.clone(), "query"),
            None => (String::new(), "choose"),
        };
        let observer = &mut Tracer::new(observer, self.trace.as_ref(), &derivation, &machine, phase);
        let (mut failed, mut failure) = (HashSet::new(), None);
        loop {
            let mut lease = match lease.take() {
                Some(lease) => lease,
                None => {
                    let waited = self.wait_for_machine(&mut candidates, &failed, place.take(), cancel, observer);
                    // What a machine did to this build matters more than that no other could be had.
                    waited.map_err(|error| match (error.kind(), failure.take()) {
                        (ErrorKind::Cancelled, _) | (_, None) => error,
                        (_, Some(failure)) => failure,
                    })?
                }
            };
            let mut local = self.local(cancel)?;
            let attempt = Attempt { derivation: &derivation, items: &items, outputs: &outputs };
            lease.remote.tell_of_stalls(observer.aside());
            let result = attempt.run(&mut local, &mut lease.remote, &options, cancel, observer);
            lease.remote.tell_of_stalls(None);
            if local.is_usable() {
                self.locals.put(local);
            }
            let Err(error) = result else {
                let machine = lease.remote.machine();
                History::note_build(&self.directories.offload_state(), machine, lease.since.elapsed());
                lease.release(|remote| self.keep_after(remote, &options));
                observer.event(&Event::Done { derivation: &derivation });
                return Ok(());
            };
            cancel.check()?;
            if !is_machines_fault(&error) {
                lease.release(|remote| self.keep_after(remote, &options));
                return Err(error);
            }
            // An old connection may have failed by itself; but whom to trust does not depend on it, nor whether a
            // daemon moves that was waited for long enough.
            if !lease.reused || error.kind() == ErrorKind::Untrusted || lease.remote.has_stalled() {
                failed.insert(lease.candidate);
            }
            if error.kind() == ErrorKind::Untrusted {
                candidates.distrust(lease.candidate, &error);
            }
            if failed.len() >= candidates.count().min(MAX_ATTEMPTS) {
                return Err(error);
            }
            observer.event(&Event::Retrying { machine: &lease.remote.machine().name, reason: &error });
            failure = Some(error);
        }
    }

    /// Waits until some machine that has not failed this build is ready for it, at its `place` in the queue or at the end.
    fn wait_for_machine(
        &self,
        candidates: &mut Candidates,
        failed: &HashSet<usize>,
        mut place: Option<Place>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Box<Lease>> {
        let mut last_hope = Instant::now();
        let mut among_the_next: Option<Instant> = None;
        loop {
            let eligible = |index| !failed.contains(&index);
            let pause = match candidates.choose(eligible, place.as_ref(), &self.remotes, cancel, observer)? {
                Choice::Machine(lease) => return Ok(lease),
                Choice::Misconfigured(error) => return Err(error),
                Choice::Busy => {
                    last_hope = Instant::now();
                    // Without a place it waits all the same, if behind all others.
                    place = place.or_else(|| candidates.join_queue(eligible).ok());
                    // Twice as many as there are slots: so the next is there when several become free at once.
                    if candidates.count_ahead(place.as_ref()) < 2 * candidates.slot_count() {
                        let since = *among_the_next.get_or_insert_with(Instant::now);
                        (since.elapsed() / POLL_SHARE).clamp(POLL_SHORTEST, POLL_LONGEST)
                    } else {
                        POLL_BACK
                    }
                }
                Choice::NoRoom | Choice::Away if !failed.is_empty() && last_hope.elapsed() > GIVE_UP => {
                    let minutes = GIVE_UP.as_secs() / 60;
                    return Err(Error::new(ErrorKind::Unavailable, format!("no machine was usable for {minutes} min")));
                }
                Choice::NoRoom | Choice::Away => RETRY_INTERVAL,
            };
            observer.event(&Event::Queued);
            cancel.sleep(pause)?;
        }
    }

    /// This host's own Guix, as an earlier build left it, or anew.
    fn local(&self, cancel: &Cancel) -> Result<Local> {
        if let Some((mut local, _)) = self.locals.take(Local::is_usable) {
            let guard = local.guard(cancel);
            let answers = local.answers();
            drop(guard);
            if answers {
                return Ok(local);
            }
        }
        Local::connect(&self.directories, cancel).or_else(|error| cancel.check().and(Err(error)))
    }
}

/// Can `machine` do a build that requires this, ever?
fn is_candidate(machine: &BuildMachine, requirements: &Requirements) -> bool {
    machine.parallel_builds > 0 && machine.matches(requirements)
}

/// A place in the queue for a build that one of `candidates` is to do; `None`: it could not begin soon.
fn place_in_queue(candidates: &Candidates, options: &BuildOptions) -> Option<Place> {
    let limits = [options.timeout, options.max_silent_time].into_iter().filter(|&seconds| seconds > 0);
    let longest = limits.map(|seconds| Duration::from_secs(seconds) / WAIT_SHARE).fold(LONGEST_WAIT, Duration::min);
    let soon = candidates.expected_wait().is_some_and(|wait| wait <= longest);
    if !soon || candidates.count_ahead(None) >= QUEUE_LENGTH {
        return None;
    }
    candidates.join_queue(|_| true).ok() // a queue that cannot be written is no place to wait in
}

/// One build on one machine.
struct Attempt<'a> {
    derivation: &'a StorePath,
    items: &'a [StorePath],
    outputs: &'a [StorePath],
}

impl Attempt<'_> {
    /// Sends, builds and retrieves.
    fn run(
        &self,
        local: &mut Local,
        remote: &mut Remote,
        options: &BuildOptions,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let _guard = local.guard(cancel);
        cancel.check()?;
        local.require_receptive()?;
        self.send(local, remote, cancel, observer)?;
        remote.require_trust(&local.acl()?, self.derivation)?;
        let mut built = self.build(remote, options, observer);
        // The machine's collector may have taken an input all the same: that is no reason to go elsewhere yet.
        let refused = built.as_ref().is_err_and(|error| error.kind() == ErrorKind::Daemon);
        if refused && transfer::have_gone(remote, self.items) {
            self.send(local, remote, cancel, observer)?;
            built = self.build(remote, options, observer);
        }
        built?;
        observer.event(&Event::Built);
        cancel.check()?;
        transfer::retrieve_files(local, remote, self.derivation, self.outputs, cancel, observer)
    }

    fn send(&self, local: &mut Local, remote: &mut Remote, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        let known = remote.slow_link();
        transfer::send_files(local, remote, self.items, self.outputs, observer)?;
        if let Some(rate) = remote.slow_link().filter(|_| known.is_none()) {
            History::note_slow_link(&local.directories().offload_state(), remote.machine(), rate);
        }
        cancel.check()
    }

    fn build(&self, remote: &mut Remote, options: &BuildOptions, observer: &mut dyn Observer) -> Result<()> {
        observer.event(&Event::Building { machine: &remote.machine().name, derivation: self.derivation });
        remote.build_all_rounds(self.derivation, self.outputs, options, &mut |text| observer.log(text)).map_err(
            |error| match is_machines_fault(&error) {
                true => error.context(format!("building '{}' on '{}'", self.derivation, remote.machine().name)),
                false => error,
            },
        )
    }
}

/// Might the build succeed on another machine?
fn is_machines_fault(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable
            | ErrorKind::Authentication
            | ErrorKind::HostKey
            | ErrorKind::NoGuix
            | ErrorKind::Protocol
            | ErrorKind::Untrusted
            | ErrorKind::Daemon
    )
}
