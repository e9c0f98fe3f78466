// SPDX-License-Identifier: GPL-3.0-or-later
//! More builds in one request than guix-daemon has descriptors for. It would take a thousand of them; here it has fewer
//! descriptors instead.

use std::time::{Duration, Instant};

use crate::invariants::assert_clean;
use crate::lab::Host;
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];

/// Has the daemon of `head` offload through `hook` and build `jobs` itself, with so many descriptors.
#[track_caller]
fn start_daemon(head: Host, hook: Hook, descriptors: usize) {
    head.offload_through(hook, &MACHINES.map(Machine::of));
    limit_descriptors(head, descriptors);
    // What these machines need for a build is known from now on: builds are accepted that would not wait long.
    assert!(head.build("plain", &["count=4"]).succeeded);
}

/// Gives the daemon of `head` so many descriptors.
#[track_caller]
fn limit_descriptors(head: Host, descriptors: usize) {
    // As the user that the daemon runs as, who may always.
    let command = format!(
        "daemon=$(pgrep -o -x guix-daemon) && user=$(stat -c %u /proc/$daemon) && setpriv --reuid=$user --regid=$user \
         --clear-groups prlimit --nofile={descriptors}:{descriptors} --pid $daemon"
    );
    head.sh(&["sh", "-c", &command]);
}

#[track_caller]
#[test]
fn a_request_of_more_builds_than_the_daemon_has_descriptors_is_done() {
    for (head, hook) in [(HEAD, Hook::Program), (UHEAD, Hook::Program), (HEAD, Hook::Guile)] {
        start_daemon(head, hook, 128);
        let builds = head.build("plain", &["count=40", "gather=1"]);
        builds.assert_succeeded();
        assert_eq!(builds.log.matches("\n@ build-remote ").count(), 41, "{}", builds.log);
    }
    assert_clean(&[HEAD, UHEAD], &MACHINES);
}

#[test]
fn a_daemon_whose_descriptors_are_all_held_says_so() {
    let nonce = format!("nonce=spent-{}", std::process::id());
    start_daemon(HEAD, Hook::Program, 128);
    limit_descriptors(HEAD, 40);
    let builds = HEAD.build("plain", &["count=6", &nonce]);
    assert!(!builds.succeeded && !builds.results.contains("ok plain-"), "{}{}", builds.log, builds.results);
    assert_eq!(builds.log.matches("and can offload no more").count(), 1, "{}", builds.log);
    assert!(builds.log.contains("hint: run the same command again"), "{}", builds.log);

    // A daemon that may build does, without the waits after postponements.
    let begun = Instant::now();
    let builds = HEAD.build("plain", &["count=6", &nonce, "jobs=1"]);
    builds.assert_succeeded();
    assert!(builds.log.matches("no build machine can be used now").count() >= 6, "{}", builds.log);
    assert!(!builds.log.contains("@ build-remote"), "{}", builds.log);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_clean(&[HEAD], &MACHINES);
}
