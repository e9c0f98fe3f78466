// SPDX-License-Identifier: GPL-3.0-or-later
//! A caller who does the steps one by one gets the same as from a whole build.

use std::io::{Read, Seek};

use super::words::{file, nar};
use super::*;
use crate::build::site::{Site, Task};
use crate::choose::Choice;
use crate::store::source_path;

impl Host {
    /// Does `step` of a build of these items.
    fn step<T>(&self, items: &[StorePath], step: impl FnOnce(&Task, &mut Notes) -> Result<T>) -> Result<T> {
        let (outputs, options) = (std::slice::from_ref(&self.output), BuildOptions::default());
        step(&Task { derivation: &self.derivation, items, outputs, options: &options }, &mut Notes::default())
    }

    fn all_steps(&self, site: &mut Site) -> Result<()> {
        let items = std::slice::from_ref(&self.derivation);
        self.step(items, |task, notes| site.send(task, notes).map(drop))?;
        self.step(items, |task, notes| site.build(task, notes))?;
        self.step(items, |task, notes| site.retrieve(task, notes))
    }

    fn chosen(&self) -> Site {
        let cancel = Cancel::default();
        let (request, notes) = (request(&self.derivation), &mut Notes::default());
        let derivation = Some(&self.derivation);
        let choice = self.world.engine.choose(&self.machines, &request.requirements, derivation, &cancel, notes);
        let Ok(Some(Choice::Machine(lease))) = choice else { panic!("no machine is chosen") };
        self.world.engine.site(*lease, &cancel)
    }
}

#[test]
fn their_phases_are_noted() {
    let mut host = Host::new(&["m"]);
    let mut trace = tempfile::tempfile().unwrap();
    Arc::get_mut(&mut host.world.engine.common).unwrap().trace = Some(trace.try_clone().unwrap());
    host.all_steps(&mut host.chosen()).unwrap();
    let mut text = String::new();
    trace.rewind().unwrap();
    trace.read_to_string(&mut text).unwrap();
    let phase = |line: &str| line.split("\"phase\":\"").nth(1).unwrap().split('"').next().unwrap().to_string();
    let phases: Vec<_> = text.lines().map(phase).collect();
    assert_eq!(phases, ["choose", "query", "send", "build", "inspect", "retrieve", "register"], "{text}");
    assert!(text.lines().all(|line| line.contains("\"machine\":\"m\"")), "{text}");
}

#[test]
fn a_slow_link_is_remembered_and_known_the_next_time() {
    let host = Host::new(&["slow"]);
    let contents = "x".repeat(600 << 10);
    let bytes = nar(file(contents.as_bytes()));
    let source = source_path(&host.scene.directories.store, "source", &bytes);
    host.scene.register_as(&source, contents.as_bytes(), &bytes, &[]);
    host.world.doubles.name(std::slice::from_ref(&source));
    let connect = || host.world.engine.connect(&host.machines[0], &Cancel::default()).unwrap();
    let mut site = connect();
    assert_eq!(site.remote.slow_link(), None);
    host.step(std::slice::from_ref(&source), |task, notes| site.send(task, notes)).unwrap();
    assert_eq!(host.world.engine.histories().of(&host.machines[0]).slow_link(), Some(1e6));
    assert_eq!(connect().remote.slow_link(), Some(1e6));
    assert_eq!(host.chosen().remote.slow_link(), Some(1e6));
}

#[test]
fn the_address_that_answered_is_tried_first_the_next_time() {
    let host = Host::new(&["m"]);
    host.world.doubles.set_address("m", "10.0.0.2");
    for expected in [None, Some("10.0.0.2".parse().unwrap())] {
        drop(host.world.engine.connect(&host.machines[0], &Cancel::default()).unwrap());
        assert_eq!(host.world.doubles.first_address(), expected);
    }
}

#[test]
fn all_of_them_use_one_connection_to_the_local_daemon() {
    let host = Host::new(&["m", "n"]);
    let idle = |host: &Host| {
        let locals = &host.world.engine.common.locals;
        let taken: Vec<_> = std::iter::from_fn(|| locals.take(|_| true)).map(|(local, _)| local).collect();
        let count = taken.len();
        taken.into_iter().for_each(|local| locals.put(local));
        count
    };
    let (mut one, mut other) = (host.chosen(), host.chosen());
    host.all_steps(&mut one).unwrap();
    assert_eq!(idle(&host), 1);
    assert!(host.take_output());
    host.all_steps(&mut other).unwrap();
    assert_eq!(idle(&host), 1);
    assert!(host.take_output());
    [one, other].into_iter().for_each(Site::release);
    host.build(&mut Notes::default()).unwrap();
    assert_eq!(idle(&host), 1);
}

#[test]
fn before_a_build_trust_is_proven_and_what_is_not_trusted_is_left_alone_by_all() {
    let host = Host::new(&["m"]);
    let mut site = host.chosen();
    host.all_steps(&mut site).unwrap();
    let asked = host.world.doubles.take_steps(|step| matches!(step, Step::Trust | Step::Build));
    assert_eq!(asked.iter().map(|(_, step)| *step).collect::<Vec<_>>(), [Step::Trust, Step::Build]);
    for at in [Step::Trust, Step::Export] {
        let host = Host::new(&["m"]);
        host.world.doubles.act(move |_, step, _| if step == at { Err(failure(ErrorKind::Untrusted)) } else { Ok(()) });
        let mut site = host.chosen();
        assert_eq!(host.all_steps(&mut site).unwrap_err().kind(), ErrorKind::Untrusted);
        assert!(host.world.engine.histories().of(&host.machines[0]).is_distrusted(), "{at:?}");
    }
}

#[test]
fn what_is_released_is_used_again_and_its_time_is_known() {
    let host = Host::new(&["m"]);
    let mut site = host.chosen();
    assert_eq!(host.world.count_taken(&host.machines[0]), 1);
    let build_time = || host.world.engine.histories().of(&host.machines[0]).build_time();
    host.world.clock.turn(Duration::from_secs(4));
    host.all_steps(&mut site).unwrap();
    assert_eq!(build_time(), Some(Duration::from_secs(4)));
    assert!(host.take_output());
    // Another build in the same slot.
    host.world.clock.turn(Duration::from_secs(2));
    host.all_steps(&mut site).unwrap();
    assert_eq!(build_time(), Some(Duration::from_secs(3)), "of two");
    site.release();
    assert_eq!((host.world.count_taken(&host.machines[0]), host.world.doubles.count_open()), (0, 1));
    drop(host.chosen());
    assert_eq!(host.world.doubles.take_machines(Step::Connect).len(), 1);
    assert_eq!((host.world.count_taken(&host.machines[0]), host.world.doubles.count_open()), (0, 0));
}

#[test]
fn each_of_them_can_be_cancelled() {
    for at in [Step::Missing, Step::Import, Step::Trust, Step::Build, Step::Info, Step::Export] {
        let host = Host::new(&["m"]);
        let cancel = Cancel::default();
        let mut site = host.world.engine.connect(&host.machines[0], &cancel).unwrap();
        let cancelled = cancel.clone();
        host.world.doubles.act(move |_, step, cut| {
            if step == at {
                cancelled.cancel();
                return cut.wait();
            }
            Ok(())
        });
        let error = host.all_steps(&mut site).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{at:?}: {error}");
        site.release();
        assert_eq!(host.world.doubles.count_open(), 0, "{at:?}: a connection that was cut is kept");
        assert!(!host.take_output());
    }
    let host = Host::new(&["m"]);
    let cancel = Cancel::default();
    cancel.cancel();
    let connected = host.world.engine.connect(&host.machines[0], &cancel);
    assert_eq!(connected.err().unwrap().kind(), ErrorKind::Cancelled);
}
