// SPDX-License-Identifier: GPL-3.0-or-later
//! What the daemon sends while it works on a request (Guix's `nix/nix-daemon/nix-daemon.cc`, `startWork` to
//! `stopWork`): any number of frames, the last of which is LAST or ERROR.
//!
//! ```text
//! NEXT  string                 a piece of log
//! READ  integer MAX            wants data: the answer is one string of 1 to MAX bytes
//! WRITE integer N, N bytes, padding   gives data
//! LAST                         done; the results follow
//! ERROR string, integer        failed: a message and a status
//! ```
//!
//! While the daemon works, it treats any byte that it did not ask for as a protocol error.

use std::io::Read;

use super::replies::{MAX_STRING, broken, read_number, read_string};
use crate::ground::error::{Error, Result};

/// Longest piece of log in one frame, in bytes; the daemon reads its builders' output in blocks of 4 KiB.
const MAX_LOG_PIECE: u64 = 1 << 20;
/// Most that one READ may ask for, in bytes; the daemon asks for 32 KiB.
const MAX_READ: u64 = 1 << 20;

/// The tag of a piece of log.
pub const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;

/// A frame. Its data is read already, except that of [`Frame::Gives`].
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A piece of log.
    Log(Vec<u8>),
    /// The daemon wants up to this many bytes.
    Wants(usize),
    /// This many bytes follow, then padding.
    Gives(u64),
    /// The daemon is done; its results follow.
    Last,
    /// The daemon failed.
    Failed {
        /// The message.
        message: String,
        /// 100: the build failed; 101: it exceeded a time limit; 1: anything else. `None`: the stream ended before it.
        status: Option<u64>,
    },
}

/// Reads the next frame.
pub fn read_frame(from: &mut impl Read) -> Result<Frame> {
    match read_number(from)? {
        NEXT => Ok(Frame::Log(read_string(from, MAX_LOG_PIECE, "a piece of log")?)),
        READ => match read_number(from)? {
            0 => Err(broken("the daemon asked for 0 bytes")),
            length => Ok(Frame::Wants(length.min(MAX_READ) as usize)),
        },
        WRITE => Ok(Frame::Gives(read_number(from)?)),
        LAST => Ok(Frame::Last),
        ERROR => {
            let message = read_string(from, MAX_STRING, "an error message")?;
            // An error that comes before both sides agree on a version has no status.
            let status = read_number(from).ok();
            Ok(Frame::Failed { message: String::from_utf8_lossy(&message).trim_end().to_string(), status })
        }
        unknown => Err(unknown_frame(unknown)),
    }
}

fn unknown_frame(tag: u64) -> Error {
    broken(format!("the daemon sent a frame of unknown type {tag:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::error::ErrorKind;
    use crate::ground::words::{put_number, put_string};

    #[test]
    fn an_error_without_a_status_is_still_an_error() {
        let mut bytes = Vec::new();
        put_number(&mut bytes, ERROR);
        put_string(&mut bytes, "schema version\n");
        let frame = read_frame(&mut &bytes[..]).unwrap();
        assert_eq!(frame, Frame::Failed { message: "schema version".into(), status: None });
    }

    #[test]
    fn nonsense_is_refused() {
        let mut zero = Vec::new();
        put_number(&mut zero, READ);
        put_number(&mut zero, 0);
        let mut long = Vec::new();
        put_number(&mut long, NEXT);
        put_number(&mut long, u64::MAX);
        for bytes in [&42u64.to_le_bytes()[..], &zero, &long] {
            assert_eq!(read_frame(&mut &bytes[..]).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }

    #[test]
    fn a_huge_wish_is_cut_to_size() {
        let mut bytes = Vec::new();
        put_number(&mut bytes, READ);
        put_number(&mut bytes, u64::MAX);
        assert_eq!(read_frame(&mut &bytes[..]).unwrap(), Frame::Wants(MAX_READ as usize));
    }
}
