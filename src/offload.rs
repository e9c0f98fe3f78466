// SPDX-License-Identifier: GPL-3.0-or-later
//! One build from request to outcome: the engine behind every door of this library.

use std::collections::HashSet;
use std::fs::File;
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
use crate::remote::Remote;
use crate::slot::{Lock, LockDirectory, Slots};
use crate::store::{Directories, StorePath};
use crate::trace::{self, Tracer};
use crate::transfer;

/// How often a build waiting in the queue looks for a free slot: this share of the time it has waited already ...
const POLL_SHARE: u32 = 20;
/// ... but not more often than this, ...
const POLL_SHORTEST: Duration = Duration::from_millis(10);
/// ... nor less often than this.
const POLL_LONGEST: Duration = Duration::from_millis(250);

/// Builds that may take less time than this, in seconds, are postponed rather than queued: guix-daemon counts the time
/// that a hook waits after it has accepted as the build's.
const SHORT_TIMEOUT: u64 = 60 * 60;

/// How long an accepted build waits before it tries machines again that were all down or overloaded.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long an accepted build goes on while no machine can be used at all.
const GIVE_UP: Duration = Duration::from_secs(10 * 60);

/// How many machines may fail a build before it is given up.
const MAX_ATTEMPTS: usize = 5;

/// Free space in a machine's store, in bytes, below which it is taken to be the cause of a failed build, as the script
/// does.
const FULL: u64 = 10 << 20;

/// What all builds of a process share: where things are on this host, and connections to use again. Any thread.
pub struct Engine {
    directories: Directories,
    slots: Slots,
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
    /// No machine can ever do this build.
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
    place: Option<Lock>,
}

impl Engine {
    /// How long connections wait for the next build, unless something else is said.
    pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

    /// Starts nothing yet. Fails only if a trace is asked for that cannot be written (see [`crate::trace`]).
    pub fn new(directories: Directories, idle_limit: Duration) -> Result<Self> {
        let (remotes, locals) = (Pool::with_limit(idle_limit), Pool::with_limit(idle_limit));
        Ok(Engine { directories, remotes, locals, slots: Slots::default(), idle_limit, trace: trace::open()? })
    }

    /// How long connections wait for the next build.
    pub fn idle_limit(&self) -> Duration {
        self.idle_limit
    }

    /// Where things are on this host.
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Decides what to do with `request`, given all `machines` there are.
    ///
    /// Fails where every machine that could do the build is misconfigured: postponing would hide that for ever.
    pub fn ask(
        &self,
        machines: &[BuildMachine],
        request: &Request,
        options: &BuildOptions,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Reply> {
        let Some(mut accepted) = self.accept(machines, request)? else {
            return Ok(Reply::Decline);
        };
        let observer = &mut Tracer::new(observer, self.trace.as_ref(), &request.derivation, "", "choose");
        match accepted.candidates.choose(|_| true, &self.remotes, cancel, observer)? {
            Choice::Machine(lease) => accepted.lease = Some(lease),
            Choice::Busy if (1..SHORT_TIMEOUT).contains(&options.timeout) => return Ok(Reply::Postpone),
            Choice::Busy => match LockDirectory::queue(&self.directories.offload_state())?.try_take()? {
                Some(place) => accepted.place = Some(place),
                None => return Ok(Reply::Postpone),
            },
            Choice::Nobody => return Ok(Reply::Postpone),
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
        candidates.choose(|_| true, &self.remotes, cancel, observer).map(Some)
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

    fn candidates(&self, machines: &[BuildMachine], requirements: &Requirements) -> Result<Option<Candidates>> {
        let matching: Vec<_> = machines.iter().filter(|m| m.matches(requirements)).cloned().collect();
        if matching.is_empty() { Ok(None) } else { Candidates::new(&self.directories, matching, &self.slots).map(Some) }
    }

    /// Keeps a connection for the next build, if it is good for one.
    pub fn keep(&self, remote: Remote) {
        if remote.is_usable() {
            self.remotes.put(remote);
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
        let mut failed = HashSet::new();
        loop {
            let mut lease = match lease.take() {
                Some(lease) => lease,
                None => self.wait_for_machine(&mut candidates, &failed, cancel, observer)?,
            };
            drop(place.take()); // others may queue now
            let mut local = self.local(cancel)?;
            let attempt = Attempt { derivation: &derivation, items: &items, outputs: &outputs };
            let result = attempt.run(&mut local, &mut lease.remote, &options, cancel, observer);
            if local.is_usable() {
                self.locals.put(local);
            }
            let Err(error) = result else {
                lease.release(|remote| self.keep(remote));
                observer.event(&Event::Done { derivation: &derivation });
                return Ok(());
            };
            cancel.check()?;
            if !is_machines_fault(&error) {
                lease.release(|remote| self.keep(remote));
                return Err(error);
            }
            if !lease.reused {
                failed.insert(lease.candidate);
            }
            if failed.len() >= candidates.count().min(MAX_ATTEMPTS) {
                return Err(error);
            }
            observer.event(&Event::Retrying { machine: &lease.remote.machine().name, reason: &error });
        }
    }

    /// Waits in the queue until some machine that has not failed this build is ready for it.
    fn wait_for_machine(
        &self,
        candidates: &mut Candidates,
        failed: &HashSet<usize>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Box<Lease>> {
        let begun = Instant::now();
        let mut last_hope = begun;
        loop {
            let pause = match candidates.choose(|index| !failed.contains(&index), &self.remotes, cancel, observer)? {
                Choice::Machine(lease) => return Ok(lease),
                Choice::Misconfigured(error) => return Err(error),
                Choice::Busy => {
                    last_hope = Instant::now();
                    (begun.elapsed() / POLL_SHARE).clamp(POLL_SHORTEST, POLL_LONGEST)
                }
                Choice::Nobody if last_hope.elapsed() > GIVE_UP => {
                    let minutes = GIVE_UP.as_secs() / 60;
                    return Err(Error::new(ErrorKind::Unavailable, format!("no machine was usable for {minutes} min")));
                }
                Choice::Nobody => RETRY_INTERVAL,
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
        let known = remote.slow_link();
        transfer::send_files(local, remote, self.items, observer)?;
        if let Some(rate) = remote.slow_link().filter(|_| known.is_none()) {
            History::note_slow_link(&local.directories().offload_state(), remote.machine(), rate);
        }
        cancel.check()?;
        observer.event(&Event::Building { machine: &remote.machine().name, derivation: self.derivation });
        remote
            .build(self.derivation, options, &mut |text| observer.log(text))
            .map_err(|error| blame_full_disk(error, remote))
            .map_err(|error| match is_machines_fault(&error) {
                true => error.context(format!("building '{}' on '{}'", self.derivation, remote.machine().name)),
                false => error,
            })?;
        observer.event(&Event::Built);
        cancel.check()?;
        transfer::retrieve_files(local, remote, self.derivation, self.outputs, cancel, observer)
    }
}

/// A build that failed where there is no space left may not have failed by itself.
fn blame_full_disk(error: Error, remote: &mut Remote) -> Error {
    let failed = error.kind() == ErrorKind::BuildFailed;
    if failed && remote.probe_again(Duration::ZERO).is_ok_and(|probe| probe.free_space < FULL) {
        let name = &remote.machine().name;
        let message = format!("{error}; that may have been caused by lack of free disk space on '{name}'");
        return Error::new(ErrorKind::Unavailable, message).on_machine(name);
    }
    error
}

/// Might the build succeed on another machine?
fn is_machines_fault(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable
            | ErrorKind::Authentication
            | ErrorKind::Protocol
            | ErrorKind::Untrusted
            | ErrorKind::Daemon
    )
}
