// SPDX-License-Identifier: GPL-3.0-or-later
//! What happens between and during the jobs of one process, whose connections live on from one to the next.
//! `c-tests/jobs.c` runs them one by one, in threads of its own.

use std::time::{Duration, Instant};

use crate::abi::{ENGINES, Request};
use crate::hosts::configure_ssh;
use crate::invariants::eventually;
use crate::jobs::Jobs;
use crate::lab::{Host, SlowLink, lab};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// The processes of sshd that serve a session on the machine.
fn sessions() -> Vec<String> {
    let listed = W1.run(&["pgrep", "-f", "^sshd.*: root@notty"]);
    String::from_utf8_lossy(&listed.stdout).lines().map(str::to_string).collect()
}

/// Ends the sessions that earlier tests left, and sees that there are none.
fn end_sessions() {
    sessions().iter().for_each(|session| drop(W1.run(&["kill", "-KILL", session])));
    await_no_session();
}

fn await_no_session() {
    let begun = Instant::now();
    while !sessions().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "sessions are left: {:?}", sessions());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Longer than a connection that was just in use is trusted.
fn let_it_idle() {
    std::thread::sleep(Duration::from_millis(1200));
}

#[test]
fn a_session_that_died_between_two_jobs_is_replaced() {
    end_sessions();
    let builds = Request::several("plain", &["count=6"]);
    let mut jobs = Jobs::new(ENGINES[0], "60");
    jobs.run(&builds[0]);
    let first = sessions();
    assert_eq!(first.len(), 1);
    jobs.run(&builds[1]);
    assert_eq!(sessions(), first, "the second job connected anew");

    W1.sh(&["kill", "-KILL", &first[0]]);
    jobs.run(&builds[2]);
    let second = sessions();
    assert!(second.len() == 1 && second != first, "{second:?}");

    // Its session lives on, but no daemon is at the other end of the channel any more.
    lab(&["restart-daemon", W1.0]);
    let_it_idle();
    jobs.run(&builds[3]);

    lab(&["restart-daemon", HEAD.0]);
    jobs.run(&builds[4]);

    // A machine that lost its power and is back says nothing of the connections that it had.
    let third = sessions();
    lab(&["kill", W1.0]);
    lab(&["start", W1.0]);
    let_it_idle();
    jobs.run(&builds[5]);
    assert!(sessions().len() == 1 && sessions() != third);
    jobs.end();
    HEAD.verify_store();
}

#[test]
fn a_connection_is_closed_when_its_idle_limit_is_over() {
    end_sessions();
    let builds = Request::several("plain", &["count=2"]);
    let mut jobs = Jobs::new(ENGINES[0], "1");
    for build in &builds {
        jobs.run(build);
        assert_eq!(sessions().len(), 1);
        await_no_session();
    }
    jobs.end();
}

#[test]
fn packets_that_are_lost_for_a_while_delay_a_job_and_no_more() {
    end_sessions();
    let builds = Request::several("plain", &["count=3"]);
    let mut jobs = Jobs::new(ENGINES[0], "60");
    jobs.run(&builds[0]);
    for (build, seconds) in builds[1..].iter().zip([1, 3]) {
        let_it_idle();
        lab(&["cut", W1.0, "on"]);
        jobs.start(build);
        std::thread::sleep(Duration::from_secs(seconds));
        lab(&["cut", W1.0, "off"]);
        jobs.succeed();
        build.check_present();
    }
    jobs.end();
}

#[test]
fn a_local_daemon_that_dies_while_files_are_sent_is_named_and_no_machine() {
    let build = Request::new("plain", &["input-kib=4096"]);
    let mut jobs = Jobs::new(ENGINES[0], "60");
    let slow = SlowLink::new(W1, &["rate", "8"]);
    jobs.start(&build);
    jobs.lines_until(&["sending"]);
    HEAD.sh(&["sh", "-c", "kill -KILL $(pgrep -P $(pgrep -o -x guix-daemon))"]);
    let said = jobs.lines_until(&["ok", "failed"]);
    drop(slow);
    // GUIX_OFFLOAD_STORE, on no machine, and no other machine was tried.
    assert!(!said.iter().any(|line| line == "retrying"), "{said:?}");
    let result = said.last().unwrap();
    assert!(result.starts_with("failed -8 - ") && result.contains(": the local daemon cannot "), "{said:?}");
    // Its master is well, and so is the machine.
    jobs.start(&build);
    assert_eq!(jobs.lines_until(&["ok", "failed"]).last().unwrap(), "ok");
    build.check_done();
    jobs.end();
}

/// What running builds have the daemons of the machine protect.
fn roots() -> usize {
    let script = "cat /var/guix/temproots/* 2>/dev/null | tr -d -c '\\0' | wc -c";
    W1.sh(&["sh", "-c", script]).trim().parse().unwrap()
}

#[test]
fn a_connection_that_waits_protects_nothing_on_the_machine() {
    end_sessions();
    W1.sh(&["guix", "gc"]); // removes what daemons that were killed protected
    for forwarding in ["yes", "no"] {
        configure_ssh(W1, &format!("AllowStreamLocalForwarding {forwarding}"));
        let builds = Request::several("plain", &["count=20", "inputs=3"]);
        let mut jobs = Jobs::new(ENGINES[0], "60");
        for build in &builds {
            jobs.run(build);
        }
        let session = sessions();
        assert_eq!(session.len(), 1);
        eventually(|| match roots() {
            0 => Ok(()),
            count => Err(format!("{count} roots of no build")),
        });
        W1.sh(&["guix", "gc"]);
        let left = builds.iter().filter(|build| build.is_on(W1)).count();
        assert_eq!(left, 0, "outputs on the machine");
        // It is as good as before.
        let builds = Request::several("plain", &["count=2"]);
        builds.iter().for_each(|build| jobs.run(build));
        assert_eq!(sessions(), session);
        jobs.end();
        configure_ssh(W1, "");
    }
}
