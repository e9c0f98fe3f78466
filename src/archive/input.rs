// SPDX-License-Identifier: GPL-3.0-or-later
//! The words that archives are made of (Guix's `nix/libutil/serialise.cc`).
//!
//! ```text
//! number = 8 bytes, little-endian
//! string = number (its length), its bytes, zero bytes up to a multiple of 8
//! ```
//!
//! No more is ever read than the word that is asked for, so that what follows an archive stays in the stream.

use std::io::{ErrorKind as IoErrorKind, Read};

use crate::error::{Error, ErrorKind, Result};
use crate::gcrypt::Sha256;

/// Longest fixed word of an archive, and so of [`Input::tag`], in bytes.
const MAX_TAG: usize = 16;

/// An archive being read. Keeps count and the SHA-256 of the bytes that were read.
pub struct Input<'a> {
    reader: &'a mut dyn Read,
    hash: Sha256,
    offset: u64,
}

impl<'a> Input<'a> {
    /// Reads from `reader`, which should be buffered or cheap to read a few bytes from.
    pub fn new(reader: &'a mut dyn Read) -> Result<Self> {
        Ok(Input { reader, hash: Sha256::new()?, offset: 0 })
    }

    /// How many bytes were read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// SHA-256 of the bytes that were read.
    pub fn digest(&self) -> Result<[u8; 32]> {
        Ok(self.hash.try_clone()?.finish())
    }

    /// An error of the archive at byte `offset`.
    pub fn malformed(offset: u64, why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Protocol, format!("archive is malformed at byte {offset}: {why}"))
    }

    /// Reads exactly as many bytes as `buffer` holds.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) => {
                    let end = self.offset + filled as u64;
                    return Err(Error::new(ErrorKind::Protocol, format!("archive is cut off after byte {end}")));
                }
                Ok(length) => filled += length,
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(ErrorKind::Protocol, "reading an archive", error)),
            }
        }
        self.hash.update(buffer);
        self.offset += filled as u64;
        Ok(())
    }

    /// Reads a number.
    pub fn number(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a string of at most `limit` bytes; `what` names it in errors.
    pub fn string(&mut self, what: &str, limit: usize) -> Result<Vec<u8>> {
        let start = self.offset;
        let length = self.number()?;
        if length > limit as u64 {
            return Err(Self::malformed(start, format!("{what} of {length} bytes, at most {limit} are allowed")));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        self.padding(length)?;
        Ok(bytes)
    }

    /// Reads the zero bytes that follow `length` bytes of a string.
    pub fn padding(&mut self, length: u64) -> Result<()> {
        let start = self.offset;
        let mut bytes = [0; 8];
        let padding = &mut bytes[..padding(length)];
        self.fill(padding)?;
        if padding.iter().any(|&b| b != 0) {
            return Err(Self::malformed(start, "padding is not zero"));
        }
        Ok(())
    }

    /// Reads one string, which must be one of `tags` (of 1 to 16 bytes), and returns that one.
    pub fn tag(&mut self, tags: &[&'static str]) -> Result<&'static str> {
        let start = self.offset;
        // No tag is shorter than what is read first, its length and 8 bytes.
        let mut bytes = [0; 8 + MAX_TAG];
        self.fill(&mut bytes[..16])?;
        let mut read = 16;
        if bytes[0] > 8 && bytes[0] as usize <= MAX_TAG && bytes[1..8] == [0; 7] {
            self.fill(&mut bytes[16..])?;
            read = bytes.len();
        }
        let mut word = Vec::with_capacity(8 + MAX_TAG);
        for &tag in tags {
            word.clear();
            encode(tag.as_bytes(), &mut word);
            if bytes[..read] == word {
                return Ok(tag);
            }
        }
        Err(Self::malformed(start, format!("expected {}", tags.join(" or "))))
    }

    /// Reads strings, which must be `tags` in this order.
    pub fn expect(&mut self, tags: &[&str]) -> Result<()> {
        let start = self.offset;
        let mut words = Vec::with_capacity(tags.len() * (8 + MAX_TAG));
        for tag in tags {
            encode(tag.as_bytes(), &mut words);
        }
        let mut bytes = vec![0; words.len()];
        self.fill(&mut bytes)?;
        if bytes != words {
            return Err(Self::malformed(start, format!("expected {}", tags.join(" "))));
        }
        Ok(())
    }
}

/// Appends `string` as archives write it.
pub fn encode(string: &[u8], to: &mut Vec<u8>) {
    let length = string.len() as u64;
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(string);
    to.extend_from_slice(&[0; 8][..padding(length)]);
}

/// How many zero bytes follow `length` bytes of a string.
pub fn padding(length: u64) -> usize {
    (length.wrapping_neg() % 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(strings: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        strings.iter().for_each(|s| encode(s, &mut bytes));
        bytes
    }

    #[test]
    fn strings_are_read_and_nothing_after_them() {
        let bytes = [encoded(&[b"", b"abc", b"12345678", b"executable"]), b"rest".to_vec()].concat();
        let mut reader = &bytes[..];
        let mut input = Input::new(&mut reader).unwrap();
        assert_eq!(input.string("a", 3).unwrap(), b"");
        assert_eq!(input.string("a", 3).unwrap(), b"abc");
        input.expect(&["12345678"]).unwrap();
        assert_eq!(input.tag(&["contents", "executable"]).unwrap(), "executable");
        assert_eq!(input.offset(), 8 + 16 + 16 + 24);
        assert_eq!(input.digest().unwrap(), crate::gcrypt::sha256(&bytes[..64]).unwrap());
        assert_eq!(reader, b"rest");
    }

    #[test]
    fn limits_padding_and_tags_are_checked() {
        let long = encoded(&[b"abcd"]);
        assert!(Input::new(&mut &long[..]).unwrap().string("a", 3).is_err());
        let mut padded = encoded(&[b"abc"]);
        *padded.last_mut().unwrap() = 1;
        assert!(Input::new(&mut &padded[..]).unwrap().string("a", 3).is_err());
        assert!(Input::new(&mut &padded[..]).unwrap().tag(&["abc"]).is_err());
        assert!(Input::new(&mut &padded[..]).unwrap().expect(&["abc"]).is_err());
        let huge = [&u64::MAX.to_le_bytes()[..], &[0; 16]].concat();
        assert!(Input::new(&mut &huge[..]).unwrap().string("a", 3).is_err());
        assert!(Input::new(&mut &huge[..]).unwrap().tag(&["abc"]).is_err());
    }

    #[test]
    fn an_error_says_where() {
        let bytes = encoded(&[b"ok", b"what"]);
        let mut reader = &bytes[..];
        let mut input = Input::new(&mut reader).unwrap();
        input.expect(&["ok"]).unwrap();
        assert!(input.tag(&["type"]).unwrap_err().to_string().contains("at byte 16: expected type"));
        assert!(input.number().unwrap_err().to_string().contains("cut off after byte 32"));
    }
}
