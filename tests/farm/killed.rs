// SPDX-License-Identifier: GPL-3.0-or-later
//! Processes that die without warning, at any moment of a build: the store stays sound, and the next attempt succeeds.

use std::time::Duration;

use crate::afterwards::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::Machine;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// Moments: what is said then, and how much later, in ms. At 40 Mbit/s, sending and retrieving take half a second.
const MOMENTS: [(&str, u64); 7] = [
    ("sending", 0),
    ("sending", 200),
    ("@ build-remote", 0),
    ("@ build-remote", 250),
    ("retrieving", 0),
    ("retrieving", 150),
    ("retrieving", 350),
];

/// Has whatever `kill` kills die at every moment of a build on `w1`.
#[track_caller]
fn kill_at_every_moment(kind: &str, kill: &dyn Fn()) {
    lab(&["link", "w1", "rate", "40"]);
    for (moment, delay) in MOMENTS {
        let nonce = format!("nonce={kind}-{}-{delay}-{}", moment.replace(' ', "-"), std::process::id());
        let settings = ["kib=2500", "seconds=0.5", &nonce];
        W1.sh(&["guix", "gc"]); // so that there is something to send
        HEAD.offload_with_our_hook(&[Machine::of(W1)]);
        let mut building = HEAD.start_build("sleep", &settings);
        building.wait_for(moment);
        std::thread::sleep(Duration::from_millis(delay));
        kill();
        let killed = building.finish();
        assert!(!killed.succeeded, "{kind} at {moment} + {delay} ms:\n{}", killed.log);

        HEAD.offload_with_our_hook(&[Machine::of(W1)]);
        let builds = HEAD.build("sleep", &settings);
        assert!(builds.succeeded, "{kind} at {moment} + {delay} ms:\n{}{}", builds.log, builds.results);
        // Files on their way into the store are all that may be left, and are garbage like any other.
        HEAD.sh(&["guix", "gc"]);
        assert_clean(&[HEAD], &[W1]);
    }
    lab(&["link", "w1", "off"]);
}

#[test]
fn a_killed_hook_leaves_nothing_and_the_build_can_be_repeated() {
    kill_at_every_moment("hook", &|| drop(HEAD.sh(&["pkill", "-KILL", "-x", "guix-offload"])));
}

#[test]
fn a_killed_daemon_leaves_nothing_and_the_build_can_be_repeated() {
    kill_at_every_moment("daemon", &|| drop(HEAD.sh(&["pkill", "-KILL", "-x", "guix-daemon"])));
}

#[test]
fn when_whoever_asked_goes_away_the_build_ends_on_the_machine_too() {
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let mut building = HEAD.start_build("sleep", &["seconds=60"]);
    building.wait_for("@ build-remote");
    building.abandon();
    assert_clean(&[HEAD], &[W1]);
}
