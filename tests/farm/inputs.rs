// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds go where their inputs are.

use crate::invariants::assert_clean;
use crate::lab::Host;
use crate::machines::Machine;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// Lets HEAD build, and returns how many MiB the machines have received for that.
#[track_caller]
fn sent_mib(mode: &str, settings: &[&str]) -> u64 {
    let received = || W1.received() + W2.received();
    let before = received();
    HEAD.build(mode, settings).assert_succeeded();
    (received() - before) >> 20
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
    HEAD.build("plain", &["count=4"]).assert_succeeded(); // so that the loads of both are known
    // By chance, two or three of the five outputs that are read would be sent. One may be, as load counts, too.
    let sent = sent_mib("layers", &["layers=1,1,1,1,1,1", "kib=65536"]);
    assert!(sent < 128, "{sent} MiB");
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
    let sent = sent_mib("layers", &["layers=1,1", "kib=65536", &nonce]);
    assert!((64..128).contains(&sent), "{sent} MiB");
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn an_input_that_builds_share_is_sent_to_a_machine_once() {
    HEAD.offload_with_our_hook(&[Machine::of(W1).with("parallel-builds", "4")]);
    HEAD.kill_keepers();
    for input in ["input-signed=0", "input-signed=1"] {
        let sent = sent_mib("plain", &["count=4", "input-kib=65536", input]);
        // The second one is text, which is compressed if the link turns out slow.
        assert!((40..100).contains(&sent), "{input}: {sent} MiB");
    }
    assert_clean(&[HEAD], &[W1]);
}
