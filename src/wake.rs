// SPDX-License-Identifier: GPL-3.0-or-later
//! An event descriptor by which threads wake one that sleeps, in poll(2) of ours or of the host process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::error::{ErrorKind, IoContext, Result};

/// An event that one thread sleeps on and that any thread raises.
pub struct Wake {
    event: OwnedFd,
    /// Spares the system call while the sleeper has not yet taken notice of an earlier one.
    raised: AtomicBool,
}

impl Wake {
    /// Makes one that is not raised. Its descriptor is close-on-exec.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .io_context(ErrorKind::Exhausted, || "making an event descriptor")?;
        Ok(Wake { event, raised: AtomicBool::new(false) })
    }

    /// Ends the sleep under way, or the next one. What the sleeper is to see must be in place before.
    pub fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            // It can only fail when the counter is full, and then the sleeper wakes anyway.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Takes notice of what was raised; look for the reason only after this.
    pub fn clear(&self) {
        if self.raised.load(Ordering::SeqCst) {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
            // Not before the read, which would swallow the event of somebody who saw the flag down.
            self.raised.store(false, Ordering::SeqCst);
        }
    }

    /// Was it raised since it was last cleared?
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Sleeps until raised, until the socket is as `flags` say, until `until`, or for no reason. Returns what is the
    /// case with the socket.
    pub fn sleep(&self, socket: BorrowedFd<'_>, flags: PollFlags, until: Option<Instant>) -> Result<PollFlags> {
        let timeout = until.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let wake = PollFd::new(&self.event, PollFlags::IN);
        let socket = PollFd::from_borrowed_fd(socket, flags);
        // A hung-up socket always wakes; one that nothing is wanted of is left out.
        let count = if flags.is_empty() { 1 } else { 2 };
        let mut polled = [wake, socket];
        match poll(&mut polled[..count], timeout.as_ref()) {
            Ok(_) => Ok(polled[1].revents()),
            Err(Errno::INTR) => Ok(PollFlags::empty()),
            Err(error) => Err(error).io_context(ErrorKind::Exhausted, || "waiting for events"),
        }
    }
}

/// Readable from when it is raised until it is cleared.
impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
