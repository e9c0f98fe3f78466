// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds on machines whose garbage collectors run all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::invariants::assert_clean;
use crate::lab::{Builds, Host, Undo, lab};
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// Collects garbage on hosts, again and again, until it is dropped.
struct Collectors(Arc<AtomicBool>, Vec<JoinHandle<u32>>);

impl Collectors {
    fn on(hosts: &[Host]) -> Collectors {
        // The first client of a new host has the daemon make directories; two at once get in each other's way.
        hosts.iter().for_each(|host| drop(host.sh(&["guix", "gc"])));
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

/// `GUIX_OFFLOAD_COUNT` and `GUIX_OFFLOAD_SEED` make it larger, and another one.
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
    builds.assert_succeeded();
    assert_clean(&[HEAD], &[W1, W2]);
}

/// What is said of the machine whose store it is, and what becomes of the build.
#[track_caller]
fn assert_damage_is_told(builds: &Builds, item: &str) {
    builds.assert_succeeded();
    let line = builds.log.lines().find(|line| line.contains("machine 'w1' failed, trying another one"));
    let line = line.unwrap_or_else(|| panic!("w1 did not fail:\n{}", builds.log));
    assert!(line.contains("the store of 'w1' is damaged") && line.contains(item), "{line}");
    assert!(builds.log.contains("hint: on 'w1', as root: guix gc --verify=contents,repair"), "{}", builds.log);
}

#[test]
fn a_machine_whose_store_lies_is_told_and_another_one_builds() {
    // By its speed, the first one is tried first, however busy it is.
    let machines = [Machine::of(W1).with("speed", "900."), Machine::of(W2)];
    let to_w1 = &machines[..1];
    // An input is valid there, and gone.
    HEAD.offload_through(Hook::Program, to_w1);
    assert!(HEAD.build("plain", &[]).succeeded);
    let busybox = W1.sh(&["sh", "-c", "ls -d /gnu/store/*-busybox"]).trim().to_string();
    // What nobody needs goes, and what the database says of the rest: or no later test could use this machine.
    let _undo = Undo(|| drop(W1.run(&["sh", "-c", "guix gc; guix gc --verify"])));
    W1.sh(&["rm", "-r", &busybox]);
    HEAD.write_machines(&machines);
    assert_damage_is_told(&HEAD.build("plain", &[]), &busybox);
    W1.sh(&["sh", "-c", "guix gc; guix gc --verify"]); // what nobody needs goes, and what the database says of the rest

    // An output is there already, and has changed.
    let nonce = format!("nonce=changed-{}", std::process::id());
    HEAD.write_machines(to_w1);
    let output = HEAD.build("plain", &[&nonce]).outputs("plain-0")[0].to_string();
    HEAD.sh(&["guix", "gc", "-D", &output]);
    std::fs::write(W1.file(&format!("{output}/data")), "changed").unwrap();
    HEAD.write_machines(&machines);
    assert_damage_is_told(&HEAD.build("plain", &[&nonce]), &output);
    W1.sh(&["guix", "gc"]);
    assert_clean(&[HEAD], &[W1, W2]);
}

/// A daemon that logs all that it does is quiet while it is sent items, or it would be taken for one without an end.
#[test]
fn a_machine_whose_daemon_debugs_is_sent_thousands_of_items() {
    lab(&["restart-daemon", W1.0, "--", "--debug"]);
    HEAD.offload_through(Hook::Program, &[Machine::of(W1)]);
    let mut building = HEAD.start_build("plain", &["inputs=3000"]);
    // By then it has everything. To mount all that takes long.
    building.wait_for("offloading '");
    building.abandon();
    lab(&["restart-daemon", W1.0]);
    assert_clean(&[HEAD], &[W1]);
}

/// Between the builder's end there and the daemon's own registration here.
#[test]
fn outputs_come_back_while_garbage_is_collected_on_both_sides() {
    HEAD.offload_through(Hook::Program, &[Machine::of(W1).with("parallel-builds", "4")]);
    let collectors = Collectors::on(&[HEAD, W1]);
    let large = HEAD.build("plain", &["count=4", "kib=16384"]);
    let trees = HEAD.build("work", &["count=4", "files=200", "kib=16", "seconds=0"]);
    let outputs = HEAD.build("outputs", &[]);
    let times = collectors.stop();
    for builds in [&large, &trees, &outputs] {
        builds.assert_succeeded();
        assert!(!builds.log.contains("failed, trying"), "{}", builds.log);
    }
    assert!(times.iter().all(|times| *times > 1), "collected {times:?} times");
    assert_clean(&[HEAD], &[W1]);
}
