// SPDX-License-Identifier: GPL-3.0-or-later
//! A process whose jobs the keeper does, when one of the two dies.

use crate::abi::{ENGINES, Request};
use crate::afterwards::{assert_clean, eventually};
use crate::jobs::Jobs;
use crate::lab::Host;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// A job of a minute, and the lines that it has said when the machine is at it.
fn start_long_job(jobs: &mut Jobs) {
    jobs.start(&Request::new("sleep", &["seconds=60"]));
    jobs.lines_until(&["building"]);
    await_builder(true);
}

fn await_builder(is_there: bool) {
    eventually(|| match W1.run(&["pgrep", "-f", "busybox sleep 60"]).status.success() == is_there {
        true => Ok(()),
        false => Err(format!("w1 {} the job", if is_there { "does not do" } else { "does" })),
    });
}

fn keepers() -> String {
    String::from_utf8_lossy(&HEAD.run(&["pgrep", "-f", "[g]uix-offload keeper serve"]).stdout).into_owned()
}

#[test]
fn a_keeper_that_is_killed_fails_its_jobs_and_the_next_one_has_another() {
    HEAD.kill_keepers();
    let mut jobs = Jobs::new(ENGINES[1], "60");
    start_long_job(&mut jobs);
    let killed = keepers();
    HEAD.kill_keepers();
    let said = jobs.lines_until(&["ok", "failed"]);
    assert!(said.last().is_some_and(|line| line.contains(" the keeper ended: ")), "{said:?}");
    await_builder(false);
    jobs.run(&Request::new("plain", &[]));
    assert_ne!(keepers(), killed);
    jobs.end();
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn when_the_process_is_killed_the_keeper_ends_its_build_and_stays() {
    let mut jobs = Jobs::new(ENGINES[1], "60");
    jobs.run(&Request::new("plain", &[]));
    let keeper = keepers();
    start_long_job(&mut jobs);
    HEAD.sh(&["pkill", "-KILL", "-x", "jobs"]); // of this host alone: each has its pid namespace
    await_builder(false);
    assert_eq!(keepers(), keeper);
    assert_clean(&[HEAD], &[W1]);
}
