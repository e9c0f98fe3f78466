// SPDX-License-Identifier: GPL-3.0-or-later
//! The answer to a request, for machines in any combination of states.

use super::*;
use crate::choose::drained;
use crate::choose::slot::Slots;
use crate::ground::directories::tests::below;
use crate::ground::store_path::StoreDir;
use crate::machine::suitability::Probe;
use crate::remote::double::IDLE;

/// The state of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Like {
    Ready,
    Busy,
    Away,
    Misconfigured,
    Overloaded,
    Full,
    Drained,
}

use Like::*;

const ALL: [Like; 7] = [Ready, Busy, Away, Misconfigured, Overloaded, Full, Drained];

/// The expected answer to a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    AcceptWithLease,
    AcceptQueued,
    Postpone,
    Decline,
    Fail(ErrorKind),
}

/// Makes a directory in memory, if there is such a place: hundreds of hosts have theirs in it.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Returns one machine, two machines in any order, and three machines in one order, each in all states.
fn combinations() -> Vec<Vec<Like>> {
    let mut found: Vec<Vec<Like>> = Vec::new();
    for (index, one) in ALL.into_iter().enumerate() {
        found.push(vec![one]);
        found.extend(ALL.map(|two| vec![one, two]));
        for (other, two) in ALL.into_iter().enumerate().skip(index) {
            found.extend(ALL[other..].iter().map(|three| vec![one, two, *three]));
        }
    }
    found
}

/// Returns the answer according to the documentation, not to the implementation.
fn expected(machines: &[Like], builds_here: bool, times_are_known: bool) -> Verdict {
    let any = |likes: &[Like]| machines.iter().any(|like| likes.contains(like));
    match () {
        () if any(&[Ready]) => Verdict::AcceptWithLease,
        () if any(&[Busy]) && times_are_known => Verdict::AcceptQueued,
        () if any(&[Busy, Overloaded, Full]) => Verdict::Postpone,
        () if builds_here => Verdict::Decline,
        () if any(&[Away, Drained]) => Verdict::Postpone,
        () => Verdict::Fail(ErrorKind::HostKey),
    }
}

#[test]
fn whatever_machines_are_like_there_is_one_verdict() {
    let root = in_memory();
    let derivation = StoreDir::new("/gnu/store").unwrap();
    let derivation = derivation.parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv").unwrap();
    let mut number = 0;
    for likes in combinations() {
        for (builds_here, times_are_known) in [(true, true), (true, false), (false, true), (false, false)] {
            number += 1;
            let directories = below(&root.path().join(number.to_string()));
            let world = World::new(&directories);
            let state = directories.offload_state();
            let machines: Vec<_> = (0..likes.len())
                .map(|index| BuildMachine { overload_threshold: Some(0.8), ..machine(&format!("m{index}")) })
                .collect();
            let others = Slots::default();
            let mut taken = Vec::new();
            for (machine, like) in machines.iter().zip(&likes) {
                let slots = others.of(&state, machine).unwrap();
                match like {
                    Busy => taken.push(slots.lock().try_take().unwrap().unwrap()),
                    Overloaded => world.doubles.set_probe(&machine.name, Probe { load: 0.9, ..IDLE }),
                    Full => world.doubles.set_probe(&machine.name, Probe { free_space: 1 << 20, ..IDLE }),
                    Drained => assert!(drained::drain(&state, machine, 0).unwrap()),
                    Ready | Away | Misconfigured => {}
                }
                if times_are_known {
                    world.engine.histories().note_build(machine, Duration::from_secs(1));
                }
            }
            let like = likes.clone();
            world.doubles.act(move |name, step, _| match like[name[1..].parse::<usize>().unwrap()] {
                Away if step == Step::Connect => Err(failure(ErrorKind::Unavailable)),
                Misconfigured if step == Step::Connect => Err(failure(ErrorKind::HostKey)),
                _ => Ok(()),
            });
            let ask = || match world.ask(&machines, &derivation, builds_here) {
                Ok(Reply::Accept(accepted)) => match &accepted.lease {
                    Some(lease) => {
                        assert_eq!(likes[lease.candidate], Ready, "{likes:?}");
                        Verdict::AcceptWithLease
                    }
                    None => Verdict::AcceptQueued,
                },
                Ok(Reply::Postpone) => Verdict::Postpone,
                Ok(Reply::Decline) => Verdict::Decline,
                Err(error) => Verdict::Fail(error.kind()),
            };
            let what = format!("{likes:?}, {builds_here}, {times_are_known}");
            let expected = expected(&likes, builds_here, times_are_known);
            assert_eq!(ask(), expected, "{what}");
            // Asked again at once, it gives the same answer, from what it has seen.
            world.doubles.take_steps(|_| true);
            let again = match expected {
                Verdict::AcceptWithLease => Verdict::AcceptQueued,
                other => other,
            };
            assert_eq!(ask(), again, "{what}, again");
            assert!(world.doubles.take_steps(|_| true).is_empty(), "{what}: machines are asked again");
            // The machine that was ready has its slot back.
            let count: u32 = machines.iter().map(|machine| world.count_taken(machine)).sum();
            assert_eq!(count as usize, taken.len(), "{what}");
        }
    }
    assert_eq!(number, (7 + 49 + 84) * 4);
}

#[test]
fn a_build_that_no_machine_can_ever_do_is_declined() {
    let root = tempfile::tempdir().unwrap();
    let world = World::new(&below(root.path()));
    let derivation = StoreDir::new("/gnu/store").unwrap();
    let derivation = derivation.parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv").unwrap();
    let elsewhere = BuildMachine { systems: vec!["riscv64-linux".into()], ..machine("m") };
    let without = BuildMachine { parallel_builds: 0, ..machine("n") };
    for builds_here in [true, false] {
        let reply = world.ask(&[elsewhere.clone(), without.clone()], &derivation, builds_here);
        assert!(matches!(reply, Ok(Reply::Decline)));
    }
    assert!(world.doubles.take_steps(|_| true).is_empty());
}

#[test]
fn a_queue_that_is_long_or_slow_is_not_joined() {
    let root = tempfile::tempdir().unwrap();
    let world = World::new(&below(root.path()));
    let derivation = StoreDir::new("/gnu/store").unwrap();
    let derivation = derivation.parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv").unwrap();
    let machines = [machine("m")];
    let state = world.engine.directories().offload_state();
    let slots = Slots::default().of(&state, &machines[0]).unwrap();
    let taken = slots.lock().try_take().unwrap().unwrap();
    // A slot held for longer than builds take is not waited for. Its time is in the future, so this test may be slow.
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    std::fs::File::options().write(true).open(taken.name()).unwrap().set_modified(later).unwrap();
    world.engine.histories().note_build(&machines[0], Duration::from_millis(10));
    let mut places = Vec::new();
    for _ in 0..64 {
        let Ok(Reply::Accept(accepted)) = world.ask(&machines, &derivation, false) else { panic!("{}", places.len()) };
        places.push(accepted);
    }
    assert!(matches!(world.ask(&machines, &derivation, false), Ok(Reply::Postpone)), "it is long");
    places.pop();
    assert!(matches!(world.ask(&machines, &derivation, false), Ok(Reply::Accept(_))));
    places.clear();
    // The expected wait is 6 s; or further down, longer than a twentieth of the build's time limit.
    for _ in 0..8 {
        world.engine.histories().note_build(&machines[0], Duration::from_secs(6));
    }
    assert!(matches!(world.ask(&machines, &derivation, false), Ok(Reply::Postpone)), "it is slow");
    for _ in 0..8 {
        world.engine.histories().note_build(&machines[0], Duration::from_secs(1));
    }
    let limited = |timeout| {
        let (options, cancel) = (BuildOptions { timeout, ..BuildOptions::default() }, Cancel::default());
        world.engine.ask(
            &Inquiry {
                machines: &machines,
                request: &request(&derivation),
                options: &options,
                could_build_here: &|| false,
            },
            &cancel,
            &mut Notes::default(),
        )
    };
    assert!(matches!(limited(21), Ok(Reply::Accept(_))));
    assert!(matches!(limited(19), Ok(Reply::Postpone)));
}
