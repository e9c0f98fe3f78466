// SPDX-License-Identifier: GPL-3.0-or-later
//! What a session leaves behind in its process: nothing. In a process of its own, so that it can be counted.

#[path = "support/sshd.rs"]
#[allow(dead_code)] // Shared with other tests.
mod sshd;

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use guix_offload::machine::{BuildMachine, HostKey};
use guix_offload::ssh::Session;

const LONG: Duration = Duration::from_secs(30);

/// Numbers of threads and of open descriptors.
fn count() -> (usize, usize) {
    let entries = |path| fs::read_dir(path).unwrap().count();
    (entries("/proc/self/task"), entries("/proc/self/fd"))
}

#[test]
fn dropped_sessions_leave_no_thread_and_no_descriptor() {
    let sshd = sshd::Sshd::start(&[]);
    let mut machine = BuildMachine {
        name: "127.0.0.1".into(),
        port: sshd.port(),
        systems: vec!["x86_64-linux".into()],
        user: "root".into(),
        private_key: sshd.user_key(),
        host_key: HostKey::parse(&sshd.host_key()).unwrap(),
        compression: BuildMachine::DEFAULT_COMPRESSION.into(),
        compression_level: BuildMachine::DEFAULT_COMPRESSION_LEVEL,
        daemon_socket: BuildMachine::DEFAULT_DAEMON_SOCKET.into(),
        parallel_builds: BuildMachine::DEFAULT_PARALLEL_BUILDS,
        speed: BuildMachine::DEFAULT_SPEED,
        features: Vec::new(),
        overload_threshold: None,
    };
    let one_round = |machine: &BuildMachine, round: u32| {
        let session = Session::start(machine, LONG).unwrap();
        let mut channel = session.exec("cat /dev/zero");
        match round % 4 {
            // In the middle of data.
            0 => channel.read_exact(&mut [0; 1000]).unwrap(),
            // Before it is connected.
            1 => {}
            // After the channel.
            2 => drop((channel.wait_open(), channel)),
            // With no channel in use.
            _ => drop(session.wait_ready(LONG)),
        }
    };
    // What libraries allocate once.
    (0..4).for_each(|round| one_round(&machine, round));
    settle((0, 0));
    let before = count();

    (0..20).for_each(|round| one_round(&machine, round));
    machine.port = 1;
    (0..4).for_each(|round| drop(Session::start(&machine, LONG).unwrap().exec(&round.to_string()).wait_open()));
    settle(before);
    assert_eq!(count(), before, "threads and descriptors");

    let deadline = Instant::now() + LONG;
    while !sshd.connections().is_empty() {
        assert!(Instant::now() < deadline, "connections are left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the counts are down to `target`, or for a time in which all threads should have ended.
fn settle(target: (usize, usize)) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while count() > target && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}
