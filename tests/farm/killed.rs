// SPDX-License-Identifier: GPL-3.0-or-later
//! Processes that die without warning, at any moment of a build: the store stays sound, and the next attempt succeeds.

use std::time::Duration;

use crate::invariants::{assert_clean, await_sleeper};
use crate::lab::{Host, SlowLink};
use crate::machines::Machine;

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// Has `victim`, a process of `head`, die at these moments of a build on `machine`: a moment is what is said then, and
/// how much later, in ms. At 25 Mbit/s, sending and retrieving take most of a second.
#[track_caller]
fn kill_at(victim: &str, head: Host, machine: Host, moments: &[(&str, u64)]) {
    let _slow = SlowLink::new(machine, &["rate", "25"]);
    for (moment, delay) in moments {
        let nonce = format!("nonce={victim}-{}-{delay}-{}", moment.replace(' ', "-"), std::process::id());
        let settings = ["kib=4000", "seconds=0.5", &nonce];
        machine.sh(&["guix", "gc"]); // so that there is something to send
        head.offload_with_our_hook(&[Machine::of(machine)]);
        let mut building = head.start_build("sleep", &settings);
        building.wait_for(moment);
        std::thread::sleep(Duration::from_millis(*delay));
        head.sh(&["pkill", "-KILL", "-x", victim]);
        let killed = building.finish();
        assert!(!killed.succeeded, "{victim} at {moment} + {delay} ms:\n{}", killed.log);

        head.offload_with_our_hook(&[Machine::of(machine)]);
        let builds = head.build("sleep", &settings);
        assert!(builds.succeeded, "{victim} at {moment} + {delay} ms:\n{}{}", builds.log, builds.results);
        // Files on their way into the store are all that may be left, and are garbage like any other.
        head.sh(&["guix", "gc"]);
        assert_clean(&[head], &[machine]);
    }
}

#[test]
fn a_killed_hook_or_daemon_leaves_nothing_and_the_build_can_be_repeated() {
    let moments = [
        ("sending", 0),
        ("sending", 200),
        ("@ build-remote", 0),
        ("@ build-remote", 250),
        ("retrieving", 0),
        ("retrieving", 250),
    ];
    std::thread::scope(|scope| {
        scope.spawn(|| kill_at("guix-offload", HEAD, W1, &moments));
        // The odd ones: in the midst of it.
        scope.spawn(|| {
            moments.iter().skip(1).step_by(2).for_each(|moment| kill_at("guix-daemon", UHEAD, W2, &[*moment]))
        });
    });
}

#[test]
fn when_whoever_asked_goes_away_the_build_ends_on_the_machine_too() {
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let mut building = HEAD.start_build("sleep", &["seconds=60"]);
    building.wait_for("@ build-remote");
    // A guix-daemon that is told to stop before its builder has a process group of its own waits for it to end by
    // itself (`DerivationGoal::killChild` in Guix 1.5.0).
    await_sleeper(W1, true);
    building.abandon();
    assert_clean(&[HEAD], &[W1]);
}
