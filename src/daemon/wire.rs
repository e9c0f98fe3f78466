// SPDX-License-Identifier: GPL-3.0-or-later
//! Primitive values of the worker protocol (Guix's `nix/libutil/serialise.cc`).
//!
//! ```text
//! integer  8 bytes, little-endian
//! string   integer LENGTH, LENGTH bytes, zero bytes up to a multiple of 8
//! list     integer COUNT, COUNT strings
//! ```
//!
//! Every length is checked against a limit before anything is allocated for it.

use std::io::{self, Read};

use crate::error::{Error, ErrorKind, Result};

/// Longest string that is not file data: messages, store file names.
pub const MAX_STRING: u64 = 1 << 20;
/// Longest list of store items: beyond any closure there is.
pub const MAX_LIST: u64 = 1 << 20;
/// Most bytes of such a list, all its strings together.
pub const MAX_LIST_BYTES: usize = 64 << 20;

/// Bytes of padding after `length` bytes.
pub fn padding(length: u64) -> usize {
    (length.wrapping_neg() % 8) as usize
}

/// An error of the other side's making.
pub fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

/// What a failed read or write of the connection means: a connection that ends is the machine's fault.
pub fn lost(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::new(ErrorKind::Unavailable, "the daemon closed the connection"),
        _ => Error::io(ErrorKind::Unavailable, "connection to the daemon", error),
    }
}

/// Reads until `buffer` is full or `from` ends; returns how much.
pub fn read_fully(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

pub fn read_integer(from: &mut impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes).map_err(lost)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads the zero bytes that follow `length` bytes.
pub fn read_padding(from: &mut impl Read, length: u64) -> Result<()> {
    let mut bytes = [0; 8];
    let bytes = &mut bytes[..padding(length)];
    from.read_exact(bytes).map_err(lost)?;
    if bytes.iter().any(|&b| b != 0) {
        return Err(broken("the daemon sent padding that is not zero"));
    }
    Ok(())
}

/// Reads a string of at most `limit` bytes; `what` names it in errors.
pub fn read_string(from: &mut impl Read, limit: u64, what: &str) -> Result<Vec<u8>> {
    let length = read_integer(from)?;
    if length > limit {
        return Err(broken(format!("the daemon sent {what} of {length} bytes, more than {limit}")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes).map_err(lost)?;
    read_padding(from, length)?;
    Ok(bytes)
}

/// Reads a string that must be UTF-8.
pub fn read_text(from: &mut impl Read, what: &str) -> Result<String> {
    String::from_utf8(read_string(from, MAX_STRING, what)?)
        .map_err(|_| broken(format!("the daemon sent {what} that is not UTF-8")))
}

/// Reads a list of strings.
pub fn read_texts(from: &mut impl Read, what: &str) -> Result<Vec<String>> {
    let count = read_integer(from)?;
    if count > MAX_LIST {
        return Err(broken(format!("the daemon sent {count} times {what}, more than {MAX_LIST}")));
    }
    let mut left = MAX_LIST_BYTES;
    let mut text = || {
        let text = read_text(from, what)?;
        left = left.checked_sub(text.len()).ok_or_else(|| {
            broken(format!("the daemon sent {what} again and again, together more than {MAX_LIST_BYTES} bytes"))
        })?;
        Ok(text)
    };
    (0..count).map(|_| text()).collect()
}

pub fn put_integer(to: &mut Vec<u8>, value: u64) {
    to.extend_from_slice(&value.to_le_bytes());
}

pub fn put_string(to: &mut Vec<u8>, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    put_integer(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
    to.resize(to.len() + padding(bytes.len() as u64), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_padded_with_zeros_to_eight() {
        let mut bytes = Vec::new();
        put_string(&mut bytes, "guix!");
        assert_eq!(bytes, b"\x05\0\0\0\0\0\0\0guix!\0\0\0");
        assert_eq!(read_text(&mut &bytes[..], "a word").unwrap(), "guix!");
    }

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
        let error = read_texts(&mut &u64::MAX.to_le_bytes()[..], "a word").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }

    #[test]
    fn a_list_takes_no_more_than_its_share_of_memory() {
        let mut long = Vec::new();
        put_string(&mut long, vec![b'x'; MAX_STRING as usize]);
        let mut bytes = Vec::new();
        put_integer(&mut bytes, 65);
        (0..65).for_each(|_| bytes.extend_from_slice(&long));
        let error = read_texts(&mut &bytes[..], "a word").unwrap_err();
        assert!(error.to_string().contains("together more than 67108864 bytes"), "{error}");
    }

    #[test]
    fn a_cut_string_is_a_lost_connection() {
        let bytes = b"\x05\0\0\0\0\0\0\0gu";
        assert_eq!(read_text(&mut &bytes[..], "a word").unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
