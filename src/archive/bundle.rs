// SPDX-License-Identifier: GPL-3.0-or-later
//! Bundles: items one after the other, as the daemon's `import-paths` reads them.
//!
//! ```text
//! bundle = { number (1) item } number (0)
//! ```

use std::io::{self, Cursor, Read};

/// Comes before each item.
const ITEM: [u8; 8] = 1u64.to_le_bytes();
/// Comes after the last item.
const END: [u8; 8] = 0u64.to_le_bytes();

/// Returns the bundle of one item.
pub fn of_one(item: &[u8]) -> Vec<u8> {
    [&ITEM, item, &END].concat()
}

/// The bundle of some items, produced as it is read. `I` returns a reader for each item.
pub struct Bundle<I, R> {
    items: I,
    /// The number that is being read.
    number: Cursor<[u8; 8]>,
    /// The item that follows the number; `None`: the end follows.
    item: Option<R>,
    ended: bool,
}

impl<R, I: Iterator<Item = io::Result<R>>> Bundle<I, R> {
    /// Makes the bundle of `items`. Each is asked for when those before it have been read.
    pub fn new(items: I) -> Self {
        let mut read = Cursor::new(ITEM);
        read.set_position(ITEM.len() as u64);
        Bundle { items, number: read, item: None, ended: false }
    }
}

impl<R: Read, I: Iterator<Item = io::Result<R>>> Read for Bundle<I, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let length = match &mut self.item {
                _ if self.number.position() < ITEM.len() as u64 => self.number.read(buffer)?,
                Some(item) => item.read(buffer)?,
                None => 0,
            };
            if length > 0 || self.ended {
                return Ok(length);
            }
            self.item = self.items.next().transpose()?;
            self.ended = self.item.is_none();
            self.number = Cursor::new(if self.ended { END } else { ITEM });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle<'a>(items: &'a [&'a [u8]]) -> impl Read + 'a {
        Bundle::new(items.iter().copied().map(io::Result::Ok))
    }

    #[test]
    fn a_bundle_is_the_same_however_it_is_read() {
        let one: &[&[u8]] = &[b"one"];
        for items in [&[], one, &[b"", b"two"], &[b"a", b"", b"bc"]] {
            let expected =
                [items.iter().flat_map(|item| [&ITEM, *item]).collect::<Vec<_>>().concat(), END.to_vec()].concat();
            for step in [1, 3, 8, 100] {
                let (mut reader, mut read, mut buffer) = (bundle(items), Vec::new(), vec![0; step]);
                while let length @ 1.. = reader.read(&mut buffer).unwrap() {
                    read.extend_from_slice(&buffer[..length]);
                }
                assert_eq!(read, expected, "{items:?}, {step} bytes at a time");
            }
        }
        let mut one = Vec::new();
        bundle(&[b"one"]).read_to_end(&mut one).unwrap();
        assert_eq!(one, of_one(b"one"));
    }

    #[test]
    fn an_item_that_cannot_be_read_ends_it() {
        let items = [Ok(&b"one"[..]), Err(io::Error::other("gone"))];
        let mut read = Vec::new();
        let failed = Bundle::new(items.into_iter()).read_to_end(&mut read).unwrap_err();
        assert_eq!((failed.to_string(), &*read), ("gone".to_string(), &[&ITEM, &b"one"[..]].concat()[..]));
    }
}
