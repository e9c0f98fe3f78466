// SPDX-License-Identifier: GPL-3.0-or-later
//! After which failures a build is tried again, where, how often, and for how long.

use super::*;
use crate::build::site::Site;
use crate::choose::slot::Slots;

/// The kinds of failure that are the machine's.
const MACHINES: [ErrorKind; 7] = [
    ErrorKind::Unavailable,
    ErrorKind::Authentication,
    ErrorKind::HostKey,
    ErrorKind::NoGuix,
    ErrorKind::Protocol,
    ErrorKind::Untrusted,
    ErrorKind::Daemon,
];

/// All other kinds, except that of a collector.
const OTHERS: [ErrorKind; 8] = [
    ErrorKind::InvalidArgument,
    ErrorKind::Configuration,
    ErrorKind::Store,
    ErrorKind::BuildFailed,
    ErrorKind::TimedOut,
    ErrorKind::Cancelled,
    ErrorKind::Exhausted,
    ErrorKind::Internal,
];

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn a_failure_of_the_machines_has_up_to_five_machines_try() {
    let steps = [Step::Missing, Step::Import, Step::Trust, Step::Build, Step::Info, Step::Export];
    // Each kind of failure, at one of the steps.
    for (index, kind) in MACHINES.into_iter().enumerate() {
        let step = steps[index % steps.len()];
        let host = Host::new(&["a", "b", "c", "d", "e", "f", "g"]);
        host.world.doubles.act(move |_, at, _| if at == step { Err(failure(kind)) } else { Ok(()) });
        let mut notes = Notes::default();
        let error = host.build(&mut notes).unwrap_err();
        assert_eq!(error.kind(), kind, "{step:?}: {error}");
        let mut tried = sorted(host.world.doubles.take_machines(Step::Connect));
        tried.dedup();
        assert_eq!((tried.len(), notes.retried.len()), (5, 4), "{kind:?} {step:?}");
        assert!(notes.retried.iter().all(|(_, reason)| reason.kind() == kind));
        assert!(host.world.clock.take_sleeps().is_empty(), "there is nothing to wait for");
        assert!(host.machines.iter().all(|machine| host.world.count_taken(machine) == 0));
        assert_eq!(host.world.doubles.count_open(), 0, "{kind:?} {step:?}: a connection is left");
        assert!(!host.take_output() && host.scene.names().len() == 1, "{:?}", host.scene.names());
    }
}

#[test]
fn a_failure_that_is_not_the_machines_is_final() {
    for kind in OTHERS {
        let host = Host::new(&["a", "b"]);
        host.world.doubles.act(move |_, at, _| if at == Step::Build { Err(failure(kind)) } else { Ok(()) });
        let mut notes = Notes::default();
        let error = host.build(&mut notes).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!((notes.retried.len(), host.world.doubles.take_machines(Step::Build).len()), (0, 1), "{kind:?}");
        // The connection is kept for the next build, unless it was cut.
        let kept = usize::from(kind != ErrorKind::Cancelled);
        assert_eq!(host.world.doubles.count_open(), kept, "{kind:?}");
        assert!(host.machines.iter().all(|machine| host.world.count_taken(machine) == 0));
    }
}

#[test]
fn another_machine_does_what_one_has_failed() {
    let host = Host::new(&["a", "b"]);
    let first = Arc::new(parking_lot::Mutex::new(None::<String>));
    let failing = Arc::clone(&first);
    host.world.doubles.act(move |name, at, _| {
        let mut failing = failing.lock();
        let fails = at == Step::Build && failing.get_or_insert_with(|| name.into()) == name;
        if fails { Err(failure(ErrorKind::Unavailable)) } else { Ok(()) }
    });
    let mut notes = Notes::default();
    host.build(&mut notes).unwrap();
    assert!(host.take_output());
    let first = first.lock().clone().unwrap();
    assert_eq!(notes.retried.iter().map(|(name, _)| name).collect::<Vec<_>>(), [&first]);
    let histories = host.world.engine.histories();
    let known = |name: &str| histories.of(host.machines.iter().find(|machine| machine.name == name).unwrap());
    let other = if first == "a" { "b" } else { "a" };
    assert!(known(&first).build_time().is_none() && known(other).build_time().is_some());
    assert!(known(&first).setback().is_none(), "it failed one build, which may be this one's");
}

#[test]
fn a_machine_whose_archives_are_not_let_in_is_left_alone_by_all() {
    let host = Host::new(&["a", "b"]);
    host.world.doubles.act(|name, at, _| match (name, at) {
        ("a", Step::Trust) => Err(failure(ErrorKind::Untrusted)),
        _ => Ok(()),
    });
    // Often, since either machine may come first.
    for _ in 0..20 {
        host.build(&mut Notes::default()).unwrap();
        assert!(host.take_output());
        host.world.clock.turn(Duration::from_secs(61));
    }
    assert!(host.world.engine.histories().of(&host.machines[0]).is_distrusted());
    // Machine `a` must prove itself trustworthy before it gets a build.
    let asked = host.world.doubles.take_steps(|step| matches!(step, Step::Trust | Step::Build));
    assert!(asked.iter().all(|(name, step)| name == "b" || *step == Step::Trust), "{asked:?}");
}

#[test]
fn a_connection_that_died_while_idle_says_nothing_about_its_machine_once() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Protocol, ErrorKind::Daemon] {
        let host = Host::new(&["m"]);
        host.build(&mut Notes::default()).unwrap();
        assert!(host.take_output());
        let failed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        host.world.doubles.act(move |_, at, _| {
            let fails = at == Step::Build && !failed.swap(true, std::sync::atomic::Ordering::SeqCst);
            if fails { Err(failure(kind)) } else { Ok(()) }
        });
        let mut notes = Notes::default();
        host.world.doubles.take_steps(|_| true);
        host.build(&mut notes).unwrap();
        assert!(host.take_output(), "{kind:?}");
        assert_eq!(host.world.doubles.take_machines(Step::Connect), ["m"], "{kind:?}");
        assert_eq!(notes.retried.len(), 1, "{kind:?}");
    }
}

/// This holds however many idle connections other builds leave it.
#[test]
fn a_machine_that_fails_a_build_is_not_excused_again_and_again() {
    let host = Host::new(&["m"]);
    let connect = || host.world.engine.connect(&host.machines[0], &Cancel::default()).unwrap();
    let sites: Vec<_> = (0..8).map(|_| connect()).collect();
    sites.into_iter().for_each(Site::release);
    host.world.doubles.act(|_, at, _| if at == Step::Build { Err(failure(ErrorKind::Daemon)) } else { Ok(()) });
    let error = host.build(&mut Notes::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Daemon);
    assert_eq!(host.world.doubles.take_machines(Step::Build).len(), 2);
}

#[test]
fn a_machine_that_does_not_move_has_failed_though_its_connection_was_an_old_one() {
    let host = Host::new(&["m"]);
    host.build(&mut Notes::default()).unwrap();
    host.take_output();
    host.world.doubles.take_steps(|_| true);
    host.world.doubles.act(|_, at, _| match at {
        Step::Build => Err(Error::new(ErrorKind::Unavailable, "no byte has moved for 180 s")),
        _ => Ok(()),
    });
    let error = host.build(&mut Notes::default()).unwrap_err();
    assert!(error.to_string().contains("no byte has moved"), "{error}");
    assert!(host.world.doubles.take_machines(Step::Connect).is_empty());
}

#[test]
fn a_build_that_a_machine_failed_waits_ten_minutes_for_another() {
    let host = Host::new(&["a", "b"]);
    host.world.doubles.act(|name, at, _| match (name, at) {
        ("a", Step::Build) => Err(failure(ErrorKind::Protocol)),
        ("b", Step::Connect) => Err(failure(ErrorKind::Unavailable)),
        _ => Ok(()),
    });
    let mut notes = Notes::default();
    let error = host.build(&mut notes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "what the machine did to it matters more: {error}");
    assert_eq!(host.world.doubles.take_machines(Step::Build), ["a"]);
    let slept: Duration = host.world.clock.take_sleeps().iter().sum();
    assert!((600..=610).contains(&slept.as_secs()), "{slept:?}");
}

#[test]
fn a_build_that_no_machine_has_failed_waits_until_one_is_back() {
    let host = Host::new(&["m"]);
    host.world.doubles.act(|_, at, _| if at == Step::Connect { Err(failure(ErrorKind::Unavailable)) } else { Ok(()) });
    let (doubles, hour) = (Arc::clone(&host.world.doubles), Duration::from_secs(3600));
    host.world.clock.during_sleep(move |all| {
        if all > hour {
            doubles.act(|_, _, _| Ok(()));
        }
    });
    let mut notes = Notes::default();
    host.build(&mut notes).unwrap();
    let slept: Duration = host.world.clock.take_sleeps().iter().sum();
    // The machine may be backed off for up to a minute at that time.
    assert!((hour..hour + Duration::from_secs(90)).contains(&slept), "{slept:?}");
    let tried = host.world.doubles.take_machines(Step::Connect).len();
    assert!((50..70).contains(&tried), "once a minute, not {tried} times");
}

#[test]
fn a_build_that_is_not_patient_waits_for_a_slot_and_for_no_machine() {
    let host = Host::new(&["m"]);
    let accept = || {
        let request = Request { is_patient: false, ..request(&host.derivation) };
        host.world.engine.accept(&host.machines, &request).unwrap().unwrap()
    };
    let state = host.world.engine.directories().offload_state();
    let mut taken = Slots::default().of(&state, &host.machines[0]).unwrap().lock().try_take().unwrap();
    host.world.clock.during_sleep(move |all| taken = taken.take().filter(|_| all < Duration::from_secs(100)));
    host.run(accept(), &Cancel::default(), &mut Notes::default()).unwrap();
    host.world.clock.take_sleeps();
    host.world.doubles.act(|_, at, _| if at == Step::Connect { Err(failure(ErrorKind::Unavailable)) } else { Ok(()) });
    host.world.engine.common.resources.pool.take(|_| true).expect("the connection of the first");
    let mut notes = Notes::default();
    let error = host.run(accept(), &Cancel::default(), &mut notes).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unavailable, "no build machine can be reached".into()));
    assert_eq!((notes.passed_over.len(), host.world.clock.take_sleeps().len()), (1, 0));
}

#[test]
fn a_build_in_the_queue_begins_when_a_slot_is_free() {
    let host = Host::new(&["m"]);
    let state = host.world.engine.directories().offload_state();
    let slots = Slots::default().of(&state, &host.machines[0]).unwrap();
    let mut taken = slots.lock().try_take().unwrap();
    host.world.clock.during_sleep(move |all| taken = taken.take().filter(|_| all < Duration::from_secs(100)));
    let mut notes = Notes::default();
    host.build(&mut notes).unwrap();
    let slept: Duration = host.world.clock.take_sleeps().iter().sum();
    assert!((100..102).contains(&slept.as_secs()), "{slept:?}");
    assert!((15..25).contains(&notes.queued), "told every five seconds, not {} times", notes.queued);
    assert_eq!(host.world.doubles.take_machines(Step::Connect), ["m"], "nobody is asked without a slot");
}

#[test]
fn a_misconfigured_machine_ends_a_build_that_only_it_could_do() {
    let host = Host::new(&["m"]);
    host.world.doubles.act(|_, at, _| if at == Step::Connect { Err(failure(ErrorKind::HostKey)) } else { Ok(()) });
    assert_eq!(host.build(&mut Notes::default()).unwrap_err().kind(), ErrorKind::HostKey);
    assert!(host.world.clock.take_sleeps().is_empty());
}

#[test]
fn what_collectors_take_is_sent_again_for_ten_minutes_and_no_longer() {
    let host = Host::new(&["a", "b"]);
    host.world.doubles.act(|_, at, _| if at == Step::Build { Err(failure(ErrorKind::Collected)) } else { Ok(()) });
    let mut notes = Notes::default();
    let error = host.build(&mut notes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Collected);
    let sleeps: Vec<_> = host.world.clock.take_sleeps().iter().map(Duration::as_secs).collect();
    assert_eq!(sleeps[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!((600..660).contains(&sleeps.iter().sum::<u64>()), "{sleeps:?}");
    let built = host.world.doubles.take_machines(Step::Build);
    assert_eq!(built.len(), 2 * (sleeps.len() + 1), "both are tried each time");
}

#[test]
fn a_collector_that_leaves_it_at_last_lets_the_build_through() {
    let host = Host::new(&["a", "b"]);
    // The other machine fails for good.
    host.world.doubles.act(|name, at, _| match (name, at) {
        ("a", Step::Build) => Err(failure(ErrorKind::Collected)),
        ("b", Step::Build) => Err(failure(ErrorKind::Daemon)),
        _ => Ok(()),
    });
    let doubles = Arc::clone(&host.world.doubles);
    host.world.clock.during_sleep(move |all| {
        if all > Duration::from_secs(100) {
            doubles.act(|name, at, _| match (name, at) {
                ("b", Step::Build) => Err(failure(ErrorKind::Daemon)),
                _ => Ok(()),
            });
        }
    });
    host.build(&mut Notes::default()).unwrap();
    assert!(host.take_output());
    let built = host.world.doubles.take_machines(Step::Build);
    assert_eq!(built.iter().filter(|name| *name == "b").count(), 1, "{built:?}");
}
