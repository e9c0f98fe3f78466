// SPDX-License-Identifier: GPL-3.0-or-later
//! Reading the words that a daemon sends: those of `ground::words`, with limits, and with errors that say whose fault
//! they are.
//!
//! ```text
//! list = number (COUNT), COUNT strings
//! ```

use std::fmt::Display;
use std::io::{self, Read};

use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::words::Words;

/// Longest string that is not file data, in bytes: messages, store file names.
pub const MAX_STRING: u64 = 1 << 20;
/// Most store items of a list: longer than any closure.
pub const MAX_LIST: u64 = 1 << 20;
/// Most bytes of a list of store items, all its strings together.
const MAX_LIST_BYTES: usize = 64 << 20;

/// Returns the error for a breach of the protocol by the other side.
pub fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

/// Message about a connection that the daemon has ended.
pub const CLOSED: &str = "the daemon closed the connection";

/// Returns the error for a failed read or write of the connection. A connection that ends is the machine's fault.
pub fn lost(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::new(ErrorKind::Unavailable, CLOSED),
        _ => Error::io(ErrorKind::Unavailable, "connection to the daemon", error),
    }
}

/// A connection to a daemon, from which words are read.
struct Replies<'a, R>(&'a mut R);

impl<R: Read> Words for Replies<'_, R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact(buffer).map_err(lost)
    }

    /// Returns 0: nobody counts the bytes that a daemon sends.
    fn offset(&self) -> u64 {
        0
    }

    fn malformed(&self, _: u64, why: impl Display) -> Error {
        broken(format!("the daemon sent {why}"))
    }
}

/// Reads a number.
pub fn read_number(from: &mut impl Read) -> Result<u64> {
    Replies(from).read_number()
}

/// Reads a string of at most `limit` bytes; `what` names it in errors.
pub fn read_string(from: &mut impl Read, limit: u64, what: &str) -> Result<Vec<u8>> {
    Replies(from).read_string(what, limit)
}

/// Reads the zero bytes that follow `length` bytes.
pub fn read_padding(from: &mut impl Read, length: u64) -> Result<()> {
    Replies(from).read_padding(length)
}

/// Reads a string that must be UTF-8.
pub fn read_text(from: &mut impl Read, what: &str) -> Result<String> {
    String::from_utf8(read_string(from, MAX_STRING, what)?)
        .map_err(|_| broken(format!("the daemon sent {what} that is not UTF-8")))
}

/// Reads a list of at most `most` strings and hands each to `take`; `what` names one in errors. Returns how many there
/// are.
pub fn read_texts(
    from: &mut impl Read,
    most: u64,
    what: &str,
    take: &mut dyn FnMut(String) -> Result<()>,
) -> Result<u64> {
    let count = read_number(from)?;
    if count > most {
        return Err(broken(format!("the daemon sent {count} times {what}, more than {most}")));
    }
    let mut left = MAX_LIST_BYTES;
    for _ in 0..count {
        let text = read_text(from, what)?;
        left = left.checked_sub(text.len()).ok_or_else(|| {
            broken(format!("the daemon sent {what} again and again, together more than {MAX_LIST_BYTES} bytes"))
        })?;
        take(text)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::words::{put_number, put_string};

    #[test]
    fn padding_that_is_not_zero_is_an_error() {
        let bytes = b"\x05\0\0\0\0\0\0\0guix!\0\x01\0";
        assert_eq!(read_text(&mut &bytes[..], "a word").unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_length_is_checked_before_it_is_believed() {
        for length in [MAX_STRING + 1, u64::MAX] {
            let error = read_text(&mut &length.to_le_bytes()[..], "a word").unwrap_err();
            assert!(error.to_string().contains(&length.to_string()), "{error}");
        }
        let error = read_texts(&mut &u64::MAX.to_le_bytes()[..], MAX_LIST, "a word", &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_list_takes_no_more_than_its_share_of_memory() {
        let mut long = Vec::new();
        put_string(&mut long, vec![b'x'; MAX_STRING as usize]);
        let mut bytes = Vec::new();
        put_number(&mut bytes, 65);
        (0..65).for_each(|_| bytes.extend_from_slice(&long));
        let error = read_texts(&mut &bytes[..], MAX_LIST, "a word", &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("together more than 67108864 bytes"), "{error}");
    }

    #[test]
    fn a_cut_string_is_a_lost_connection() {
        let bytes = b"\x05\0\0\0\0\0\0\0gu";
        assert_eq!(read_text(&mut &bytes[..], "a word").unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
