// SPDX-License-Identifier: GPL-3.0-or-later
//! The hook's line protocol and command line, by hand.

use crate::hook_by_hand::{Ending, run_hook, run_program};
use crate::invariants::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::{Hook, Machine, PROGRAM, system};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// Asks for a build of a derivation that need not exist.
fn ask(system: &str, features: &str) -> Ending {
    let derivation = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";
    run_hook(HEAD, Hook::Program, 3600, 86400, &format!("1 {system} {derivation} {features}\n"))
}

#[test]
fn a_malformed_request_is_refused_with_a_message() {
    HEAD.write_machines(&[Machine::of(W1)]);
    for request in ["hello\n", "\n", "1 x86_64-linux /etc/passwd \n", "1 x86_64-linux /gnu/store/x.drv", "\0\n"] {
        let ending = run_hook(HEAD, Hook::Program, 3600, 86400, request);
        assert_eq!(ending.status, 1, "{request:?}: {}", ending.said);
        assert!(ending.said.contains("invalid request line: "), "{}", ending.said);
        // Only this build is to fail; a daemon that reads on is told so.
        let replies: Vec<_> = ending.said.lines().filter(|line| line.starts_with("# ")).collect();
        assert!(replies.is_empty() || replies == ["# accept"], "{}", ending.said);
    }
    let nothing = run_hook(HEAD, Hook::Program, 3600, 86400, "");
    assert_eq!((nothing.status, &*nothing.said), (0, ""), "the daemon may hang up without a request");
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn without_machines_builds_are_declined() {
    std::fs::remove_file(HEAD.file("/etc/guix/machines.scm")).unwrap();
    let missing = ask(&system(), "");
    assert_eq!((missing.status, &*missing.said), (0, "# decline\n"));
    HEAD.write_machines(&[]);
    let none = ask(&system(), "");
    assert_eq!((none.status, &*none.said), (0, "# decline\n"));
}

#[test]
fn builds_that_no_machine_can_do_are_declined_without_asking_any() {
    // Whoever is asked does not answer.
    lab(&["cut", "w1", "on"]);
    HEAD.write_machines(&[Machine::of(W1).with("features", "'(\"kvm\")")]);
    let begun = std::time::Instant::now();
    for (system, features) in [("riscv64-linux", ""), (&*system(), "big-parallel"), (&*system(), "kvm,big-parallel")] {
        let ending = ask(system, features);
        assert_eq!((ending.status, &*ending.said), (0, "# decline\n"), "{system} {features}");
    }
    let time = begun.elapsed();
    lab(&["cut", "w1", "off"]);
    assert!(time.as_secs() < 3, "{time:?}");
}

#[test]
fn a_wrong_machine_file_is_an_error_that_says_where() {
    HEAD.write_machine_file("(list\n (build-machine (name \"x\"\n");
    let ending = ask(&system(), "");
    assert!(ending.said.contains("error: /etc/guix/machines.scm:3:0: "), "{}", ending.said);
    // This host can build it.
    assert!(ending.status == 0 && ending.said.ends_with("# decline\n"), "{}", ending.said);
}

#[test]
fn a_malformed_machine_is_left_out_and_said_where() {
    let good = crate::machines::text(&[Machine::of(W1)]);
    for (text, place) in [("(build-machine\n  (name 5))", "3:2"), ("(build-machine (nam \"x\"))", "2:16"), ("5", "1:0")]
    {
        HEAD.write_machine_file(&format!("(list\n {text})"));
        let ending = ask(&system(), "");
        assert!(ending.status == 0 && ending.said.ends_with("# decline\n"), "{}", ending.said);
        assert!(ending.said.contains(&format!("warning: /etc/guix/machines.scm:{place}: ")), "{}", ending.said);
        assert!(ending.said.contains("\nhint: "), "{}", ending.said);
        // Where nobody else can build, the build fails by itself, and says why.
        lab(&["restart-daemon", HEAD.0, Hook::Program.variable(), "--", "--max-jobs=0"]);
        let builds = HEAD.build("plain", &["count=2"]);
        assert!(!builds.succeeded && !builds.results.contains("unable to start any build"), "{}", builds.results);
        let why = format!("error: no build machine can be used: /etc/guix/machines.scm:{place}: ");
        assert!(builds.log.contains(&why), "{}", builds.log);
        // The good one beside it is used.
        HEAD.offload_through(Hook::Program, &[]);
        HEAD.write_machine_file(&good.replacen("(list", &format!("(list\n {text}"), 1));
        let builds = HEAD.build("plain", &[]);
        assert!(builds.succeeded && builds.log.contains("offloading '"), "{}", builds.log);
        assert!(builds.log.contains(&format!("warning: /etc/guix/machines.scm:{place}: ")), "{}", builds.log);
    }
}

#[test]
fn other_commands_are_handed_on_to_guix() {
    let version = HEAD.sh(&["guix", "gc", "--version"]);
    assert!(version.starts_with("guix gc (GNU Guix)"), "{version}");
    for command in [
        &["env", "PATH=/usr/bin:/bin", PROGRAM][..],
        &["env", "-i", PROGRAM],
        &["env", "-i", "GUIX_OFFLOAD_GUIX=/usr/bin/guix", PROGRAM],
    ] {
        let ending = run_program(HEAD, &[command, &["gc", "--version"]].concat(), "");
        assert_eq!(ending.said.lines().next(), version.lines().next(), "{command:?}");
    }
    let help = run_program(HEAD, &[PROGRAM, "build", "--help"], "");
    assert!(help.status == 0 && help.said.contains("Usage: guix build"), "{}", help.said);
    assert_eq!(run_program(HEAD, &[PROGRAM, "no-such-command"], "").status, 1);
}

#[test]
fn when_there_is_no_other_guix_it_says_so() {
    // A directory where `guix` is this very program.
    HEAD.sh(&["sh", "-c", &format!("mkdir -p /srv/bin; ln -sf {PROGRAM} /srv/bin/guix")]);
    let alone = run_program(HEAD, &["env", "-i", "PATH=/srv/bin", "/srv/bin/guix", "gc", "--version"], "");
    assert!(alone.status == 1 && alone.said.contains("set GUIX_OFFLOAD_GUIX"), "{}", alone.said);
    let itself = format!("GUIX_OFFLOAD_GUIX={PROGRAM}");
    let ending = run_program(HEAD, &["env", "-i", &itself, PROGRAM, "gc", "--version"], "");
    assert!(ending.status == 1 && ending.said.contains("this very program"), "{}", ending.said);
    let wrong = run_program(HEAD, &[PROGRAM, "offload", "x86_64-linux"], "");
    assert!(wrong.status == 2 && wrong.said.contains("guix-offload --help"), "{}", wrong.said);
}
