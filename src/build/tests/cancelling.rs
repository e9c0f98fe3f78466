// SPDX-License-Identifier: GPL-3.0-or-later
//! A cancelled build leaves nothing behind, whenever it is cancelled.

use std::cell::RefCell;
use std::rc::Rc;

use super::sending::{source, text};
use super::*;
use crate::choose::slot::Slots;

fn assert_no_trace(host: &Host, what: &str) {
    // The thread that connects may notice this a little later.
    let begun = std::time::Instant::now();
    while host.world.doubles.count_open() > 0 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(host.world.count_taken(&host.machines[0]), 0, "{what}: its slot");
    assert_eq!(host.world.doubles.count_open(), 0, "{what}: its connection");
    assert_eq!(host.world.engine.count_waiting(), 0, "{what}: its place in the queue");
    assert!(!host.take_output(), "{what}: the output is valid");
}

fn assert_nothing_left(host: &Host, what: &str) {
    assert_no_trace(host, what);
    assert_eq!(host.scene.names(), [host.derivation.base_name()], "{what}: what is in the store");
    let history = host.world.engine.histories().of(&host.machines[0]);
    assert!(history.setback().is_none() && history.build_time().is_none(), "{what}: the machine is remembered for it");
}

/// Runs the host's build, and cancels it when the machine is at this step.
fn run_cancelled_at(host: &Host, at: Step) {
    let cancel = Cancel::default();
    let cancelled = cancel.clone();
    host.world.doubles.act(move |_, step, _| {
        if step == at {
            cancelled.cancel();
        }
        Ok(())
    });
    let error = host.run(host.accept(), &cancel, &mut Notes::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{at:?}: {error}");
}

#[test]
fn at_each_step_of_the_machine() {
    use Step::*;
    for at in [Start, Connect, AddTempRoots, Missing, PrepareToReceive, Import, Trust, Build, Info, Export] {
        let host = Host::new(&["m"]);
        run_cancelled_at(&host, at);
        assert_nothing_left(&host, &format!("{at:?}"));
    }
}

#[test]
fn in_the_middle_of_batches_and_of_sources() {
    // Two batches are on their way when the first is answered; there are three, and two sources.
    let steps = [(Step::BeginAdding, 3), (Step::FinishAdding, 3), (Step::AddNar, 2)];
    for (at, number) in steps.into_iter().flat_map(|(at, count)| (1..=count).map(move |number| (at, number))) {
        let host = Host::new(&["m"]);
        let mut inputs: Vec<_> = (0..13).map(|number| text(&host, &format!("t{number}"), 100 << 10)).collect();
        inputs.extend([600 << 10, 700 << 10].map(|size| source(&host, &format!("s{size}"), size)));
        let before = host.scene.names();
        let (cancel, seen) = (Cancel::default(), std::sync::atomic::AtomicUsize::new(0));
        let cancelled = cancel.clone();
        host.world.doubles.act(move |_, step, _| {
            if step == at && seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == number {
                cancelled.cancel();
            }
            Ok(())
        });
        let work = Work { inputs, outputs: vec![host.output.clone()], options: BuildOptions::default() };
        let result = host.world.engine.run(host.accept(), work, &cancel, &mut Notes::default());
        let what = format!("{at:?} {number}");
        assert_eq!(result.expect_err(&what).kind(), ErrorKind::Cancelled, "{what}");
        assert!(host.world.doubles.take_machines(Step::Build).is_empty(), "{what}: it goes on");
        assert_no_trace(&host, &what);
        assert_eq!(host.scene.names(), before, "{what}: what is in the store");
    }
}

#[test]
fn while_an_idle_connection_is_tried() {
    for at in [Step::Answer, Step::Probe] {
        let host = Host::new(&["m"]);
        host.build(&mut Notes::default()).unwrap();
        assert!(host.take_output());
        host.world.doubles.take_steps(|_| true);
        // The connection has been idle for so long that the machine is asked whether it is there, and how it is.
        host.world.clock.turn(Duration::from_secs(61));
        run_cancelled_at(&host, at);
        let steps: Vec<_> = host.world.doubles.take_steps(|_| true).into_iter().map(|(_, step)| step).collect();
        assert!(steps.contains(&at) && !steps.contains(&Step::Build), "{at:?}: {steps:?}");
        assert_no_trace(&host, &format!("{at:?}"));
    }
}

#[test]
fn at_each_event_but_the_last() {
    // The events of a build that nobody cancels.
    let events = Rc::new(RefCell::new(Vec::new()));
    let host = Host::new(&["m"]);
    let noted = Rc::clone(&events);
    let at_event: AtEvent = Box::new(move |event| noted.borrow_mut().push(event.to_string()));
    host.build(&mut Notes { at_event: Some(at_event), ..Notes::default() }).unwrap();
    let count = events.borrow().len();
    assert!(count > 8 && events.borrow().last().unwrap().starts_with("Done"), "{events:?}");
    for number in 0..count - 1 {
        let host = Host::new(&["m"]);
        let cancel = Cancel::default();
        let (cancelled, mut seen) = (cancel.clone(), 0);
        let at_event: AtEvent = Box::new(move |_| {
            if seen == number {
                cancelled.cancel();
            }
            seen += 1;
        });
        let mut notes = Notes { at_event: Some(at_event), ..Notes::default() };
        let what = events.borrow()[number].clone();
        let error = host.run(host.accept(), &cancel, &mut notes).expect_err(&what);
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{what}: {error}");
        assert_nothing_left(&host, &what);
    }
}

#[test]
fn while_it_waits_for_a_slot_or_for_a_machine_to_come_back() {
    for busy in [true, false] {
        let host = Host::new(&["m"]);
        let state = host.world.engine.directories().offload_state();
        let slots = Slots::default().of(&state, &host.machines[0]).unwrap();
        let taken = busy.then(|| slots.lock().try_take().unwrap().unwrap());
        host.world.doubles.act(|_, at, _| match at {
            Step::Connect => Err(failure(ErrorKind::Unavailable)),
            _ => Ok(()),
        });
        let cancel = Cancel::default();
        let cancelled = cancel.clone();
        host.world.clock.during_sleep(move |all| {
            if all > Duration::from_secs(60) {
                cancelled.cancel();
            }
        });
        let error = host.run(host.accept(), &cancel, &mut Notes::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{busy}: {error}");
        assert_eq!(host.world.engine.count_waiting(), 0);
        drop(taken);
        assert_eq!(host.world.count_taken(&host.machines[0]), 0);
    }
}

#[test]
fn while_it_is_asked_for() {
    let host = Host::new(&["m"]);
    let cancel = Cancel::default();
    let cancelled = cancel.clone();
    host.world.doubles.act(move |_, at, cut| {
        if at == Step::Connect {
            cancelled.cancel();
            return cut.wait();
        }
        Ok(())
    });
    let (request, options) = (request(&host.derivation), BuildOptions::default());
    let asked = host.world.engine.ask(
        &Inquiry { machines: &host.machines, request: &request, options: &options, could_build_here: &|| true },
        &cancel,
        &mut Notes::default(),
    );
    assert_eq!(asked.err().unwrap().kind(), ErrorKind::Cancelled);
    assert_nothing_left(&host, "asked");
}

#[test]
fn before_it_begins() {
    let host = Host::new(&["m"]);
    let (accepted, cancel) = (host.accept(), Cancel::default());
    cancel.cancel();
    assert_eq!(host.run(accepted, &cancel, &mut Notes::default()).unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(host.world.doubles.take_steps(|_| true).is_empty());
    // The same for a build that was accepted with a machine.
    let Ok(Reply::Accept(accepted)) = host.world.ask(&host.machines, &host.derivation, false) else { panic!() };
    assert!(accepted.lease.is_some());
    assert_eq!(host.run(*accepted, &cancel, &mut Notes::default()).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(host.world.count_taken(&host.machines[0]), 0);
    assert!(host.world.doubles.take_machines(Step::Missing).is_empty());
}
