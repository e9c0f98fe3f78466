// SPDX-License-Identifier: GPL-3.0-or-later
//! The words that archives and the worker protocol are made of (Guix's `nix/libutil/serialise.cc`).
//!
//! ```text
//! number = 8 bytes, little-endian
//! string = number (its length), its bytes, zero bytes up to a multiple of 8
//! ```
//!
//! Every length is checked against a limit before anything is allocated for it.

use std::fmt::Display;
use std::io::{self, Read};

use crate::ground::error::{Error, Result};

/// Returns how many zero bytes follow `length` bytes of a string.
pub const fn padding(length: u64) -> usize {
    (length.wrapping_neg() % 8) as usize
}

/// Appends a number.
pub fn put_number(to: &mut Vec<u8>, value: u64) {
    to.extend_from_slice(&value.to_le_bytes());
}

/// Appends a string.
pub fn put_string(to: &mut Vec<u8>, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    put_number(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
    to.resize(to.len() + padding(bytes.len() as u64), 0);
}

/// Returns the number at byte `at` of `bytes`, if all of it is there.
pub fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

/// Reads until `buffer` is full or `from` ends. Returns how many bytes it read.
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

/// A source of words. It reads no further than the word that is asked for.
pub trait Words {
    /// Reads exactly as many bytes as `buffer` holds.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()>;

    /// Returns how many bytes were read.
    fn offset(&self) -> u64;

    /// Returns the error for malformed data at byte `offset`. `why` is a noun phrase.
    fn malformed(&self, offset: u64, why: impl Display) -> Error;

    /// Reads a number.
    fn read_number(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a string of at most `limit` bytes; `what` names it in errors.
    fn read_string(&mut self, what: &str, limit: u64) -> Result<Vec<u8>> {
        let start = self.offset();
        let length = self.read_number()?;
        if length > limit {
            return Err(self.malformed(start, format_args!("{what} of {length} bytes, at most {limit} are allowed")));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        self.read_padding(length)?;
        Ok(bytes)
    }

    /// Reads the zero bytes that follow `length` bytes of a string.
    fn read_padding(&mut self, length: u64) -> Result<()> {
        let start = self.offset();
        let mut bytes = [0; 8];
        let padding = &mut bytes[..padding(length)];
        self.fill(padding)?;
        if padding.iter().any(|&b| b != 0) {
            return Err(self.malformed(start, "padding that is not zero"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::error::ErrorKind;

    struct Bytes<'a>(&'a [u8], u64);

    impl Words for Bytes<'_> {
        fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
            self.1 += buffer.len() as u64;
            self.0.read_exact(buffer).map_err(|_| Error::new(ErrorKind::Unavailable, "cut off"))
        }

        fn offset(&self) -> u64 {
            self.1
        }

        fn malformed(&self, offset: u64, why: impl Display) -> Error {
            Error::new(ErrorKind::Protocol, format!("{offset}: {why}"))
        }
    }

    fn read(bytes: &[u8], limit: u64) -> Result<Vec<u8>, String> {
        Bytes(bytes, 0).read_string("a word", limit).map_err(|error| error.to_string())
    }

    #[test]
    fn a_string_is_padded_with_zeros_to_eight() {
        for length in 0..=17 {
            let string = vec![b'x'; length];
            let mut bytes = Vec::new();
            put_string(&mut bytes, &string);
            assert_eq!(bytes.len(), 8 + length.div_ceil(8) * 8);
            assert_eq!(number_at(&bytes, 0), Some(length as u64));
            assert_eq!(read(&bytes, 17).unwrap(), string);
            assert_eq!(padding(length as u64), bytes.len() - 8 - length);
            for at in 8 + length..bytes.len() {
                let mut wrong = bytes.clone();
                wrong[at] = 1;
                assert_eq!(read(&wrong, 17).unwrap_err(), format!("{}: padding that is not zero", 8 + length));
            }
        }
    }

    #[test]
    fn a_length_is_checked_before_it_is_believed() {
        for length in [6, u64::MAX] {
            let error = read(&length.to_le_bytes(), 5).unwrap_err();
            assert_eq!(error, format!("0: a word of {length} bytes, at most 5 are allowed"));
        }
        assert_eq!(read(b"\x05\0\0\0\0\0\0\0gu", 5).unwrap_err(), "cut off");
    }

    #[test]
    fn there_is_no_number_beyond_the_end() {
        assert_eq!(number_at(&[1, 0, 0, 0, 0, 0, 0, 0, 9], 0), Some(1));
        assert_eq!((number_at(&[0; 8], 1), number_at(&[0; 8], usize::MAX)), (None, None));
    }
}
