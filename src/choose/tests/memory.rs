// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine gets no more builds than its memory is enough for, by what builds took there lately.

use super::*;
use crate::choose::standing::Outcome;

const GIB: u64 = 1 << 30;

/// A machine of four slots, and nothing known of its memory.
fn scene_of_one() -> Scene {
    scene_of(&[BuildMachine { parallel_builds: 4, ..machine("m") }])
}

/// Chooses while the machine says that so many GiB are available.
fn choose_with(scene: &mut Scene, available: u64) -> (Result<Choice>, Vec<String>) {
    scene.doubles.set_probe("m", Probe { memory: available * GIB, total_memory: 17 * GIB, ..IDLE });
    choose(scene)
}

fn lease_with(scene: &mut Scene, available: u64) -> Box<Lease> {
    match choose_with(scene, available) {
        (Ok(Choice::Machine(lease)), _) => lease,
        (_, notes) => panic!("{notes:?}"),
    }
}

#[test]
fn builds_that_take_much_memory_are_not_begun_where_it_is_taken() {
    let mut scene = scene_of_one();
    let builds = [16, 11, 6].map(|available| lease_with(&mut scene, available));
    assert!(!has_room(&scene), "a slot is free, but not the memory");
    let (choice, notes) = choose_with(&mut scene, 1);
    assert!(matches!(choice, Ok(Choice::NoRoom)));
    assert_eq!(notes, ["m: its memory is too little for another build (1.0 GiB left, one took 5.0 GiB lately)"]);
    scene.clock.turn(Duration::from_secs(6)); // its back-off is over
    let (standings, outcome) = scene.candidates.standings();
    assert!(matches!(outcome, Outcome::NoRoom), "{outcome:?}");
    let unsuitable = standings[0].unsuitable.as_ref().expect("a reason").to_string();
    assert!(unsuitable.starts_with("its memory is too little for another build"), "{unsuitable}");
    drop(builds);
    lease_with(&mut scene, 1); // something else takes it, and this host has no other build there
}

#[test]
fn builds_that_have_begun_a_moment_ago_count_with_what_they_will_take() {
    let mut scene = scene_of_one();
    drop([16, 10].map(|available| lease_with(&mut scene, available)));
    let _builds = [16, 16].map(|available| lease_with(&mut scene, available));
    let (choice, notes) = choose_with(&mut scene, 16);
    assert!(matches!(choice, Ok(Choice::NoRoom)), "{notes:?}");
}

#[test]
fn builds_that_take_little_fill_all_slots() {
    let mut scene = scene_of_one();
    let builds = [16, 15, 15, 14].map(|available| lease_with(&mut scene, available));
    assert!(matches!(choose_with(&mut scene, 14).0, Ok(Choice::Busy(_))));
    drop(builds);
}
