// SPDX-License-Identifier: GPL-3.0-or-later
//! Running a build that was accepted: it waits for a machine, is tried there, and then again on others.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::request::{Accepted, Request, Spot, Work};
use super::site::{Site, Task};
use crate::choose::{Awaited, Candidates, Choice, Lease};
use crate::daemon::BuildOptions;
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::machine::BuildMachine;
use crate::report::journal::tally::{Tallied, Tally};
use crate::report::log::Logged;
use crate::report::phases::PhaseTimer;
use crate::report::{Event, Observer};
use crate::store::Registrar;

/// Pause of an accepted build before it tries the machines again, if all were unreachable or short of room.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long a build that a machine has failed goes on while no other machine can be used at all. Also how long it rests
/// in all because garbage collectors take what it needs.
const GIVE_UP: Duration = Duration::from_secs(10 * 60);

/// Longest time that a job waits for a machine that has its inputs while others are free.
const LONGEST_PREFERENCE: Duration = Duration::from_secs(60);

/// Most machines that may fail a build before it is given up.
const MAX_ATTEMPTS: usize = 5;

/// Pause of a build when the garbage collectors of all machines took what it needs. Doubles each time.
const FIRST_RESPITE: Duration = Duration::from_secs(1);
/// Longest pause of a build when the garbage collectors of all machines took what it needs.
const LONGEST_RESPITE: Duration = Duration::from_secs(60);

impl Engine {
    /// Does a build that was accepted: sends the inputs that the machine lacks, builds, and makes the outputs valid in
    /// the local store.
    ///
    /// After a failure of the machine, not of the build, tries the build on another machine. If the machine's garbage
    /// collector takes what was sent, tries again a while later, for ten minutes.
    pub fn run(&self, accepted: Accepted, work: Work, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        self.run_for(accepted, work, None, cancel, observer)
    }

    /// Does a job, which waits for its machine as long as it takes. A `registrar`, if given, makes the outputs valid.
    pub fn run_job(
        &self,
        machines: &[BuildMachine],
        request: &Request,
        work: Work,
        registrar: Option<&mut dyn Registrar>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        match self.accept(machines, request)? {
            Some(mut accepted) => {
                let candidates = &mut accepted.candidates;
                self.look_up_inputs(candidates, &request.derivation, LONGEST_PREFERENCE, cancel, observer);
                self.run_for(accepted, work, registrar, cancel, observer)
            }
            None => Err(Error::new(ErrorKind::Internal, "a machine that matched no longer does")),
        }
    }

    /// Does the same as [`Engine::run`]. A `registrar`, if given, makes the outputs valid.
    pub fn run_for(
        &self,
        accepted: Accepted,
        work: Work,
        registrar: Option<&mut dyn Registrar>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let derivation = accepted.request.derivation.clone();
        let mut tally = Tally::new(&derivation, "choose", accepted.asked);
        if let Some(lease) = &accepted.lease {
            tally.resume(&lease.remote.machine().name, "query");
        }
        let mut tallied = Tallied::new(observer, &mut tally);
        let mut logged = Logged::new(&mut tallied, self.common.log.as_ref(), Some(&derivation));
        let result = self.try_machines(accepted, work, registrar, cancel, &mut logged);
        logged.failed(&result);
        self.common.write_down(tally, result.as_ref().err());
        result
    }

    fn try_machines(
        &self,
        accepted: Accepted,
        work: Work,
        mut registrar: Option<&mut dyn Registrar>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Accepted { request: Request { derivation, is_patient, .. }, mut candidates, mut lease, mut spot, .. } =
            accepted;
        let Work { inputs: mut items, outputs, options } = work;
        if !items.contains(&derivation) {
            items.push(derivation.clone());
        }
        let (machine, phase) = match &lease {
            Some(lease) => (lease.remote.machine().name.clone(), "query"),
            None => (String::new(), "choose"),
        };
        let observer = &mut PhaseTimer::new(observer, self.common.trace.as_ref(), &derivation, &machine, phase);
        let (mut failed, mut failure) = (HashSet::new(), None);
        let mut excused = HashSet::new();
        let (mut collected, mut respite, mut rested) = (HashSet::new(), FIRST_RESPITE, Duration::ZERO);
        loop {
            let lease = match lease.take() {
                Some(lease) => lease,
                None => {
                    let spot = spot.take();
                    let waited = self.wait_for_machine(&mut candidates, &failed, is_patient, spot, cancel, observer);
                    // A machine's failure of this build says more than the lack of another machine.
                    waited.map_err(|error| match (error.kind(), failure.take()) {
                        (ErrorKind::Cancelled, _) | (_, None) => error,
                        (_, Some(failure)) => failure,
                    })?
                }
            };
            let (candidate, reused) = (lease.candidate, lease.reused);
            let mut site = self.site(*lease, cancel);
            let registrar: Option<&mut dyn Registrar> = match &mut registrar {
                Some(registrar) => Some(&mut **registrar),
                None => None,
            };
            let task = Task { derivation: &derivation, items: &items, outputs: &outputs, options: &options };
            let Err(error) = site.work(&task, registrar, observer) else {
                release_after(site, &options);
                observer.event(&Event::Done { derivation: &derivation });
                return Ok(());
            };
            cancel.check()?;
            if !error.is_machines_fault() {
                release_after(site, &options);
                return Err(error);
            }
            // An old connection may have failed by itself, which is excused once for each machine. Distrust and stalls
            // are not excused: they do not come from the age of a connection.
            let is_excuse = reused && error.kind() != ErrorKind::Untrusted && !site.has_stalled();
            if !is_excuse || !excused.insert(candidate) {
                failed.insert(candidate);
            }
            if error.kind() == ErrorKind::Collected {
                collected.insert(candidate);
            }
            let exhausted = failed.len() >= candidates.count().min(MAX_ATTEMPTS);
            if exhausted && (failed.is_disjoint(&collected) || rested >= GIVE_UP) {
                return Err(error);
            }
            observer.event(&Event::Retrying { machine: &site.machine().name, reason: &error });
            failure = Some(error);
            if exhausted {
                failed.retain(|candidate| !collected.contains(candidate));
                drop(site);
                observer.detail(format_args!("rests for {respite:?}, as collectors take what it needs"));
                self.common.resources.clock.sleep(respite, cancel)?;
                rested += respite;
                respite = (respite * 2).min(LONGEST_RESPITE);
            }
        }
    }

    /// Waits until a machine that has not failed this build is ready for it. Waits at its `spot` in the queue, or at
    /// the end.
    fn wait_for_machine(
        &self,
        candidates: &mut Candidates,
        failed: &HashSet<usize>,
        is_patient: bool,
        mut spot: Option<Spot>,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Box<Lease>> {
        let clock = &self.common.resources.clock;
        let mut told = false;
        let mut last_hope = clock.now();
        let mut waiting_since: Option<Instant> = None;
        loop {
            let eligible = |index| !failed.contains(&index);
            let away = match candidates.choose(eligible, spot.as_ref().map(|spot| &spot.place), cancel, observer)? {
                Choice::Machine(lease) => return Ok(lease),
                Choice::Misconfigured(error) => return Err(error),
                Choice::Busy(awaited) => {
                    last_hope = clock.now();
                    let only = awaited.map(|awaited| awaited.candidate);
                    let waits_for = |index| eligible(index) && only.is_none_or(|one| one == index);
                    let left = |awaited: Awaited| awaited.until.saturating_duration_since(clock.now());
                    spot = spot.filter(|spot| spot.only == only);
                    match only {
                        Some(index) if !told => {
                            observer.event(&Event::AwaitsSlot { machine: candidates.name(index) });
                            told = true;
                        }
                        Some(_) => {}
                        None => observer.event(&Event::Queued { away: false }),
                    }
                    // Without a place the build still waits, but behind all others.
                    spot = spot.or_else(|| Spot::join(candidates, waits_for, only));
                    let place = spot.as_ref().map(|spot| &spot.place);
                    let since = *waiting_since.get_or_insert_with(|| clock.now());
                    let longest = awaited.map_or(Duration::MAX, left);
                    candidates.turn(waits_for).within(longest).wait(place, since, cancel)?;
                    continue;
                }
                Choice::NoRoom if !is_patient => return Err(unusable("no build machine has room for it")),
                Choice::Away if !is_patient => return Err(unusable("no build machine can be reached")),
                Choice::NoRoom | Choice::Away if !failed.is_empty() && clock.now() - last_hope > GIVE_UP => {
                    let minutes = GIVE_UP.as_secs() / 60;
                    return Err(unusable(format!("no machine was usable for {minutes} min")));
                }
                Choice::NoRoom => false,
                Choice::Away => true,
            };
            observer.event(&Event::Queued { away });
            clock.sleep(RETRY_INTERVAL, cancel)?;
        }
    }
}

/// Returns the error for a build that every suitable machine has failed, or cannot do now.
fn unusable(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, message)
}

/// Releases `site` after a build. If its `options` would count for later builds, too, closes the connection instead,
/// which ends the protection of what the build made.
fn release_after(site: Site, options: &BuildOptions) {
    if options.stay() { drop(site) } else { site.release() }
}
