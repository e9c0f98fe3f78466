// SPDX-License-Identifier: GPL-3.0-or-later
//! SSH servers as they are: that let in few at a time, shut out who leaves too soon, are not OpenSSH, have an address
//! that nobody answers, or an account that runs no commands.

use std::time::{Duration, Instant};

use crate::hosts::configure_ssh;
use crate::invariants::assert_clean;
use crate::lab::{Builds, Host, SlowLink, lab};
use crate::machines::{Machine, quoted};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");
const W3: Host = Host("w3");

/// All builds went well, no machine was passed over for a reason that these words are in, and none is left alone.
#[track_caller]
fn assert_untroubled(builds: &Builds, machines: &[Host]) {
    builds.assert_succeeded();
    for machine in machines {
        let history = HEAD.file(&format!("/var/guix/offload/{}:22/history", machine.0));
        let history = std::fs::read_to_string(history).unwrap_or_default();
        assert!(!history.contains("setback away"), "{}: {history}\n{}", machine.0, builds.log);
    }
}

#[test]
fn a_server_that_lets_in_three_at_a_time_does_all_builds() {
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    configure_ssh(W1, "MaxStartups 3:100:3\nLogLevel VERBOSE");
    // So that logging in takes long enough for many to be at it.
    let link = SlowLink::new(W1, &["delay", "30"]);
    HEAD.offload_with_our_hook(&[Machine::of(W1).with("parallel-builds", "32")]);
    // A daemon asks for one build of a client after the other, so there are several clients.
    let building: Vec<_> = (0..8).map(|_| HEAD.start_build("plain", &["count=4"])).collect();
    let all: Vec<_> = building.into_iter().map(|building| building.finish()).collect();
    drop(link);
    let log = W1.sh(&["cat", "/var/log/sshd.log"]);
    configure_ssh(W1, "");
    assert!(log.contains("MaxStartups"), "no connection was turned away, so this shows nothing");
    for builds in &all {
        assert!(!builds.log.contains("skipping machine"), "{}", builds.log);
        assert_untroubled(builds, &[W1]);
    }
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn no_connection_ends_before_it_has_logged_in() {
    let machines = [W1, W2, W3];
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    let links: Vec<_> = machines.iter().map(|&host| SlowLink::new(host, &["delay", "75"])).collect();
    for machine in machines {
        configure_ssh(machine, "PerSourcePenalties yes\nLogLevel VERBOSE");
        machine.sh(&["sh", "-c", ": >/var/log/sshd.log"]);
    }
    HEAD.offload_with_our_hook(&machines.map(|host| Machine::of(host).with("parallel-builds", "8")));
    let builds = HEAD.build("plain", &["count=16"]);
    drop(links);
    let logs = machines.map(|machine| machine.sh(&["cat", "/var/log/sshd.log"]));
    machines.iter().for_each(|&machine| configure_ssh(machine, ""));
    let attempts: usize = logs.iter().map(|log| log.matches("Accepted publickey").count()).sum();
    assert!(attempts > 16, "no machine was tried beside another, so this shows nothing: {attempts} logins");
    for (machine, log) in machines.iter().zip(&logs) {
        let too_soon = |line: &&str| {
            let ends = line.contains("Connection closed") || line.contains("Connection reset");
            (ends && line.contains("[preauth]")) || line.contains("penalty") || line.contains("kex_exchange")
        };
        assert_eq!(log.lines().find(too_soon), None, "on {}:\n{log}", machine.0);
    }
    assert_untroubled(&builds, &machines);
    assert_clean(&[HEAD], &machines);
}

#[test]
fn a_machine_with_a_round_trip_of_two_and_a_half_seconds_is_reached() {
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let link = SlowLink::new(W1, &["delay", "1250"]);
    let begun = Instant::now();
    let status = HEAD.run(&["/opt/guix-offload/bin/guix-offload", "status"]);
    drop(link);
    let said = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && said.contains("ready"), "{said}{}", String::from_utf8_lossy(&status.stderr));
    assert!(begun.elapsed() > Duration::from_secs(10), "it was not so far away: {:?}", begun.elapsed());
}

#[test]
fn dropbear_is_a_server_as_any_other() {
    let key = "/etc/dropbear_key";
    let start = format!(
        "[ -e {key} ] || dropbearkey -t ed25519 -f {key} >/dev/null
         setsid dropbear -F -E -p 2222 -r {key} -P /run/dropbear.pid </dev/null >/var/log/dropbear.log 2>&1 &
         until ss -Hltn | grep -q ':2222 '; do sleep 0.02; done"
    );
    W1.sh(&["sh", "-c", &start]);
    let public = W1.sh(&["dropbearkey", "-y", "-f", key]);
    let public = public.lines().find(|line| line.starts_with("ssh-ed25519")).expect("its host key");
    let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
    HEAD.offload_with_our_hook(&[Machine::of(W1).with("port", "2222").with("host-key", quoted(&public))]);
    let builds = HEAD.build("chain", &["input-kib=4096"]);
    let failed = HEAD.build("fail", &[]);
    let log = W1.sh(&["cat", "/var/log/dropbear.log"]);
    W1.sh(&["sh", "-c", "kill $(cat /run/dropbear.pid)"]);
    assert!(builds.succeeded, "{}{}{log}", builds.log, builds.results);
    assert!(!failed.succeeded && failed.log.contains("about to fail"), "{}", failed.log);
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn an_account_that_runs_no_commands_is_misconfigured() {
    W1.sh(&["usermod", "--shell", "/usr/sbin/nologin", "root"]);
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let builds = HEAD.build("plain", &[]);
    W1.sh(&["usermod", "--shell", "/bin/bash", "root"]);
    assert!(!builds.succeeded, "{}", builds.results);
    for words in
        ["user root there does not run 'sh'", "This account is currently not available.", "chsh -s /bin/sh root"]
    {
        assert!(builds.log.contains(words), "{words:?} not in:\n{}", builds.log);
    }
    assert_clean(&[HEAD], &[W1]);
}

/// Where `make staged-new` puts what was built on Debian 13.
const NEW: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/stage-debian-13");

#[test]
fn a_server_with_post_quantum_key_exchange_only_works_or_is_told_what_is_missing() {
    let at = "/root/new";
    let there = HEAD.file(at);
    let copied = std::process::Command::new("cp").args(["-r", NEW]).arg(&there).status().expect("cp starts");
    assert!(copied.success(), "{NEW} is missing: make staged-new");
    configure_ssh(W1, "KexAlgorithms mlkem768x25519-sha256,sntrup761x25519-sha512");
    // The library that the other tests use was built with an older OpenSSL.
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let forget = || HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // why this machine was not used before
    forget();
    let old = HEAD.build("plain", &[]);
    lab(&["restart-daemon", "head", &format!("GUIX={at}/libexec/guix-offload"), "--", "--max-jobs=0"]);
    forget();
    let new = HEAD.build("plain", &[]);
    configure_ssh(W1, "LogLevel DEBUG1");
    W1.sh(&["sh", "-c", ": >/var/log/sshd.log"]);
    HEAD.kill_keepers(); // so that it connects
    let preferred = HEAD.build("plain", &[]);
    let log = W1.sh(&["cat", "/var/log/sshd.log"]);
    configure_ssh(W1, "");
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    HEAD.sh(&["rm", "-rf", at]);
    assert!(!old.succeeded, "{}", old.log);
    for words in [
        "no key exchange method in common",
        "offers mlkem768x25519-sha256, sntrup761x25519-sha512",
        "'KexAlgorithms mlkem768x25519-sha256,sntrup761x25519-sha512,curve25519-sha256' into sshd_config",
        "OpenSSL 3.5",
    ] {
        assert!(old.log.contains(words), "{words:?} not in:\n{}", old.log);
    }
    new.assert_succeeded();
    assert!(preferred.succeeded && log.contains("kex: algorithm: mlkem768x25519-sha256"), "{}{log}", preferred.log);
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn an_address_that_swallows_packets_costs_a_moment_once() {
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    // Nobody has this address, but it could be on this network.
    let swallow = "ip -6 addr add fd00:88::1/64 dev eth0 nodad; cp /etc/hosts /etc/hosts.before
                   echo fd00:88::99 w1 >>/etc/hosts; ip -6 neigh add fd00:88::99 lladdr 02:00:00:00:99:99 dev eth0";
    HEAD.sh(&["sh", "-c", swallow]);
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let first = HEAD.sh(&["getent", "ahosts", "w1"]);
    let all = ["plain", "plain"].map(|mode| HEAD.build(mode, &[]));
    let history = std::fs::read_to_string(HEAD.file("/var/guix/offload/w1:22/history")).unwrap();
    HEAD.sh(&["sh", "-c", "cat /etc/hosts.before >/etc/hosts; ip -6 addr del fd00:88::1/64 dev eth0"]);
    assert!(first.starts_with("fd00:88::99 "), "the resolver has another order, so this shows nothing: {first}");
    all.iter().for_each(|builds| assert_untroubled(builds, &[W1]));
    assert!(history.contains("address 10.88."), "{history}");
    // How long connecting took is that of the second build, which went to the address that answers at once.
    let took = history.lines().find_map(|line| line.strip_prefix("answered ")).expect("how long it took");
    println!("answered after {took} ms");
    assert_clean(&[HEAD], &[W1]);
}
