// SPDX-License-Identifier: GPL-3.0-or-later
//! What is wrong with this host, which no machine can mend: found out before a build is accepted.

use std::fs;
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::time::Duration;

use guix_offload::build::engine::Engine;
use guix_offload::doors::hook::{InProcess, Options, serve};
use guix_offload::ground::cancel::Cancel;
use guix_offload::machine::BuildMachine;
use guix_offload::machine::file::Machines;

use crate::double::Machine;
use crate::fixture::Scene;
use crate::harness::{limits, machine};
use crate::refusing::scene;
use crate::sshd::Sshd;
use crate::wire_bytes::*;

/// What a hook says that is asked for a build, and its status. Its machine would do it.
fn ask(scene: &Scene, sshd: &Sshd, wants_local: u8) -> (String, u8) {
    let system = format!("{}-linux", std::env::consts::ARCH);
    let machine = BuildMachine { systems: vec![system.clone()], ..machine(sshd, scene) };
    let mut machines = Machines::in_file(scene.at("machines.scm"));
    machines.set_evaluated(vec![machine]);
    let stream = |text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    };
    let (asked, output) = (scene.path("asked.drv"), scene.path("output"));
    let items = if wants_local == 0 { format!("{asked} \n{output} \n") } else { String::new() };
    let input = stream(&format!("{wants_local} {system} {asked} \n{items}"));
    let (mut said, log) = (stream(""), stream(""));
    let engine = Arc::new(Engine::new(scene.directories.clone(), Duration::ZERO).unwrap());
    let options = Options { machines, build: limits(0, 0) };
    let (builder, output) = (Box::new(InProcess::new(engine)), said.try_clone().unwrap());
    let status = serve(builder, &options, input, output, log, &Cancel::default()).unwrap();
    let mut text = String::new();
    said.rewind().unwrap();
    said.read_to_string(&mut text).unwrap();
    (text, status)
}

/// A machine that would do the build.
fn willing(scene: &Scene) -> Machine {
    let archive = scene.output(nar(file(b"good\n"))).signed(&scene.trusted);
    Machine::at(&scene.at("machine"), scene.honest(&archive))
}

#[test]
fn a_host_that_can_let_nothing_in_builds_by_itself_or_fails_that_goal_alone() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let _double = willing(&scene);
    fs::write(scene.directories.acl_file(), "(acl x)").unwrap();
    for (wants_local, reply, status) in [(1, "# decline", 0), (0, "# accept", 1)] {
        let (said, ended) = ask(&scene, &sshd, wants_local);
        assert!(said.lines().any(|line| line == reply) && ended == status, "{ended}: {said}");
        assert!(said.contains("list of authorized keys") && said.contains("hint: "), "{said}");
    }
}

#[test]
fn a_host_that_cannot_sign_builds_by_itself_if_it_can() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let _double = willing(&scene);
    fs::remove_file(scene.at("signing-key.sec")).unwrap();
    let (said, status) = ask(&scene, &sshd, 1);
    assert!(said.lines().any(|line| line == "# decline") && status == 0, "{status}: {said}");
    assert!(said.contains("hint: create this host's key pair"), "{said}");
    // Else it is tried: this build needs nothing that is signed.
    let (said, status) = ask(&scene, &sshd, 0);
    assert!(status == 0 && said.contains("done with offloaded"), "{status}: {said}");
}
