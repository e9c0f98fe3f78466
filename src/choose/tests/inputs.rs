// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine that has the inputs of a build is chosen, and waited for, as far as that saves time.

use super::*;
use crate::choose::holdings::Input;
use crate::ground::store_path::{StoreDir, StorePath};

const MIB: u64 = 1 << 20;

fn item(number: usize) -> StorePath {
    StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{number:032}-x")).unwrap()
}

/// Makes a scene of two machines of one slot, whose links move 10 MiB a second, and whose builds take a second. The
/// build reads `bytes`, which `m` has.
fn scene_of_bytes(bytes: u64, patience: u64) -> Scene {
    let mut scene = scene_of(&[machine("m"), machine("n")]);
    for index in [0, 1] {
        scene.resources.histories.note_rate(scene.machine(index), 10.0 * MIB as f64);
        scene.resources.histories.note_build(scene.machine(index), Duration::from_secs(1));
    }
    scene.resources.holdings.add(scene.machine(0), &[item(1)]);
    let inputs = vec![Input::new(&item(1), bytes), Input::new(&item(2), 1)];
    scene.candidates.set_inputs(inputs, Duration::from_secs(patience));
    scene
}

/// Returns which machine is chosen for a build with this place; `None`: it waits.
fn choice(scene: &mut Scene, place: Option<&Place>) -> Option<usize> {
    choice_or_awaited(scene, place).ok()
}

/// Returns which machine is chosen for a build with this place, or which one it waits for, if for one alone.
fn choice_or_awaited(scene: &mut Scene, place: Option<&Place>) -> Result<usize, Option<Awaited>> {
    let mut notes = notes(scene);
    match scene.candidates.choose(|_| true, place, &Cancel::default(), &mut notes).unwrap() {
        Choice::Machine(lease) => Ok(lease.candidate),
        Choice::Busy(awaited) => Err(awaited),
        _ => panic!("{:?}", notes.0),
    }
}

#[test]
fn the_machine_that_has_the_inputs_is_chosen() {
    for _ in 0..10 {
        assert_eq!(choice(&mut scene_of_bytes(64 * MIB, 0), None), Some(0));
    }
    let chosen: std::collections::HashSet<_> = (0..40).map(|_| choice(&mut scene_of_bytes(100, 0), None)).collect();
    assert_eq!(chosen.len(), 2, "a hundred bytes are no reason");
    // Load counts, too: six times the second that a build takes is more than sending.
    let mut scene = scene_of_bytes(20 * MIB, 0);
    scene.answers(0, 5.0);
    assert_eq!(choice(&mut scene, None), Some(1));
    scene.resources.holdings.forget(scene.machine(0));
    scene.answers(0, 0.0);
    scene.resources.histories.note_rate(scene.machine(1), 100.0 * MIB as f64);
    assert_eq!(choice(&mut scene, None), Some(1), "nobody has them, and the link of one is faster");
}

#[test]
fn a_build_waits_for_the_machine_that_has_the_inputs_if_that_saves_time() {
    // Sending takes longer than a build, as long as a build, shorter, or the build has no patience.
    for (mib, patience, waits) in [(64, 60, true), (20, 60, true), (10, 60, false), (5, 60, false), (64, 0, false)] {
        let mut scene = scene_of_bytes(mib * MIB, patience);
        let _busy = scene.take(0);
        let awaited = choice_or_awaited(&mut scene, None).err().flatten();
        assert_eq!(awaited.map(|awaited| awaited.candidate), waits.then_some(0), "{mib} MiB, {patience} s");
    }
    // Two builds ahead of it take the slot in the two seconds that it would wait.
    let mut scene = scene_of_bytes(25 * MIB, 60);
    let _busy = scene.take(0);
    let ahead = [0, 1].map(|_| scene.resources.queue.join(&[machine("m")]).unwrap());
    assert_eq!(choice(&mut scene, None), Some(1));
    drop(ahead);
    assert_eq!(choice(&mut scene, None), None);
}

#[test]
fn a_build_waits_for_the_inputs_no_longer_than_sending_them_takes_and_only_once() {
    let mut scene = scene_of_bytes(32 * MIB, 60);
    let busy = scene.take(0);
    let Awaited { candidate, until } = choice_or_awaited(&mut scene, None).unwrap_err().unwrap();
    let left = until - scene.clock.now();
    assert!(candidate == 0 && (3000..=3200).contains(&left.as_millis()), "{left:?}");
    let place = scene.candidates.join_queue(|index| index == candidate).unwrap();
    assert_eq!(choice(&mut scene, Some(&place)), None);
    // Its turn ends with its patience, though the slot is still taken.
    let (cancel, begun) = (Cancel::default(), scene.clock.now());
    scene.candidates.turn(|index| index == 0).within(left).wait(Some(&place), begun, &cancel).unwrap();
    assert!((3000..3600).contains(&(scene.clock.now() - begun).as_millis()));
    assert_eq!(choice(&mut scene, Some(&place)), Some(1));
    // It does not begin to wait again, and waits for any machine if all are busy.
    let other = scene.take(1);
    assert!(matches!(choice_or_awaited(&mut scene, Some(&place)), Err(None)));
    drop(other);
    assert_eq!(choice(&mut scene, Some(&place)), Some(1));
    drop(busy);
}

#[test]
fn a_build_does_not_wait_for_a_machine_that_is_lost() {
    let mut scene = scene_of_bytes(64 * MIB, 60);
    let _busy = scene.take(0);
    assert_eq!(choice(&mut scene, None), None);
    scene.fails(0);
    let other = scene.take(1);
    assert!(matches!(choice_or_awaited(&mut scene, None), Err(None)), "it waits for the other one");
    drop(other);
    assert_eq!(choice(&mut scene, None), Some(1));
}

#[test]
fn who_waits_for_the_inputs_holds_up_nobody_elsewhere() {
    let mut scene = scene_of_bytes(64 * MIB, 60);
    let busy = scene.take(0);
    assert_eq!(choice(&mut scene, None), None);
    let _place = scene.candidates.join_queue(|index| index == 0).unwrap();
    let mut another = Candidates::new(&scene.resources, vec![machine("m"), machine("n")]).unwrap();
    let mut choose = || another.choose(|_| true, None, &Cancel::default(), &mut notes(&scene)).unwrap();
    assert!(matches!(choose(), Choice::Machine(lease) if lease.candidate == 1));
    drop(busy);
    assert_eq!(choice(&mut scene, Some(&_place)), Some(0));
}
