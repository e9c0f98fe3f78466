// SPDX-License-Identifier: GPL-3.0-or-later
//! What is foreseen is what a choice then comes to.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::choose::standing::{Outcome, Standing};
use crate::machine::suitability::Pressure;

/// Returns how the only machine stands, and what is foreseen.
fn foreseen(scene: &mut Scene) -> (Standing, Outcome) {
    let (mut standings, outcome) = scene.candidates.standings();
    (standings.remove(0), outcome)
}

fn unsuitable(standing: &Standing) -> Option<String> {
    standing.unsuitable.as_ref().map(ToString::to_string)
}

#[test]
fn a_machine_that_was_short_of_memory_has_no_room() {
    let mut scene = scene_of(&[machine("m")]);
    let pressure = Pressure { cpu: Some(0.1), memory: Some(0.63), io: None };
    scene.doubles.set_probe("m", Probe { memory: 1 << 20, total_memory: 1 << 30, pressure, ..IDLE });
    assert!(matches!(choose(&mut scene).0, Ok(Choice::NoRoom)));
    scene.clock.turn(Duration::from_secs(6)); // its back-off is over
    let (standing, outcome) = foreseen(&mut scene);
    assert!(standing.left_alone.is_none() && matches!(outcome, Outcome::NoRoom), "{outcome:?}");
    let said = "it is short of memory (processes wait for memory 63% of the time, 1.0 MiB available)";
    assert_eq!(unsuitable(&standing).as_deref(), Some(said));
    assert!(matches!(choose(&mut scene).0, Ok(Choice::NoRoom)));
}

#[test]
fn a_machine_that_is_left_alone_for_lack_of_space_says_what_to_do() {
    let mut scene = scene_of(&[machine("m")]);
    scene.doubles.set_probe("m", Probe { free_space: 1 << 20, ..IDLE });
    assert!(matches!(choose(&mut scene).0, Ok(Choice::NoRoom)));
    let left_alone = foreseen(&mut scene).0.left_alone.expect("it is left alone");
    assert_eq!(left_alone.reason, "it is low on disk space (1.0 MiB free)");
    let hint = left_alone.hint.expect("a hint");
    assert!(hint.starts_with("free some space there: ssh ") && hint.ends_with("@m guix gc -F 1G"), "{hint}");
}

#[test]
fn the_load_that_is_told_is_the_one_that_the_order_depends_on() {
    let mut scene = scene_of(&[machine("m")]);
    scene.resources.histories.note_answer(scene.machine(0), 0.5, Some(0.25), None);
    let (standing, outcome) = foreseen(&mut scene);
    assert_eq!((standing.load, unsuitable(&standing)), (Some(0.25), None));
    assert!(matches!(outcome, Outcome::Machine(0)), "{outcome:?}");
    // Whether it is overloaded depends on the load average.
    scene.resources.histories.note_answer(scene.machine(0), 0.9, Some(0.25), None);
    let (standing, outcome) = foreseen(&mut scene);
    let said = "it is overloaded (normalized load 0.90, threshold 0.80)";
    assert_eq!((standing.load, unsuitable(&standing).as_deref()), (Some(0.25), Some(said)));
    assert!(matches!(outcome, Outcome::NoRoom), "{outcome:?}");
}

#[test]
fn a_machine_that_is_being_started_is_left_alone_and_one_that_can_be_started_is_told() {
    let mut scene = scene_of(&[machine("m")]);
    scene.fails(0);
    let (standing, _) = foreseen(&mut scene);
    assert!(!standing.left_alone.unwrap().can_be_started, "there is no program");

    let programs = scene.resources.directories.configuration.join("offload");
    let (file, go_on) = (programs.join("m.start"), programs.join("go-on"));
    std::fs::create_dir_all(&programs).unwrap();
    let script = format!("#!/bin/sh\nuntil [ -e {} ]; do sleep 0.05; done\nexit 1\n", go_on.display());
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    let (standing, outcome) = foreseen(&mut scene);
    assert!(standing.left_alone.unwrap().can_be_started && matches!(outcome, Outcome::Away), "{outcome:?}");
    assert!(scene.resources.on_demand.is_under_way(scene.machine(0)).is_none(), "nothing is run");

    scene.clock.turn(Duration::from_secs(60));
    scene.resources.on_demand.start(scene.machine(0)).unwrap().unwrap();
    let (standing, outcome) = foreseen(&mut scene);
    let left_alone = standing.left_alone.expect("it is left alone");
    assert_eq!(left_alone.reason, "it is being started or stopped");
    assert!(left_alone.time.is_none() && !left_alone.is_drained && !left_alone.can_be_started, "{left_alone:?}");
    assert!(matches!(outcome, Outcome::Away), "{outcome:?}");
    std::fs::write(&go_on, "").unwrap();
    while scene.resources.on_demand.is_under_way(scene.machine(0)).is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
