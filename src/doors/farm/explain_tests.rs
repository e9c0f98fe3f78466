// SPDX-License-Identifier: GPL-3.0-or-later
use std::time::Duration;

use super::*;
use crate::choose::drained;
use crate::choose::history::SetbackKind;
use crate::choose::slot::LockDirectory;
use crate::ground::clock::{Clock, SystemClock};
use crate::ground::directories::tests::below;
use crate::machine::suitability::Unsuitable;
use crate::machine::tests::machine;

/// A host with machines of which nothing is known yet.
struct Scene {
    engine: Engine,
    machines: Vec<BuildMachine>,
    _root: tempfile::TempDir,
}

fn scene(machines: Vec<BuildMachine>) -> Scene {
    let root = tempfile::tempdir().unwrap();
    let engine = Engine::new(below(root.path()), Duration::from_secs(5)).unwrap();
    Scene { engine, machines, _root: root }
}

impl Scene {
    fn explain(&self, system: &str, features: &str) -> Answer {
        let store = self.engine.directories().store.clone();
        explain(&self.engine, &self.machines, &Subject::parse(&store, system, features).unwrap()).unwrap()
    }

    fn fails(&self, index: usize, kind: ErrorKind) {
        let reason = Error::new(kind, "it is broken").hint("mend it");
        self.engine.histories().note_setback(&self.machines[index], SetbackKind::of(&reason), &reason);
    }

    fn drain(&self, index: usize) {
        let state = self.engine.directories().offload_state();
        assert!(drained::drain(&state, &self.machines[index], SystemClock.since_epoch()).unwrap());
    }
}

fn notes(answer: &Answer) -> Vec<(String, String)> {
    let of = |report: &Report| {
        let name = report.machine.name.clone();
        report.notes.iter().map(move |note| (name.clone(), note.text.clone())).collect::<Vec<_>>()
    };
    answer.reports.iter().flat_map(of).collect()
}

/// A system of another type than this host's, for which guix-daemon builds nothing here.
const FOREIGN: &str = "riscv64-linux";

fn foreign(name: &str) -> BuildMachine {
    BuildMachine { systems: vec![FOREIGN.into()], ..machine(name) }
}

#[test]
fn why_a_machine_has_no_room_is_told_once() {
    let scene = scene(vec![machine("full")]);
    scene.engine.histories().note_answer(&scene.machines[0], 0.9, None, None);
    let overloaded = "it is overloaded (normalized load 0.90, threshold 0.80)";
    let reason = Error::new(ErrorKind::Unavailable, overloaded);
    scene.engine.histories().note_setback(&scene.machines[0], SetbackKind::NoRoom, &reason);
    let text = scene.explain("x86_64-linux", "").text;
    assert_eq!(text.matches(overloaded).count(), 1, "{text}");
    assert!(text.contains("it is left alone for another "), "{text}");
}

#[test]
fn a_machine_that_was_full_when_it_was_seen_last_says_what_to_do() {
    let seen = |unsuitable: Unsuitable| {
        let machine = machine("full");
        let standing = Standing {
            unsuitable: Some(unsuitable.error(&machine)),
            machine,
            taken: Some(0),
            memory_for: u32::MAX,
            waiting: 0,
            load: None,
            free_space: None,
            memory: None,
            missing: None,
            rate: None,
            sending: 0.0,
            cost: 1.0,
            left_alone: None,
        };
        let notes = against(&standing, &Requirements { system: "x86_64-linux".into(), features: Vec::new() });
        let note = notes.last().expect("a note");
        assert_eq!(note.text, format!("as it was seen last: {unsuitable}"));
        note.hint.clone()
    };
    let hint = seen(Unsuitable::LowOnSpace { free: 1 << 20 }).expect("a hint");
    assert!(hint.starts_with("free some space there: ssh ") && hint.ends_with("@full guix gc -F 1G"), "{hint}");
    assert_eq!(seen(Unsuitable::Overloaded { load: 0.9, threshold: 0.8 }), None);
}

#[test]
fn what_counts_against_each_machine_is_told() {
    let mut machines: Vec<_> = ["drained", "away", "full", "loaded", "good", "none", "other"].map(foreign).into();
    machines[5].parallel_builds = 0;
    machines[6].systems = vec!["i686-linux".into(), "x86_64-linux".into()];
    machines[4].features = vec!["kvm".into()];
    machines[4].speed = 0.5;
    let scene = scene(machines);
    scene.drain(0);
    scene.fails(1, ErrorKind::Unavailable);
    let state = scene.engine.directories().offload_state();
    let _slot = LockDirectory::slots(&state, &scene.machines[2]).unwrap().try_take().unwrap().unwrap();
    scene.engine.histories().note_answer(&scene.machines[3], 0.9, None, None);

    let answer = scene.explain(FOREIGN, "");
    let names: Vec<_> = answer.reports.iter().map(|report| &*report.machine.name).collect();
    assert_eq!(names, ["full", "loaded", "good", "drained", "away", "none", "other"], "{}", answer.text);
    let expected = [
        ("full", "all its slots are taken"),
        ("loaded", "as it was seen last: it is overloaded (normalized load 0.90, threshold 0.80)"),
        ("drained", "it was drained 0 s ago"),
        ("away", "it is left alone for another 5 s: it is broken"),
        ("none", "it gets no builds: 'parallel-builds' is 0"),
        ("other", "it does not build for 'riscv64-linux'"),
    ];
    assert_eq!(notes(&answer), expected.map(|(name, text)| (name.to_string(), text.to_string())));
    assert!(answer.is_offloaded, "{}", answer.text);
    assert!(answer.text.contains("answer: accept: 'good' is asked first"), "{}", answer.text);
    assert!(answer.text.contains("\naway:22: it is left alone for another 5 s: it is broken\n  hint: mend it\n"));
    assert!(answer.text.contains("\n  hint: to let it have builds again: guix-offload resume drained:22\n"));

    let answer = scene.explain(FOREIGN, "kvm,big-parallel");
    let last = ("good".to_string(), "it does not offer big-parallel".to_string());
    assert!(notes(&answer).contains(&last) && !answer.is_offloaded, "{}", answer.text);
    assert!(
        answer.text.contains("answer: decline: no machine builds for riscv64-linux and offers kvm, big-parallel\n")
    );
}

#[test]
fn the_answer_is_that_of_the_hook() {
    let native =
        [("x86_64-linux", "aarch64-linux")].iter().find(|(one, _)| is_native(one)).map_or("aarch64-linux", |it| it.0);
    for (system, away, misconfigured) in [(native, "decline", "decline"), (FOREIGN, "postpone", "fail")] {
        let one = || vec![BuildMachine { systems: vec![system.into()], ..machine("m") }];
        let reply = |scene: &Scene| {
            let answer = scene.explain(system, "");
            answer.text.split("answer: ").nth(1).unwrap().split(':').next().unwrap().to_string()
        };
        assert_eq!(reply(&scene(one())), "accept");
        let drained = scene(one());
        drained.drain(0);
        assert_eq!(reply(&drained), away);
        let gone = scene(one());
        gone.fails(0, ErrorKind::Unavailable);
        assert_eq!(reply(&gone), away);
        let wrong = scene(one());
        wrong.fails(0, ErrorKind::HostKey);
        assert_eq!(reply(&wrong), misconfigured);
        let busy = scene(one());
        let state = busy.engine.directories().offload_state();
        let _slot = LockDirectory::slots(&state, &busy.machines[0]).unwrap().try_take().unwrap().unwrap();
        assert_eq!(reply(&busy), "postpone", "nobody knows how long builds take there");
        busy.engine.histories().note_build(&busy.machines[0], Duration::from_secs(1));
        assert_eq!(reply(&busy), "accept");
        let full = scene(one());
        full.engine.histories().note_answer(&full.machines[0], 2.0, None, None);
        assert_eq!(reply(&full), "postpone");
        assert_eq!(reply(&scene(Vec::new())), "decline");
    }
}

#[test]
fn programs_can_read_it() {
    let scene = scene(vec![foreign("m"), machine("n")]);
    scene.drain(0);
    let json = scene.explain(FOREIGN, "").json;
    for part in [
        "{\"schema\": 1, \"derivation\": null, \"system\": \"riscv64-linux\", \"features\": [], ",
        "\"reply\": \"postpone\", \"why\": ",
        "\"keeper\": false, \"machines\": [{\"name\": \"m\", \"port\": 22, \"order\": null, \"slots\": 1, ",
        "\"drained\": true, \"leftAloneSeconds\": null, ",
        "\"against\": [{\"text\": \"it was drained 0 s ago\", \"hint\": ",
        "{\"name\": \"n\", \"port\": 22, \"order\": null, ",
    ] {
        assert!(json.contains(part), "{part} is missing in {json}");
    }
}

#[test]
fn a_keeper_that_gives_no_answer_is_not_one_that_does_not_run() {
    let scene = scene(vec![foreign("m")]);
    let requirements = Requirements { system: FOREIGN.into(), features: Vec::new() };
    let derivation = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";
    let derivation = Some(scene.engine.directories().store.parse(derivation).unwrap());
    let subject = Subject { derivation, needs: Needs { requirements, prefers_local: false } };
    let text = |asked| answer(&scene.engine, &scene.machines, &subject, asked).unwrap().text;
    let absent = "\nno keeper runs, so it is not known what the machines have\n";
    assert!(text(Ok(None)).ends_with(absent));
    let refused = text(Err(Error::new(ErrorKind::Unavailable, "it refuses")));
    assert!(!refused.contains("no keeper runs"), "{refused}");
    assert!(refused.contains("\nthe keeper has not told what the machines have\n"), "{refused}");
    assert!(refused.contains("warning: it refuses\n"), "{refused}");
}

#[test]
fn the_keeper_tells_of_the_machines_that_it_was_asked_about() {
    let scene = scene(vec![foreign("m"), foreign("n")]);
    let store = scene.engine.directories().store.clone();
    let subject = Subject::parse(&store, FOREIGN, "").unwrap();
    let asked = || scene.engine.explain(&scene.machines, subject.requirements(), None).unwrap();
    let said = |explanation| answer(&scene.engine, &scene.machines, &subject, Ok(Some(explanation))).unwrap();
    assert!(said(asked()).json.contains("\"keeper\": true"));
    let change = |change: &dyn Fn(&mut Explanation)| {
        let mut explanation = asked();
        change(&mut explanation);
        said(explanation)
    };
    for (what, answer) in [
        ("it tells of \"../../x:22\"", change(&|it| it.standings[0].machine.name = "../../x".into())),
        ("it does not tell of 'm:22'", change(&|it| drop(it.standings.remove(0)))),
        ("it tells of a machine more than once", change(&|it| it.standings.push(it.standings[0].clone()))),
    ] {
        assert!(answer.json.contains("\"keeper\": false") && !answer.json.contains("../x"), "{}", answer.json);
        assert!(answer.text.contains(&format!("warning: the keeper's answer: {what}")), "{}", answer.text);
        let names: Vec<_> = answer.reports.iter().map(|report| &*report.machine.name).collect();
        assert_eq!(names, ["m", "n"]);
    }
}

#[test]
fn a_machine_that_can_be_started_says_so() {
    let scene = scene(vec![foreign("m")]);
    let programs = scene.engine.directories().configuration.join("offload");
    std::fs::create_dir_all(&programs).unwrap();
    std::fs::write(programs.join("m.start"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(programs.join("m.start"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    scene.fails(0, ErrorKind::Unavailable);
    let notes: Vec<_> = notes(&scene.explain(FOREIGN, "")).into_iter().map(|(_, text)| text).collect();
    let start = "if it still cannot be reached, and no other machine is free, 'm.start' is run";
    assert_eq!(notes, ["it is left alone for another 5 s: it is broken", start]);
}

#[test]
fn what_is_neither_a_system_nor_a_derivation_is_refused() {
    let store = StoreDir::new("/gnu/store").unwrap();
    let drv = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";
    for (what, features, complaint) in [
        ("", "", "is no system type"),
        ("x86_64 linux", "", "is no system type"),
        ("./x.drv", "", "x.drv"),
        ("x.drv", "", "x.drv"),
        ("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x", "", "is not a derivation"),
        (drv, "kvm", "a derivation says itself"),
        (drv, "", "reading the derivation"),
    ] {
        let error = Subject::parse(&store, what, features).err().expect(what);
        assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains(complaint), "{what}: {error}");
    }
}
