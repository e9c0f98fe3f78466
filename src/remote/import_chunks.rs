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

/// What comes after the chunks that were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More of the segment.
    Chunk,
    /// Another segment.
    Segment,
    /// Nothing.
    End,
}

/// The chunks of an import. Each is a length, the bytes, and zero bytes up to a multiple of 8, as the daemon wants it.
pub struct ImportChunks<'a> {
    archive: &'a mut dyn Read,
    /// What was read and not yet taken.
    ahead: Vec<u8>,
    /// How many bytes were taken since an item began, or since the last segment within it ended.
    in_item: usize,
    /// How many bytes of the segment were taken.
    in_segment: usize,
}

impl<'a> ImportChunks<'a> {
    /// Returns the chunks of `archive`.
    pub fn new(archive: &'a mut dyn Read) -> Self {
        ImportChunks { archive, ahead: Vec::new(), in_item: 0, in_segment: 0 }
    }

    /// Appends chunks with at least `most` bytes to `chunks`, or those up to the end of the segment.
    pub fn take(&mut self, chunks: &mut Vec<u8>, most: usize) -> io::Result<Next> {
        let mut taken = 0;
        loop {
            let old = self.ahead.len();
            self.ahead.resize(CHUNK + START.len(), 0);
            let read = read_fully(self.archive, &mut self.ahead[old..])?;
            self.ahead.truncate(old + read);
            if self.ahead.is_empty() {
                return Ok(Next::End);
            }
            if self.segment_ends(0) {
                (self.in_item, self.in_segment) = (0, 0);
                return Ok(Next::Segment);
            }
            if taken >= most {
                return Ok(Next::Chunk);
            }
            let length = self.next_chunk();
            put_string(chunks, &self.ahead[..length]);
            self.ahead.drain(..length);
            taken += length;
        }
    }

    /// Returns the length of the next chunk, and counts its bytes.
    fn next_chunk(&mut self) -> usize {
        let most = self.ahead.len().min(CHUNK);
        let mut length = 0;
        while length < most && !self.segment_ends(length) {
            if self.item_begins(length) {
                self.in_item = 0;
            }
            let word = WORD.min(most - length);
            length += word;
            self.in_item += word;
            self.in_segment += word;
        }
        length
    }

    /// Returns whether the segment ends before the byte `at` of what was read ahead. All before it are counted.
    fn segment_ends(&self, at: usize) -> bool {
        match self.item_begins(at) {
            true => self.in_segment >= LEAST,
            false => self.in_item >= SEGMENT,
        }
    }

    fn item_begins(&self, at: usize) -> bool {
        self.ahead[at..].starts_with(&START)
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
            let next = chunks.take(&mut segment, usize::MAX).unwrap();
            segments.push(contents(&segment));
            if next == Next::End {
                break;
            }
            assert_eq!(next, Next::Segment);
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
        assert_eq!(chunks.take(&mut taken, 2 * CHUNK).unwrap(), Next::Chunk);
        assert_eq!(contents(&taken), [7; 2 * CHUNK]);
        assert_eq!(chunks.take(&mut taken, 2 * CHUNK).unwrap(), Next::End);
        assert_eq!(contents(&taken), [7; 3 * CHUNK + 5]);

        let mut archive = io::empty();
        let (mut chunks, mut nothing) = (ImportChunks::new(&mut archive), Vec::new());
        assert_eq!(chunks.take(&mut nothing, CHUNK).unwrap(), Next::End);
        assert!(nothing.is_empty());
    }

    #[test]
    fn a_segment_ends_where_it_ends_however_it_is_taken() {
        for size in [SEGMENT / 2, SEGMENT, 3 * SEGMENT + 1] {
            for most in [1, CHUNK, 5 * CHUNK, SEGMENT, usize::MAX] {
                let mut archive = io::repeat(7).take(size as u64);
                let (mut chunks, mut segments) = (ImportChunks::new(&mut archive), vec![0]);
                loop {
                    let mut taken = Vec::new();
                    let next = chunks.take(&mut taken, most).unwrap();
                    assert!(!taken.is_empty());
                    *segments.last_mut().unwrap() += contents(&taken).len();
                    match next {
                        Next::Chunk => {}
                        Next::Segment => segments.push(0),
                        Next::End => break,
                    }
                }
                assert_eq!(segments.pop(), Some((size - 1) % SEGMENT + 1), "{most} of {size}");
                assert!(segments.iter().all(|size| *size == SEGMENT), "{segments:?}");
            }
        }
    }
}
