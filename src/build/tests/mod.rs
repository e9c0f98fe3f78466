// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of builds with test doubles for machines, and with a clock that the tests turn. This host's store, database
//! and daemon are as in `tests/hostile`.

mod cancelling;
#[path = "../../../tests/support/daemon.rs"]
#[allow(dead_code)] // the tests of lies use more of it
mod double;
mod fetching;
#[path = "../../../tests/support/host.rs"]
#[allow(dead_code)]
mod fixture;
mod inputs;
mod journal;
mod logging;
mod retrying;
mod sending;
mod steps;
mod verdicts;
#[path = "../../../tests/support/words.rs"]
#[allow(dead_code)]
mod wire_bytes;

use std::sync::Arc;
use std::time::Duration;

use self::fixture::Scene;
use self::wire_bytes as words;
use super::engine::Engine;
use super::request::{Accepted, Inquiry, Reply, Request, Work};
use crate::choose::slot::LockDirectory;
use crate::daemon::BuildOptions;
use crate::ground::cancel::Cancel;
use crate::ground::clock::Clock;
use crate::ground::clock::tests::TurnedClock;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::machine::tests::machine;
use crate::machine::{BuildMachine, Requirements};
use crate::remote::double::{Doubles, Step};
use crate::report::{Event, Observer};

/// An engine whose machines are doubles.
struct World {
    engine: Engine,
    clock: Arc<TurnedClock>,
    doubles: Arc<Doubles>,
}

impl World {
    fn new(directories: &Directories) -> World {
        let (clock, doubles) = (TurnedClock::new(), Doubles::new());
        let (connector, turned) = (Arc::new(Arc::clone(&doubles)), Arc::clone(&clock) as Arc<dyn Clock>);
        let engine = Engine::with(directories.clone(), Duration::from_secs(60), connector, turned).unwrap();
        World { engine, clock, doubles }
    }

    fn ask(&self, machines: &[BuildMachine], derivation: &StorePath, builds_here: bool) -> Result<Reply> {
        let (request, options) = (request(derivation), BuildOptions::default());
        self.engine.ask(
            &Inquiry { machines, request: &request, options: &options, could_build_here: &|| builds_here },
            &Cancel::default(),
            &mut Notes::default(),
        )
    }

    /// Returns how many slots of `machine` are taken.
    fn count_taken(&self, machine: &BuildMachine) -> u32 {
        LockDirectory::count_taken(&self.engine.directories().offload_state(), machine).unwrap()
    }
}

fn request(derivation: &StorePath) -> Request {
    let requirements = Requirements { system: "x86_64-linux".into(), features: Vec::new() };
    Request { requirements, derivation: derivation.clone(), is_patient: true }
}

/// A host with a derivation to build and an output to retrieve, which every machine has already built.
struct Host {
    scene: Scene,
    world: World,
    machines: Vec<BuildMachine>,
    derivation: StorePath,
    output: StorePath,
}

impl Host {
    fn new(machines: &[&str]) -> Host {
        let scene = Scene::new();
        let world = World::new(&scene.directories);
        let derivation = scene.register("asked.drv", b"derive", &words::nar(words::file(b"derive")));
        let item = scene.output(words::nar(words::file(b"good\n")));
        let output = scene.path("output");
        world.doubles.set_archive(&output, item.signed(&scene.trusted));
        let machines = machines.iter().map(|name| machine(name)).collect();
        Host { scene, world, machines, derivation, output }
    }

    fn accept(&self) -> Accepted {
        self.world.engine.accept(&self.machines, &request(&self.derivation)).unwrap().expect("a machine that could")
    }

    fn run(&self, accepted: Accepted, cancel: &Cancel, notes: &mut Notes) -> Result<()> {
        let outputs = vec![self.output.clone()];
        let work = Work { inputs: Vec::new(), outputs, options: BuildOptions::default() };
        self.world.engine.run(accepted, work, cancel, notes)
    }

    /// Does the build on whichever machine.
    fn build(&self, notes: &mut Notes) -> Result<()> {
        self.run(self.accept(), &Cancel::default(), notes)
    }

    /// Returns whether the output is valid, and removes it again.
    fn take_output(&self) -> bool {
        let valid = self.scene.database().is_valid(&self.output).unwrap();
        if valid {
            self.scene.forget_output();
        }
        valid
    }
}

/// Called at each event, with the event as text.
type AtEvent = Box<dyn FnMut(&str)>;

/// Records what happens.
#[derive(Default)]
struct Notes {
    retried: Vec<(String, Error)>,
    passed_over: Vec<(String, Error)>,
    sending: Vec<(usize, u64)>,
    queued: usize,
    at_event: Option<AtEvent>,
}

impl Observer for Notes {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Retrying { machine, reason } => self.retried.push((machine.into(), reason.clone())),
            Event::PassedOver { machine, reason } => self.passed_over.push((machine.into(), reason.clone())),
            Event::Sending { items, bytes, .. } => self.sending.push((items, bytes)),
            Event::Queued { .. } => self.queued += 1,
            _ => {}
        }
        if let Some(at_event) = &mut self.at_event {
            at_event(&format!("{event:?}"));
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

fn failure(kind: ErrorKind) -> Error {
    Error::new(kind, format!("it fails: {kind:?}"))
}

#[test]
fn a_build_goes_through_its_steps() {
    let host = Host::new(&["m"]);
    host.build(&mut Notes::default()).unwrap();
    assert!(host.take_output());
    use Step::*;
    let steps: Vec<_> = host.world.doubles.take_steps(|_| true).into_iter().map(|(_, step)| step).collect();
    // The derivation's name does not follow from its contents here, so it is imported.
    let expected =
        [Start, Connect, AddTempRoots, AddTempRoots, Missing, PrepareToReceive, Import, Trust, Build, Info, Export];
    assert_eq!(steps, expected);
    assert_eq!((host.world.count_taken(&host.machines[0]), host.world.doubles.count_open()), (0, 1));
    // The next build, on the same connection, over which nothing need be asked.
    host.build(&mut Notes::default()).unwrap();
    let trips = host.world.doubles.take_steps(Step::is_round_trip);
    let trips: Vec<_> = trips.into_iter().map(|(_, step)| step).collect();
    assert_eq!(trips, [Probe, Trust, Build, Info, Export]);
}
