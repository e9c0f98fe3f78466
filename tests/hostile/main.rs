// SPDX-License-Identifier: GPL-3.0-or-later
//! A build machine that lies: a double of its guix-daemon, behind a real sshd, tells a real client everything that it
//! must not believe. Each lie has an error that says what and where; nothing of it becomes visible in the store; and
//! neither memory nor time are without bound.
//!
//! Like the tests of `ssh`, these start an sshd of their own, and need root.

mod blaming;
mod bytes;
mod collecting;
mod double;
#[path = "../support/forgeries.rs"]
mod forgeries;
mod huge;
mod lies;
mod progress;
mod refusing;
mod scene;
mod sending;
#[path = "../support/sshd.rs"]
#[allow(dead_code)] // the tests of `ssh` use more of it
mod sshd;
mod telling;
mod waiting;
mod words;

/// Tests that look at the memory of the process run alone.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
