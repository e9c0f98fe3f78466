// SPDX-License-Identifier: GPL-3.0-or-later
//! One run of one fault, and what must hold during and after it.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::daemon::{Build, Ending, Outcome, collect_garbage};
use crate::faults::{Effect, FETCHES, Fault, Phase};
use crate::invariants::eventually;
use crate::lab::Host;
use crate::lane::{Kind, Lane};
use crate::random::Random;

/// How often a run is begun anew because its moment came when all was over.
const MAX_MISSES: usize = 5;

/// What hooks say they were doing when a machine failed them.
const PHASES: [&str; 5] = ["asking what is missing", "sending files to", "building", "looking up", "retrieving"];

/// What came of a run.
pub struct Report {
    pub outcome: &'static str,
    /// How many stores were found whole afterwards.
    pub stores: usize,
    /// How long it took whoever asked for the build, or the hook, to notice.
    pub noticed: Option<Duration>,
}

/// Runs `fault` for the time `number`. Panics when anything is not as it must be.
pub fn run(lane: &mut Lane, fault: &Fault, seed: u64, number: usize) -> Report {
    if let Some(scenario) = fault.scenario {
        return scenario(lane);
    }
    let mut random = Random::new(seed, &fault.name, number);
    for _ in 0..MAX_MISSES {
        if let Some(report) = attempt(lane, fault, &mut random, number) {
            return report;
        }
    }
    panic!("{MAX_MISSES} builds in a row were over before the fault came");
}

/// `None`: the build was over before the fault came.
fn attempt(lane: &mut Lane, fault: &Fault, random: &mut Random, number: usize) -> Option<Report> {
    let with_spare = fault.effect == Effect::Machine && number % 2 == 1;
    lane.use_machines(with_spare);
    let derivation = lane.derivation(fault.kind);
    collect_garbage(lane.machine); // so that there is something to send

    lane.look();

    let mut condition = (fault.condition)(lane);
    let mut build = Build::start(lane.head, &derivation);
    let in_time = reach(lane, &mut build, fault.phase, fault.within, random);
    let struck = Instant::now();
    let strike = in_time.then(|| (fault.strike)(lane, random));
    let ending = build.finish();
    let unharmed = ending.outcome == Outcome::Succeeded && ending.retried.is_none();
    let avoided = ending.log.contains(&format!("skipping machine '{}'", lane.machine.0));
    // Or the spare machine was the better choice at that time.
    // A hook that has all the outputs needs no keeper any more.
    let needless = fault.effect == Effect::Keeper && fault.phase == Phase::Registering;
    let missed = match fault.effect {
        Effect::Nothing(_) => fault.phase != Phase::Never && !in_time,
        _ => unharmed && !needless && (fault.phase != Phase::Never || fault.effect == Effect::Machine && !avoided),
    };
    if missed {
        return None;
    }
    let mut report = judge(lane, fault, &ending, with_spare, struck);
    drop(strike);
    let failing = (fault.phase == Phase::Never && fault.effect == Effect::Machine).then_some(&mut condition);
    drop(failing.map(std::mem::take));

    if ending.outcome != Outcome::Succeeded {
        let again = Build::start(lane.head, &derivation).finish();
        assert_eq!(
            again.outcome,
            Outcome::Succeeded,
            "the same build again:\n{}\nat first:\n{}",
            again.log,
            ending.log
        );
    }
    drop(condition);
    // What was killed leaves garbage, like any other that is killed: on the machine its daemon, here the hook or the
    // keeper.
    if matches!(fault.effect, Effect::Hook | Effect::Keeper | Effect::Daemon) {
        collect_garbage(lane.head);
    }
    collect_garbage(lane.machine);
    let stores = lane.assert_clean(with_spare);
    if number % 5 == 4 {
        [lane.head, lane.spare].iter().for_each(|host| collect_garbage(*host));
    }
    if let Some(noticed) = report.noticed.take_if(|noticed| *noticed > fault.noticed_within) {
        panic!("it took {noticed:?} to be noticed:\n{}", ending.log);
    }
    Some(Report { stores, ..report })
}

/// Waits for a random moment of this phase of the build; `false`: it was over before.
fn reach(lane: &Lane, build: &mut Build, phase: Phase, within: u64, random: &mut Random) -> bool {
    let pause = Duration::from_micros(random.below(within * 1000 + 1));
    match phase {
        Phase::Never => return false,
        Phase::Asked => {}
        Phase::Fetching => {
            std::thread::sleep(if build.wait_for(FETCHES) { pause } else { return false });
            return true;
        }
        Phase::Sending => drop(build.wait_for("sending ")),
        Phase::Building => drop(build.wait_for("@ build-remote")),
        Phase::Retrieving => drop(build.wait_for("retrieving ")),
        Phase::Registering => {
            build.wait_for("retrieving ");
            // The hook can verify everything, but not register it.
            let lock = lock_database(lane.head);
            let verified = build.wait_for("found valid signature");
            // Then either it waits for its turn, or, as finding whom to kill takes a moment, is in the midst of it.
            std::thread::sleep(pause);
            if random.below(2) == 0 {
                let moment = Duration::from_micros(20_000 + random.below(80_000));
                std::thread::spawn(move || {
                    std::thread::sleep(moment);
                    lock.execute_batch("ROLLBACK").expect("unlocking the database");
                });
            }
            return verified;
        }
    }
    std::thread::sleep(pause);
    true
}

fn lock_database(head: Host) -> Connection {
    let database = Connection::open(head.file("/var/guix/db/db.sqlite")).expect("opening a store database");
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").expect("locking a store database");
    database
}

/// Was it noticed, by the right one, and said to be what it was?
fn judge(lane: &Lane, fault: &Fault, ending: &Ending, with_spare: bool, struck: Instant) -> Report {
    let log = &ending.log;
    let machine = format!("'{}'", lane.machine.0);
    match (&fault.effect, &ending.outcome) {
        (Effect::Nothing(what), Outcome::Succeeded) => {
            assert!(log.contains(what), "no word of {what}:\n{log}");
            if let Kind::Loud(mib) = fault.kind {
                assert!(ending.logged > mib << 20, "the log has only {} bytes", ending.logged);
            }
            Report { outcome: "succeeds", stores: 0, noticed: None }
        }
        (Effect::Keeper, Outcome::Succeeded) => Report { outcome: "succeeds", stores: 0, noticed: None },
        (Effect::Machine, Outcome::Succeeded) => {
            assert!(with_spare, "{log}");
            let skipped = log.contains(&format!("skipping machine {machine}"));
            if !skipped {
                let said = line(log, "failed, trying another one: ");
                assert!(said.contains(&machine), "{log}");
                assert!(PHASES.iter().any(|phase| said.contains(phase)), "no phase is named: {said}\n{log}");
            }
            assert!(log.contains(&format!("@ build-remote {} {}", derivation(log), lane.spare.0)), "{log}");
            let noticed = ending.retried.map(|retried| retried.saturating_duration_since(struck));
            Report { outcome: "done elsewhere", stores: 0, noticed }
        }
        (effect, Outcome::Failed { status, message }) => {
            let noticed = Some(ending.at.saturating_duration_since(struck));
            assert!(!with_spare, "there was another machine: {message}\n{log}");
            assert_eq!(*status, 1, "not transient: {message}\n{log}");
            let status = line(log, "@ hook-failed ");
            match effect {
                Effect::Machine => {
                    let said = line(log, "guix offload: error: ");
                    assert!(said.contains(&machine), "the machine is not named: {said}\n{log}");
                    assert!(PHASES.iter().any(|phase| said.contains(phase)), "no phase is named: {said}\n{log}");
                    assert!(status.contains(" - 256 "), "{status}");
                }
                Effect::Head(words) => {
                    let said = line(log, "guix offload: error: ");
                    assert!(words.iter().all(|word| said.contains(word)), "{words:?} not in: {said}\n{log}");
                    assert!(status.contains(" - 256 "), "{status}");
                }
                Effect::Hook => assert!(status.contains(" - 9 "), "{status}\n{log}"),
                Effect::Keeper => {
                    assert!(line(log, "guix offload: error: ").contains("the keeper ended: "), "{log}");
                    assert!(status.contains(" - 256 "), "{status}");
                }
                Effect::Daemon | Effect::Nothing(_) => panic!("a failure: {message}\n{log}"),
            }
            Report { outcome: "transient", stores: 0, noticed }
        }
        (Effect::Daemon, Outcome::Gone) => {
            eventually(|| match lane.head.run(&["pgrep", "-f", "guix-offload offload"]).status.success() {
                true => Err("the hook goes on".to_string()),
                false => Ok(()),
            });
            Report { outcome: "abandoned", stores: 0, noticed: Some(struck.elapsed()) }
        }
        (effect, outcome) => panic!("{outcome:?}, not {effect:?}:\n{log}"),
    }
}

/// The last line that contains `what`.
fn line<'a>(log: &'a str, what: &str) -> &'a str {
    log.lines().rfind(|line| line.contains(what)).unwrap_or_else(|| panic!("no line {what:?} in:\n{log}"))
}

/// The derivation that was built.
fn derivation(log: &str) -> &str {
    line(log, "@ build-remote ").split(' ').nth(2).expect("a derivation")
}
