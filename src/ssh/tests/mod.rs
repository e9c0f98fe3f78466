// SPDX-License-Identifier: GPL-3.0-or-later
//! Sessions and channels, against a real sshd.

mod channels;
mod closing;
mod connecting;
mod disconnects;
pub(super) mod flooding;
mod round_trips;

#[path = "../../../tests/support/sshd.rs"]
pub(crate) mod sshd;

use std::path::PathBuf;
use std::time::Duration;

use self::sshd::Sshd;
use super::Session;
use crate::machine::{BuildMachine, HostKey};

/// A time far longer than anything here takes, so that a test fails rather than hangs.
const LONG: Duration = Duration::from_secs(120);

pub(crate) fn machine(sshd: &Sshd) -> BuildMachine {
    machine_at(sshd.port(), &sshd.host_key(), sshd.user_key())
}

pub(crate) fn machine_at(port: u16, host_key: &str, private_key: PathBuf) -> BuildMachine {
    let machine = BuildMachine::new("127.0.0.1", "root", private_key, HostKey::parse(host_key).unwrap());
    BuildMachine { port, systems: vec!["x86_64-linux".into()], overload_threshold: None, ..machine }
}

fn session(machine: &BuildMachine) -> Session {
    let session = Session::start(machine, LONG).unwrap();
    assert!(session.wait_ready(LONG).unwrap());
    session
}
