// SPDX-License-Identifier: GPL-3.0-or-later
//! Starting a thread that receives none of the host process's signals.

use std::thread::{Builder, JoinHandle};

use nix::sys::signal::{SigSet, SigmaskHow};

use crate::ground::error::{ErrorKind, IoContext, Result};

/// Runs `body` in a new thread called `name`, of which `ps` shows at most 15 bytes. All signals are blocked in the
/// thread.
///
/// The new thread inherits the signal mask, so the mask is set here and put back afterwards. At no moment can the
/// kernel pick the new thread for a signal that the host's own threads should handle.
#[allow(clippy::disallowed_methods)] // all others call this
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    let before = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .io_context(ErrorKind::Internal, || "blocking signals")?;
    let spawned = Builder::new().name(name.to_string()).spawn(body);
    before.thread_set_mask().io_context(ErrorKind::Internal, || "restoring the signal mask")?;
    spawned.io_context(ErrorKind::Exhausted, || format!("starting the thread {name}"))
}

#[cfg(test)]
mod tests {
    fn blocked_signals() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    #[test]
    fn only_the_new_thread_blocks_signals() {
        let before = blocked_signals();
        let inside = super::spawn("test", blocked_signals).unwrap().join().unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGPIPE, libc::SIGCHLD] {
            assert_ne!(inside & (1 << (signal - 1)), 0, "signal {signal}");
        }
        assert_eq!(blocked_signals(), before);
    }
}
