// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds go where their inputs are.

use crate::invariants::assert_clean;
use crate::lab::{Builds, Host};
use crate::machines::Machine;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// How many MiB were sent for the builds, by what their log says.
fn sent_mib(builds: &Builds) -> u64 {
    let size = |line: &str| {
        line.split_once(": sending ")?.1.split_once(" (")?.1.split_once(" MiB) to ")?.0.parse::<u64>().ok()
    };
    let sizes: Vec<_> = builds.log.lines().filter_map(size).collect();
    assert!(!sizes.is_empty(), "nothing was sent:\n{}", builds.log);
    sizes.iter().sum()
}

/// Starts anew, with two equal machines of two slots.
fn two_machines() {
    let machines = [W1, W2].map(|host| Machine::of(host).with("parallel-builds", "2"));
    HEAD.offload_with_our_hook(&machines);
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    HEAD.kill_keepers();
}

#[test]
fn builds_that_read_each_others_outputs_stay_on_the_machine_that_has_them() {
    two_machines();
    let chain = HEAD.build("layers", &["layers=1,1,1,1,1,1", "kib=65536"]);
    chain.assert_succeeded();
    // By chance, two or three of the five outputs that are read would be sent.
    assert!(sent_mib(&chain) < 64, "{} MiB\n{}", sent_mib(&chain), chain.log);
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn after_a_collector_has_run_builds_are_done_and_what_they_read_is_sent() {
    two_machines();
    let nonce = format!("nonce={}", std::process::id());
    HEAD.build("layers", &["layers=1", "kib=65536", &nonce]).assert_succeeded();
    for machine in [W1, W2] {
        machine.sh(&["sh", "-c", "sleep 3; guix gc"]); // the connection has given up its roots by then
    }
    let next = HEAD.build("layers", &["layers=1,1", "kib=65536", &nonce]);
    next.assert_succeeded();
    assert!(sent_mib(&next) >= 64, "{}", next.log);
    assert_clean(&[HEAD], &[W1, W2]);
}
