// SPDX-License-Identifier: GPL-3.0-or-later
//! The steps of a build one by one, as the verbs of the ABI do them, on a machine that fails.

use std::time::{Duration, Instant};

use guix_offload::build::engine::Engine;
use guix_offload::build::site::{Site, Task};
use guix_offload::ground::cancel::Cancel;
use guix_offload::ground::error::{Error, ErrorKind, Result};
use guix_offload::remote::Limits;

use crate::blaming::server_that_says;
use crate::double::{Machine, Plan, says};
use crate::fixture::Scene;
use crate::harness::{Deaf, limits, machine};
use crate::refusing::scene;
use crate::sshd::Sshd;
use crate::wire_bytes::*;

const SHORT: Duration = Duration::from_secs(3);
const BOUND: Duration = Duration::from_secs(40);

/// Does `step` on a machine behind `sshd` that acts by `plan`.
fn at(scene: &Scene, sshd: &Sshd, plan: Plan, step: impl FnOnce(&mut Site, &Task) -> Result<()>) -> Error {
    let _ = std::fs::remove_dir_all(scene.at("offload"));
    let _double = Machine::at(&scene.at("machine"), plan);
    let waits = Limits { answer: SHORT, idle: SHORT, import: SHORT, ..Limits::DEFAULT };
    let engine = Engine::with_limits(scene.directories.clone(), BOUND, waits).unwrap();
    let mut site = engine.connect(&machine(sshd, scene), &Cancel::default()).unwrap();
    let (derivation, output, options) = (scene.path("asked.drv"), scene.path("output"), limits(0, 0));
    let (items, outputs) = (std::slice::from_ref(&derivation), std::slice::from_ref(&output));
    step(&mut site, &Task { derivation: &derivation, items, outputs, options: &options }).unwrap_err()
}

#[test]
fn a_step_of_which_no_byte_moves_is_given_up_in_time() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let stalls = || -> crate::double::Answer {
        std::sync::Arc::new(|_| {
            std::thread::sleep(BOUND);
            Ok(())
        })
    };
    let honest = scene.honest(&scene.output(nar(file(b"good\n"))).signed(&scene.trusted));
    type Step = fn(&mut Site, &Task) -> Result<()>;
    let steps: [(Plan, Step); 3] = [
        (Plan { valid: Some(stalls()), ..honest.clone() }, |site, task| site.send(task, &mut Deaf).map(drop)),
        (Plan { proof: stalls(), ..honest.clone() }, |site, task| site.build(task, &mut Deaf)),
        (Plan { info: stalls(), ..honest }, |site, task| site.retrieve(task, &mut Deaf)),
    ];
    for (number, (plan, step)) in steps.into_iter().enumerate() {
        let begun = Instant::now();
        let error = at(&scene, &sshd, plan, step);
        assert!(begun.elapsed() < BOUND, "{number}: {:?}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{number}: {error}");
        assert!(error.to_string().contains("no byte has moved for 3 s"), "{number}: {error}");
    }
}

#[test]
fn a_full_disk_is_the_machines_fault() {
    let scene = scene();
    let full = server_that_says(&scene.at("full"), "sed 's/^build .*/build 9999/'");
    let mut plan = scene.honest(&scene.output(nar(file(b"good\n"))).signed(&scene.trusted));
    plan.build = says([number(NEXT), string("failed with exit code 1\n"), fails("build failed", 100)].concat());
    let error = at(&scene, &full, plan, |site, task| site.build(task, &mut Deaf));
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("lack of free disk space"), "{error}");
}
