// SPDX-License-Identifier: GPL-3.0-or-later
//! Inputs and outputs of hundreds of mebibytes, and the memory that they take; slow links.

use crate::invariants::assert_clean;
use crate::lab::{Host, SlowLink};
use crate::machines::{Hook, Machine};
use crate::memory::with_peak_memory;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

const MIB: u64 = 1 << 20;

#[test]
fn large_files_take_little_memory() {
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    // The second input is a source, which the daemon there makes again, the third one is imported.
    for (settings, transfer) in [
        (&["kib=307200"][..], "retrieving 1 store item (300 MiB)"),
        (&["input-kib=307200"], "(302 MiB) to"),
        (&["kib=307200", "built-input=1"], "(302 MiB) to"),
    ] {
        let (builds, peak) = with_peak_memory("guix-offload", || HEAD.build("plain", settings));
        assert!(builds.succeeded && builds.log.contains(transfer), "{}{}", builds.log, builds.results);
        println!("{settings:?}: at most {:.1} MiB", peak as f64 / MIB as f64);
        assert!((MIB..32 * MIB).contains(&peak), "{settings:?}: {peak} bytes of memory");
        assert_clean(&[HEAD], &[W1]);
        // Nobody needs these any more.
        HEAD.sh(&["guix", "gc"]);
        W1.sh(&["guix", "gc"]);
    }
}

#[test]
fn large_outputs_come_through_guile() {
    HEAD.offload_through(Hook::Guile, &[Machine::of(W1)]);
    let builds = HEAD.build("plain", &["kib=307200"]);
    let transfer = "retrieving 1 store item (300 MiB)";
    assert!(builds.succeeded && builds.log.contains(transfer), "{}{}", builds.log, builds.results);
    assert_clean(&[HEAD], &[W1]);
    HEAD.sh(&["guix", "gc"]);
    W1.sh(&["guix", "gc"]);
}

#[test]
fn text_is_compressed_over_a_slow_link_which_is_remembered() {
    // On a busy machine, another test's link may have been slow, too.
    HEAD.kill_keepers();
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let received = || {
        let counters = W1.sh(&["cat", "/proc/net/dev"]);
        let line = counters.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("the host's interface");
        line.split_whitespace().next().expect("bytes received").parse::<u64>().expect("a number")
    };
    let history = || HEAD.sh(&["sh", "-c", "cat /var/guix/offload/w1:22/history || true"]);
    let _link = SlowLink::new(W1, &["rate", "50"]);
    assert!(!history().contains("slow "), "{}", history());
    for first in [true, false] {
        let before = received();
        let build = || HEAD.build("plain", &["input-kib=65536", "input-text=1"]);
        let (builds, peak) = with_peak_memory("guix-offload", build);
        builds.assert_succeeded();
        let bytes = received() - before;
        println!("of 64 MiB, {:.1} MiB; in {:.1} MiB of memory", bytes as f64 / MIB as f64, peak as f64 / MIB as f64);
        assert!((MIB..32 * MIB).contains(&peak), "{peak} bytes of memory");
        // What is sent before the link is known is not compressed.
        assert!(bytes > 4 * MIB && bytes < if first { 40 } else { 20 } * MIB, "{bytes} bytes");
        assert!(history().contains("slow "), "{}", history());
    }
    assert_clean(&[HEAD], &[W1]);
}
