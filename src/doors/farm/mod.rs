// SPDX-License-Identifier: GPL-3.0-or-later
//! All build machines at once: are they usable (`guix offload test`), and how are they doing (`guix offload status`)?
//!
//! Each machine is examined in a thread of its own, so the whole takes as long as the slowest one. A machine that fails
//! gets a [`Report`] that says so; the others go on.
//!
//! - [`check`]: the checks of one machine; [`retrieve`]: retrieving an item for them
//! - [`text`], [`json`]: reports for people, and for programs

mod check;
pub mod json;
mod retrieve;
pub mod text;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::choose::slot::LockDirectory;
use crate::ground::cancel::Cancel;
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
        let slots_taken = LockDirectory::count_taken(&directories.offload_state(), &machine).ok();
        Report { machine, state: None, slots_taken, checks_passed: Vec::new(), notes: Vec::new(), failure: None }
    }

    /// Returns why a machine that was reached gets no builds now; `None`: it does get builds, or was not reached.
    pub fn unsuitable(&self) -> Option<Unsuitable> {
        self.state.as_ref().and_then(|state| check_suitability(&self.machine, &state.probe).err())
    }
}

/// Tests that each of `machines` can be connected to and has a usable Guix, and that store items can be sent to it and
/// retrieved from it. Leaves two small items, as garbage, in the local store and in that of the machine.
///
/// A machine that is listed more than once is tested once. The reports are in the order of the machines. A machine that
/// takes longer than `limit` counts as failed; the others go on.
/// Fails only if cancelled.
pub fn test(
    directories: &Directories,
    machines: &[BuildMachine],
    limit: Duration,
    cancel: &Cancel,
) -> Result<Vec<Report>> {
    examine(directories, machines, limit, check::test, cancel)
}

/// Asks each of `machines` how it is doing. Changes nothing anywhere; otherwise as [`test()`].
pub fn status(
    directories: &Directories,
    machines: &[BuildMachine],
    limit: Duration,
    cancel: &Cancel,
) -> Result<Vec<Report>> {
    examine(directories, machines, limit, check::status, cancel)
}

/// A function that examines a connected machine and adds what it finds to the report.
type Check = fn(&mut Report, &mut Remote, &Directories) -> Result<()>;

fn examine(
    directories: &Directories,
    machines: &[BuildMachine],
    limit: Duration,
    check: Check,
    cancel: &Cancel,
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
            Ok(None) => {
                for session in sessions.iter().flatten() {
                    session.abort(Error::new(ErrorKind::Cancelled, "cancelled"));
                }
                cancel.check()?;
            }
            Ok(Some((index, report))) => {
                sessions[index] = None;
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
    Ok(reports.into_iter().zip(machines).map(|(report, machine)| report.unwrap_or_else(|| late(machine))).collect())
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
    use crate::machine::tests::machine;

    /// Reports about three machines: a good one, one that is full, and one that is away.
    pub fn reports() -> Vec<Report> {
        let report = |name: &str, state, slots_taken, failure| {
            let machine = BuildMachine { parallel_builds: 4, ..machine(name) };
            Report { machine, state, slots_taken, checks_passed: vec![], notes: vec![], failure }
        };
        let state = |free_space| MachineState {
            probe: Probe { load: 0.25, free_space, memory: 0, clock_offset: Some(-3) },
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
        let reports = status(&directories, &[machine("one"), machine("two")], TIME_LIMIT, &Cancel::default()).unwrap();
        for (report, name) in reports.iter().zip(["one", "two"]) {
            assert_eq!(report.machine.name, name);
            let failure = report.failure.as_ref().unwrap();
            assert_eq!((failure.kind(), failure.machine()), (ErrorKind::Configuration, Some(name)), "{failure}");
            assert!(failure.to_string().contains("/nonexistent/key"), "{failure}");
        }
        assert_eq!(reports.len(), 2);
    }
}
