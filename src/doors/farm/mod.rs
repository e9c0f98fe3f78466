// SPDX-License-Identifier: GPL-3.0-or-later
//! All build machines at once: are they usable (`guix offload test`), and how are they doing (`guix offload status`)?
//!
//! Each machine is examined in a thread of its own, so the whole takes as long as the slowest one. A machine that fails
//! gets a [`Report`] that says so; the others go on.
//!
//! - [`check`]: the checks of one machine; [`retrieve`]: retrieving an item for them
//! - [`drain`]: which machines get no builds, as an administrator says
//! - [`explain`]: what would become of a build
//! - [`lint`]: what is wrong in a machine file, without connecting; [`daemons`]: whether guix-daemon uses this library
//! - [`text`], [`json`]: reports for people, and for programs
//! - [`authorize`]: the exchange of signing keys with a machine
//! - [`scan`]: a machine that no machine file has yet, and `ssh_known`: which host keys ssh knows

pub mod authorize;
pub mod check;
pub mod daemons;
pub mod drain;
pub mod explain;
pub mod json;
pub mod lint;
mod retrieve;
pub mod scan;
mod ssh_known;
pub mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::choose::drained;
use crate::choose::history::Histories;
use crate::choose::slot::LockDirectory;
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::clock::{Clock, SystemClock};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::failpoint;
use crate::ground::thread;
use crate::machine::BuildMachine;
use crate::machine::suitability::{Probe, Unsuitable, check_suitability, this_host};
use crate::remote::{Remote, Survey};
use crate::ssh::Session;

/// Time limit for examining all machines, as a rule. Each step of connecting has a shorter limit of its own; this one
/// is for daemons that wait, such as for a garbage collection.
pub const TIME_LIMIT: Duration = Duration::from_secs(90);

/// How long the examination of a machine may take to end once it was cut off at the time limit.
const CUT_OFF_SLACK: Duration = Duration::from_secs(2);

/// The report on one machine.
#[derive(Clone, Debug)]
pub struct Report {
    /// The machine.
    pub machine: BuildMachine,
    /// Its state; `None` if it could not be connected to.
    pub state: Option<MachineState>,
    /// How many of its build slots are taken by hooks of this host; `None`: that cannot be seen.
    pub slots_taken: Option<u32>,
    /// Why another build would not find enough memory there, by what builds of this host saw last.
    pub little_memory: Option<Unsuitable>,
    /// For how many seconds it has been drained; `None`: it is not.
    pub drained: Option<u64>,
    /// The checks that it passed, in sentences without a full stop.
    pub checks_passed: Vec<String>,
    /// Oddities of a machine that is usable.
    pub notes: Vec<Note>,
    /// Why it is not usable, or not reachable.
    pub failure: Option<Error>,
}

/// The state of a machine that was reached.
#[derive(Clone, Debug)]
pub struct MachineState {
    /// The figures that decide whether it gets a build.
    pub probe: Probe,
    /// The kind of machine.
    pub survey: Survey,
}

/// Something worth knowing, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// A clause without a full stop.
    pub text: String,
    /// A sentence, or a command to run.
    pub hint: Option<String>,
}

impl Report {
    fn new(machine: BuildMachine, directories: &Directories) -> Self {
        let state = directories.offload_state();
        let taken_for = LockDirectory::taken_for(&state, &machine).ok();
        let slots_taken = taken_for.as_ref().map(|taken_for| taken_for.len() as u32);
        let drained = drained::seconds(&state, &machine, SystemClock.since_epoch());
        let note = |seconds| {
            let reason = drained::reason(&machine, seconds);
            let text = format!("machine '{}' gets no builds: {reason}", machine.name);
            Note { text, hint: reason.hint_text().map(str::to_string) }
        };
        let notes = drained.map(note).into_iter().collect();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let history = Histories::new(directories, &clock).of(&machine);
        let has_free = slots_taken.is_some_and(|taken| taken < machine.parallel_builds);
        let little_memory = taken_for.filter(|_| has_free).and_then(|ages| history.check_memory(&ages).err());
        let (state, checks_passed, failure) = (None, Vec::new(), None);
        Report { machine, state, slots_taken, little_memory, drained, checks_passed, notes, failure }
    }

    /// Returns why a machine that was reached gets no builds now; `None`: it does get builds, or was not reached.
    pub fn unsuitable(&self) -> Option<Unsuitable> {
        let state = self.state.as_ref()?;
        check_suitability(&self.machine, &state.probe).err().or(self.little_memory)
    }
}

/// A function that examines a connected machine and adds what it finds to the report.
pub type Check = fn(&mut Report, &mut Remote, &Directories) -> Result<()>;

/// Does `check` with each of `machines`: [`check::test`] or [`check::status`]. Calls `tell` with each report once it is
/// there, in this thread; if that fails, cuts the others off and fails, too. Fails also if cancelled.
///
/// A machine that is listed more than once is examined once. The reports are in the order of the machines. A machine
/// that takes longer than `limit` counts as failed; the others go on.
pub fn examine(
    directories: &Directories,
    machines: &[BuildMachine],
    limit: Duration,
    check: Check,
    cancel: &Cancel,
    tell: &mut dyn FnMut(&Report) -> Result<()>,
) -> Result<Vec<Report>> {
    cancel.check()?;
    let machines = distinct(machines);
    let (answers, inbox) = mpsc::channel::<Option<(usize, Report)>>(); // `None` once cancelled
    let mut sessions: Vec<Option<Session>> = Vec::new();
    let mut reports: Vec<Option<Report>> = Vec::new();
    for (index, machine) in machines.iter().enumerate() {
        let started = Remote::start(machine).and_then(|session| {
            let (machine, directories, answers) = ((*machine).clone(), directories.clone(), answers.clone());
            let ours = session.clone();
            thread::spawn("guix-offload-farm", move || {
                // Nobody listens any more when the time is over.
                let _ = answers.send(Some((index, examine_one(machine, session, &directories, check))));
            })?;
            Ok(ours)
        });
        let failed = |error| Report { failure: Some(error), ..Report::new((*machine).clone(), directories) };
        reports.push(started.as_ref().err().cloned().map(failed));
        sessions.push(started.ok());
    }
    let _guard = cancel.guard(move |_| drop(answers.send(None)));

    let stop = |sessions: &[Option<Session>], error: Error| {
        sessions.iter().flatten().for_each(|session| session.abort(error.clone()));
        error
    };
    for report in reports.iter().flatten() {
        tell(report).map_err(|error| stop(&sessions, error))?;
    }
    let overdue = |machine: &BuildMachine| {
        let message = format!("'{}' took longer than {} s", machine.name, limit.as_secs());
        Error::new(ErrorKind::Unavailable, message)
            .hint("its daemon, or the one here, may be busy with a garbage collection; try again later")
            .on_machine(&machine.name)
    };
    let mut until = Instant::now() + limit;
    let mut cut_off = false;
    while sessions.iter().any(Option::is_some) {
        match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(None) => return Err(stop(&sessions, Error::new(ErrorKind::Cancelled, "cancelled"))),
            Ok(Some((index, report))) => {
                sessions[index] = None;
                tell(&report).map_err(|error| stop(&sessions, error))?;
                reports[index] = Some(report);
            }
            Err(RecvTimeoutError::Timeout) if !cut_off => {
                cut_off = true;
                until = Instant::now() + CUT_OFF_SLACK;
                for (session, machine) in sessions.iter().zip(&machines) {
                    if let Some(session) = session {
                        session.abort(overdue(machine));
                    }
                }
            }
            Err(_) => break,
        }
    }
    let late = |machine: &BuildMachine| Report {
        failure: Some(overdue(machine)),
        ..Report::new(machine.clone(), directories)
    };
    for (report, machine) in reports.iter_mut().zip(&machines).filter(|(report, _)| report.is_none()) {
        tell(report.insert(late(machine)))?;
    }
    Ok(reports.into_iter().flatten().collect())
}

/// Returns each machine once: one may be listed again for another system.
fn distinct(machines: &[BuildMachine]) -> Vec<&BuildMachine> {
    let mut distinct: Vec<&BuildMachine> = Vec::new();
    for machine in machines {
        if !distinct.iter().any(|other| other.is_same(machine)) {
            distinct.push(machine);
        }
    }
    distinct
}

/// Connects to a machine, until it is cancelled while the guard lives.
fn connect(directories: &Directories, machine: &BuildMachine, cancel: &Cancel) -> Result<(Remote, Guard)> {
    let session = Remote::start(machine)?;
    let cut_off = session.clone();
    let guard = cancel.guard(move |error| cut_off.abort(error));
    Ok((Remote::establish(session, machine, &directories.store)?, guard))
}

fn examine_one(machine: BuildMachine, session: Session, directories: &Directories, check: Check) -> Report {
    let mut report = Report::new(machine, directories);
    let result = catch_unwind(AssertUnwindSafe(|| {
        failpoint::hit("farm");
        let mut remote = Remote::establish(session, &report.machine, &directories.store)?;
        if remote.is_daemon_at(&directories.daemon_socket) {
            return Err(this_host(&report.machine));
        }
        check(&mut report, &mut remote, directories)
    }))
    .unwrap_or_else(|panic| Err(Error::panicked(&*panic)));
    report.failure = result.err().map(|error| error.on_machine(&report.machine.name));
    report
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::machine::suitability::Pressure;
    use crate::machine::tests::machine;

    /// Reports about three machines: a good one, one that is full, and one that is away.
    pub fn reports() -> Vec<Report> {
        let report = |name: &str, state, slots_taken, failure| {
            let machine = BuildMachine { parallel_builds: 4, ..machine(name) };
            let (little_memory, drained, notes) = (None, None, vec![]);
            Report { machine, state, slots_taken, little_memory, drained, checks_passed: vec![], notes, failure }
        };
        let state = |free_space| MachineState {
            probe: Probe {
                load: 0.25,
                free_space,
                memory: 2 << 30,
                total_memory: 4 << 30,
                pressure: Pressure { cpu: Some(0.125), memory: Some(0.0), io: None },
                clock_offset: Some(-3),
            },
            survey: Survey {
                kernel: "Linux 6.1.0".into(),
                architecture: "x86_64".into(),
                host_name: "w".into(),
                cores: 8,
                guix_version: "1.5.0".into(),
            },
        };
        let away = Error::new(ErrorKind::Unavailable, "cannot connect to 'away'").hint("check that it is up");
        let mut good = report("good", Some(state(3 << 30)), Some(1), None);
        good.checks_passed.push("'good' is running GNU Guix 1.5.0".into());
        good.notes.push(Note { text: "machine 'good' is 3 seconds behind".into(), hint: None });
        vec![good, report("full", Some(state(1 << 20)), Some(0), None), report("away", None, None, Some(away))]
    }

    #[test]
    fn a_machine_is_looked_at_once_however_often_it_is_listed() {
        let other_port = BuildMachine { port: 2222, ..machine("a") };
        let other_system = BuildMachine { systems: vec!["i686-linux".into()], ..machine("a") };
        let machines = [machine("a"), other_system, other_port.clone(), machine("b")];
        assert_eq!(distinct(&machines), [&machine("a"), &other_port, &machine("b")]);
    }

    #[test]
    fn every_machine_that_fails_says_so_in_its_place() {
        let state = tempfile::tempdir().unwrap();
        let mut directories = Directories::from_environment().unwrap();
        directories.state = state.path().into();
        let (mut told, cancel) = (Vec::new(), Cancel::default());
        let machines = [machine("one"), machine("two")];
        let reports = examine(&directories, &machines, TIME_LIMIT, check::status, &cancel, &mut |report| {
            told.push((report.machine.name.clone(), text::state(report)));
            Ok(())
        });
        let reports = reports.unwrap();
        told.sort();
        assert_eq!(told, [("one".to_string(), "misconfigured"), ("two".to_string(), "misconfigured")]);
        for (report, name) in reports.iter().zip(["one", "two"]) {
            assert_eq!(report.machine.name, name);
            let failure = report.failure.as_ref().unwrap();
            assert_eq!((failure.kind(), failure.machine()), (ErrorKind::Configuration, Some(name)), "{failure}");
            assert!(failure.to_string().contains("/nonexistent/key"), "{failure}");
        }
        assert_eq!(reports.len(), 2);
    }

    /// Whoever is told can end it, long before a machine that says nothing is given up.
    #[test]
    fn the_examination_ends_when_the_listener_has_enough() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let mut directories = Directories::from_environment().unwrap();
        directories.state = scratch.path().into();
        let key = scratch.path().join("key");
        let mut keygen = std::process::Command::new("ssh-keygen");
        let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        assert!(made.status().unwrap().success());
        let port = silent.local_addr().unwrap().port();
        let silent = BuildMachine { port, private_key: key, ..machine("127.0.0.1") };
        let begun = Instant::now();
        let (machines, never) = ([silent, machine("one")], Cancel::default());
        let enough = examine(&directories, &machines, TIME_LIMIT, check::status, &never, &mut |report| {
            assert_eq!(report.machine.name, "one");
            Err(Error::new(ErrorKind::Cancelled, "enough"))
        });
        assert_eq!(enough.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
