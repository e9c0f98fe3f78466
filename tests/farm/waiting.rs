// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that wait for a build slot: in which order they get one, which are accepted to wait, and what they leave alone.

use std::time::Duration;

use crate::afterwards::assert_clean;
use crate::lab::{Builds, Host};
use crate::machines::Machine;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// Has `HEAD` offload to `machines`, of which nothing is known.
#[track_caller]
fn offload_to(machines: &[Machine]) {
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    HEAD.offload_with_our_hook(machines);
}

fn one_slot(host: Host) -> Machine {
    Machine::of(host).with("parallel-builds", "1")
}

#[track_caller]
fn assert_succeeded(builds: &Builds) {
    assert!(builds.succeeded, "{}{}", builds.log, builds.results);
}

/// How many connections have logged in on `host`.
fn logins(host: Host) -> usize {
    host.sh(&["grep", "-c", "Accepted publickey", "/var/log/sshd.log"]).trim().parse().unwrap()
}

#[test]
fn who_came_first_is_built_first() {
    offload_to(&[one_slot(W1)]);
    assert_succeeded(&HEAD.build("plain", &["count=2"])); // from now on it is known how long builds take
    let builds = HEAD.build("stamp", &["count=8", "seconds=0.3"]);
    assert_succeeded(&builds);
    let started = builds.log.lines().filter_map(|line| line.strip_prefix("@ build-started "));
    let names: Vec<_> =
        started.map(|line| line.split(".drv").next().unwrap().rsplit_once("-stamp-").unwrap().1).collect();
    let begun = |name: &&str| -> f64 {
        let output = builds.outputs(&format!("stamp-{name}"))[0];
        std::fs::read_to_string(HEAD.file(output)).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let times: Vec<_> = names.iter().map(begun).collect();
    assert!(times.len() == 8 && times.is_sorted(), "{names:?} began at {times:?}\n{}", builds.log);
    assert!(builds.log.contains("all build machines are busy, waiting"), "{}", builds.log);
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn a_build_that_could_not_begin_soon_is_not_accepted() {
    offload_to(&[one_slot(W1)]);
    // Whether nothing is known of the machine's builds, or only that others were over at once.
    for _ in 0..2 {
        let mut long = HEAD.start_build("sleep", &["seconds=9"]);
        long.wait_for("@ build-remote");
        std::thread::sleep(Duration::from_secs(2));
        let waiting = HEAD.build("plain", &["timeout=7200"]);
        assert_succeeded(&waiting);
        assert!(waiting.log.contains("waiting for locks or build slots"), "{}", waiting.log);
        assert!(!waiting.log.contains("all build machines are busy"), "it was accepted:\n{}", waiting.log);
        assert_succeeded(&long.finish());
        HEAD.build("plain", &["count=8"]);
    }
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn a_machine_without_room_is_not_asked_by_every_build_that_waits() {
    let overloaded = one_slot(W2).with("overload-threshold", "0.0").with("speed", "9.0");
    offload_to(&[one_slot(W1), overloaded]);
    assert_succeeded(&HEAD.build("plain", &["count=2"]));
    let before = logins(W2);
    let builds = HEAD.build("stamp", &["count=10", "seconds=1"]);
    assert_succeeded(&builds);
    assert!(builds.log.contains("'w2': it is overloaded"), "{}", builds.log);
    // Ten builds take some twelve seconds, in which it is asked every five.
    let asked = logins(W2) - before;
    assert!((1..=6).contains(&asked), "{asked} logins:\n{}", builds.log);
    assert_clean(&[HEAD], &[W1, W2]);
}
