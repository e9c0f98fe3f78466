// SPDX-License-Identifier: GPL-3.0-or-later
//! What becomes of outputs in the store of the head, and what is known of that before they are built.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use crate::invariants::assert_clean;
use crate::lab::{Builds, Host, Undo, lab};
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// What a file system may need more for one file than for another with the same holes, in bytes.
const SLACK: u64 = 4 * 4096;

/// How often the builder has said something.
fn built(builds: &Builds) -> usize {
    builds.log.matches("about to fail").count()
}

#[test]
fn holes_stay_holes_as_with_the_script() {
    // Bytes on the disk, of a file that is restored by each.
    let restored = |fill: &[&str]| {
        let builds = HEAD.build(fill[0], &fill[1..]);
        assert!(builds.succeeded && builds.log.contains("@ build-remote"), "{}{}", builds.log, builds.results);
        let output = builds.results.split_ascii_whitespace().nth(2).unwrap().to_string();
        let data = fs::metadata(HEAD.file(&format!("{output}/data"))).unwrap();
        (data.len(), data.blocks() * 512)
    };
    for fill in [&["holes", "kib=4096"][..], &["plain", "kib=4096", "fill=zero"]] {
        HEAD.offload_to(&[W1]);
        lab(&["restart-daemon", "head"]);
        let (size, by_the_script) = restored(fill);
        HEAD.offload_with_our_hook(&[Machine::of(W1)]);
        let (same_size, by_us) = restored(fill);
        assert_eq!((size, same_size), (4 << 20, 4 << 20));
        println!("{}: {by_us} bytes on the disk, {by_the_script} by the script", fill[0]);
        // Where the blocks are is written in some more.
        assert!(by_us <= by_the_script + SLACK, "{by_us} bytes on the disk, {by_the_script} by the script");
        assert!(by_us <= 64 * 4096 + SLACK, "{by_us} bytes on the disk");
    }
    assert_clean(&[HEAD], &[W1]);
}

/// Fails to build on `head`, whose two machines are good, for want of `file`.
#[track_caller]
fn assert_not_built(head: Host, hook: Hook, file: &str, hint: &str) {
    head.offload_through(hook, &[Machine::of(W1), Machine::of(W2)]);
    let builds = head.build("fail", &["input-kib=1"]);
    assert!(!builds.succeeded, "{}", builds.log);
    assert_eq!(built(&builds), 0, "it was built before that was known:\n{}", builds.log);
    assert!(builds.log.contains(file), "{}", builds.log);
    let hints: Vec<_> = builds.log.lines().filter(|line| line.starts_with("hint: ")).collect();
    assert!(hints.len() == 1 && hints[0].contains(hint), "{hints:?} in\n{}", builds.log);
}

#[test]
fn what_keeps_outputs_out_is_known_before_the_build() {
    // A machine whose archives were not let in before is no more to blame for it than another.
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    HEAD.sh(&["mkdir", "-p", "/var/guix/offload/w2:22"]);
    let distrusted = "setback misconfigured 1 1 1\nreason untrusted it was not let in\n";
    fs::write(HEAD.file("/var/guix/offload/w2:22/history"), distrusted).unwrap();
    let acl = HEAD.file("/etc/guix/acl");
    let keys = fs::read(&acl).unwrap();
    fs::remove_file(&acl).unwrap();
    assert_not_built(HEAD, Hook::Guile, "/etc/guix/acl: No such file", "guix archive --authorize");
    fs::write(&acl, "(acl (entry))").unwrap();
    assert_not_built(HEAD, Hook::Program, "/etc/guix/acl: entry 1 is not", "authorize each key again");
    fs::write(&acl, keys).unwrap();

    // As the hook of an unprivileged daemon sees it.
    let user = UHEAD.sh(&["id", "-u", "guix-daemon"]);
    UHEAD.sh(&["sh", "-c", "chown 0:0 /etc/guix/acl; chmod 600 /etc/guix/acl"]);
    assert_not_built(UHEAD, Hook::Program, "/etc/guix/acl: Permission denied", "chmod a+r /etc/guix/acl");
    UHEAD.sh(&["chmod", "644", "/etc/guix/acl"]);
    UHEAD.sh(&["sh", "-c", "chown 0:0 /etc/guix/signing-key.sec"]);
    // What is not made again there has to be signed here.
    UHEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let builds = UHEAD.build("fail", &["built-input=1", "kib=1024"]);
    assert!(!builds.succeeded && built(&builds) == 0, "{}", builds.log);
    let hint = format!("chown {} /etc/guix/signing-key.sec", user.trim());
    assert!(builds.log.contains(&hint) && !builds.log.contains("--generate-key"), "{hint} in\n{}", builds.log);
    UHEAD.sh(&["sh", "-c", "chown guix-daemon /etc/guix/signing-key.sec"]);
    assert_clean(&[HEAD, UHEAD], &[W1, W2]);
}

#[test]
fn a_machine_that_is_not_trusted_builds_nothing() {
    let signing_key = |what: &str| W1.sh(&["sh", "-c", &format!("cd /etc/guix; {what}")]);
    let acl = HEAD.file("/etc/guix/acl");
    let keys = fs::read(&acl).unwrap();
    let restored = || {
        fs::write(&acl, &keys).unwrap();
        signing_key("if [ -e kept.sec ]; then mv kept.sec signing-key.sec; mv kept.pub signing-key.pub; fi");
    };
    let misconfigured: [(&str, &dyn Fn(), &str); 3] = [
        (
            "by a key that /etc/guix/acl does not authorize",
            &|| fs::write(&acl, "(acl)").unwrap(),
            "guix archive --authorize",
        ),
        (
            "it cannot sign what it exports",
            &|| drop(signing_key("mv signing-key.sec kept.sec; mv signing-key.pub kept.pub")),
            "--generate-key",
        ),
        (
            "by a key that /etc/guix/acl does not authorize",
            &|| {
                signing_key("mv signing-key.sec kept.sec; mv signing-key.pub kept.pub");
                W1.sh(&["guix", "archive", "--generate-key"]);
            },
            "guix archive --authorize",
        ),
    ];
    for (why, misconfigure, hint) in misconfigured {
        misconfigure();
        HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
        HEAD.offload_with_our_hook(&[Machine::of(W1)]);
        let mut building = HEAD.start_build("fail", &[]);
        building.wait_for(why);
        building.wait_for(hint);
        let builds = building.finish_within(Duration::from_secs(60));
        restored();
        assert!(!builds.succeeded && built(&builds) == 0, "{}", builds.log);
    }
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn a_machine_that_does_not_let_in_what_is_signed_here_is_sent_little_and_left_alone() {
    let acl = W2.file("/etc/guix/acl");
    let keys = fs::read(&acl).unwrap();
    fs::write(&acl, "(acl)").unwrap();
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    HEAD.offload_with_our_hook(&[Machine::of(W1), Machine::of(W2).with("speed", "9.0")]);
    let received = || -> u64 {
        let counters = W2.sh(&["cat", "/proc/net/dev"]);
        let interfaces = counters.lines().filter_map(|line| line.split_once(':'));
        interfaces.map(|(_, row)| row.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
    };
    let before = received();
    // A large input that is imported, and a large one that is made again there, which needs no signature.
    let inputs = ["kib=32768", "built-input=1", "input-kib=32768"];
    let builds = HEAD.build("plain", &inputs);
    builds.assert_succeeded();
    assert!(received() - before < 4 << 20, "{} bytes were sent to a machine that refuses them", received() - before);
    let hint = "authorize this host's key there: ssh root@w2 guix archive --authorize < /etc/guix/signing-key.pub";
    assert_eq!(builds.log.matches(hint).count(), 1, "{}", builds.log);
    // For how long depends on how busy this machine is; that it is, is in what hooks remember of it.
    let history = HEAD.sh(&["cat", "/var/guix/offload/w2:22/history"]);
    assert!(history.contains("setback misconfigured 1 "), "{history}");
    fs::write(&acl, keys).unwrap();
    assert_clean(&[HEAD], &[W1, W2]);
}

#[test]
fn a_signing_key_that_is_replaced_signs_what_is_sent_next() {
    HEAD.offload_with_our_hook(&[Machine::of(W2)]);
    let signed = ["kib=64", "built-input=1"];
    HEAD.build("plain", &signed).assert_succeeded();
    let acl = W2.file("/etc/guix/acl");
    let keys = fs::read_to_string(&acl).unwrap();
    // The keeper has the old key in its memory.
    let replace = "cd /etc/guix && mkdir -p old new && cp -a signing-key.* old \
                   && GUIX_CONFIGURATION_DIRECTORY=/etc/guix/new guix archive --generate-key \
                   && mv new/signing-key.* . && cat signing-key.pub";
    let public = HEAD.sh(&["sh", "-c", replace]);
    let _undo = Undo(|| {
        HEAD.sh(&["sh", "-c", "cd /etc/guix && mv old/signing-key.* . && rm -r old new"]);
        fs::write(&acl, &keys).unwrap();
    });
    fs::write(&acl, format!("(acl (entry {public} (tag (guix import))))")).unwrap();
    std::thread::sleep(Duration::from_secs(3)); // after two, the connection to the machine has a new daemon
    HEAD.build("plain", &signed).assert_succeeded();
    assert_clean(&[HEAD], &[W2]);
}
