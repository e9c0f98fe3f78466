// SPDX-License-Identifier: GPL-3.0-or-later
//! The hook without guix-daemon: started by hand, told what a test likes.

use std::os::unix::process::ExitStatusExt;

use crate::lab::Host;
use crate::machines::Hook;

/// What came of it.
pub struct Ending {
    /// Its exit status.
    pub status: i32,
    /// All it said, to the daemon and to the user.
    pub said: String,
    /// What it wrote to descriptor 4.
    pub log: String,
}

/// Runs the hook on `head`, where its daemon would run it, with these limits, in seconds, and with `input`.
#[track_caller]
pub fn run_hook(head: Host, hook: Hook, max_silent_time: u32, timeout: u32, input: &str) -> Ending {
    let [silence, time] = [max_silent_time, timeout].map(|limit| limit.to_string());
    let arguments = ["offload", &crate::machines::system(), &silence, "false", &time];
    // Only in the daemon's mount namespace can an unprivileged one write to the store.
    let daemon = head.sh(&["pgrep", "-o", "-x", "guix-daemon"]);
    let there = ["nsenter", "--mount", "--target", daemon.trim()];
    run_program(head, &[&there, hook.command(), &arguments].concat(), input)
}

/// Runs a program of `head` with `input`.
#[track_caller]
pub fn run_program(head: Host, command: &[&str], input: &str) -> Ending {
    let (request, log) = ("/var/guix/request", "/var/guix/hook-log");
    std::fs::write(head.file(request), input).unwrap();
    let redirected = format!("timeout 30 \"$@\" <{request} 2>&1 4>{log}");
    let output = head.run(&[&["sh", "-c", &redirected, "sh"], command].concat());
    Ending {
        status: output.status.code().unwrap_or(-output.status.signal().unwrap_or(0)),
        said: String::from_utf8(output.stdout).expect("messages in UTF-8"),
        log: String::from_utf8_lossy(&std::fs::read(head.file(log)).unwrap()).into_owned(),
    }
}
