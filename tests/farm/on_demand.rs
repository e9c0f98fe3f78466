// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine that is there only while it is needed: here, at the end of an SSH connection that its programs make and
//! close.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::invariants::{assert_clean, eventually};
use crate::lab::Host;
use crate::machines::{Machine, quoted};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// Programs of a machine, until dropped.
struct Programs;

impl Programs {
    fn new(programs: &[(&str, &str)]) -> Programs {
        HEAD.sh(&["mkdir", "-p", "/etc/guix/offload"]);
        for (name, script) in programs {
            let file = HEAD.file(&format!("/etc/guix/offload/127.0.0.1.{name}"));
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Programs
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        HEAD.run(&["rm", "-r", "/etc/guix/offload"]);
        HEAD.run(&["sh", "-c", STOP]);
    }
}

const START: &str = "echo \"starting $1\"\n\
    exec ssh -i /etc/guix/offload_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -M -S /run/tunnel -f -N -L 2222:127.0.0.1:22 root@w1 >/dev/null 2>&1";
const STOP: &str = "ssh -S /run/tunnel -O exit root@w1";

#[test]
fn a_machine_is_started_for_a_build_and_stopped_when_there_is_none() {
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    HEAD.kill_keepers();
    let machine = Machine::of(W1).with("name", quoted("127.0.0.1")).with("port", "2222");
    HEAD.offload_with_our_hook(&[machine]);
    let failing = Programs::new(&[("start", "echo no more machines today >&2; exit 7")]);
    let mut build = HEAD.start_build("plain", &[]);
    build.wait_for("127.0.0.1.start' failed with exit status 7: no more machines today");
    drop(failing);
    let _programs = Programs::new(&[("start", START), ("stop", STOP)]);
    let built = build.finish();
    built.assert_succeeded();
    assert!(built.log.contains("/etc/guix/offload/127.0.0.1.start' starts or stops it"), "{}", built.log);
    // As if the last build had been some time ago. The keeper may still note how long it took.
    let age = "cd /var/guix/offload && \
               touch --no-create -d '10 minutes ago' .demand/127.0.0.1 127.0.0.1:2222/history";
    eventually(|| {
        HEAD.sh(&["sh", "-c", age]);
        match HEAD.file("/var/guix/offload/.demand/127.0.0.1").exists() {
            false => Ok(()),
            true => Err("it was not stopped".into()),
        }
    });
    assert!(!HEAD.run(&["ssh", "-S", "/run/tunnel", "-O", "check", "root@w1"]).status.success());
    assert_clean(&[HEAD], &[W1]);
}
