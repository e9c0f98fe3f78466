// SPDX-License-Identifier: GPL-3.0-or-later
//! Machine files as they are in use, and what they cost a hook.

use std::time::Duration;

use crate::lab::{Host, lab};
use crate::machines::{Hook, Machine, PROGRAM, quoted};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// A file of `tests/fixtures/machines`, with the files that it reads in their places.
fn in_use(number: u32) -> String {
    let name = format!("{}/tests/fixtures/machines/{number:02}.scm", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(name).expect("the file");
    for vm in ["childhurd", "build-vm"] {
        text = text.replace(&format!("/etc/{vm}/etc/ssh/"), "/etc/ssh/");
    }
    text.replace("/gnu/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-check-build-vm-availability.scm", "/srv/check.scm")
}

/// The processor time that so many hooks take, each of which declines one request. How long they take would depend on
/// what else this machine does.
fn time_to_decline(times: usize) -> Duration {
    let request = "1 mips64el-linux /gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv ";
    let hook = format!("printf '%s\\n' '{request}' | {PROGRAM} offload x86_64-linux 3600 0 86400 2>&1 4>/dev/null");
    let said = HEAD.sh(&["sh", "-c", &format!("for i in $(seq {times}); do {hook}; done; times")]);
    // A warning of what is odd in it comes once.
    let lines = said.lines().filter(|line| *line == "# decline").count();
    assert_eq!(lines, times, "{said}");
    // User and system time of the children, such as `0m1.500000s 0m0.250000s`.
    let of_children = said.lines().last().unwrap();
    let seconds = of_children.split(' ').map(|time| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').expect("minutes and seconds");
        60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
    });
    Duration::from_secs_f64(seconds.sum())
}

#[test]
fn a_file_that_needs_guile_costs_hooks_no_more_than_a_plain_one() {
    HEAD.sh(&["sh", "-c", "echo '(begin (use-modules (guix utils)) (->bool (%current-system)))' >/srv/check.scm"]);
    // Files that were just changed are not trusted to show another change.
    std::thread::sleep(Duration::from_secs(3));
    let time = |number| {
        HEAD.write_machine_file(&in_use(number));
        time_to_decline(50)
    };
    time(7);
    let plain = time(7);
    for number in [1, 2, 3] {
        let needs_guile = time(number);
        assert!(needs_guile < 2 * plain, "{number}: {needs_guile:?}, plain: {plain:?}");
    }
}

#[test]
fn a_key_that_others_can_read_is_used_and_said_once_a_day() {
    let key = "/etc/guix/exposed_key";
    HEAD.sh(&["sh", "-c", &format!("cp /etc/guix/offload_key {key}; chmod 644 {key}; rm -rf /var/guix/offload/.told")]);
    let mut said = 0;
    for hook in Hook::ALL {
        HEAD.offload_through(hook, &[Machine::of(W1).with("private-key", quoted(key))]);
        let builds = HEAD.build("plain", &[]);
        builds.assert_succeeded();
        said += builds.log.matches("(its mode is 0644)").count();
        assert_eq!(said, 1, "{hook:?}: {}", builds.log);
    }
    lab(&["restart-daemon", HEAD.0]);
}
