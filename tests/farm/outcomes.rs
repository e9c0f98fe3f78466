// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that fail or exceed a time limit, and what guix-daemon makes of the hook's exit status.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::afterwards::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::{Machine, PROGRAM};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// A hook that is ours, and notes its exit status.
const NOTING_HOOK: &str = "/usr/local/bin/noting-hook";
const NOTES: &str = "/var/guix/hook-statuses";

#[test]
fn a_failed_build_is_permanent_and_its_log_is_shown() {
    start_daemon(&["--cache-failures"]);
    let nonce = format!("nonce=fail-{}", std::process::id());
    let first = HEAD.build("fail", &[&nonce]);
    assert!(!first.succeeded && first.results.starts_with("failed fail\nerror build of "), "{}", first.results);
    assert!(first.log.contains("about to fail\n"), "{}", first.log);
    assert_eq!(statuses(), ["100"], "{}", first.log);

    // Only a permanent failure is remembered, and the hook not asked again.
    assert!(HEAD.sh(&["guix", "gc", "--list-failures"]).contains("-fail\n"));
    let second = HEAD.build("fail", &[&nonce]);
    assert!(!second.succeeded && second.log.contains("cached"), "{}{}", second.log, second.results);
    assert_eq!(statuses(), ["100"], "{}", second.log);
    HEAD.sh(&["guix", "gc", "--clear-failures=all"]);
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn time_limits_are_kept() {
    start_daemon(&["--cache-failures"]);
    let begun = Instant::now();
    let slow = HEAD.start_build("sleep", &["seconds=60", "timeout=2"]);
    let silent = HEAD.start_build("sleep", &["seconds=60", "silent=2"]);
    // Not silent, though it takes longer; it waits for one of the two slots, which is not silence either.
    let chatty = HEAD.start_build("sleep", &["seconds=4", "silent=2", "chatty=1"]);
    for building in [slow, silent] {
        let builds = building.finish();
        assert!(!builds.succeeded && builds.results.starts_with("failed sleep\nerror "), "{}", builds.results);
        let limit = builds.log.lines().find(|line| line.contains("after 2 seconds") || line.contains("timed out"));
        assert!(limit.is_some(), "{}{}", builds.log, builds.results);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let chatty = chatty.finish();
    assert!(chatty.succeeded && chatty.log.contains("\n4\n"), "{}{}", chatty.log, chatty.results);
    let mut statuses = statuses();
    statuses.sort();
    assert_eq!(statuses, ["0", "101", "101"]);
    assert_eq!(HEAD.sh(&["guix", "gc", "--list-failures"]), "", "a timeout is no failure of the build");
    assert_clean(&[HEAD], &[W1]);
}

fn start_daemon(arguments: &[&str]) {
    HEAD.write_machines(&[Machine::of(W1)]);
    let hook = HEAD.file(NOTING_HOOK);
    std::fs::write(&hook, format!("#!/bin/sh\n{PROGRAM} \"$@\"\nstatus=$?\necho $status >>{NOTES}\nexit $status\n"))
        .unwrap();
    std::fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(HEAD.file(NOTES), "").unwrap();
    let hook = format!("GUIX={NOTING_HOOK}");
    lab(&[&["restart-daemon", "head", &hook, "--", "--max-jobs=0"], arguments].concat());
}

/// With which the hooks since the daemon's start ended.
fn statuses() -> Vec<String> {
    std::fs::read_to_string(HEAD.file(NOTES)).unwrap().lines().map(str::to_string).collect()
}
