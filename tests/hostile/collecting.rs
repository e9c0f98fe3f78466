// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine whose garbage collector takes what it said to have.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use guix_offload::ground::error::{Error, ErrorKind, Result};
use guix_offload::report::{Event, Observer};

use crate::cases::with;
use crate::double::{Answer, says};
use crate::harness::{build_of, limits, machine};
use crate::refusing::scene;
use crate::sshd::Sshd;
use crate::wire_bytes::*;

/// An answer that is the next of these each time, and the last one for ever.
fn one_by_one(answers: Vec<Vec<u8>>) -> Answer {
    let count = AtomicUsize::new(0);
    Arc::new(move |to| to.write_all(&answers[count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)]))
}

/// Notes what is sent and why another machine is to be tried.
#[derive(Default)]
struct Watch {
    sent: Vec<usize>,
    retried: Vec<Error>,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Sending { items, .. } => self.sent.push(*items),
            Event::Retrying { reason, .. } => self.retried.push((*reason).clone()),
            _ => {}
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// The answer that these are valid.
fn has(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(string).collect();
    [last(), number(names.len() as u64), list].concat()
}

/// What a daemon says that begins to build and finds an input gone.
fn lacks_an_input() -> Vec<u8> {
    let log = "cannot build derivation `x-asked.drv': 1 dependencies couldn't be built\n";
    [number(NEXT), string(log), fails("build of `x-asked.drv' failed", 1)].concat()
}

#[test]
fn what_was_collected_is_sent_again_at_once() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let machine = machine(&sshd, &scene);
    let input = scene.register("input", b"input", &nar(file(b"input")));
    let asked = scene.path("asked.drv");
    let (all, none) = (has(&[asked.as_str(), input.as_str()]), has(&[]));
    let gone = fails("path `/gnu/store/x-input' is not valid", 1);
    let imported = [last(), number(0)].concat();
    let cannot = lacks_an_input();
    let output = scene.output(nar(file(b"good\n"))).signed(&scene.trusted);

    // It has the input, but not when the derivation comes.
    let mut plan = scene.honest(&output);
    plan.valid = Some(one_by_one(vec![has(&[input.as_str()]), none.clone()]));
    plan.import = one_by_one(vec![gone.clone(), imported.clone()]);
    let mut watch = Watch::default();
    build_of(&scene, &machine, plan, vec![input.clone()], limits(0, 0), &mut watch).unwrap();
    assert!(watch.sent == [1, 2] && watch.retried.is_empty(), "{:?}", watch.sent);
    scene.forget_output();

    // It has everything, but not when it builds.
    let mut plan = scene.honest(&output);
    plan.valid = Some(one_by_one(vec![all.clone(), none.clone()]));
    plan.build = one_by_one(vec![cannot.clone(), done()]);
    let mut watch = Watch::default();
    build_of(&scene, &machine, plan, vec![input.clone()], limits(0, 0), &mut watch).unwrap();
    assert!(watch.sent == [2] && watch.retried.is_empty(), "{:?}", watch.sent);
    scene.forget_output();

    // What is refused for another reason is not sent again.
    let plan = with(&scene, |plan| (plan.has_all, plan.import) = (false, says(fails("not trusted", 1))));
    let mut watch = Watch::default();
    let error = build_of(&scene, &machine, plan, vec![input], limits(0, 0), &mut watch).unwrap_err();
    assert_eq!((error.kind(), watch.sent), (ErrorKind::Daemon, vec![2]), "{error}");
}

/// It is sent once more, and no oftener; then it is the turn of another machine, or of the same a while later: never is
/// it the build's fault, nor a reason to give it up.
#[test]
fn a_machine_that_does_not_keep_what_it_is_sent_is_tried_again_later() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let machine = machine(&sshd, &scene);
    let input = scene.register("input", b"input", &nar(file(b"input")));
    let asked = scene.path("asked.drv");
    let (all, none) = (has(&[asked.as_str(), input.as_str()]), has(&[]));
    let output = scene.output(nar(file(b"good\n"))).signed(&scene.trusted);
    let assert_collected = |watch: &Watch| {
        for reason in &watch.retried {
            assert_eq!(reason.kind(), ErrorKind::Collected, "{reason}");
            assert!(reason.to_string().contains("garbage collector of '127.0.0.1'"), "{reason}");
            assert!(reason.hint_text().is_some_and(|hint| hint.contains("guix gc")), "{reason}");
        }
    };

    // Gone when it builds, twice, and the next time again.
    let mut plan = scene.honest(&output);
    plan.valid = Some(one_by_one([vec![all.clone(), none.clone(), none.clone()], vec![none.clone()]].concat()));
    plan.build = one_by_one(vec![lacks_an_input(), lacks_an_input(), lacks_an_input(), done()]);
    let mut watch = Watch::default();
    build_of(&scene, &machine, plan, vec![input.clone()], limits(0, 0), &mut watch).unwrap();
    assert_eq!((watch.sent.len(), watch.retried.len()), (3, 1), "{:?}", watch.sent);
    assert_collected(&watch);
    scene.forget_output();

    // Gone when the derivation comes, which it cannot have referred to: each time that it is asked it has something
    // else.
    let gone = fails("path `/gnu/store/x-input' is not valid", 1);
    let mut plan = scene.honest(&output);
    let (one, other) = (has(&[input.as_str()]), has(&[asked.as_str()]));
    plan.valid = Some(one_by_one(vec![one.clone(), other.clone(), one, other, none]));
    plan.import = one_by_one(vec![gone.clone(), gone.clone(), gone, [last(), number(0)].concat()]);
    let mut watch = Watch::default();
    build_of(&scene, &machine, plan, vec![input], limits(0, 0), &mut watch).unwrap();
    assert_eq!(watch.retried.len(), 1, "{:?}", watch.sent);
    assert_collected(&watch);
}
