// SPDX-License-Identifier: GPL-3.0-or-later
//! What machines say of processes that wait counts beside their load, which follows a minute later.

use super::*;
use crate::machine::suitability::Pressure;

/// A machine of this speed that says this. `None`: its kernel does not tell of pressure.
type Says = (f64, f64, Option<(f64, f64, f64)>);

fn probe((_, load, pressure): Says) -> Probe {
    let pressure = pressure.map_or(Pressure::default(), |(cpu, memory, io)| Pressure {
        cpu: Some(cpu),
        memory: Some(memory),
        io: Some(io),
    });
    Probe { load, pressure, ..IDLE }
}

fn scene_that_says(says: [Says; 2]) -> Scene {
    let named = |name: &str, speed| BuildMachine { speed, overload_threshold: None, ..machine(name) };
    let scene = scene_of(&[named("m", says[0].0), named("n", says[1].0)]);
    for (index, says) in says.into_iter().enumerate() {
        let probe = probe(says);
        scene.doubles.set_probe(&scene.machine(index).name, probe);
        scene.resources.histories.note_answer(scene.machine(index), probe.load, probe.current_load(), None);
    }
    scene
}

/// Situations of two machines, and the machine that a person would take, if it matters.
#[test]
fn the_machine_where_less_is_under_way_is_chosen() {
    let calm = Some((0.0, 0.0, 0.0));
    let situations: [(&str, Says, Says, Option<usize>); 10] = [
        ("both are idle", (1.0, 0.0, calm), (1.0, 0.0, calm), None),
        ("builds of another host have just begun", (1.0, 0.1, Some((0.95, 0.0, 0.0))), (1.0, 0.6, calm), Some(1)),
        ("builds have just ended", (1.0, 2.0, calm), (1.0, 1.2, Some((0.9, 0.0, 0.0))), Some(0)),
        ("builds have just ended, the other has less to do", (1.0, 2.0, calm), (1.0, 0.5, calm), Some(1)),
        ("both are full, one more than the other", (1.0, 4.0, Some((1.0, 0.0, 0.0))), (1.0, 2.0, None), Some(1)),
        ("one swaps", (1.0, 0.2, Some((0.1, 0.4, 0.2))), (1.0, 0.3, calm), Some(1)),
        ("the disk of one is busy", (1.0, 0.1, Some((0.1, 0.0, 0.7))), (1.0, 0.5, calm), Some(1)),
        ("one does not say, and the other is busy", (1.0, 0.5, None), (1.0, 0.1, Some((0.9, 0.0, 0.0))), Some(0)),
        ("one does not say, and has more to do", (1.0, 0.5, None), (1.0, 0.1, calm), Some(1)),
        ("one is busy, but far faster", (3.0, 1.0, Some((1.0, 0.0, 0.0))), (1.0, 0.0, calm), Some(0)),
    ];
    for (what, one, other, expected) in situations {
        let chosen: std::collections::HashSet<_> =
            (0..20).map(|_| chosen(&mut scene_that_says([one, other])).candidate).collect();
        assert_eq!(chosen, expected.map_or([0, 1].into(), |expected| [expected].into()), "{what}");
    }
}

#[test]
fn what_was_waited_for_soon_counts_no_more() {
    let mut scene = scene_that_says([(1.0, 0.1, Some((1.0, 0.0, 0.0))), (1.0, 0.6, Some((0.0, 0.0, 0.0)))]);
    scene.clock.turn(Duration::from_secs(19));
    assert_eq!(chosen(&mut scene).candidate, 1);
    let mut scene = scene_that_says([(1.0, 0.1, Some((1.0, 0.0, 0.0))), (1.0, 0.6, Some((0.0, 0.0, 0.0)))]);
    scene.clock.turn(Duration::from_secs(21));
    assert_eq!(chosen(&mut scene).candidate, 0, "its load does");
}

#[test]
fn a_machine_that_is_short_of_memory_is_passed_over_and_asked_again() {
    let mut scene = scene_that_says([(9.0, 0.0, Some((0.0, 0.8, 0.5))), (1.0, 0.0, None)]);
    let short = Probe { memory: 100 << 20, total_memory: 8 << 30, ..probe((9.0, 0.0, Some((0.0, 0.8, 0.5)))) };
    scene.doubles.set_probe("m", short);
    let (choice, notes) = choose(&mut scene);
    let said = "m: it is short of memory (processes wait for memory 80% of the time, 100.0 MiB available)";
    assert_eq!(notes, [said, "n: chosen"]);
    drop(choice);
    let taken = scene.take(1);
    let setback = scene.resources.histories.of(scene.machine(0)).setback().map(|setback| setback.kind);
    assert_eq!(setback, Some(SetbackKind::NoRoom));
    drop(taken);
    scene.doubles.set_probe("m", IDLE);
    scene.clock.turn(Duration::from_secs(6));
    assert_eq!(chosen(&mut scene).candidate, 0);
}
