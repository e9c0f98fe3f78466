// SPDX-License-Identifier: GPL-3.0-or-later
mod inputs;
mod memory;
mod pressure;
mod standing;

use std::time::Duration;

use super::history::SetbackKind;
use super::queue::Place;
use super::slot::LockDirectory;
use super::*;
use crate::choose::slot::Lock;
use crate::ground::clock::tests::TurnedClock;
use crate::ground::directories::tests::below;
use crate::ground::error::{ErrorKind, Result};
use crate::machine::BuildMachine;
use crate::machine::suitability::Probe;
use crate::machine::tests::machine;
use crate::remote::double::{Doubles, IDLE, Step};
use crate::report::{Event, Observer};

/// Machines of which nothing is known yet, `m` of two slots and `n` of one, and the state of their host.
struct Scene {
    candidates: Candidates,
    resources: Arc<Resources>,
    clock: Arc<TurnedClock>,
    doubles: Arc<Doubles>,
    _root: tempfile::TempDir,
}

fn scene() -> Scene {
    let two_and_one = [("m", 2), ("n", 1)].map(|(name, parallel_builds)| BuildMachine {
        parallel_builds,
        overload_threshold: Some(0.8),
        ..machine(name)
    });
    scene_of(&two_and_one)
}

fn scene_of(machines: &[BuildMachine]) -> Scene {
    let root = tempfile::tempdir().unwrap();
    let directories = below(root.path());
    let (clock, doubles) = (TurnedClock::new(), Doubles::new());
    let turned = Arc::clone(&clock) as Arc<dyn Clock>;
    let minute = Duration::from_secs(60);
    let resources = Arc::new(Resources {
        histories: Histories::new(&directories, &turned),
        holdings: Holdings::default(),
        on_demand: OnDemand::new(&directories, &Histories::new(&directories, &turned)),
        slots: Slots::default(),
        queue: Queue::new(&directories.offload_state()),
        pool: Pool::with_rest(minute, minute, |_| true, Arc::clone(&turned)),
        connector: Arc::new(Arc::clone(&doubles)),
        clock: turned,
        directories,
    });
    let candidates = Candidates::new(&resources, machines.to_vec()).unwrap();
    Scene { candidates, resources, clock, doubles, _root: root }
}

impl Scene {
    fn machine(&self, index: usize) -> &BuildMachine {
        &self.candidates.machines[index]
    }

    fn answers(&self, index: usize, load: f64) {
        self.resources.histories.note_answer(self.machine(index), load, None, None);
    }

    fn fails(&self, index: usize) {
        let reason = Error::new(ErrorKind::Unavailable, "it is away");
        self.resources.histories.note_setback(self.machine(index), SetbackKind::Away, &reason);
    }

    fn take(&self, index: usize) -> Lock {
        let state = self.resources.directories.offload_state();
        let slots = self.resources.slots.of(&state, self.machine(index)).unwrap();
        slots.lock().try_take().unwrap().unwrap()
    }
}

fn has_room(scene: &Scene) -> bool {
    scene.candidates.known_room() != KnownRoom::Unknown
}

#[test]
fn there_is_room_on_a_machine_that_answered_a_moment_ago_and_has_a_slot() {
    let scene = scene();
    assert!(!has_room(&scene), "nothing is known of any");
    scene.answers(0, 0.5);
    assert!(has_room(&scene));
    let first = scene.take(0);
    assert!(has_room(&scene));
    let second = scene.take(0);
    assert!(!has_room(&scene), "the other machine has a slot, but has not answered");
    drop((first, second));
    assert!(has_room(&scene));
}

#[test]
fn there_is_no_room_on_a_machine_that_is_overloaded_or_was_lost() {
    let scene = scene();
    scene.answers(0, 0.9);
    assert!(!has_room(&scene));
    scene.answers(0, 0.1);
    assert!(has_room(&scene));
    scene.fails(0);
    assert!(!has_room(&scene));
}

#[test]
fn those_that_wait_have_the_slots_that_are_free() {
    let scene = scene();
    scene.answers(0, 0.1);
    let places: Vec<Place> = (0..2)
        .map(|_| {
            assert!(has_room(&scene));
            scene.candidates.join_queue(|_| true).unwrap()
        })
        .collect();
    assert!(!has_room(&scene));
    drop(places);
    assert!(has_room(&scene));
}

#[test]
fn a_build_waits_for_the_slots_of_machines_that_are_of_use_to_it() {
    let scene = scene();
    let turn = |failed: Option<usize>| scene.candidates.turn(move |index| failed != Some(index));
    assert_eq!((turn(None).slot_count(), turn(None).count_free()), (3, 3));
    assert_eq!(turn(Some(1)).count_free(), 2, "the one that failed this build does not count");
    let _slot = scene.take(0);
    assert_eq!(turn(None).count_free(), 2);
    scene.fails(1);
    assert_eq!((turn(None).slot_count(), turn(None).count_free()), (2, 1), "nor does one that is left alone");
    let elsewhere = scene.resources.queue.join(&[machine("x")]).unwrap();
    let place = scene.candidates.join_queue(|_| true).unwrap();
    assert_eq!((turn(None).count_ahead(None), turn(None).count_ahead(Some(&place))), (1, 0));
    drop(elsewhere);
}

/// Returns how long a build that has waited for `seconds` before waits for its turn in the `scene`.
fn wait_of(scene: &Scene, place: &Place, seconds: u64, cancel: &Cancel) -> Result<Duration> {
    let begun = scene.clock.now();
    let since = begun - Duration::from_secs(seconds);
    scene.candidates.turn(|_| true).wait(Some(place), since, cancel)?;
    Ok(scene.clock.now() - begun)
}

#[test]
fn a_turn_comes_with_a_free_slot_for_all_that_came_before() {
    let scene = scene();
    let taken = [scene.take(0), scene.take(0), scene.take(1)];
    let first = scene.candidates.join_queue(|_| true).unwrap();
    let second = scene.candidates.join_queue(|_| true).unwrap();
    let mut taken = Vec::from(taken);
    scene.clock.during_sleep(move |all| taken.truncate(if all > Duration::from_secs(2) { 2 } else { 3 }));
    let cancel = Cancel::default();
    assert!((2..=3).contains(&wait_of(&scene, &first, 60, &cancel).unwrap().as_secs()));
    // The second build leaves the slot to the first for a second, and then tries the machines itself.
    let waited = wait_of(&scene, &second, 60, &cancel).unwrap();
    assert!((1000..2000).contains(&waited.as_millis()), "{waited:?}");
    drop(first);
    assert!(wait_of(&scene, &second, 60, &cancel).unwrap() < Duration::from_secs(1));
}

#[test]
fn a_turn_does_not_come_while_no_slot_is_free_but_the_machines_are_looked_at_again() {
    let scene = scene();
    let _taken = [scene.take(0), scene.take(0), scene.take(1)];
    let place = scene.candidates.join_queue(|_| true).unwrap();
    let waited = wait_of(&scene, &place, 0, &Cancel::default()).unwrap();
    assert!((5000..5500).contains(&waited.as_millis()), "{waited:?}");
    let cancel = Cancel::default();
    let cancelled = cancel.clone();
    scene.clock.during_sleep(move |_| cancelled.cancel());
    assert_eq!(wait_of(&scene, &place, 0, &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn who_has_just_come_looks_often_and_who_is_far_back_seldom() {
    let scene = scene();
    let _taken = [scene.take(0), scene.take(0), scene.take(1)];
    let places: Vec<_> = (0..40).map(|_| scene.candidates.join_queue(|_| true).unwrap()).collect();
    let pauses = |place: &Place, waited| {
        scene.clock.take_sleeps();
        wait_of(&scene, place, waited, &Cancel::default()).unwrap();
        let sleeps = scene.clock.take_sleeps();
        (sleeps[0].as_millis(), sleeps.iter().max().unwrap().as_millis())
    };
    let (first, longest) = pauses(&places[0], 0);
    assert!(first == 10 && (200..=250).contains(&longest), "{first} {longest}");
    assert_eq!(pauses(&places[0], 2).0, 100, "a twentieth of what it has waited");
    assert_eq!(pauses(&places[3], 1).0, 200, "four times that, for three before it");
    assert_eq!(pauses(&places[3], 3600), (250, 250));
    assert_eq!(pauses(&places[39], 3600), (1250, 1250), "a quarter of a second more for each eight before it");
}

/// Notes what happens, in words, and lets a moment pass after each slot that is taken.
struct Notes(Vec<String>, Arc<TurnedClock>);

impl Observer for Notes {
    fn event(&mut self, event: &Event<'_>) {
        if matches!(event, Event::SlotTaken { .. }) {
            self.1.turn(Duration::from_millis(1));
        }
        self.0.extend(match event {
            Event::PassedOver { machine, reason } => Some(format!("{machine}: {reason}")),
            Event::Chosen { machine } => Some(format!("{machine}: chosen")),
            _ => None,
        });
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

fn notes(scene: &Scene) -> Notes {
    Notes(Vec::new(), Arc::clone(&scene.clock))
}

/// Chooses in the `scene`, for a build without a place in the queue.
fn choose(scene: &mut Scene) -> (Result<Choice>, Vec<String>) {
    let mut notes = notes(scene);
    (scene.candidates.choose(|_| true, None, &Cancel::default(), &mut notes), notes.0)
}

fn chosen(scene: &mut Scene) -> Box<Lease> {
    match choose(scene).0 {
        Ok(Choice::Machine(lease)) => lease,
        _ => panic!("no machine is chosen"),
    }
}

fn unavailable(text: &str) -> Error {
    Error::new(ErrorKind::Unavailable, text)
}

/// Makes a scene of three machines, of speeds 3, 2 and 1.
fn three() -> Scene {
    let machines = [("a", 3.0), ("b", 2.0), ("c", 1.0)].map(|(name, speed)| BuildMachine { speed, ..machine(name) });
    scene_of(&machines)
}

#[test]
fn machines_are_tried_in_order_until_one_is_ready() {
    let mut scene = three();
    scene.doubles.act(|name, step, _| match (name, step) {
        ("a", Step::Start) => Err(unavailable("no address")),
        ("b", Step::Connect) => Err(unavailable("no answer")),
        _ => Ok(()),
    });
    let (choice, notes) = choose(&mut scene);
    let Ok(Choice::Machine(lease)) = choice else { panic!("{notes:?}") };
    assert_eq!(notes, ["a: no address", "b: no answer", "c: chosen"]);
    assert_eq!((lease.candidate, lease.reused), (2, false));
    assert_eq!(scene.doubles.take_machines(Step::Start), ["a", "b", "c"]);
    assert!(lease.slot.name().ends_with("c:22/0"));
    drop(lease);
    // The machines that failed are in back-off.
    let (_, notes) = choose(&mut scene);
    assert_eq!(scene.doubles.take_machines(Step::Start), ["c"]);
    assert_eq!(notes, ["c: chosen"]);
    scene.clock.turn(Duration::from_secs(6));
    scene.doubles.act(|_, _, _| Ok(()));
    assert_eq!(chosen(&mut scene).candidate, 0);
}

#[test]
fn a_drained_machine_gets_no_builds_until_it_is_resumed() {
    let mut scene = scene_of(&[BuildMachine { speed: 3.0, ..machine("a") }, machine("b")]);
    let (state, now) = (state(&scene), scene.clock.since_epoch());
    // There is an idle connection to it, and it has answered a moment ago.
    let lease = chosen(&mut scene);
    let (a, b) = (scene.machine(0).clone(), scene.machine(1).clone());
    keep(&scene, *lease);
    assert!(has_room(&scene) && scene.candidates.turn(|_| true).count_free() == 2);
    drained::drain(&state, &a, now).unwrap();
    assert!(!has_room(&scene) && scene.candidates.turn(|_| true).count_free() == 1);
    let (choice, notes) = choose(&mut scene);
    assert!(matches!(choice, Ok(Choice::Machine(lease)) if lease.candidate == 1), "{notes:?}");
    scene.resources.histories.note_answer(&a, 0.0, None, None);
    scene.resources.histories.note_build(&a, Duration::ZERO);
    scene.clock.turn(Duration::from_secs(7200));
    drained::drain(&state, &b, now).unwrap();
    let (choice, notes) = choose(&mut scene);
    assert!(matches!(choice, Ok(Choice::Away)), "somebody may resume them");
    assert_eq!(notes.len(), 2);
    assert!(notes.contains(&"a: it was drained 2 h ago".into()), "{notes:?}");
    assert!(drained::resume(&state, &a).unwrap());
    assert_eq!(chosen(&mut scene).candidate, 0);
}

#[test]
fn a_load_that_was_seen_lately_decides_who_is_first() {
    let mut scene = three();
    scene.doubles.set_probe("a", Probe { load: 0.7, ..IDLE });
    drop(chosen(&mut scene));
    assert_eq!(scene.doubles.take_machines(Step::Start), ["a"]);
    drop(chosen(&mut scene));
    assert_eq!(scene.doubles.take_machines(Step::Start), ["b"], "2 / 1 is more than 3 / 1.7");
    scene.clock.turn(Duration::from_secs(61));
    drop(chosen(&mut scene));
    assert_eq!(scene.doubles.take_machines(Step::Start), ["a"]);
}

#[test]
fn a_machine_that_does_not_answer_holds_nobody_up_and_is_remembered_for_it() {
    let mut scene = three();
    scene.doubles.act(|name, step, cut| match (name, step) {
        ("a", Step::Connect) => cut.wait(),
        _ => Ok(()),
    });
    for turn in 0..2 {
        let lease = chosen(&mut scene);
        assert_eq!((lease.candidate, scene.doubles.left().len()), (1, turn + 1));
        assert_eq!(LockDirectory::count_taken(&state(&scene), scene.machine(0)).unwrap(), 0, "its slot is free");
    }
    assert_eq!(scene.doubles.take_machines(Step::Start), ["a", "b", "a", "b"]);
    chosen(&mut scene);
    assert_eq!(scene.doubles.take_machines(Step::Start), ["b"], "twice in a row is enough");
    let (standings, _) = scene.candidates.standings();
    let left_alone = standings.iter().find_map(|standing| standing.left_alone.as_ref()).expect("one is left alone");
    assert!(left_alone.reason.starts_with("it has not answered for "), "{}", left_alone.reason);
    let hint = "if it goes on, see what is wrong with it: guix-offload test";
    assert_eq!(left_alone.hint.as_deref(), Some(hint));
}

fn state(scene: &Scene) -> std::path::PathBuf {
    scene.resources.directories.offload_state()
}

#[test]
fn what_was_begun_is_given_up_when_this_process_fails() {
    let mut scene = three();
    scene.doubles.act(|name, step, cut| match (name, step) {
        ("a", Step::Connect) => cut.wait(),
        ("b", Step::Connect) => Err(Error::new(ErrorKind::Exhausted, "no descriptor is left")),
        _ => Ok(()),
    });
    let Err(error) = choose(&mut scene).0 else { panic!("it goes on") };
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert_eq!(scene.doubles.left(), ["a"]);
    assert!(scene.resources.histories.of(scene.machine(1)).setback().is_none(), "it is no fault of the machine's");
}

#[test]
fn a_choice_that_is_cancelled_leaves_nothing() {
    let mut scene = three();
    let cancel = Cancel::default();
    let cancelled = cancel.clone();
    scene.doubles.act(move |name, step, cut| match (name, step) {
        ("c", Step::Connect) => {
            cancelled.cancel();
            Ok(())
        }
        (_, Step::Connect) => cut.wait(),
        _ => Ok(()),
    });
    let mut notes = notes(&scene);
    let chosen = scene.candidates.choose(|_| true, None, &cancel, &mut notes);
    assert_eq!(chosen.err().unwrap().kind(), ErrorKind::Cancelled);
    for index in 0..3 {
        assert_eq!(LockDirectory::count_taken(&state(&scene), scene.machine(index)).unwrap(), 0);
        assert!(scene.resources.histories.of(scene.machine(index)).setback().is_none(), "machine {index} is blamed");
    }
}

#[test]
fn a_machine_that_is_this_host_is_not_offloaded_to() {
    let mut scene = scene_of(&[machine("localhost")]);
    let Ok(Choice::Misconfigured(error)) = choose(&mut scene).0 else { panic!("it is used") };
    assert_eq!(error.kind(), ErrorKind::Configuration);
    // That does not change from one minute to the next, so it is not tried again for an hour.
    assert_eq!(scene.doubles.take_machines(Step::Connect).len(), 1);
    scene.clock.turn(Duration::from_secs(3599));
    assert!(matches!(choose(&mut scene).0, Ok(Choice::Misconfigured(_))));
    assert_eq!(scene.doubles.take_machines(Step::Connect).len(), 0);
    scene.clock.turn(Duration::from_secs(1));
    assert!(matches!(choose(&mut scene).0, Ok(Choice::Misconfigured(_))));
    assert_eq!(scene.doubles.take_machines(Step::Connect).len(), 1);
}

#[test]
fn a_distrusted_machine_shows_first_that_this_has_changed() {
    let mut scene = scene_of(&[machine("m")]);
    std::fs::create_dir(&scene.resources.directories.configuration).unwrap();
    scene
        .resources
        .histories
        .note_distrust(scene.machine(0), &Error::new(ErrorKind::Untrusted, "signed by a stranger"));
    scene.clock.turn(Duration::from_secs(3600));
    std::fs::write(scene.resources.directories.acl_file(), "(acl)").unwrap();
    scene.doubles.act(|_, step, _| match step {
        Step::Trust => Err(Error::new(ErrorKind::Untrusted, "signed by a stranger")),
        _ => Ok(()),
    });
    assert!(matches!(choose(&mut scene).0, Ok(Choice::Misconfigured(_))));
    assert_eq!(scene.doubles.take_machines(Step::Trust).len(), 1);
    scene.clock.turn(Duration::from_secs(3600));
    scene.doubles.act(|_, _, _| Ok(()));
    let lease = chosen(&mut scene);
    assert_eq!(scene.doubles.take_machines(Step::Trust).len(), 1);
    scene.resources.histories.note_build(lease.remote.machine(), Duration::ZERO);
    drop(lease);
    drop(chosen(&mut scene));
    assert_eq!(scene.doubles.take_machines(Step::Trust).len(), 0, "a build has shown it");
}

#[test]
fn the_address_that_answered_is_tried_first() {
    let mut scene = scene_of(&[machine("m")]);
    scene.doubles.set_address("m", "10.0.0.2");
    drop(chosen(&mut scene));
    assert_eq!(scene.doubles.first_address(), None);
    drop(chosen(&mut scene));
    assert_eq!(scene.doubles.first_address(), Some("10.0.0.2".parse().unwrap()));
}

/// Keeps the connection of a `lease`.
fn keep(scene: &Scene, lease: Lease) {
    let Lease { remote, guard, .. } = lease;
    drop(guard);
    scene.resources.pool.put(remote);
}

#[test]
fn an_idle_connection_is_used_again_if_its_machine_is_still_there_and_has_room() {
    let mut scene = scene_of(&[BuildMachine { overload_threshold: Some(0.8), ..machine("m") }]);
    let lease = chosen(&mut scene);
    keep(&scene, *lease);
    let asked =
        |scene: &Scene| scene.doubles.take_steps(|_| true).into_iter().map(|(_, step)| step).collect::<Vec<_>>();
    asked(&scene);
    let lease = chosen(&mut scene);
    assert!(lease.reused);
    keep(&scene, *lease);
    assert_eq!(asked(&scene), [Step::Probe], "a moment ago it was alive");
    scene.clock.turn(Duration::from_secs(2));
    let lease = chosen(&mut scene);
    assert!(lease.reused);
    keep(&scene, *lease);
    assert_eq!(asked(&scene), [Step::Answer, Step::Probe]);

    // The connection has died: a new one shows whether the machine is away.
    scene.clock.turn(Duration::from_secs(2));
    scene.doubles.act(|_, step, _| if step == Step::Answer { Err(unavailable("lost")) } else { Ok(()) });
    let lease = chosen(&mut scene);
    assert!(!lease.reused && scene.doubles.count_open() == 1);
    keep(&scene, *lease);
    assert_eq!(asked(&scene), [Step::Answer, Step::Start, Step::Connect]);

    // The machine has no room: the connection is kept, and not used.
    scene.doubles.act(|_, _, _| Ok(()));
    scene.doubles.set_probe("m", Probe { load: 0.9, ..IDLE });
    assert!(matches!(choose(&mut scene).0, Ok(Choice::NoRoom)));
    assert_eq!(scene.doubles.count_open(), 1);
    asked(&scene);
    assert!(matches!(choose(&mut scene).0, Ok(Choice::NoRoom)));
    assert!(asked(&scene).is_empty(), "nor asked again at once");
    scene.doubles.set_probe("m", IDLE);
    scene.clock.turn(Duration::from_secs(6));
    assert!(chosen(&mut scene).reused);
}

#[test]
fn a_slow_link_is_remembered_for_the_next_connection() {
    let mut scene = scene_of(&[machine("m")]);
    drop(chosen(&mut scene));
    scene.resources.histories.note_slow_link(scene.machine(0), 1e6);
    assert_eq!(chosen(&mut scene).remote.slow_link(), Some(1e6));
    scene.clock.turn(Duration::from_secs(3601));
    assert_eq!(chosen(&mut scene).remote.slow_link(), None);
}

#[test]
fn who_waits_longer_has_the_slot_that_is_free_unless_it_does_not_take_it() {
    let mut scene = scene_of(&[machine("m")]);
    let first = scene.resources.queue.join(&[machine("m")]).unwrap();
    let place = scene.resources.queue.join(&[machine("m")]).unwrap();
    let mut notes = notes(&scene);
    let mut choose = |place: Option<&Place>| {
        let choice = scene.candidates.choose(|_| true, place, &Cancel::default(), &mut notes).unwrap();
        matches!(choice, Choice::Machine(_))
    };
    assert!(!choose(None) && !choose(Some(&place)));
    scene.clock.turn(Duration::from_secs(1));
    assert!(!choose(None) && !choose(Some(&place)));
    scene.clock.turn(Duration::from_secs(2));
    assert!(!choose(None), "who does not wait overtakes nobody");
    assert!(choose(Some(&place)), "the first may have been stopped");
    drop(place);
    assert!(choose(Some(&first)));
    drop(first);
    assert!(choose(None));
}

/// A build that connects is in the queue until it knows that it can have the machine.
#[test]
fn who_has_a_slot_and_connects_waits_for_no_other_slot() {
    let two = |name: &str| BuildMachine { parallel_builds: 2, ..machine(name) };
    let mut scene = scene_of(&[two("m"), two("n")]);
    let _taken = scene.take(0);
    let (connects, may) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    let waits = Arc::new((connects, may, std::sync::atomic::AtomicBool::new(true)));
    let theirs = Arc::clone(&waits);
    scene.doubles.act(move |_, step, _| {
        if step == Step::Connect && theirs.2.swap(false, std::sync::atomic::Ordering::SeqCst) {
            theirs.0.wait();
            theirs.1.wait();
        }
        Ok(())
    });
    let mut first = Candidates::new(&scene.resources, vec![two("m"), two("n")]).unwrap();
    let place = first.join_queue(|_| true).unwrap();
    let mut first_notes = notes(&scene);
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let choice = first.choose(|_| true, Some(&place), &Cancel::default(), &mut first_notes);
            matches!(choice, Ok(Choice::Machine(_)))
        });
        waits.0.wait();
        assert!(matches!(choose(&mut scene).0, Ok(Choice::Machine(_))), "two slots are free, and one waits for none");
        waits.1.wait();
        assert!(connecting.join().unwrap());
    });
}

#[test]
fn who_waits_for_another_machine_is_in_nobodys_way() {
    let mut scene = scene_of(&[machine("m")]);
    let _elsewhere = scene.resources.queue.join(&[machine("n"), machine("o")]).unwrap();
    assert_eq!(chosen(&mut scene).candidate, 0);
}

/// A build that only one machine can do does not hold up others at another machine, and keeps its place at its own.
#[test]
fn who_came_first_is_first_at_each_machine() {
    let scene = scene_of(&[machine("m"), machine("n")]);
    let candidates = |machines: &[&str]| {
        let machines = machines.iter().map(|name| machine(name)).collect();
        Candidates::new(&scene.resources, machines).unwrap()
    };
    let (mut only, mut either) = (candidates(&["m"]), candidates(&["m", "n"]));
    let (first, second) = (only.join_queue(|_| true).unwrap(), either.join_queue(|_| true).unwrap());
    let choose = |candidates: &mut Candidates, place: &Place| match candidates
        .choose(|_| true, Some(place), &Cancel::default(), &mut notes(&scene))
        .unwrap()
    {
        Choice::Machine(lease) => Some(lease.remote.machine().name.clone()),
        _ => None,
    };
    let (m, n) = (scene.take(0), scene.take(1));
    assert_eq!((choose(&mut only, &first), choose(&mut either, &second)), (None, None));
    drop(n);
    assert_eq!((choose(&mut only, &first), choose(&mut either, &second)), (None, Some("n".into())));
    let n = scene.take(1);
    drop(m);
    assert_eq!((choose(&mut either, &second), choose(&mut only, &first)), (None, Some("m".into())));
    drop(first);
    assert_eq!(choose(&mut either, &second), Some("m".into()), "nobody is before it any more");
    drop(n);
}

#[test]
fn a_machine_whose_last_answer_is_older_is_asked_if_the_build_could_be_done_without_it() {
    let scene = scene();
    scene.answers(0, 0.1);
    assert_eq!(scene.candidates.known_room(), KnownRoom::Sure);
    scene.clock.turn(Duration::from_secs(3));
    assert_eq!(scene.candidates.known_room(), KnownRoom::Likely);
    scene.clock.turn(Duration::from_secs(8));
    assert_eq!(scene.candidates.known_room(), KnownRoom::Unknown);
}

#[test]
fn what_was_mended_on_a_machine_is_seen_before_a_build_fails_for_it() {
    let mut scene = scene_of(&[machine("m")]);
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    scene.doubles.act(move |_, step, _| match step {
        Step::Connect if is_broken.load(std::sync::atomic::Ordering::SeqCst) => {
            Err(Error::new(ErrorKind::Configuration, "its account has no shell"))
        }
        _ => Ok(()),
    });
    let fails = |scene: &mut Scene| matches!(choose(scene).0, Ok(Choice::Misconfigured(_)));
    assert!(fails(&mut scene) && fails(&mut scene));
    assert_eq!(scene.doubles.take_machines(Step::Connect).len(), 1, "not by every build of a request");
    scene.clock.turn(Duration::from_secs(3));
    assert!(fails(&mut scene));
    assert_eq!(scene.doubles.take_machines(Step::Connect).len(), 1, "in its back-off, as nothing else is left");
    scene.clock.turn(Duration::from_secs(3));
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(chosen(&mut scene).candidate, 0);
}

#[test]
fn a_machine_is_started_if_no_other_one_takes_the_build() {
    let mut scene = three();
    let programs = scene.resources.directories.configuration.join("offload");
    let file = programs.join("a.start");
    std::fs::create_dir_all(&programs).unwrap();
    std::fs::write(&file, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    scene.doubles.act(|name, step, _| match (name, step) {
        ("a", Step::Connect) => Err(unavailable("no answer")),
        _ => Ok(()),
    });
    let started = |notes: &[String]| notes.iter().filter(|note| note.ends_with("a.start' starts or stops it")).count();
    let (choice, notes) = choose(&mut scene);
    assert!(matches!(choice, Ok(Choice::Machine(_))) && started(&notes) == 0, "{notes:?}");
    drop(choice);
    scene.clock.turn(Duration::from_secs(60));
    scene.doubles.act(|_, step, _| if step == Step::Connect { Err(unavailable("no answer")) } else { Ok(()) });
    let (choice, notes) = choose(&mut scene);
    assert!(matches!(choice, Ok(Choice::Away)) && started(&notes) == 1, "{notes:?}");
    while scene.resources.on_demand.is_under_way(scene.machine(0)).is_some() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (_, notes) = choose(&mut scene);
    assert!(notes[0].contains("a.start' failed with exit status 1: it said nothing"), "{notes:?}");
}
