// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine at work for this host. Whichever entry point a build comes from, this module connects to the machine,
//! sends, builds, retrieves and releases.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::local_guix::LocalGuix;
use super::transfer::{self, Circumstances, in_flight::InFlight, substitutes::Substitutes};
use crate::choose::holdings::Input;
use crate::choose::pool::Pool;
use crate::choose::taken_slot::TakenSlot;
use crate::choose::{Lease, Resources, cut_when_cancelled};
use crate::daemon::BuildOptions;
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;
use crate::remote::{Connecting, Connection, Line, build_all_rounds};
use crate::report::log::{Log, Logged};
use crate::report::phases::PhaseTimer;
use crate::report::{Event, Observer};
use crate::store::{Database, Registrar};

/// Longest time that a connection keeps its temporary roots on a machine if there is no pause between builds.
const LONGEST_PROTECTION: Duration = Duration::from_secs(30);

/// Fewest bytes, as nars, whose sending counts as a measurement of the link.
const RATE_SAMPLE: u64 = 4 << 20;

/// The state that all sites of a process share. Any thread.
pub struct Common {
    /// The resources for choosing machines.
    pub resources: Arc<Resources>,
    /// Connections to this host's own Guix, to use again.
    pub locals: Pool<LocalGuix>,
    /// A connection to the store's database, for questions before a build. There is one for all: a new one for each
    /// question left descriptors behind, as the test of a thousand jobs in `tests/farm/abi.rs` shows.
    pub database: Mutex<Option<Database>>,
    /// What is on its way to machines.
    pub in_flight: InFlight,
    /// Which machines are not asked what they can fetch.
    pub substitutes: Substitutes,
    /// The file in which phases are noted, if they are.
    pub trace: Option<File>,
    /// The log of decisions about builds, if there is one.
    pub log: Option<Log>,
}

impl Common {
    /// Returns a connection to this host's own Guix: one that an earlier build left, or a new one.
    fn local(&self, cancel: &Cancel) -> Result<LocalGuix> {
        if let Some((mut local, _)) = self.locals.take(LocalGuix::is_usable) {
            let guard = local.cut_when_cancelled(cancel);
            let answers = local.answers();
            drop(guard);
            if answers {
                return Ok(local);
            }
        }
        LocalGuix::connect(&self.resources.directories, cancel)
    }

    /// Returns what `derivation` reads, as far as it is valid here.
    pub fn inputs_of(&self, derivation: &StorePath, cancel: &Cancel) -> Result<Vec<Input>> {
        let inputs = self.ask_database(cancel, |database| database.inputs_of(derivation))?;
        Ok(inputs.iter().map(|(item, bytes)| Input::new(item, *bytes)).collect())
    }

    /// Returns the answer of the store's database to a question. `cancel` ends waiting for a lock on it.
    pub fn ask_database<T>(&self, cancel: &Cancel, question: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut opened = self.database.lock();
        let database = match opened.take() {
            Some(database) => database,
            None => Database::open(&self.resources.directories, cancel)?,
        };
        database.obey(cancel);
        let answer = question(&database)?;
        *opened = Some(database);
        Ok(answer)
    }

    /// Keeps a connection for the next build, if it is good for one. Releases its temporary roots first if they are
    /// old; otherwise the pool releases them, unless the next build comes soon.
    fn keep(&self, mut remote: Box<dyn Connection>) {
        let long = remote.temp_roots_age() > LONGEST_PROTECTION;
        if remote.is_usable() && (!long || remote.drop_temp_roots().is_ok()) {
            self.resources.pool.put(remote);
        }
    }
}

/// One build, as a site needs it.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The derivation.
    pub derivation: &'a StorePath,
    /// The closure of all that the build needs, and the derivation.
    pub items: &'a [StorePath],
    /// The outputs that are to become valid.
    pub outputs: &'a [StorePath],
    /// How the machine's daemon is to build.
    pub options: &'a BuildOptions,
}

/// A connected machine, and maybe a build slot on it. Used by one thread at a time. Dropping it closes the connection
/// and frees the slot.
pub struct Site {
    common: Arc<Common>,
    pub(super) remote: Box<dyn Connection>,
    slot: Option<TakenSlot>,
    /// When the slot was taken, or when the last build in it ended.
    since: Instant,
    cancel: Cancel,
    guard: Guard,
}

impl Site {
    /// Returns the site of the machine that was chosen. `cancel` stops the work there.
    pub fn of(common: &Arc<Common>, lease: Lease, cancel: &Cancel) -> Self {
        let Lease { remote, slot, since, guard, .. } = lease;
        Site { common: Arc::clone(common), remote, slot: Some(slot), since, cancel: cancel.clone(), guard }
    }

    /// Connects to `machine`, without a slot. Makes use of the address and the link speed that are remembered of it.
    pub fn connect(common: &Arc<Common>, machine: &BuildMachine, cancel: &Cancel) -> Result<Self> {
        cancel.check()?;
        let Resources { histories, connector, directories, clock, .. } = &*common.resources;
        let history = histories.of(machine);
        let Connecting { line, wait } = connector.start(machine, &directories.store, history.address())?;
        let guard = cut_when_cancelled(cancel, line);
        let mut remote = wait().or_else(|error| cancel.check().and(Err(error)))?;
        if remote.address() != history.address() {
            histories.note_address(machine, remote.address());
        }
        remote.set_slow_link(history.slow_link());
        let (common, since, cancel) = (Arc::clone(common), clock.now(), cancel.clone());
        Ok(Site { common, remote, slot: None, since, cancel, guard })
    }

    /// Returns the machine.
    pub fn machine(&self) -> &BuildMachine {
        self.remote.machine()
    }

    /// Returns the line to the machine, with which another thread can cut everything off.
    pub fn line(&self) -> Arc<dyn Line> {
        self.remote.line()
    }

    /// Returns whether the machine was given up because no byte moved.
    pub fn has_stalled(&self) -> bool {
        self.remote.has_stalled()
    }

    /// Frees the slot, and keeps the connection for the next build if it is good for one.
    pub fn release(self) {
        let Site { common, remote, slot, guard, .. } = self;
        drop(guard);
        common.keep(remote);
        drop(slot); // not sooner: whoever takes it finds the connection
    }

    /// Sends the items that the machine lacks, and returns them.
    pub fn send(&mut self, task: &Task, observer: &mut dyn Observer) -> Result<Vec<StorePath>> {
        self.timed(task, "query", observer, |site, local, observer| {
            let sent = site.send_from(local, task, observer)?;
            site.remote.settle()?;
            Ok(sent)
        })
    }

    /// Builds, after a check that this host trusts what the machine signs.
    pub fn build(&mut self, task: &Task, observer: &mut dyn Observer) -> Result<()> {
        self.timed(task, "build", observer, |site, local, observer| {
            local.check_can_import()?;
            site.remote.require_trust(&local.acl()?)?;
            site.build_there(task, observer)
        })
    }

    /// Retrieves the outputs and makes them valid.
    pub fn retrieve(&mut self, task: &Task, observer: &mut dyn Observer) -> Result<()> {
        self.timed(task, "inspect", observer, |site, local, observer| site.retrieve_into(local, task, None, observer))
    }

    /// Sends, builds and retrieves. A `registrar`, if given, makes the outputs valid.
    pub fn work(
        &mut self,
        task: &Task,
        registrar: Option<&mut dyn Registrar>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.with_local(observer, |site, local, observer| {
            local.check_can_import()?;
            site.send_from(local, task, observer)?;
            site.remote.require_trust(&local.acl()?)?;
            let mut built = site.build_there(task, observer);
            // The machine's collector may still have taken an input, which is no reason yet to try another machine.
            let refused = built.as_ref().is_err_and(|error| error.kind() == ErrorKind::Daemon);
            if refused && transfer::have_gone(&mut *site.remote, task.items) {
                site.common.resources.holdings.forget(site.remote.machine());
                site.send_from(local, task, observer)?;
                built = site.build_there(task, observer).map_err(|error| {
                    let gone = error.kind() == ErrorKind::Daemon && transfer::have_gone(&mut *site.remote, task.items);
                    if gone { transfer::collected(site.remote.machine(), error) } else { error }
                });
            }
            built?;
            observer.event(&Event::Built);
            site.cancel.check()?;
            site.retrieve_into(local, task, registrar, observer)
        })
    }

    /// Does one `step`, for a caller who does the steps one by one. Trace and log note it as `phase`.
    fn timed<T>(
        &mut self,
        task: &Task,
        phase: &'static str,
        observer: &mut dyn Observer,
        step: impl FnOnce(&mut Site, &mut LocalGuix, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        let (common, name) = (Arc::clone(&self.common), self.machine().name.clone());
        let mut logged = Logged::new(observer, common.log.as_ref(), Some(task.derivation));
        let mut timer = PhaseTimer::new(&mut logged, common.trace.as_ref(), task.derivation, &name, phase);
        let result = self.with_local(&mut timer, step);
        if result.is_ok() {
            timer.end();
        }
        logged.failed(&result);
        result
    }

    /// Does `step` with a connection to this host's own Guix, which is then kept for the next step. If the failure says
    /// that the machine is not to be trusted, remembers that.
    fn with_local<T>(
        &mut self,
        observer: &mut dyn Observer,
        step: impl FnOnce(&mut Site, &mut LocalGuix, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        self.cancel.check()?;
        let local = self.common.local(&self.cancel);
        let mut local = local.or_else(|error| self.cancel.check().and(Err(error)))?;
        let guard = local.cut_when_cancelled(&self.cancel);
        self.remote.tell_of_stalls(observer.aside());
        let result = step(self, &mut local, observer);
        self.remote.tell_of_stalls(None);
        drop(guard);
        if local.is_usable() {
            self.common.locals.put(local);
        }
        let result = result.or_else(|error| self.cancel.check().and(Err(error)));
        if let Some(error) = result.as_ref().err().filter(|error| error.kind() == ErrorKind::Untrusted) {
            self.common.resources.histories.note_distrust(self.machine(), error);
        }
        result
    }

    fn send_from(&mut self, local: &mut LocalGuix, task: &Task, observer: &mut dyn Observer) -> Result<Vec<StorePath>> {
        let known = self.remote.slow_link();
        let Resources { histories, holdings, .. } = &*self.common.resources;
        let circumstances = Circumstances {
            in_flight: &self.common.in_flight,
            substitutes: (!task.options.sends_all).then_some(&self.common.substitutes),
            rate: histories.of(self.machine()).link_rate(),
            cancel: &self.cancel,
        };
        let remote = &mut *self.remote;
        let sent = transfer::send_files(local, remote, task.items, task.outputs, &circumstances, observer)?;
        // New derivations are sent unasked.
        if holdings.has_any(self.machine(), sent.items.iter().filter(|item| !item.is_derivation())) {
            holdings.forget(self.machine()); // its collector has run
        }
        holdings.add(self.machine(), task.items);
        if sent.bytes >= RATE_SAMPLE && !sent.time.is_zero() {
            histories.note_rate(self.machine(), sent.bytes as f64 / sent.time.as_secs_f64());
        }
        if let Some(rate) = self.remote.slow_link().filter(|_| known.is_none()) {
            histories.note_slow_link(self.machine(), rate);
        }
        self.cancel.check()?;
        Ok(sent.items)
    }

    fn build_there(&mut self, task: &Task, observer: &mut dyn Observer) -> Result<()> {
        let Task { derivation, items, outputs, options } = task;
        observer.event(&Event::Building { machine: &self.machine().name, derivation });
        let remote = &mut *self.remote;
        let mut built = build_all_rounds(remote, derivation, outputs, options, &mut |text| observer.log(text));
        if let Some(error) = built.as_ref().err().filter(|error| could_be_built(error)) {
            // A substitute server that fails is no reason to fail, nor to try another machine.
            observer.detail(format_args!("an output cannot be fetched, so it is built: {error}"));
            let options = BuildOptions { fallback: true, ..(*options).clone() };
            built = build_all_rounds(remote, derivation, outputs, &options, &mut |text| observer.log(text));
        }
        if built.is_ok() {
            self.remote.held().add(items);
            self.remote.held().add(outputs);
            self.common.resources.holdings.add(self.machine(), outputs);
        }
        built.map_err(|error| match error.is_machines_fault() {
            true => error.context(format!("building '{derivation}' on '{}'", self.machine().name)),
            false => error,
        })
    }

    fn retrieve_into(
        &mut self,
        local: &mut LocalGuix,
        task: &Task,
        registrar: Option<&mut dyn Registrar>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let remote = &mut *self.remote;
        transfer::retrieve_files(local, remote, task.derivation, task.outputs, registrar, &self.cancel, observer)?;
        let Resources { histories, clock, .. } = &*self.common.resources;
        if self.slot.is_some() {
            let now = clock.now();
            histories.note_build(self.machine(), now - self.since);
            self.since = now;
        }
        Ok(())
    }
}

/// Returns whether a daemon failed with this error because it could not fetch what it could have built: it then names
/// the option that allows building (`DerivationGoal::outputsSubstituted` in Guix's `nix/libstore/build.cc`).
fn could_be_built(error: &Error) -> bool {
    error.kind() == ErrorKind::Daemon && error.to_string().contains("--fallback")
}
