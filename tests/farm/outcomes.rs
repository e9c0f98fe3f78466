// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that fail or exceed a time limit, and what guix-daemon makes of the hook's exit status.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::hook_by_hand::run_hook;
use crate::invariants::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::{Hook, Machine, system};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");

/// A hook that is ours, and notes its exit status.
const NOTING_HOOK: &str = "/usr/local/bin/noting-hook";
const NOTES: &str = "/var/guix/hook-statuses";

#[test]
fn a_failed_build_is_permanent_and_its_log_is_shown() {
    for hook in Hook::ALL {
        start_daemon(HEAD, hook, &["--cache-failures"]);
        let nonce = format!("nonce=fail-{hook:?}-{}", std::process::id());
        let first = HEAD.build("fail", &[&nonce]);
        assert!(!first.succeeded && first.results.starts_with("failed fail\nerror build of "), "{}", first.results);
        assert!(first.log.contains("about to fail\n"), "{}", first.log);
        assert_eq!(statuses(HEAD), ["100"], "{}", first.log);

        // Only a permanent failure is remembered, and the hook not asked again.
        assert!(HEAD.sh(&["guix", "gc", "--list-failures"]).contains("-fail\n"));
        let second = HEAD.build("fail", &[&nonce]);
        assert!(!second.succeeded && second.log.contains("cached"), "{}{}", second.log, second.results);
        assert_eq!(statuses(HEAD), ["100"], "{}", second.log);
        HEAD.sh(&["sh", "-c", "guix gc --clear-failures $(guix gc --list-failures)"]);
    }
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn time_limits_are_kept() {
    std::thread::scope(|scope| {
        scope.spawn(|| time_limits_are_kept_by(HEAD, Hook::Program));
        scope.spawn(|| time_limits_are_kept_by(UHEAD, Hook::Guile));
    });
    assert_clean(&[HEAD, UHEAD], &[W1]);
}

fn time_limits_are_kept_by(head: Host, hook: Hook) {
    start_daemon(head, hook, &["--cache-failures"]);
    let begun = Instant::now();
    let slow = head.start_build("sleep", &["seconds=60", "timeout=2"]);
    let silent = head.start_build("sleep", &["seconds=60", "silent=2"]);
    // Not silent, though it takes longer.
    let chatty = head.start_build("sleep", &["seconds=4", "silent=2", "chatty=1"]);
    let [slow, silent] = [slow, silent].map(|building| {
        let builds = building.finish();
        assert!(!builds.succeeded && builds.results.starts_with("failed sleep\nerror "), "{}", builds.results);
        let line = builds.log.lines().find(|line| line.contains("timed out after"));
        let line = line.unwrap_or_else(|| panic!("no word of a limit:\n{}{}", builds.log, builds.results));
        line.split(['`', '\'']).nth(1).expect("the name of the derivation").to_string()
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let chatty = chatty.finish();
    assert!(chatty.succeeded && chatty.log.contains("\n4\n"), "{}{}", chatty.log, chatty.results);
    assert_eq!(head.sh(&["guix", "gc", "--list-failures"]), "", "a timeout is no failure of the build");

    // The daemon enforces the same limits on its hook, and may be faster: so what the hook says of it comes by hand.
    for (derivation, silence, time) in [(slow, 60, 2), (silent, 2, 60)] {
        let inputs = head.sh(&["guix", "gc", "--requisites", &derivation]).replace('\n', " ");
        let output = derivation.replace(".drv", "");
        let request = format!("1 {} {derivation} \n{inputs}\n{output} \n", system());
        let ending = run_hook(head, hook, silence, time, &request);
        assert!(ending.said.starts_with("# accept\n") || ending.said.contains("\n# accept\n"), "{}", ending.said);
        assert!(ending.log.contains("timed out after"), "{}", ending.log);
        assert_eq!(ending.status, 101, "{}", ending.said);
    }
}

fn start_daemon(head: Host, hook: Hook, arguments: &[&str]) {
    println!("{} offloads through {hook:?}", head.0); // shown if the test fails
    head.write_machines(&[Machine::of(W1).with("parallel-builds", "3")]);
    let (noting, command) = (head.file(NOTING_HOOK), hook.command().join(" "));
    std::fs::write(&noting, format!("#!/bin/sh\n{command} \"$@\"\nstatus=$?\necho $status >>{NOTES}\nexit $status\n"))
        .unwrap();
    std::fs::set_permissions(&noting, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(head.file(NOTES), "").unwrap();
    std::fs::set_permissions(head.file(NOTES), PermissionsExt::from_mode(0o666)).unwrap();
    let variable = format!("GUIX={NOTING_HOOK}");
    lab(&[&["restart-daemon", head.0, &variable, "--", "--max-jobs=0"], arguments].concat());
}

/// With which the hooks since the daemon's start ended.
fn statuses(head: Host) -> Vec<String> {
    std::fs::read_to_string(head.file(NOTES)).unwrap().lines().map(str::to_string).collect()
}
