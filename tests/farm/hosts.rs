// SPDX-License-Identifier: GPL-3.0-or-later
//! Kinds of hosts: guix-daemon as root or as its own user, Guix 1.2.0, remote users other than root, other sockets.

use std::os::unix::fs::MetadataExt;

use crate::invariants::assert_clean;
use crate::lab::{Host, SlowLink, lab};
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");
/// Its daemon is not root.
const W3: Host = Host("w3");
/// Heads log in to it as a user who is not root.
const W4: Host = Host("w4");
/// It has Guix 1.2.0 and Guile 2.2.
const OLD: Host = Host("old");

#[test]
fn privileged_and_unprivileged_daemons_offload_to_each_other_and_to_other_users() {
    for (head, hook, machines) in [
        (HEAD, Hook::Program, &[W1, W3, W4, OLD][..]),
        (UHEAD, Hook::Program, &[W1, W3, W4, OLD]),
        (HEAD, Hook::Guile, &[W3, OLD]),
        (UHEAD, Hook::Guile, &[W1, W4]),
    ] {
        for &machine in machines {
            head.offload_through(hook, &[Machine::of(machine)]);
            let builds = head.build("outputs", &["input-kib=16"]);
            assert!(builds.succeeded, "{} to {}:\n{}{}", head.0, machine.0, builds.log, builds.results);
            // What arrives belongs to whoever the store belongs to.
            let owner = head.file("/gnu/store/.links").metadata().unwrap().uid();
            for output in builds.outputs("outputs") {
                assert_eq!(head.file(output).metadata().unwrap().uid(), owner, "{output} on {}", head.0);
            }
        }
    }
    assert_ne!(UHEAD.file("/gnu/store/.links").metadata().unwrap().uid(), 0, "the other daemon is root, too");
    assert_clean(&[HEAD, UHEAD], &[W1, W3, W4, OLD]);
}

#[test]
fn large_inputs_reach_an_old_machine() {
    assert!(OLD.sh(&["guix-daemon", "--version"]).contains("1.2.0"));
    HEAD.offload_with_our_hook(&[Machine::of(OLD)]);
    // So slow a link that 2048 round trips are worth a relay; a source, which is made again there, takes none.
    let slow = SlowLink::new(OLD, &["delay", "2"]);
    let relayed = |settings: &[&str], looks| {
        let mut building = HEAD.start_build("plain", settings);
        building.wait_for(" store items (6");
        let relay = (0..looks).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            OLD.run(&["pgrep", "-f", "primitive-eval|repl -t machine"]).status.success()
        });
        building.finish().assert_succeeded();
        relay
    };
    assert!(relayed(&["kib=65536", "built-input=1"], 100));
    HEAD.kill_keepers(); // whose connection has the relay now
    // Where this machine has much else to do, a round trip may last long enough for a relay now and then.
    assert!((0..3).any(|_| !relayed(&["input-kib=65536"], 20)));
    drop(slow);
    assert_clean(&[HEAD], &[OLD]);
}

#[test]
fn servers_that_forward_no_sockets_are_reached_through_the_relay() {
    let machines = [W1, W4, OLD];
    for machine in machines {
        configure_ssh(machine, "AllowStreamLocalForwarding no");
        HEAD.offload_with_our_hook(&[Machine::of(machine)]);
        for input in ["input-kib=1", "input-kib=4096"] {
            let builds = HEAD.build("chain", &[input]);
            assert!(builds.succeeded, "{}:\n{}{}", machine.0, builds.log, builds.results);
        }
        let failed = HEAD.build("fail", &[]);
        assert!(!failed.succeeded && failed.log.contains("about to fail"), "{}", failed.log);
        configure_ssh(machine, "");
    }
    assert_clean(&[HEAD], &machines);
}

#[test]
fn a_socket_that_the_remote_users_environment_names_is_used() {
    let socket = "/var/guix/elsewhere/socket";
    // For the user of `w4`, it is said by a server that forwards sockets; for that of `w1`, by one that does not.
    for (machine, forwarding) in [(W4, "yes"), (W1, "no")] {
        configure_ssh(
            machine,
            &format!("SetEnv GUIX_DAEMON_SOCKET=unix://{socket}\nAllowStreamLocalForwarding {forwarding}"),
        );
        lab(&["restart-daemon", machine.0, "--", &format!("--listen={socket}")]);
        HEAD.offload_with_our_hook(&[Machine::of(machine)]);
        let builds = HEAD.build("plain", &[]);
        assert!(builds.succeeded, "{}:\n{}{}", machine.0, builds.log, builds.results);
        configure_ssh(machine, "");
        lab(&["restart-daemon", machine.0]);
    }
    // A machine file can say so as well.
    lab(&["restart-daemon", "w1", "--", &format!("--listen={socket}")]);
    HEAD.offload_with_our_hook(&[Machine::of(W1).with("daemon-socket", crate::machines::quoted(socket))]);
    let builds = HEAD.build("plain", &[]);
    builds.assert_succeeded();
    lab(&["restart-daemon", "w1"]);
    assert_clean(&[HEAD], &[W1, W4]);
}

/// Has the SSH server of `host` go by these lines before any others; those of the last time are gone.
#[track_caller]
pub fn configure_ssh(host: Host, lines: &str) {
    std::fs::write(host.file("/etc/ssh/sshd_config.d/00-test.conf"), format!("{lines}\n")).unwrap();
    host.reload_sshd();
}
