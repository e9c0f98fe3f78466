// SPDX-License-Identifier: GPL-3.0-or-later
//! Descriptors that come from C.

use std::ffi::c_int;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::io::Errno;

use crate::ground::error::{Error, ErrorKind, IoContext, Result};

/// Returns a close-on-exec duplicate of the descriptor in the argument called `name`. The caller keeps the original.
pub fn duplicate(descriptor: c_int, name: &str) -> Result<OwnedFd> {
    if descriptor < 0 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("argument '{name}' is {descriptor}, no descriptor"),
        ));
    }
    // SAFETY: the borrow lasts for this call; a number that is not an open descriptor makes it fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed
        .try_clone_to_owned()
        .io_context(ErrorKind::InvalidArgument, || format!("argument '{name}', descriptor {descriptor}"))
}

/// Writes all of `text`. If nobody reads, fails with EPIPE and takes back the SIGPIPE, which would otherwise reach a
/// thread of the host process.
pub fn write_all(file: &OwnedFd, mut text: &[u8]) -> io::Result<()> {
    let pipe_signal = SigSet::from_iter([Signal::SIGPIPE]);
    let before = pipe_signal.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let mut written = Ok(());
    while !text.is_empty() && written.is_ok() {
        written = rustix::io::retry_on_intr(|| rustix::io::write(file, text)).map(|count| text = &text[count..]);
    }
    if written == Err(Errno::PIPE) && !before.contains(Signal::SIGPIPE) {
        // The kernel sent it to this thread before the call returned. If SIGPIPE is ignored, none is pending.
        take_pending(&pipe_signal);
    }
    before.thread_set_mask()?;
    Ok(written?)
}

/// Takes a pending signal of `set`, if there is one. The caller has blocked these signals.
fn take_pending(set: &SigSet) {
    let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both live for the call, which does not block; that nothing is pending is an error that changes nothing.
    unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &no_time) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_without_a_reader_raises_no_signal() {
        let (reader, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        write_all(&writer, b"log").unwrap();
        drop(reader);
        // SAFETY: Rust's test runner ignores the signal; by default it ends the process, which is what would be seen.
        let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        assert_eq!(write_all(&writer, b"log").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        // SAFETY: puts back what was there.
        unsafe { libc::signal(libc::SIGPIPE, before) };
    }
}
