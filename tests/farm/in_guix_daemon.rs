// SPDX-License-Identifier: GPL-3.0-or-later
//! Offloading inside guix-daemon's process: `bindings/guix-daemon/test/goals.cc`, which plays the daemon's part, on a
//! head. What it cannot see, the machines, is looked at here.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::invariants::assert_clean;
use crate::lab::Host;

const HEAD: Host = Host("head");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];

/// The program that plays the daemon's part.
const PROGRAM: &str = "/opt/guix-offload/libexec/goals";

/// How many processes of builds there are on `host`.
fn builders(host: Host) -> usize {
    let listed = host.run(&["pgrep", "-G", "guixbuild"]);
    String::from_utf8_lossy(&listed.stdout).lines().count()
}

/// Has `builds.scm` print what a hook would be told of these builds. Returns the file, on the head.
fn print(name: &str, builds: &str) -> String {
    let file = format!("/tmp/goals-{name}");
    HEAD.sh(&["sh", "-c", &format!("guix repl /usr/local/share/lab/builds.scm -- {builds} print=1 >{file}")]);
    file
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
    let files = goals.map(|(name, builds)| print(name, builds));

    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab");
    let mut program = Command::new(lab)
        .args(["sh", HEAD.0, PROGRAM])
        .args(files)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the lab's script starts");
    let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
    assert_eq!(said.next().expect("it gets as far as cancelling").unwrap(), "cancelled");
    let cancelled = Instant::now();
    loop {
        let looking = Instant::now();
        if MACHINES.iter().all(|&host| builders(host) == 0) {
            break;
        }
        // What looking takes, which is more on a busy machine, is not the build's.
        let most = Duration::from_secs(1) + 2 * looking.elapsed();
        assert!(cancelled.elapsed() < most, "the cancelled build goes on");
    }
    program.stdin.take().unwrap().write_all(b"\n").expect("it waits for this");
    assert_eq!(said.next().expect("it gets to its end").unwrap(), "ok");
    assert!(program.wait().unwrap().success());
    for host in [HEAD, MACHINES[0], MACHINES[1]] {
        host.verify_store();
    }
}

#[test]
fn many_goals_in_a_process_that_clones_builders() {
    let count = 250; // more than may run at once
    HEAD.offload_to(&MACHINES);
    let said = HEAD.sh(&[PROGRAM, "many", &print("many", &format!("plain count={count}"))]);
    println!("{said}");
    let begins = format!("{count} builds in ");
    assert!(said.starts_with(&begins) && said.ends_with(&format!("; {count} local ones\nok\n")), "{said}");
    assert_clean(&[HEAD], &MACHINES);
}

#[test]
fn what_the_client_asked_for_reaches_the_machine() {
    HEAD.offload_to(&MACHINES);
    let (another, fail) = (print("another", "another count=3"), print("fails", "fail"));
    let said = HEAD.sh(&[PROGRAM, "options", &another, &fail]);
    let (kept, rest) = said.strip_prefix("kept ").and_then(|said| said.split_once('\n')).expect(&said);
    assert_eq!(rest, "ok\n");
    let (machine, tree) = kept.split_once(' ').expect(&said);
    let machine = MACHINES.into_iter().find(|host| host.0 == machine).expect(&said);
    machine.sh(&["test", "-d", tree]);
    machine.sh(&["rm", "-r", tree]);
    // A guix-daemon leaves the output of a build that differs from round to round to its collector.
    MACHINES.iter().for_each(|host| drop(host.sh(&["guix", "gc"])));
    assert_clean(&[HEAD], &MACHINES);
}
