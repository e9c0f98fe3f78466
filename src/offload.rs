// SPDX-License-Identifier: GPL-3.0-or-later
//! One build from request to outcome: the engine behind every door of this library.

use std::collections::HashSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::choose::{Candidates, Choice, Lease};
use crate::daemon::BuildOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::machine::{BuildMachine, Requirements};
use crate::observer::{Event, Observer};
use crate::slot::{Lock, LockDirectory};
use crate::store::{Directories, StorePath};
use crate::transfer::{self, Local};

/// How often a build waiting in the queue looks for a free slot: this share of the time it has waited already ...
const POLL_SHARE: u32 = 20;
/// ... but not more often than this, ...
const POLL_SHORTEST: Duration = Duration::from_millis(10);
/// ... nor less often than this.
const POLL_LONGEST: Duration = Duration::from_millis(250);

/// How long an accepted build waits before it tries machines again that were all down or overloaded.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long an accepted build goes on while no machine can be used at all.
const GIVE_UP: Duration = Duration::from_secs(10 * 60);

/// How many machines may fail a build before it is given up.
const MAX_ATTEMPTS: usize = 5;

/// Free space in a machine's store, in bytes, below which it is taken to be the cause of a failed build, as the script
/// does.
const FULL: u64 = 10 << 20;

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the build requires of a machine.
    pub requirements: Requirements,
    /// The derivation.
    pub derivation: StorePath,
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
    local: Option<JoinHandle<Result<Local>>>,
}

/// Decides what to do with `request`, given all `machines` there are.
///
/// Fails where every machine that could do the build is misconfigured: postponing would hide that for ever.
pub fn ask(
    directories: &Directories,
    machines: &[BuildMachine],
    request: &Request,
    observer: &mut dyn Observer,
) -> Result<Reply> {
    let matching: Vec<_> = machines.iter().filter(|m| m.matches(&request.requirements)).cloned().collect();
    if matching.is_empty() {
        return Ok(Reply::Decline);
    }
    let mut candidates = Candidates::new(directories, matching)?;
    let local = prepare(directories, &request.derivation)?;
    let (lease, place, local) = match candidates.choose(|_| true, observer)? {
        Choice::Machine(lease) => (Some(lease), None, Some(local)),
        Choice::Busy => match LockDirectory::queue(&directories.offload_state())?.try_take()? {
            // While it waits, it keeps no connection to the local daemon.
            Some(place) => (None, Some(place), None),
            None => return Ok(Reply::Postpone),
        },
        Choice::Nobody => return Ok(Reply::Postpone),
        Choice::Misconfigured(error) => return Err(error),
    };
    Ok(Reply::Accept(Box::new(Accepted { request: request.clone(), candidates, lease, place, local })))
}

impl Accepted {
    /// Does the build: sends those of `inputs`, the closure of the derivation and what it needs, that the machine
    /// lacks, builds, and makes `outputs` valid in the local store.
    ///
    /// A failure that is the machine's, not the build's, has the build tried on another machine.
    pub fn run(
        mut self,
        directories: &Directories,
        inputs: Vec<StorePath>,
        outputs: &[StorePath],
        options: &BuildOptions,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut items = inputs;
        if !items.contains(&self.request.derivation) {
            items.push(self.request.derivation.clone());
        }
        let mut failed = HashSet::new();
        loop {
            let mut lease = match self.lease.take() {
                Some(lease) => lease,
                None => self.wait_for_machine(&failed, observer)?,
            };
            let local = match self.local.take() {
                Some(local) => local,
                None => prepare(directories, &self.request.derivation)?,
            };
            let result = self.attempt(directories, &mut lease, local, &items, outputs, options, observer);
            let Err(error) = result else {
                observer.event(&Event::Done { derivation: &self.request.derivation });
                return Ok(());
            };
            failed.insert(lease.candidate);
            let others_left = failed.len() < self.candidates.count().min(MAX_ATTEMPTS);
            if !others_left || !is_machines_fault(&error) {
                return Err(error);
            }
            observer.event(&Event::Retrying { machine: &lease.remote.machine().name, reason: &error });
        }
    }

    /// Waits in the queue until some machine that has not failed this build is ready for it.
    fn wait_for_machine(&mut self, failed: &HashSet<usize>, observer: &mut dyn Observer) -> Result<Box<Lease>> {
        let begun = Instant::now();
        let mut last_hope = begun;
        observer.event(&Event::Queued);
        loop {
            let pause = match self.candidates.choose(|index| !failed.contains(&index), observer)? {
                Choice::Machine(lease) => {
                    self.place = None;
                    return Ok(lease);
                }
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
            std::thread::sleep(pause);
        }
    }

    /// Sends, builds and retrieves on one machine.
    #[allow(clippy::too_many_arguments)]
    fn attempt(
        &self,
        directories: &Directories,
        lease: &mut Lease,
        local: JoinHandle<Result<Local>>,
        items: &[StorePath],
        outputs: &[StorePath],
        options: &BuildOptions,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let derivation = &self.request.derivation;
        let remote = &mut lease.remote;
        let mut local =
            local.join().map_err(|_| Error::new(ErrorKind::Internal, "preparing to send files panicked"))??;
        transfer::send_files(&mut local, remote, items, observer)?;
        observer.event(&Event::Building { machine: &remote.machine().name, derivation });
        if let Err(error) = remote.build(derivation, options, &mut |text| observer.log(text)) {
            return Err(match error.kind() {
                ErrorKind::BuildFailed if remote.free_space().is_ok_and(|free| free < FULL) => {
                    let name = &remote.machine().name;
                    Error::new(ErrorKind::Unavailable, format!("{error}, perhaps for lack of space on '{name}'"))
                        .on_machine(name)
                }
                _ => error,
            });
        }
        transfer::retrieve_files(directories, &mut local, remote, derivation, outputs, observer)
    }
}

/// Gets the local daemon ready while the machine is still being asked what it lacks.
fn prepare(directories: &Directories, derivation: &StorePath) -> Result<JoinHandle<Result<Local>>> {
    let (directories, derivation) = (directories.clone(), derivation.clone());
    std::thread::Builder::new()
        .name("guix-offload-local".into())
        .spawn(move || {
            let mut local = Local::connect(&directories)?;
            local.prepare(&derivation)?;
            Ok(local)
        })
        .map_err(|error| Error::io(ErrorKind::Exhausted, "starting a thread", error))
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
