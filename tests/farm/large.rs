// SPDX-License-Identifier: GPL-3.0-or-later
//! Inputs and outputs of hundreds of mebibytes, and the memory that they take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::afterwards::assert_clean;
use crate::lab::Host;
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

const MIB: u64 = 1 << 20;

#[test]
fn large_files_take_little_memory() {
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    for (setting, transfer) in
        [("kib=307200", "retrieving 1 store item (300 MiB)"), ("input-kib=307200", "(302 MiB) to")]
    {
        let (builds, peak) = with_peak_memory(|| HEAD.build("plain", &[setting]));
        assert!(builds.succeeded && builds.log.contains(transfer), "{}{}", builds.log, builds.results);
        println!("{setting}: at most {:.1} MiB", peak as f64 / MIB as f64);
        assert!((MIB..32 * MIB).contains(&peak), "{setting}: {peak} bytes of memory");
        assert_clean(&[HEAD], &[W1]);
        // Nobody needs these any more.
        HEAD.sh(&["guix", "gc"]);
        W1.sh(&["guix", "gc"]);
    }
}

/// Runs `work`, and returns the most memory that a hook had meanwhile, in bytes; 0: there was no hook.
fn with_peak_memory<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(peak_of_hooks());
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watch.join().expect("watching the hook"))
    })
}

/// The highest peak so far of the hooks that run now. The farm's processes are all in this /proc.
fn peak_of_hooks() -> u64 {
    let statuses = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("status"));
    let hooks = statuses.filter_map(|file| std::fs::read_to_string(file).ok());
    let hooks = hooks.filter(|status| status.starts_with("Name:\tguix-offload\n"));
    let peak = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    hooks.filter_map(peak).max().unwrap_or(0) * 1024
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
