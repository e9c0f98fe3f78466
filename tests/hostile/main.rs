// SPDX-License-Identifier: GPL-3.0-or-later
//! A build machine that lies: a double of its guix-daemon, behind a real sshd, tells a real client everything that it
//! must not believe. Each lie has an error that says what and where; nothing of it becomes visible in the store; and
//! neither memory nor time are without bound.
//!
//! With the environment variable `HOSTILE_KEEPER`, a keeper does the builds (see [`builder`]).
//!
//! Like the tests of `ssh`, these start an sshd of their own, and need root.

mod blaming;
mod builder;
mod bytes;
mod cases;
mod collecting;
#[path = "../support/daemon.rs"]
mod double;
#[path = "../support/host.rs"]
mod fixture;
#[path = "../support/forgeries.rs"]
mod forgeries;
mod harness;
mod hosting;
mod huge;
mod progress;
mod refusing;
mod sending;
#[path = "../support/sshd.rs"]
#[allow(dead_code)] // the tests of `ssh` use more of it
mod sshd;
mod stalling;
mod steps;
mod waiting;
#[path = "../support/words.rs"]
mod wire_bytes;

/// Tests that look at the memory of the process run alone.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
