// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine gets no more builds than its memory is enough for, by what builds took there lately.

use std::fs::File;
use std::time::SystemTime;

use super::*;
use crate::choose::standing::Outcome;

const GIB: u64 = 1 << 30;

/// A machine of four slots, and nothing known of its memory.
fn scene_of_one() -> Scene {
    scene_of(&[BuildMachine { parallel_builds: 4, ..machine("m") }])
}

/// Chooses while the machine says that so many GiB are available.
fn choose_with(scene: &mut Scene, available: u64) -> Result<Choice> {
    scene.doubles.set_probe("m", Probe { memory: available * GIB, total_memory: 17 * GIB, ..IDLE });
    choose(scene).0
}

/// Leases the machine, as if an hour ago.
fn lease_with(scene: &mut Scene, available: u64) -> Box<Lease> {
    let Ok(Choice::Machine(lease)) = choose_with(scene, available) else { panic!("{available} GiB are enough") };
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::open(lease.slot.name()).unwrap().set_modified(hour_ago).unwrap();
    lease
}

#[test]
fn builds_that_take_much_memory_wait_for_each_other() {
    let mut scene = scene_of_one();
    let mut builds: Vec<_> = [16, 11, 6].map(|available| lease_with(&mut scene, available)).into();
    assert!(matches!(choose_with(&mut scene, 1), Ok(Choice::Busy(None))));
    assert!(!has_room(&scene), "a slot is free, but not the memory");
    assert_eq!(scene.candidates.turn(|_| true).count_free(), 0);
    let (standings, outcome) = scene.candidates.standings();
    assert!(matches!(outcome, Outcome::Busy(None)), "{outcome:?}");
    let unsuitable = standings[0].unsuitable.as_ref().expect("a reason").to_string();
    assert_eq!(unsuitable, "its memory is too little for another build (1.0 GiB left, one took 5.0 GiB lately)");

    builds.pop(); // and the next one finds its memory
    builds.push(lease_with(&mut scene, 6));
    drop(builds);
    lease_with(&mut scene, 1); // something else takes it, and this host has no other build there
}

#[test]
fn builds_that_have_begun_a_moment_ago_count_with_what_they_will_take() {
    let mut scene = scene_of_one();
    drop([16, 10].map(|available| lease_with(&mut scene, available)));
    let mut builds = Vec::new();
    for _ in 0..2 {
        let Ok(Choice::Machine(build)) = choose_with(&mut scene, 16) else { panic!("there is enough") };
        builds.push(build);
    }
    assert!(matches!(choose_with(&mut scene, 16), Ok(Choice::Busy(None))));
}

#[test]
fn who_waits_for_memory_is_not_overtaken() {
    let mut scene = scene_of_one();
    let _old = lease_with(&mut scene, 16);
    let Ok(Choice::Machine(_young)) = choose_with(&mut scene, 11) else { panic!("there is enough") };
    let place = scene.candidates.join_queue(|_| true).unwrap();
    assert!(matches!(choose_with(&mut scene, 11), Ok(Choice::Busy(None))), "there is memory for one more");
    drop(place);
    lease_with(&mut scene, 11);
}

#[test]
fn builds_that_take_little_fill_all_slots() {
    let mut scene = scene_of_one();
    let builds = [16, 15, 15, 14].map(|available| lease_with(&mut scene, available));
    assert!(matches!(choose_with(&mut scene, 14), Ok(Choice::Busy(_))));
    drop(builds);
    assert!(has_room(&scene));
}

#[test]
fn of_builds_that_ask_at_once_the_one_with_the_oldest_slot_is_alone() {
    let mut scene = scene_of_one();
    drop([16, 9].map(|available| lease_with(&mut scene, available)));
    let younger = scene.take(0);
    File::open(younger.name()).unwrap().set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
    lease_with(&mut scene, 1);
}
