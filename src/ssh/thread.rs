// SPDX-License-Identifier: GPL-3.0-or-later
//! Starting a thread that receives none of the host process's signals.
#![allow(unsafe_code)] // pthread_sigmask.

use std::mem::MaybeUninit;
use std::thread::Builder;

use crate::error::{ErrorKind, IoContext, Result};

/// Runs `body` in a new thread of that name (at most 15 bytes of it show in `ps`), with all signals blocked in it.
///
/// The signal mask is inherited, so it is set here and put back: there is no moment at which the new thread could
/// be picked for a signal that the host's own threads should handle.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are valid for writes; sigfillset initialises the one that pthread_sigmask reads.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let spawned = Builder::new().name(name.to_string()).spawn(body);
    // SAFETY: `before` was filled by the call above, which cannot fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    spawned.map(drop).io_context(ErrorKind::Exhausted, || format!("starting the thread {name}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    fn blocked_signals() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap()
    }

    #[test]
    fn only_the_new_thread_blocks_signals() {
        let before = blocked_signals();
        let (sender, receiver) = mpsc::channel();
        super::spawn("test", move || sender.send(blocked_signals()).unwrap()).unwrap();
        let inside = receiver.recv().unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGPIPE, libc::SIGCHLD] {
            assert_ne!(inside & (1 << (signal - 1)), 0, "signal {signal}");
        }
        assert_eq!(blocked_signals(), before);
    }
}
