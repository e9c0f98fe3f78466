// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds go where their inputs are, which is known from the builds before.

use super::*;
use crate::choose::slot::Slots;

/// A host with two machines, and a derivation that reads the output of another one, and a source.
struct Chain {
    host: Host,
    next: StorePath,
    source: StorePath,
}

fn chain() -> Chain {
    let host = Host::new(&["a", "b"]);
    let scene = &host.scene;
    let source = scene.register("source", b"source", &words::nar(words::file(b"source")));
    let next = scene.path("next.drv");
    scene.register_as(&next, b"derive", &words::nar(words::file(b"derive")), &[&host.derivation, &source]);
    let row = [host.derivation.as_str(), host.output.as_str()];
    let output = "INSERT INTO DerivationOutputs SELECT id, 'out', ?2 FROM ValidPaths WHERE path = ?1";
    rusqlite::Connection::open(scene.at("db.sqlite")).unwrap().execute(output, row).unwrap();
    Chain { host, next, source }
}

impl Chain {
    /// Returns what is known of the inputs of the next build: the size of the valid ones.
    fn inputs(&self) -> Vec<(StorePath, u64)> {
        self.host.scene.database().inputs_of(&self.next).unwrap()
    }

    /// Lets `next` be asked for, and returns the machine that it goes to.
    fn place_of_next(&self) -> String {
        match self.host.world.ask(&self.host.machines, &self.next, false).unwrap() {
            Reply::Accept(accepted) => accepted.lease.expect("a machine is free").remote.machine().name.clone(),
            _ => panic!("it is not accepted"),
        }
    }
}

#[test]
fn a_derivation_reads_its_sources_and_what_its_derivations_made() {
    let chain = chain();
    let source = (chain.source.clone(), words::nar(words::file(b"source")).len() as u64);
    assert_eq!(chain.inputs(), std::slice::from_ref(&source), "the output of the other is not valid");
    chain.host.build(&mut Notes::default()).unwrap();
    let output = (chain.host.output.clone(), words::nar(words::file(b"good\n")).len() as u64);
    let mut inputs = chain.inputs();
    inputs.sort();
    let mut expected = [source, output];
    expected.sort();
    assert_eq!(inputs, expected);
    assert_eq!(chain.host.scene.database().inputs_of(&chain.host.scene.path("nobody.drv")).unwrap(), []);
}

#[test]
fn the_next_build_goes_to_the_machine_that_built_what_it_reads() {
    for round in 0..6 {
        let chain = chain();
        chain.host.build(&mut Notes::default()).unwrap();
        let built_on = chain.host.world.doubles.take_machines(Step::Build).remove(0);
        // A link so slow that a hundred bytes count.
        chain.host.machines.iter().for_each(|machine| chain.host.world.engine.histories().note_rate(machine, 100.0));
        // Not because an idle connection leads there.
        chain.host.world.clock.turn(Duration::from_secs(120));
        assert_eq!(chain.place_of_next(), built_on, "round {round}");
    }
}

#[test]
fn what_a_collector_took_is_no_reason_any_more() {
    let Chain { host, next, source } = chain();
    let (world, holdings) = (&host.world, &host.world.engine.common.resources.holdings);
    host.build(&mut Notes::default()).unwrap();
    let built_on = world.doubles.take_machines(Step::Build).remove(0);
    let there = host.machines.iter().find(|machine| machine.name == built_on).unwrap();
    let is_known = |item: &StorePath| holdings.has_any(there, std::slice::from_ref(item));
    assert!(is_known(&host.output));
    let build_there = || {
        host.take_output();
        let accepted = world.engine.accept(std::slice::from_ref(there), &request(&host.derivation)).unwrap().unwrap();
        let (inputs, outputs) = (vec![source.clone()], vec![host.output.clone()]);
        let work = Work { inputs, outputs, options: BuildOptions::default() };
        world.engine.run(accepted, work, &Cancel::default(), &mut Notes::default()).unwrap();
    };
    build_there();
    assert!(is_known(&source));
    // A new connection shows that it lacks the source. So it may lack everything else as well.
    holdings.add(there, std::slice::from_ref(&next));
    drop(world.engine.common.resources.pool.take(|_| true));
    world.doubles.take(&there.name, &source);
    build_there();
    assert!(!is_known(&next) && is_known(&source));
}

#[test]
fn a_job_waits_for_a_slot_of_the_machine_that_has_its_inputs() {
    for freed_after in [1, 60] {
        let Chain { host, next, .. } = chain();
        let (world, histories) = (&host.world, host.world.engine.histories());
        host.build(&mut Notes::default()).unwrap();
        let built_on = world.doubles.take_machines(Step::Build).remove(0);
        for machine in &host.machines {
            histories.note_rate(machine, 10.0);
            histories.note_build(machine, Duration::from_secs(1));
        }
        let there = host.machines.iter().find(|machine| machine.name == built_on).unwrap();
        let slots = Slots::default().of(&host.scene.directories.offload_state(), there).unwrap();
        let mut taken = slots.lock().try_take().unwrap();
        assert!(taken.is_some());
        world.clock.during_sleep(move |all| taken = taken.take().filter(|_| all.as_secs() < freed_after));
        let waited = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let events = Arc::clone(&waited);
        let at_event = move |event: &str| events.lock().extend(event.contains("Await").then(|| event.to_string()));
        let mut notes = Notes { at_event: Some(Box::new(at_event)), ..Notes::default() };
        let work = Work { inputs: Vec::new(), outputs: Vec::new(), options: BuildOptions::default() };
        world.engine.run_job(&host.machines, &request(&next), work, None, &Cancel::default(), &mut notes).unwrap();
        assert_eq!(*waited.lock(), [format!("AwaitsSlot {{ machine: {built_on:?} }}")]);
        // Sending what it reads takes some twenty seconds.
        let on = world.doubles.take_machines(Step::Build).remove(0);
        assert_eq!(on == built_on, freed_after == 1, "on {on}, free after {freed_after} s");
    }
}

#[test]
fn an_explanation_does_not_wait_long_for_a_locked_database() {
    let Chain { host, next, source } = chain();
    let engine = &host.world.engine;
    engine.common.resources.holdings.add(&host.machines[0], &[source]);
    let locks = rusqlite::Connection::open(host.scene.at("db.sqlite")).unwrap();
    locks.pragma_update(None, "locking_mode", "exclusive").unwrap();
    locks.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let begun = std::time::Instant::now();
    let explained = engine.explain(&host.machines, &request(&next).requirements, Some(&next)).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let error = explained.unknown_inputs.expect("it is locked");
    assert!(error.kind() == ErrorKind::Store && error.to_string().contains("has been locked for 2 s"), "{error}");
}
