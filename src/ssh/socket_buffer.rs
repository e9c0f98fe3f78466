// SPDX-License-Identifier: GPL-3.0-or-later
//! Bytes between libssh2 and the socket.
//!
//! libssh2 does no I/O of its own here. Its send and receive callbacks copy to and from two buffers in memory. Between
//! the calls into libssh2, the driver moves bytes between these and the socket. That avoids three traps:
//!
//! - A send never blocks half-way. libssh2 would then require the very same operation again, with the same pointer and
//!   length, before any other on the session. For an EOF or a keepalive, that pointer is into its own stack.
//! - The end of the stream does not overtake data that libssh2 holds. libssh2 sees "nothing yet" until the driver has
//!   found that nothing moves any more.
//! - Bytes are taken from the kernel, and count as a sign of life, whichever channel is being served.
//!
//! Limits: [`INPUT_LIMIT`] bytes are read ahead. Writers should pause above [`OUTPUT_PAUSE`]. Above [`OUTPUT_LIMIT`]
//! libssh2 gets no more input, so that it has nothing to answer.
#![allow(unsafe_code)] // The callbacks that libssh2 calls.

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use libssh2_sys::LIBSSH2_SESSION;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt::set_tcp_quickack};

use crate::ground::error::Result;
use crate::ground::event_fd::EventFd;

/// Most bytes that are read ahead of libssh2.
const INPUT_LIMIT: usize = 256 << 10;
/// Amount still to send, in bytes, above which no channel data is added.
const OUTPUT_PAUSE: usize = 256 << 10;
/// Amount still to send, in bytes, above which libssh2 is given no input either.
const OUTPUT_LIMIT: usize = 1 << 20;
/// Longest start of each side's stream that is kept, in bytes.
const BEGINNING: usize = 32 << 10;

// From libssh2.h.
const LIBSSH2_CALLBACK_SEND: c_int = 5;
const LIBSSH2_CALLBACK_RECV: c_int = 6;

type AnyCallback = unsafe extern "C" fn();
type SendCallback = unsafe extern "C" fn(c_int, *const c_void, usize, c_int, *mut *mut c_void) -> isize;
type RecvCallback = unsafe extern "C" fn(c_int, *mut c_void, usize, c_int, *mut *mut c_void) -> isize;

unsafe extern "C" {
    // Neither is in libssh2-sys.
    fn libssh2_session_set_read_timeout(session: *mut LIBSSH2_SESSION, seconds: c_long);
    fn libssh2_session_callback_set2(
        session: *mut LIBSSH2_SESSION,
        kind: c_int,
        callback: Option<AnyCallback>,
    ) -> Option<AnyCallback>;
}

/// A connected socket and the two buffers in front of it.
pub struct SocketBuffer {
    socket: OwnedFd,
    buffers: Mutex<Buffers>,
    /// Bytes of memory that the session's libssh2 holds.
    pub held: AtomicUsize,
}

struct Buffers {
    /// Received; libssh2 has taken the first `taken` bytes.
    input: Vec<u8>,
    taken: usize,
    /// To be sent; the kernel has taken the first `sent` bytes.
    output: Vec<u8>,
    sent: usize,
    /// Bytes that libssh2 has ever taken and given.
    passed: u64,
    last_received: Instant,
    /// The start of each side's stream, theirs and ours, as long as it may be of interest.
    beginnings: Option<[Vec<u8>; 2]>,
    /// Why nothing more comes or goes.
    ended: Option<String>,
    /// From now on libssh2 only gets errors, so that freeing its session does not wait for anything.
    cut: bool,
}

impl AsRawFd for SocketBuffer {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl SocketBuffer {
    /// Makes the buffers of `socket`, which is connected and non-blocking.
    pub fn new(socket: OwnedFd) -> Arc<Self> {
        Arc::new(SocketBuffer {
            socket,
            held: AtomicUsize::new(0),
            buffers: Mutex::new(Buffers {
                input: Vec::with_capacity(INPUT_LIMIT),
                taken: 0,
                output: Vec::new(),
                sent: 0,
                passed: 0,
                last_received: Instant::now(),
                beginnings: Some(Default::default()),
                ended: None,
                cut: false,
            }),
        })
    }

    /// Takes what the socket has, as far as there is room. Returns whether anything came.
    pub fn receive(&self) -> bool {
        let buffers = &mut *self.buffers.lock();
        if !buffers.wants_input() {
            return false;
        }
        buffers.input.drain(..std::mem::take(&mut buffers.taken));
        match recv(&self.socket, spare_capacity(&mut buffers.input), RecvFlags::empty()) {
            Ok((_, 0)) => buffers.end("the other side closed it"),
            Ok(_) => {
                buffers.last_received = Instant::now();
                // sshd answers in two writes. With delayed acknowledgement, the second one waits 40 ms until the first
                // is acknowledged. The kernel forgets this setting, so it is made every time.
                let _ = set_tcp_quickack(&self.socket, true);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => buffers.end(error),
        }
        false
    }

    /// Sends what the socket takes. Returns whether anything went.
    pub fn transmit(&self) -> bool {
        let buffers = &mut *self.buffers.lock();
        let mut moved = false;
        while buffers.unsent() > 0 {
            match send(&self.socket, &buffers.output[buffers.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => {
                    buffers.sent += count;
                    moved = true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // The output may never be sent completely, so what was sent is removed here.
                    if buffers.sent > OUTPUT_PAUSE {
                        buffers.output.drain(..std::mem::take(&mut buffers.sent));
                    }
                    return moved;
                }
                Err(error) => {
                    buffers.end(error);
                    buffers.sent = buffers.output.len();
                }
            }
        }
        buffers.output.clear();
        buffers.sent = 0;
        moved
    }

    /// Returns whether there is room to send more channel data.
    pub fn takes_data(&self) -> bool {
        self.buffers.lock().unsent() <= OUTPUT_PAUSE
    }

    /// Returns how many bytes of memory libssh2 holds for the session.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Returns whether bytes have come that libssh2 has not taken.
    pub fn has_input(&self) -> bool {
        let buffers = self.buffers.lock();
        buffers.taken < buffers.input.len()
    }

    /// Returns how many bytes libssh2 has taken and given. A change means progress, even if no call says so.
    pub fn passed(&self) -> u64 {
        self.buffers.lock().passed
    }

    /// Returns when the last byte came; at first, when this buffer was made.
    pub fn last_received(&self) -> Instant {
        self.buffers.lock().last_received
    }

    /// Returns the start of both streams, the other side's first: the first bytes that libssh2 took, and gave.
    pub fn beginnings(&self) -> [Vec<u8>; 2] {
        self.buffers.lock().beginnings.clone().unwrap_or_default()
    }

    /// Forgets the start of both streams.
    pub fn forget_beginnings(&self) {
        self.buffers.lock().beginnings = None;
    }

    /// Returns why nothing more comes or goes, if so.
    pub fn ended(&self) -> Option<String> {
        self.buffers.lock().ended.clone()
    }

    /// Sends what is left and waits for the other side to close. Discards what comes meanwhile: with unread bytes, the
    /// kernel would reset the connection, and the other side might not read everything.
    pub fn see_off(&self, wake: &EventFd, until: Instant) {
        while Instant::now() < until && self.ended().is_none() {
            wake.clear();
            let mut moved = self.transmit();
            {
                let mut buffers = self.buffers.lock();
                buffers.input.clear();
                buffers.taken = 0;
                if buffers.unsent() == 0 {
                    let _ = shutdown(&self.socket, Shutdown::Write);
                }
            }
            moved |= self.receive();
            if !moved && self.sleep(wake, Some(until)).is_err() {
                return;
            }
        }
    }

    /// Makes every further call into libssh2 fail, or end without waiting.
    pub fn cut(&self) {
        self.buffers.lock().cut = true;
    }

    /// Sleeps until the socket has or takes more, or until [`EventFd::sleep`] ends for another reason.
    pub fn sleep(&self, wake: &EventFd, until: Option<Instant>) -> Result<()> {
        let mut flags = PollFlags::empty();
        {
            let buffers = self.buffers.lock();
            flags.set(PollFlags::IN, buffers.wants_input());
            flags.set(PollFlags::OUT, buffers.unsent() > 0);
        }
        wake.sleep(self.socket.as_fd(), flags, until).map(drop)
    }
}

impl Buffers {
    fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    fn wants_input(&self) -> bool {
        self.ended.is_none() && self.input.len() - self.taken < INPUT_LIMIT
    }

    fn end(&mut self, why: impl std::fmt::Display) {
        self.ended.get_or_insert_with(|| why.to_string());
    }
}

/// Appends `data` to the start of a stream, up to the limit.
fn remember(beginning: &mut Vec<u8>, data: &[u8]) {
    let room = BEGINNING.saturating_sub(beginning.len());
    beginning.extend(&data[..data.len().min(room)]);
}

/// Makes `session` send and receive over the [`SocketBuffer`] to which its abstract pointer points.
///
/// # Safety
/// The session is live, and the wire lives at least as long.
pub unsafe fn carry(session: *mut LIBSSH2_SESSION) {
    // SAFETY: as above. The function types are those that libssh2.h states for the two kinds.
    unsafe {
        let send = std::mem::transmute::<SendCallback, AnyCallback>(send_callback);
        let recv = std::mem::transmute::<RecvCallback, AnyCallback>(recv_callback);
        libssh2_session_callback_set2(session, LIBSSH2_CALLBACK_SEND, Some(send));
        libssh2_session_callback_set2(session, LIBSSH2_CALLBACK_RECV, Some(recv));
        // The driver decides how long to wait for an answer; libssh2's minute is too short for a slow line.
        libssh2_session_set_read_timeout(session, 24 * 3600);
    }
}

/// Called by libssh2 to receive. Returns the number of bytes, or a negated error number.
///
/// SAFETY: `buffer` must be valid for writes of `length` bytes, and `owner` point to a pointer to the [`SocketBuffer`].
unsafe extern "C" fn recv_callback(
    _socket: c_int,
    buffer: *mut c_void,
    length: usize,
    _flags: c_int,
    owner: *mut *mut c_void,
) -> isize {
    // SAFETY: as above.
    let wire = unsafe { &*(*owner).cast::<SocketBuffer>() };
    let buffers = &mut *wire.buffers.lock();
    if buffers.cut {
        return -(libc::ECONNRESET as isize);
    }
    let count = length.min(buffers.input.len() - buffers.taken);
    if count == 0 || buffers.unsent() > OUTPUT_LIMIT {
        return -(libc::EAGAIN as isize);
    }
    // SAFETY: `count` is within both; libssh2's buffer is not ours.
    unsafe { buffers.input.as_ptr().add(buffers.taken).copy_to_nonoverlapping(buffer.cast(), count) };
    let range = buffers.taken..buffers.taken + count;
    if let Some([theirs, _]) = &mut buffers.beginnings {
        remember(theirs, &buffers.input[range]);
    }
    buffers.taken += count;
    buffers.passed += count as u64;
    count as isize
}

/// Called by libssh2 to send. Always takes all bytes.
///
/// SAFETY: `data` must be valid for reads of `length` bytes, and `owner` point to a pointer to the [`SocketBuffer`].
unsafe extern "C" fn send_callback(
    _socket: c_int,
    data: *const c_void,
    length: usize,
    _flags: c_int,
    owner: *mut *mut c_void,
) -> isize {
    // SAFETY: as above.
    let wire = unsafe { &*(*owner).cast::<SocketBuffer>() };
    let buffers = &mut *wire.buffers.lock();
    if buffers.cut {
        return -(libc::EPIPE as isize);
    }
    // SAFETY: as above.
    let data = unsafe { std::slice::from_raw_parts(data.cast(), length) };
    if let Some([_, ours]) = &mut buffers.beginnings {
        remember(ours, data);
    }
    buffers.output.extend_from_slice(data);
    buffers.passed += length as u64;
    length as isize
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_sent_does_not_stay_in_memory() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let wire = SocketBuffer::new(ours.into());
        let (mut sent, mut most) = (0, 0);
        // The reader takes less than is ready to be sent, so the buffer never becomes quite empty.
        while sent < 64 << 20 {
            while wire.takes_data() {
                wire.buffers.lock().output.extend([0; 64 << 10]);
            }
            wire.transmit();
            most = most.max(wire.buffers.lock().output.len());
            sent += theirs.read(&mut [0; 64 << 10]).unwrap();
        }
        assert!(most <= 2 << 20, "{} MiB in the buffer", most >> 20);
    }
}
