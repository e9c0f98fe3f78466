// SPDX-License-Identifier: GPL-3.0-or-later
//! A process whose jobs the keeper does, when one of the two dies.

use crate::abi::{ENGINES, Request};
use crate::invariants::{assert_clean, await_sleeper};
use crate::jobs::Jobs;
use crate::lab::Host;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// Starts a job of a minute, and waits until the machine is at it.
fn start_long_job(jobs: &mut Jobs) {
    jobs.start(&Request::new("sleep", &["seconds=60"]));
    jobs.lines_until(&["building"]);
    await_sleeper(W1, true);
}

#[test]
fn a_keeper_that_is_killed_fails_its_jobs_and_the_next_one_has_another() {
    HEAD.kill_keepers();
    let mut jobs = Jobs::new(ENGINES[1], "60");
    start_long_job(&mut jobs);
    let killed = HEAD.keepers();
    HEAD.kill_keepers();
    let said = jobs.lines_until(&["ok", "failed"]);
    assert!(said.last().is_some_and(|line| line.contains(" the keeper ended: ")), "{said:?}");
    await_sleeper(W1, false);
    jobs.run(&Request::new("plain", &[]));
    assert_ne!(HEAD.keepers(), killed);
    jobs.end();
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn when_the_process_is_killed_the_keeper_ends_its_build_and_stays() {
    HEAD.kill_keepers();
    let mut jobs = Jobs::new(ENGINES[1], "60");
    jobs.run(&Request::new("plain", &[]));
    let keeper = HEAD.keepers();
    start_long_job(&mut jobs);
    HEAD.sh(&["pkill", "-KILL", "-x", "jobs"]); // of this host alone: each has its pid namespace
    await_sleeper(W1, false);
    assert_eq!(HEAD.keepers(), keeper);
    assert_clean(&[HEAD], &[W1]);
}
