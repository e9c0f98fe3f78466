// SPDX-License-Identifier: GPL-3.0-or-later
//! The farm itself: with Guix's own script as the hook, an offloaded build works, and stores are whole afterwards.

use crate::lab::{Host, lab};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");

#[test]
fn the_stock_script_offloads_a_build() {
    HEAD.offload_to(&[W1]);
    lab(&["restart-daemon", "head"]);
    let builds = HEAD.build("plain", &["kib=16", "input-kib=16"]);
    let [output] = builds.outputs("plain-0")[..] else { panic!("one output expected:\n{}", builds.results) };
    assert!(builds.succeeded && builds.log.contains("@ build-remote"), "{}", builds.log);

    let data = format!("{output}/data");
    let (here, there) = (HEAD.file(&data), W1.file(&data));
    assert_eq!(here.metadata().unwrap().len(), 16 * 1024);
    assert_eq!(std::fs::read(here).unwrap(), std::fs::read(there).unwrap());
    HEAD.verify_store();
    W1.verify_store();
}

#[test]
fn a_failing_build_is_reported_as_such() {
    HEAD.offload_to(&[W1]);
    lab(&["restart-daemon", "head"]);
    let builds = HEAD.build("fail", &[]);
    assert!(!builds.succeeded && builds.results.starts_with("failed fail\nerror "), "{}", builds.results);
    assert!(builds.log.contains("about to fail"), "{}", builds.log);
}

#[test]
fn every_kind_of_host_can_offload_or_be_offloaded_to() {
    for host in [UHEAD, Host("w3")] {
        assert_eq!(host.sh(&["stat", "-c", "%U", "/var/guix/daemon-socket/socket"]), "guix-daemon\n", "{}", host.0);
        assert!(!host.run(&["touch", "/gnu/store/x"]).status.success(), "the store of {} is writable", host.0);
    }
    assert!(Host("old").sh(&["guix-daemon", "--version"]).contains("1.2.0"));
    let machines = ["w1", "w2", "w3", "w4", "old"].map(Host);
    for (head, machine) in machines.map(|machine| (HEAD, machine)).into_iter().chain([(UHEAD, W1)]) {
        head.offload_to(&[machine]);
        lab(&["restart-daemon", head.0]);
        let builds = head.build("plain", &[]);
        assert!(builds.succeeded, "{} to {}:\n{}{}", head.0, machine.0, builds.log, builds.results);
        machine.sh(&["ls", builds.outputs("plain-0")[0]]);
        machine.verify_store();
        head.verify_store();
    }
}
