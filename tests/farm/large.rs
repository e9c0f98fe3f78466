// SPDX-License-Identifier: GPL-3.0-or-later
//! Inputs and outputs of hundreds of mebibytes, and the memory that they take.

use crate::afterwards::assert_clean;
use crate::lab::Host;
use crate::machines::{Hook, Machine};
use crate::memory::with_peak_memory;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

const MIB: u64 = 1 << 20;

#[test]
fn large_files_take_little_memory() {
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    for (setting, transfer) in
        [("kib=307200", "retrieving 1 store item (300 MiB)"), ("input-kib=307200", "(302 MiB) to")]
    {
        let (builds, peak) = with_peak_memory("guix-offload", || HEAD.build("plain", &[setting]));
        assert!(builds.succeeded && builds.log.contains(transfer), "{}{}", builds.log, builds.results);
        println!("{setting}: at most {:.1} MiB", peak as f64 / MIB as f64);
        assert!((MIB..32 * MIB).contains(&peak), "{setting}: {peak} bytes of memory");
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
