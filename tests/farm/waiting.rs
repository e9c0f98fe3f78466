// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that wait for a build slot: in which order they get one, which are accepted to wait, and what they leave
//! alone.

use std::time::Duration;

use crate::invariants::assert_clean;
use crate::lab::Host;
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
/// How many connections have logged in on `host`.
fn logins(host: Host) -> usize {
    host.sh(&["grep", "-c", "Accepted publickey", "/var/log/sshd.log"]).trim().parse().unwrap()
}

#[test]
fn who_came_first_is_built_first() {
    offload_to(&[one_slot(W1)]);
    HEAD.build("plain", &["count=2"]).assert_succeeded(); // from now on it is known how long builds take
    let builds = HEAD.build("stamp", &["count=8", "seconds=0.3"]);
    builds.assert_succeeded();
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
    for (seconds, unusual) in [("seconds=9", 2), ("seconds=16", 9)] {
        let mut long = HEAD.start_build("sleep", &[seconds]);
        long.wait_for("@ build-remote");
        std::thread::sleep(Duration::from_secs(unusual));
        let waiting = HEAD.build("plain", &["timeout=7200"]);
        waiting.assert_succeeded();
        assert!(waiting.log.contains("waiting for locks or build slots"), "{}", waiting.log);
        assert!(!waiting.log.contains("all build machines are busy"), "it was accepted:\n{}", waiting.log);
        long.finish().assert_succeeded();
        HEAD.build("plain", &["count=8"]);
    }
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn a_machine_without_room_is_not_asked_by_every_build_that_waits() {
    let overloaded = one_slot(W2).with("overload-threshold", "0.0").with("speed", "9.0");
    offload_to(&[one_slot(W1), overloaded]);
    HEAD.build("plain", &["count=2"]).assert_succeeded();
    let before = logins(W2);
    let builds = HEAD.build("stamp", &["count=10", "seconds=1"]);
    builds.assert_succeeded();
    assert!(builds.log.contains("'w2': it is overloaded"), "{}", builds.log);
    // Ten builds take some twelve seconds, in which it is asked every five, if not over the connection that there was.
    let asked = logins(W2) - before;
    assert!(asked <= 6, "{asked} logins:\n{}", builds.log);
    assert_clean(&[HEAD], &[W1, W2]);
}
