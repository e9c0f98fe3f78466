// SPDX-License-Identifier: GPL-3.0-or-later
//! Reading the words of an archive. Nothing is read beyond the word that is asked for, so what follows an archive stays
//! in the stream.

use std::fmt::Display;
use std::io::Read;

use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::gcrypt::Sha256;
use crate::ground::words::{Words, put_string, read_fully};

/// Longest fixed word of an archive, in bytes: the longest that [`WordReader::read_one_of`] can match.
const MAX_TAG: usize = 16;

/// An archive being read. Counts the bytes that were read, and computes their SHA-256.
pub struct WordReader<'a> {
    reader: &'a mut dyn Read,
    hash: Sha256,
    offset: u64,
}

impl<'a> WordReader<'a> {
    /// Reads from `reader`, which should be buffered or cheap to read a few bytes from.
    pub fn new(reader: &'a mut dyn Read) -> Result<Self> {
        Ok(WordReader { reader, hash: Sha256::new()?, offset: 0 })
    }

    /// Returns the SHA-256 of the bytes that were read.
    pub fn digest(&self) -> Result<[u8; 32]> {
        Ok(self.hash.try_clone()?.finish())
    }

    /// Reads one string, which must be one of `tags` (of 1 to 16 bytes), and returns which one it is.
    pub fn read_one_of(&mut self, tags: &[&'static str]) -> Result<&'static str> {
        let start = self.offset;
        // Every tag takes at least the 16 bytes that are read first: its length and 8 bytes.
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
            put_string(&mut word, tag);
            if bytes[..read] == word {
                return Ok(tag);
            }
        }
        Err(self.malformed(start, format!("expected {}", tags.join(" or "))))
    }

    /// Reads strings, which must be `tags` in this order.
    pub fn read_words(&mut self, tags: &[&str]) -> Result<()> {
        let start = self.offset;
        let mut words = Vec::with_capacity(tags.len() * (8 + MAX_TAG));
        for tag in tags {
            put_string(&mut words, tag);
        }
        let mut bytes = vec![0; words.len()];
        self.fill(&mut bytes)?;
        if bytes != words {
            return Err(self.malformed(start, format!("expected {}", tags.join(" "))));
        }
        Ok(())
    }
}

impl Words for WordReader<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let filled = read_fully(self.reader, buffer)
            .map_err(|error| Error::io(ErrorKind::Protocol, "reading an archive", error))?;
        if filled < buffer.len() {
            let end = self.offset + filled as u64;
            return Err(Error::new(ErrorKind::Protocol, format!("archive is cut off after byte {end}")));
        }
        self.hash.update(buffer);
        self.offset += filled as u64;
        Ok(())
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn malformed(&self, offset: u64, why: impl Display) -> Error {
        Error::new(ErrorKind::Protocol, format!("archive is malformed at byte {offset}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(strings: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        strings.iter().for_each(|s| put_string(&mut bytes, s));
        bytes
    }

    #[test]
    fn strings_are_read_and_nothing_after_them() {
        let bytes = [encoded(&[b"", b"abc", b"12345678", b"executable"]), b"rest".to_vec()].concat();
        let mut reader = &bytes[..];
        let mut input = WordReader::new(&mut reader).unwrap();
        assert_eq!(input.read_string("a", 3).unwrap(), b"");
        assert_eq!(input.read_string("a", 3).unwrap(), b"abc");
        input.read_words(&["12345678"]).unwrap();
        assert_eq!(input.read_one_of(&["contents", "executable"]).unwrap(), "executable");
        assert_eq!(input.offset(), 8 + 16 + 16 + 24);
        assert_eq!(input.digest().unwrap(), crate::ground::gcrypt::sha256(&bytes[..64]).unwrap());
        assert_eq!(reader, b"rest");
    }

    #[test]
    fn limits_padding_and_tags_are_checked() {
        let long = encoded(&[b"abcd"]);
        assert!(WordReader::new(&mut &long[..]).unwrap().read_string("a", 3).is_err());
        let mut padded = encoded(&[b"abc"]);
        *padded.last_mut().unwrap() = 1;
        assert!(WordReader::new(&mut &padded[..]).unwrap().read_string("a", 3).is_err());
        assert!(WordReader::new(&mut &padded[..]).unwrap().read_one_of(&["abc"]).is_err());
        assert!(WordReader::new(&mut &padded[..]).unwrap().read_words(&["abc"]).is_err());
        let huge = [&u64::MAX.to_le_bytes()[..], &[0; 16]].concat();
        assert!(WordReader::new(&mut &huge[..]).unwrap().read_string("a", 3).is_err());
        assert!(WordReader::new(&mut &huge[..]).unwrap().read_one_of(&["abc"]).is_err());
    }

    #[test]
    fn an_error_says_where() {
        let bytes = encoded(&[b"ok", b"what"]);
        let mut reader = &bytes[..];
        let mut input = WordReader::new(&mut reader).unwrap();
        input.read_words(&["ok"]).unwrap();
        assert!(input.read_one_of(&["type"]).unwrap_err().to_string().contains("at byte 16: expected type"));
        assert!(input.read_number().unwrap_err().to_string().contains("cut off after byte 32"));
    }
}
