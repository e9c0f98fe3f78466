// SPDX-License-Identifier: GPL-3.0-or-later
//! A channel of a non-blocking libssh2 session.
//!
//! The `ssh2` crate's own channel does not tell a missing exit status from 0, opens sockets with a window that
//! cannot be chosen, and frees a channel only if that happens not to block.
//!
//! This module manages the receive window: channels open with a window of 0, and no read may ask for more than is left
//! of the window. Otherwise libssh2 widens it by itself.
#![allow(unsafe_code)] // Calls into libssh2.

use std::ffi::c_int;
use std::ptr::null_mut;

use libssh2_sys::*;

use super::raw_session::RawSession;

/// Largest packet that we accept, in bytes (RFC 4254, section 5.1); OpenSSH uses the same.
const PACKET_SIZE: u32 = 32 << 10;

unsafe extern "C" {
    // New in libssh2 1.11.2, not yet in libssh2-sys.
    fn libssh2_channel_has_exit_status(channel: *mut LIBSSH2_CHANNEL) -> c_int;
}

/// The reason why a call did not do what it should.
pub enum Stop {
    /// It cannot go on now. Call again with the same arguments.
    WouldBlock,
    /// It failed.
    Failed(ssh2::Error),
}

/// One of the two streams that a remote command writes.
#[derive(Clone, Copy)]
pub enum OutputStream {
    Data = 0,
    /// `SSH_EXTENDED_DATA_STDERR` of RFC 4254, section 5.2.
    Stderr = 1,
}

/// An open channel. Dropping it leaves it open until its session ends; see [`RawChannel::free`].
pub struct RawChannel {
    raw: *mut LIBSSH2_CHANNEL,
    /// Keeps the session, and with it `raw`, alive.
    session: RawSession,
}

impl RawChannel {
    /// Opens a channel of type `kind` with a receive window of 0. `message` holds the fields of that type.
    ///
    /// A session opens one channel at a time. As long as this would block, call it again with the same arguments, and
    /// with no others.
    pub fn open(session: &RawSession, kind: &str, message: &[u8]) -> Result<Self, Stop> {
        // SAFETY: the session is live; pointers and lengths are those of live slices, and libssh2 keeps
        // `message` only while it is told to call again.
        let raw = unsafe {
            libssh2_channel_open_ex(
                session.raw(),
                kind.as_ptr().cast(),
                kind.len() as u32,
                0,
                PACKET_SIZE,
                message.as_ptr().cast(),
                message.len() as u32,
            )
        };
        if raw.is_null() {
            return Err(ssh2::Error::last_session_error_raw(session.raw()).unwrap_or_else(ssh2::Error::unknown).into());
        }
        Ok(RawChannel { raw, session: session.clone() })
    }

    /// Asks the server to run `command` with the user's shell.
    pub fn request_exec(&mut self, command: &str) -> Result<(), Stop> {
        let (text, length) = (command.as_ptr().cast(), command.len() as u32);
        // SAFETY: `call` passes the live channel; the pointers are to live strings of these lengths.
        self.call(|raw| unsafe { libssh2_channel_process_startup(raw, c"exec".as_ptr(), 4, text, length) as isize })
            .map(drop)
    }

    /// Returns how much the server may still send, including bytes that are here but were not read yet.
    pub fn window(&self) -> usize {
        // SAFETY: the channel is live; null pointers are allowed.
        unsafe { libssh2_channel_window_read_ex(self.raw, null_mut(), null_mut()) as usize }
    }

    /// Lets the server send `more` bytes. If this would block, call it again with the same number.
    pub fn widen_window(&mut self, more: u32) -> Result<(), Stop> {
        // SAFETY: `call` passes the live channel; the last argument may be null.
        self.call(|raw| unsafe { libssh2_channel_receive_window_adjust2(raw, more.into(), 1, null_mut()) as isize })
            .map(drop)
    }

    /// Reads from a stream. 0 can mean that the stream has ended: see [`RawChannel::at_end`]. An empty `buffer` only
    /// lets libssh2 process what has come.
    pub fn read(&mut self, stream: OutputStream, buffer: &mut [u8]) -> Result<usize, Stop> {
        let length = buffer.len().min(self.window());
        // SAFETY: `call` passes the live channel; `buffer` is valid for writes of `length` bytes.
        self.call(|raw| unsafe {
            libssh2_channel_read_ex(raw, stream as c_int, buffer.as_mut_ptr().cast(), length) as isize
        })
    }

    /// Sends a part of `data`. If this would block, call it again with data that begins with the same bytes.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Stop> {
        // SAFETY: `call` passes the live channel; pointer and length are those of a live slice.
        self.call(|raw| unsafe { libssh2_channel_write_ex(raw, 0, data.as_ptr().cast(), data.len()) as isize })
    }

    /// Tells the other side that no more data comes.
    pub fn send_eof(&mut self) -> Result<(), Stop> {
        // SAFETY: `call` passes the live channel.
        self.call(|raw| unsafe { libssh2_channel_send_eof(raw) as isize }).map(drop)
    }

    /// Returns whether the other side has ended its data, and all of it was read.
    pub fn at_end(&self) -> bool {
        // SAFETY: the channel is live.
        unsafe { libssh2_channel_eof(self.raw) != 0 }
    }

    /// Succeeds when the other side has closed the channel. May only be called after [`RawChannel::at_end`].
    pub fn wait_closed(&mut self) -> Result<(), Stop> {
        // SAFETY: `call` passes the live channel.
        self.call(|raw| unsafe { libssh2_channel_wait_closed(raw) as isize }).map(drop)
    }

    /// Returns the exit status of the command, if the server has reported it.
    pub fn exit_status(&self) -> Option<i32> {
        // SAFETY: the channel is live.
        unsafe { (libssh2_channel_has_exit_status(self.raw) != 0).then(|| libssh2_channel_get_exit_status(self.raw)) }
    }

    /// Closes the channel and waits for the other side's close. Returns the channel if that would block.
    pub fn free(mut self) -> Result<(), Self> {
        // SAFETY: `call` passes the live channel. libssh2 has freed it unless it would block, and it is not used
        // after that, because `self` is consumed.
        match self.call(|raw| unsafe { libssh2_channel_free(raw) as isize }) {
            Err(Stop::WouldBlock) => Err(self),
            _ => {
                self.raw = null_mut();
                Ok(())
            }
        }
    }

    /// Calls into libssh2 and converts the return value into a result.
    fn call(&mut self, function: impl FnOnce(*mut LIBSSH2_CHANNEL) -> isize) -> Result<usize, Stop> {
        let result = function(self.raw);
        usize::try_from(result)
            .map_err(|_| Stop::from(ssh2::Error::from_session_error_raw(self.session.raw(), result as c_int)))
    }
}

impl From<ssh2::Error> for Stop {
    fn from(error: ssh2::Error) -> Self {
        match error.code() {
            ssh2::ErrorCode::Session(LIBSSH2_ERROR_EAGAIN) => Stop::WouldBlock,
            _ => Stop::Failed(error),
        }
    }
}

/// Appends a string of an open request to `message`, in SSH's encoding (RFC 4251, section 5).
pub fn encode_string(text: &str, message: &mut Vec<u8>) {
    message.extend((text.len() as u32).to_be_bytes());
    message.extend(text.as_bytes());
}
