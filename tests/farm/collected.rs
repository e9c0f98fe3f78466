// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds on machines whose garbage collectors run all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::afterwards::assert_clean;
use crate::lab::Host;
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// Collects garbage on hosts, again and again, until it is dropped.
struct Collectors(Arc<AtomicBool>, Vec<JoinHandle<u32>>);

impl Collectors {
    fn on(hosts: &[Host]) -> Collectors {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = hosts.iter().map(|&host| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut times = 0;
                while !stop.load(Ordering::Relaxed) {
                    host.sh(&["guix", "gc"]);
                    times += 1;
                }
                times
            })
        });
        let threads = threads.collect();
        Collectors(stop, threads)
    }

    /// Stops them; returns how often each collected.
    fn stop(mut self) -> Vec<u32> {
        self.0.store(true, Ordering::Relaxed);
        self.1.drain(..).map(|thread| thread.join().expect("collecting garbage")).collect()
    }
}

impl Drop for Collectors {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_graph_is_built_on_machines_that_collect_garbage_all_the_time() {
    let machines = [W1, W2].map(|machine| Machine::of(machine).with("parallel-builds", "4"));
    HEAD.offload_through(Hook::Program, &machines);
    let seed = format!("seed={}", std::env::var("GUIX_OFFLOAD_SEED").unwrap_or("1".into()));
    let count = format!("count={}", std::env::var("GUIX_OFFLOAD_COUNT").unwrap_or("16".into()));
    let collectors = Collectors::on(&[HEAD, W1, W2]);
    let begun = Instant::now();
    let builds = HEAD.build("graph", &[&count, "kib=500", &seed]);
    println!("{count} {seed}: {:?}, collected {:?} times", begun.elapsed(), collectors.stop());
    println!("{}", builds.results.lines().last().unwrap_or_default());
    for line in builds.log.lines().filter(|line| line.contains("failed, trying") || line.contains("error")) {
        println!("{line}");
    }
    assert!(builds.succeeded, "{}{}", builds.log, builds.results);
    assert_clean(&[HEAD], &[W1, W2]);
}
