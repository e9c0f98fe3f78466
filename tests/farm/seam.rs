// SPDX-License-Identifier: GPL-3.0-or-later
//! Offloading inside guix-daemon's process: `bindings/guix-daemon/test/goals.cc`, which plays the daemon's part, on a
//! head. What it cannot see, the machines, is looked at here.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::Host;

const HEAD: Host = Host("head");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];

/// How many processes of builds there are on `host`.
fn builders(host: Host) -> usize {
    let listed = host.run(&["pgrep", "-G", "guixbuild"]);
    String::from_utf8_lossy(&listed.stdout).lines().count()
}

#[test]
fn ten_goals_at_once_in_a_process_like_guix_daemon() {
    HEAD.offload_to(&MACHINES);
    let goals = [
        ("plain", "plain count=7"),
        ("fail", "fail"),
        ("silent", "sleep seconds=60"),
        ("chatty", "sleep seconds=61 chatty=1"),
    ];
    let files = goals.map(|(name, builds)| {
        let file = format!("/tmp/goals-{name}");
        let print = format!("guix repl /usr/local/share/lab/builds.scm -- {builds} print=1 >{file}");
        HEAD.sh(&["sh", "-c", &print]);
        file
    });

    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab");
    let mut program = Command::new(lab)
        .args(["sh", HEAD.0, "/opt/guix-offload/libexec/goals"])
        .args(files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the lab's script starts");
    let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
    assert_eq!(said.next().expect("it gets as far as cancelling").unwrap(), "cancelled");
    let cancelled = Instant::now();
    while MACHINES.iter().any(|&host| builders(host) > 0) {
        assert!(cancelled.elapsed() < Duration::from_secs(1), "the cancelled build goes on");
    }
    program.stdin.take().unwrap().write_all(b"\n").expect("it waits for this");
    assert_eq!(said.next().expect("it gets to its end").unwrap(), "ok");
    assert!(program.wait().unwrap().success());
    for host in [HEAD, MACHINES[0], MACHINES[1]] {
        host.verify_store();
    }
}
