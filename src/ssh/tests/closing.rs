// SPDX-License-Identifier: GPL-3.0-or-later
//! Sessions leave nothing behind in their process.

use std::fs;
use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use super::sshd::Sshd;
use super::{LONG, machine};
use crate::machine::BuildMachine;
use crate::ssh::Session;

/// Set in a process that runs only the test below, so that no other test disturbs its counts.
const ALONE: &str = "GUIX_OFFLOAD_TEST_ALONE";

#[test]
fn dropped_sessions_leave_no_thread_and_no_descriptor() {
    if std::env::var_os(ALONE).is_some() {
        return count_around_sessions();
    }
    let name = "ssh::tests::closing::dropped_sessions_leave_no_thread_and_no_descriptor";
    let output =
        Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(ALONE, "1").output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    assert!(output.contains("1 passed"), "{output}");
}

fn count_around_sessions() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    // Libraries allocate some things only once.
    (0..4).for_each(|round| use_session(&machine, round));
    settle((0, 0));
    let before = count();

    (0..20).for_each(|round| use_session(&machine, round));
    machine.port = 1;
    (0..4).for_each(|_| drop(Session::start(&machine, LONG).unwrap().wait_ready(LONG).unwrap_err()));
    settle(before);
    assert_eq!(count(), before, "threads and descriptors");

    let deadline = Instant::now() + LONG;
    while !sshd.connections().is_empty() {
        assert!(Instant::now() < deadline, "connections are left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Opens a session and drops it, in a way that depends on `round`.
fn use_session(machine: &BuildMachine, round: u32) {
    let session = Session::start(machine, LONG).unwrap();
    let mut channel = session.exec("cat /dev/zero");
    match round % 4 {
        // In the middle of data.
        0 => channel.read_exact(&mut [0; 1000]).unwrap(),
        // Before it is connected.
        1 => {}
        // While the channel is being closed.
        2 => {
            channel.wait_open().unwrap();
            drop(channel);
        }
        // With no channel open, maybe.
        _ => assert!(session.wait_ready(LONG).unwrap()),
    }
}

/// Numbers of threads and of open descriptors.
fn count() -> (usize, usize) {
    let entries = |path| fs::read_dir(path).unwrap().count();
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}

/// Waits until the counts are `target`, but not longer than all threads should take to end.
fn settle(target: (usize, usize)) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while count() != target && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}
