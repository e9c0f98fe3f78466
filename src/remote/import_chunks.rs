// SPDX-License-Identifier: GPL-3.0-or-later
//! The chunks of an import, in segments that depend on the items alone: whatever else is sent, an item that is large
//! has the same segments. So two imports that send it can share what was made of them.

use std::io::{self, Read};

use crate::ground::words::{put_string, read_fully};

/// Size of the chunks, in bytes: the daemon asks for this much at once.
const CHUNK: usize = 32 << 10;

/// Largest part of an item in a segment, in bytes. With 4 MiB, text that is compressed by itself was 2 % larger than as
/// a part of the whole, and programs less; with 1 MiB, 8 %.
const SEGMENT: usize = 4 << 20;

/// Least size of a segment that ends before an item, in bytes: small items have one together.
const LEAST: usize = 128 << 10;

/// What begins an item of a bundle ([`crate::archive::bundle`]): a number, and the first word of a nar. If the
/// contents of a file look like it, a segment ends there, too.
const START: [u8; 32] = *b"\x01\0\0\0\0\0\0\0\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";

/// Size of the words of a bundle, in bytes: an item begins at a multiple of it.
const WORD: usize = 8;

/// The chunks of an import. Each is a length, the bytes, and zero bytes up to a multiple of 8, as the daemon wants it.
pub struct ImportChunks<'a> {
    archive: &'a mut dyn Read,
    /// What was read and not yet taken.
    ahead: Vec<u8>,
    /// How many bytes were taken since an item began, or since the last segment within it ended.
    in_item: usize,
}

impl<'a> ImportChunks<'a> {
    /// Returns the chunks of `archive`.
    pub fn new(archive: &'a mut dyn Read) -> Self {
        ImportChunks { archive, ahead: Vec::new(), in_item: 0 }
    }

    /// Appends chunks with at least `most` bytes to `chunks`, or those up to the end of the segment. Returns whether
    /// there are more.
    pub fn take(&mut self, chunks: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        let mut taken = 0;
        loop {
            let old = self.ahead.len();
            self.ahead.resize(CHUNK + START.len(), 0);
            let read = read_fully(self.archive, &mut self.ahead[old..])?;
            self.ahead.truncate(old + read);
            let (length, is_last) = self.next(taken);
            if length > 0 {
                put_string(chunks, &self.ahead[..length]);
                self.ahead.drain(..length);
                taken += length;
            }
            if is_last || taken >= most || self.ahead.is_empty() {
                return Ok(!self.ahead.is_empty());
            }
        }
    }

    /// Returns the length of the next chunk of a segment of which `taken` bytes were taken, and whether the segment
    /// ends there.
    fn next(&mut self, taken: usize) -> (usize, bool) {
        let most = self.ahead.len().min(CHUNK);
        let mut length = 0;
        while length < most {
            if self.ahead[length..].starts_with(&START) {
                self.in_item = 0;
                if taken + length >= LEAST {
                    return (length, true);
                }
            }
            if self.in_item == SEGMENT {
                self.in_item = 0;
                if taken + length > 0 {
                    return (length, true);
                }
            }
            let word = WORD.min(most - length);
            length += word;
            self.in_item += word;
        }
        (length, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::words::number_at;

    /// Returns the bytes of each segment of the bundle of `items`, which are sizes.
    fn segments(items: &[usize]) -> Vec<Vec<u8>> {
        let mut bundle = Vec::new();
        for size in items {
            bundle.extend_from_slice(&START);
            bundle.extend((0..*size).map(|at| (at % 251) as u8 ^ (*size % 256) as u8));
        }
        bundle.extend_from_slice(&[0; WORD]);
        let mut archive = &bundle[..];
        let (mut chunks, mut segments) = (ImportChunks::new(&mut archive), Vec::new());
        loop {
            let mut segment = Vec::new();
            let more = chunks.take(&mut segment, usize::MAX).unwrap();
            segments.push(contents(&segment));
            if !more {
                break;
            }
        }
        assert!(segments.concat() == bundle, "{items:?}");
        segments
    }

    /// Returns what is in `chunks`.
    fn contents(chunks: &[u8]) -> Vec<u8> {
        let (mut at, mut bytes) = (0, Vec::new());
        while at < chunks.len() {
            let length = number_at(chunks, at).unwrap() as usize;
            assert!((1..=CHUNK).contains(&length));
            bytes.extend_from_slice(&chunks[at + 8..][..length]);
            at += 8 + length.next_multiple_of(8);
        }
        bytes
    }

    #[test]
    fn a_large_item_has_the_same_segments_whatever_is_sent_before_it() {
        let large = 3 * SEGMENT + 5 * CHUNK / 8 * 8;
        let alone = segments(&[large]);
        assert_eq!(alone.len(), 4);
        for before in [&[1 << 20][..], &[LEAST, 800, 64], &[3 * SEGMENT], &[SEGMENT - START.len()], &[8, 16]] {
            let others = segments(&[before, &[large]].concat());
            // What little comes before it is in its first segment.
            assert_eq!(others[others.len() - 3..], alone[1..], "{before:?}");
        }
    }

    #[test]
    fn small_items_share_segments() {
        let many = segments(&[4000; 100]);
        assert!(many.len() <= 4, "{}", many.len());
        assert_eq!(segments(&[]).len(), 1);
    }

    #[test]
    fn as_many_chunks_are_taken_as_are_wanted() {
        let mut archive = io::repeat(7).take(3 * CHUNK as u64 + 5);
        let (mut chunks, mut taken) = (ImportChunks::new(&mut archive), Vec::new());
        assert!(chunks.take(&mut taken, 2 * CHUNK).unwrap());
        assert_eq!(contents(&taken), [7; 2 * CHUNK]);
        assert!(!chunks.take(&mut taken, 2 * CHUNK).unwrap());
        assert_eq!(contents(&taken), [7; 3 * CHUNK + 5]);
        // What ends with the segment leaves nothing of it for the next call.
        let mut archive = io::repeat(7).take(SEGMENT as u64 + 5);
        let (mut chunks, mut taken) = (ImportChunks::new(&mut archive), Vec::new());
        assert!(chunks.take(&mut taken, SEGMENT).unwrap());
        taken.clear();
        assert!(!chunks.take(&mut taken, SEGMENT).unwrap());
        assert_eq!(contents(&taken), [7; 5]);

        let mut archive = io::empty();
        let (mut chunks, mut nothing) = (ImportChunks::new(&mut archive), Vec::new());
        assert!(!chunks.take(&mut nothing, CHUNK).unwrap() && nothing.is_empty());
    }
}
