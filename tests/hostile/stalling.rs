// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine that answers, and whose daemon does not move any more.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use guix_offload::build::engine::Engine;
use guix_offload::ground::error::{Error, ErrorKind, Result};
use guix_offload::ground::store_path::StorePath;
use guix_offload::remote::Limits;
use guix_offload::report::{Event, Observer};

use crate::builder::Builder;
use crate::double::{Answer, Machine, Plan};
use crate::harness::{limits, machine};
use crate::refusing::scene;
use crate::sshd::Sshd;
use crate::wire_bytes::*;

/// How long a byte may be waited for here; and more than a build may take that does so once.
const SHORT: Duration = Duration::from_secs(3);
const BOUND: Duration = Duration::from_secs(40);

/// Notes why another machine is to be tried.
#[derive(Default)]
struct Watch(Vec<Error>);

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Retrying { reason, .. } = event {
            self.0.push((*reason).clone());
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// The first time this `answer`, later only the beginning of it, `after` which nothing comes; counts how often.
fn stalls(answer: Answer, after: Vec<u8>, count: &Arc<AtomicUsize>) -> Answer {
    let (calls, count) = (AtomicUsize::new(0), Arc::clone(count));
    Arc::new(move |to| {
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            return answer(to);
        }
        count.fetch_add(1, Ordering::SeqCst);
        to.write_all(&after)?;
        sleep(BOUND * 2);
        Ok(())
    })
}

/// The machine's failure, though its connection was an old one: the build goes to another machine, not to the same
/// again.
#[test]
fn a_daemon_that_stalls_on_a_connection_used_again_is_the_machines_failure() {
    type Stall = fn(&mut Plan, &[u8], &Arc<AtomicUsize>);
    let stalled: [(&str, Stall); 3] = [
        ("a question", |plan, _, count| {
            plan.valid = Some(stalls(Arc::new(|to| to.write_all(&[last(), number(0)].concat())), vec![], count));
        }),
        ("an import", |plan, _, count| plan.import = stalls(plan.import.clone(), vec![], count)),
        ("an export in the middle", |plan, archive, count| {
            let half = gives(archive)[..16 + archive.len() / 2].to_vec();
            plan.export = stalls(plan.export.clone(), half, count);
        }),
    ];
    std::thread::scope(|scope| {
        for (what, stall) in stalled {
            scope.spawn(move || {
                let (scene, sshds) = (scene(), [Sshd::start(&[]), Sshd::start(&[])]);
                let mut machines = [machine(&sshds[0], &scene), machine(&sshds[1], &scene)];
                (machines[0].speed, machines[1].daemon_socket) = (1e6, scene.at("other").to_str().unwrap().into());
                let archive = scene.output(nar(file(&[b'x'; 9999]))).signed(&scene.trusted);
                let honest = Plan { has_all: false, ..scene.honest(&archive) };
                let (count, mut plan) = (Arc::new(AtomicUsize::new(0)), honest.clone());
                stall(&mut plan, &archive, &count);
                let _doubles = [Machine::at(&scene.at("machine"), plan), Machine::at(&scene.at("other"), honest)];
                let waits = Limits { answer: SHORT, idle: SHORT, import: SHORT, ..Limits::DEFAULT };
                let builder = Builder::new(Engine::with_limits(scene.directories.clone(), BOUND, waits).unwrap());
                let build = |machines: &[_], inputs: Vec<StorePath>, watch: &mut Watch| {
                    builder.build_on(&scene, machines, inputs, limits(0, 0), watch).unwrap();
                    assert!(scene.database().is_valid(&scene.path("output")).unwrap(), "{what}");
                    scene.forget_output();
                };
                let mut watch = Watch::default();
                build(&machines[..1], Vec::new(), &mut watch);
                assert!(watch.0.is_empty() && count.load(Ordering::SeqCst) == 0, "{what}: {:?}", watch.0);
                // Something new, or nothing would be asked or sent.
                let input = scene.register("input", b"new", &nar(file(b"new")));
                let begun = Instant::now();
                build(&machines, vec![input], &mut watch);
                assert!((SHORT..BOUND).contains(&begun.elapsed()), "{what}: {:?}", begun.elapsed());
                assert_eq!((watch.0.len(), count.load(Ordering::SeqCst)), (1, 1), "{what}: {:?}", watch.0);
                let reason = &watch.0[0];
                assert_eq!(reason.kind(), ErrorKind::Unavailable, "{what}: {reason}");
                assert!(reason.to_string().contains("no byte has moved for 3 s"), "{what}: {reason}");
            });
        }
    });
}
