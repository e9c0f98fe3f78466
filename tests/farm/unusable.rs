// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that are down, not who they should be, or overloaded: passed over, with one line that says why.

use std::time::{Duration, Instant};

use crate::invariants::assert_clean;
use crate::lab::{Builds, Host, lab};
use crate::machines::{Hook, Machine, host_key, quoted};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// More than any build here takes that does not wait for something that will not happen.
const PROMPTLY: Duration = Duration::from_secs(6);

/// For how long a machine is left alone that was away once (`src/choose/history.rs`).
const FIRST_BACK_OFF: Duration = Duration::from_secs(5);

/// These builds of `head` took so long, which is no longer than they may. If it is, what this machine has to do besides
/// is taken into account: starting Guix takes 0.4 s when that is nothing.
#[track_caller]
fn assert_prompt(head: Host, elapsed: Duration, builds: &Builds) {
    if elapsed < PROMPTLY {
        return;
    }
    let begun = Instant::now();
    head.build("plain", &["print=1"]);
    let start = begun.elapsed();
    let most = Duration::from_secs(4) + 5 * start;
    assert!(elapsed < most, "{elapsed:?}, where Guix starts in {start:?}:\n{}", builds.log);
}

/// Builds on `head`, of whose machines the bad one is the faster.
#[track_caller]
fn build_on_the_other(head: Host, hook: Hook, bad: &Machine, good: Host) -> Builds {
    head.offload_through(hook, &[bad.clone().with("speed", "9.0"), Machine::of(good)]);
    let begun = Instant::now();
    let builds = head.build("plain", &[]);
    builds.assert_succeeded();
    let went_to = format!(" {}\n", good.0);
    assert!(builds.log.lines().any(|l| l.starts_with("@ build-remote") && (l.to_string() + "\n").ends_with(&went_to)));
    assert_prompt(head, begun.elapsed(), &builds);
    builds
}

/// Fails to build on `head`, which has this machine only.
#[track_caller]
fn fail_to_build(head: Host, hook: Hook, machine: &Machine) -> Builds {
    head.offload_through(hook, std::slice::from_ref(machine));
    let begun = Instant::now();
    let builds = head.build("plain", &[]);
    assert!(!builds.succeeded && builds.results.starts_with("failed plain-0\nerror "), "{}", builds.results);
    assert_prompt(head, begun.elapsed(), &builds);
    builds
}

#[track_caller]
fn assert_said_once(builds: &Builds, what: &str) {
    assert_eq!(builds.log.matches(what).count(), 1, "{what} in\n{}", builds.log);
}

#[test]
fn a_machine_that_refuses_connections_is_passed_over() {
    let down = Machine::of(W2).with("port", "1");
    for hook in Hook::ALL {
        HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // what is remembered of machines
        let begun = Instant::now();
        let builds = build_on_the_other(HEAD, hook, &down, W1);
        assert_said_once(&builds, "skipping machine 'w2'");
        assert_said_once(&builds, "Connection refused");
        // It is remembered: the next build does not try it, unless this host is so slow that the back-off is over.
        let builds = HEAD.build("plain", &[]);
        let is_tried = builds.log.contains("'w2'") && begun.elapsed() < FIRST_BACK_OFF;
        assert!(builds.succeeded && !is_tried, "{}{}", builds.log, builds.results);
    }
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_machine_that_does_not_answer_is_not_waited_for() {
    lab(&["cut", "w2", "on"]);
    for hook in Hook::ALL {
        HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // what is remembered of machines
        let builds = build_on_the_other(HEAD, hook, &Machine::of(W2), W1);
        assert_said_once(&builds, "skipping machine 'w2': it has not answered");
    }
    lab(&["cut", "w2", "off"]);
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_stranger_with_the_machines_name_is_refused() {
    let stranger = Machine::of(W1).with("host-key", quoted(&host_key(W2)));
    let fingerprints = [W1, W2].map(|host| {
        let line = host.sh(&["ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key.pub"]);
        line.split(' ').nth(1).unwrap().to_string()
    });
    for hook in Hook::ALL {
        let builds = fail_to_build(HEAD, hook, &stranger);
        for fingerprint in &fingerprints {
            assert!(fingerprint.starts_with("SHA256:") && builds.log.contains(fingerprint), "{}", builds.log);
        }
        let builds = build_on_the_other(HEAD, hook, &stranger, W2);
        assert_said_once(&builds, "skipping machine 'w1'");
        assert_said_once(&builds, &fingerprints[0]);
    }
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_key_that_the_machine_does_not_accept_is_said_to_be_so() {
    let key = "/etc/guix/unknown_key";
    HEAD.sh(&["sh", "-c", &format!("rm -f {key}*; ssh-keygen -q -t ed25519 -N '' -f {key}")]);
    let locked_out = Machine::of(W1).with("private-key", quoted(key));
    for hook in Hook::ALL {
        let builds = fail_to_build(HEAD, hook, &locked_out);
        assert!(builds.log.contains(key) && builds.log.contains("'w1'"), "{}", builds.log);
        let builds = build_on_the_other(HEAD, hook, &locked_out, W2);
        assert_said_once(&builds, "skipping machine 'w1'");
    }
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_private_key_that_the_daemons_user_cannot_read_is_said_to_be_so() {
    let key = "/etc/guix/key_of_root";
    UHEAD.sh(&["install", "-m", "600", "-o", "root", "/etc/guix/offload_key", key]);
    let unreadable = Machine::of(W1).with("private-key", quoted(key));
    for hook in Hook::ALL {
        let builds = fail_to_build(UHEAD, hook, &unreadable);
        assert_said_once(&builds, "hint: ");
        assert!(builds.log.contains(key) && builds.log.contains("cannot be read by user"), "{}", builds.log);
        let builds = build_on_the_other(UHEAD, hook, &unreadable, W2);
        assert_said_once(&builds, "skipping machine 'w1'");
        assert_said_once(&builds, &format!("private key {key}"));
    }
    assert_clean(&[UHEAD], &[W1, W2]);
}

#[test]
fn overloaded_and_full_machines_postpone_the_build_until_one_is_not() {
    // No load is below 0.
    let overloaded = Machine::of(W1).with("overload-threshold", "0.0");
    HEAD.offload_with_our_hook(&[overloaded, Machine::of(W2)]);
    // The first connection leaves a text that the database lists (src/remote/trust.rs): in the store that comes back.
    HEAD.sh(&["/opt/guix-offload/bin/guix-offload", "status"]);
    W2.sh(&["mount", "-t", "tmpfs", "-o", "size=50m", "full", "/gnu/store"]);
    let mut building = HEAD.start_build("plain", &[]);
    building.wait_for("skipping machine");
    building.wait_for("skipping machine");
    std::thread::sleep(PROMPTLY); // the daemon asks again every five seconds
    let said = building.log().to_string();
    W2.sh(&["umount", "/gnu/store"]);
    // The hook that was postponed goes on with what the file says now.
    HEAD.write_machines(&[Machine::of(W1)]);
    let builds = building.finish();
    for reason in ["'w1': it is overloaded (normalized load", "threshold 0.00", "'w2': it is low on disk space (5"] {
        assert_eq!(said.matches(reason).count(), 1, "{reason} in\n{said}");
    }
    assert!(!said.contains("# postpone") && !said.contains("@ build-remote"), "{said}");
    builds.assert_succeeded();
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_build_that_no_machine_can_do_leaves_the_other_builds_alone() {
    // The only one that could do the first build is misconfigured.
    let misconfigured =
        Machine::of(W1).with("host-key", quoted(&host_key(W2))).with("features", "'(\"kvm\")").with("speed", "0.5");
    for hook in Hook::ALL {
        HEAD.offload_through(hook, &[misconfigured.clone(), Machine::of(W2)]);
        let builds = HEAD.build("plain", &["count=6", "picky=kvm"]);
        assert!(builds.results.starts_with("failed plain-0\nok plain-1 "), "{}{}", builds.log, builds.results);
        assert_eq!(builds.results.matches("ok plain-").count(), 5, "{}{}", builds.log, builds.results);
        assert!(builds.log.contains("the host key of 'w1' is SHA256"), "{}", builds.log);
    }
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_machine_in_back_off_is_waited_for_beside_one_that_is_misconfigured() {
    let misconfigured = Machine::of(W1).with("host-key", quoted(&host_key(W2)));
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // what is remembered of machines
    HEAD.offload_with_our_hook(&[misconfigured, Machine::of(W2).with("port", "2222")]);
    let mut building = HEAD.start_build("plain", &["count=3"]);
    building.wait_for("Connection refused");
    // The second question, after five seconds, finds the one left alone that the first found away.
    std::thread::sleep(PROMPTLY);
    let said = building.log().to_string();
    assert!(!said.contains("error:"), "{said}");
    let sshd = "mkdir -p /run/sshd; exec /usr/sbin/sshd -p 2222 -o PidFile=/run/other-sshd.pid";
    W2.sh(&["sh", "-c", sshd]);
    let builds = building.finish();
    W2.sh(&["sh", "-c", "kill $(cat /run/other-sshd.pid)"]);
    builds.assert_succeeded();
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn where_no_machine_can_be_used_and_the_daemon_may_build_it_does() {
    let down = Machine::of(W1).with("port", "1");
    let misconfigured = Machine::of(W2).with("private-key", quoted("/etc/guix/not_mounted_yet"));
    for hook in Hook::ALL {
        HEAD.kill_keepers(); // which may be connected with a key that was there
        for machines in [vec![down.clone()], vec![misconfigured.clone()], vec![down.clone(), misconfigured.clone()]] {
            HEAD.offload_through(hook, &machines);
            let builds = HEAD.build("plain", &["jobs=1", "count=2"]);
            builds.assert_succeeded();
            assert!(builds.log.matches("no build machine can be used now; building '").count() >= 2, "{}", builds.log);
            assert!(builds.log.contains("guix offload: skipping machine 'w"), "{}", builds.log);
            assert!(!builds.log.contains("@ build-remote"), "{}", builds.log);
        }
        // The key is there now: nothing that is remembered hides it.
        HEAD.offload_through(hook, std::slice::from_ref(&misconfigured));
        assert!(!HEAD.build("plain", &["jobs=1"]).log.contains("@ build-remote"));
        HEAD.sh(&["cp", "/etc/guix/offload_key", "/etc/guix/not_mounted_yet"]);
        let builds = HEAD.build("plain", &["jobs=1"]);
        HEAD.sh(&["rm", "/etc/guix/not_mounted_yet"]);
        assert!(builds.succeeded && builds.log.contains("@ build-remote"), "{}{}", builds.log, builds.results);
    }
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_machine_without_slots_is_none() {
    HEAD.offload_with_our_hook(&[Machine::of(W1).with("parallel-builds", "0")]);
    let builds = HEAD.build("plain", &["jobs=1"]);
    assert!(builds.succeeded && !builds.log.contains("machine"), "{}{}", builds.log, builds.results);
}

#[test]
fn a_head_in_its_own_list_is_never_used() {
    for hook in Hook::ALL {
        HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // what is remembered of machines
        let builds = build_on_the_other(HEAD, hook, &Machine::of(HEAD), W1);
        assert_said_once(&builds, "'head' is this host itself");
        HEAD.offload_through(hook, &[Machine::of(HEAD).with("name", quoted("127.0.0.1"))]);
        let builds = HEAD.build("plain", &["jobs=1"]);
        assert!(builds.succeeded && builds.log.contains("is this host itself"), "{}{}", builds.log, builds.results);
        assert!(!builds.log.contains("@ build-remote"), "{}", builds.log);
    }
    assert_clean(&[HEAD], &[W1]);
}
