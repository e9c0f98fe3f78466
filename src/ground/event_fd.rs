// SPDX-License-Identifier: GPL-3.0-or-later
//! An eventfd with which threads wake a thread that sleeps in poll(2), ours or the host process's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::ground::error::{ErrorKind, IoContext, Result};

/// An event that one thread sleeps on and that any thread raises.
pub struct EventFd {
    event: OwnedFd,
    /// Set from `raise` to `clear`: further calls of `raise` need no system call.
    raised: AtomicBool,
}

impl EventFd {
    /// Makes one that is not raised. Its descriptor is close-on-exec.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .io_context(ErrorKind::Exhausted, || "making an event descriptor")?;
        Ok(EventFd { event, raised: AtomicBool::new(false) })
    }

    /// Ends the current sleep, or the next one. What the sleeper is to see must be in place before this call.
    pub fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            // This fails only if the counter is full; then the sleeper wakes anyway.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Clears the event. Look for the reason of the event only after this.
    pub fn clear(&self) {
        if self.raised.load(Ordering::SeqCst) {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
            // Not before the read: it would swallow the event of a thread that saw the flag down.
            self.raised.store(false, Ordering::SeqCst);
        }
    }

    /// Returns whether the event was raised since it was last cleared.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Waits for the event, for `flags` on `socket`, or until `until`. May wake spuriously. Returns the flags that the
    /// socket has. [`EventFd::clear`] must come between two sleeps.
    pub fn sleep(&self, socket: BorrowedFd<'_>, flags: PollFlags, until: Option<Instant>) -> Result<PollFlags> {
        let mut watched = [PollFd::from_borrowed_fd(socket, flags)];
        // A hung-up socket always wakes poll(2), so a socket without `flags` is left out.
        let count = if flags.is_empty() { 0 } else { 1 };
        self.sleep_beside(&mut watched[..count], until)?;
        Ok(watched[0].revents())
    }

    /// Waits as [`EventFd::sleep`] does, for any number of sockets.
    pub fn sleep_beside<'a>(&'a self, watched: &mut [PollFd<'a>], until: Option<Instant>) -> Result<()> {
        let timeout = until.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let mut polled = watched.to_vec();
        polled.push(PollFd::new(&self.event, PollFlags::IN));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).io_context(ErrorKind::Exhausted, || "waiting for events"),
        }
        // The event is there but its flag is down: `clear` ran in the middle of `raise`. Nobody else would read this
        // event, and every later sleep would end at once. If the flag goes up at this moment, the next `clear` takes it
        // down.
        if polled.pop().is_some_and(|wake| !wake.revents().is_empty()) && !self.is_raised() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        watched.clone_from_slice(&polled);
        Ok(())
    }
}

/// The descriptor is readable from `raise` to `clear`.
impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;

    /// Sleeps for `time` unless raised. Returns how long it slept.
    fn sleep(wake: &EventFd, time: Duration) -> Duration {
        let begun = Instant::now();
        wake.sleep_beside(&mut [], Some(begun + time)).unwrap();
        begun.elapsed()
    }

    #[test]
    fn a_raise_ends_one_sleep() {
        let wake = EventFd::new().unwrap();
        wake.raise();
        assert!(sleep(&wake, Duration::from_secs(60)) < Duration::from_secs(30));
        wake.clear();
        assert!(sleep(&wake, Duration::from_millis(5)) >= Duration::from_millis(5));
    }

    #[test]
    fn a_raise_that_meets_a_clear_does_not_keep_the_sleeper_awake() {
        let (wake, turn) = (EventFd::new().unwrap(), AtomicU32::new(0));
        let (rounds, mut awake) = (300, 0);
        // Both threads must run at the same moment, so they spin.
        let until = |number: u32| {
            while turn.load(Ordering::SeqCst) != number {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..rounds {
                    until(2 * round + 1);
                    wake.raise();
                    turn.store(2 * round + 2, Ordering::SeqCst);
                }
            });
            for round in 0..rounds {
                turn.store(2 * round + 1, Ordering::SeqCst);
                while turn.load(Ordering::SeqCst) == 2 * round + 1 {
                    wake.clear();
                }
                let time = Duration::from_micros(50);
                let slept = (0..3).any(|_| {
                    wake.clear();
                    sleep(&wake, time) >= time
                });
                awake += u32::from(!slept);
            }
        });
        assert_eq!(awake, 0, "so many times of {rounds} no sleep came about");
    }
}
