// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine whose garbage collector takes what it said to have.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use guix_offload::error::{Class, ErrorKind, Result};
use guix_offload::observer::{Event, Observer};

use crate::double::{Answer, says};
use crate::lies::with;
use crate::refusing::scene;
use crate::sshd::Sshd;
use crate::telling::{build_of, limits, machine};
use crate::words::*;

/// An answer that is the next of these each time, and the last one for ever.
fn one_by_one(answers: Vec<Vec<u8>>) -> Answer {
    let count = AtomicUsize::new(0);
    Arc::new(move |to| to.write_all(&answers[count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1)]))
}

/// Notes what is sent and whether another machine was tried.
#[derive(Default)]
struct Watch {
    sent: Vec<usize>,
    retried: bool,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Sending { items, .. } => self.sent.push(*items),
            Event::Retrying { .. } => self.retried = true,
            _ => {}
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_was_collected_is_sent_again_at_once() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let machine = machine(&sshd, &scene);
    let input = scene.register("input", b"input", &nar(file(b"input")));
    let asked = scene.path("asked.drv");
    let has = |names: &[&str]| {
        let list: Vec<u8> = names.iter().flat_map(string).collect();
        [last(), number(names.len() as u64), list].concat()
    };
    let (all, none) = (has(&[asked.as_str(), input.as_str()]), has(&[]));
    let gone = fails("path `/gnu/store/x-input' is not valid", 1);
    let imported = [last(), number(0)].concat();
    let cannot = [
        [number(NEXT), string("cannot build derivation `x-asked.drv': 1 dependencies couldn't be built\n")].concat(),
        fails("build of `x-asked.drv' failed", 1),
    ]
    .concat();
    let output = scene.output(nar(file(b"good\n"))).signed(&scene.trusted);

    // It has the input, but not when the derivation comes.
    let mut plan = scene.honest(&output);
    plan.valid = Some(one_by_one(vec![has(&[input.as_str()]), none.clone()]));
    plan.import = one_by_one(vec![gone.clone(), imported.clone()]);
    let mut watch = Watch::default();
    build_of(&scene, &machine, plan, vec![input.clone()], limits(0, 0), &mut watch).unwrap();
    assert_eq!((watch.sent, watch.retried), (vec![1, 2], false));
    scene.forget_output();

    // It has everything, but not when it builds.
    let mut plan = scene.honest(&output);
    plan.valid = Some(one_by_one(vec![all.clone(), none.clone()]));
    plan.build = one_by_one(vec![cannot.clone(), done()]);
    let mut watch = Watch::default();
    build_of(&scene, &machine, plan, vec![input.clone()], limits(0, 0), &mut watch).unwrap();
    assert_eq!((watch.sent, watch.retried), (vec![2], false));
    scene.forget_output();

    // It never has what it was sent: once more, and no oftener; and never is it the build's fault.
    let plan = with(&scene, |plan| {
        plan.valid = Some(one_by_one(vec![all.clone(), none.clone()]));
        plan.build = says(cannot.clone());
    });
    let mut watch = Watch::default();
    let error = build_of(&scene, &machine, plan, vec![input.clone()], limits(0, 0), &mut watch).unwrap_err();
    assert_eq!((error.kind(), error.class(), watch.sent), (ErrorKind::Daemon, Class::Transient, vec![2]), "{error}");

    // What is refused for another reason is not sent again.
    let plan = with(&scene, |plan| (plan.has_all, plan.import) = (false, says(fails("not trusted", 1))));
    let mut watch = Watch::default();
    let error = build_of(&scene, &machine, plan, vec![input], limits(0, 0), &mut watch).unwrap_err();
    assert_eq!((error.kind(), watch.sent), (ErrorKind::Daemon, vec![2]), "{error}");
}
