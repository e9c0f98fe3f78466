// SPDX-License-Identifier: GPL-3.0-or-later
//! One store item on its way between stores, as the daemon's `export-path` writes it
//! (`LocalStore::exportPath` and `importPath` in Guix's `nix/libstore/local-store.cc`).
//!
//! The format, in the words of `ground::words`:
//!
//! ```text
//! item       = nar number (0x4558494e) path references deriver signature
//! path       = string
//! references = number (how many) { path }
//! deriver    = path, or the empty string
//! signature  = number (0), or number (1) string
//! ```
//!
//! The signature is of the SHA-256 of everything from the nar to the deriver. At most 65536 references and 64 KiB of
//! signature are read. Guix sets no limits, but its signatures are below 4 KiB.

use std::io::Read;

use super::nar::{self, Visitor};
use super::word_reader::WordReader;
use crate::ground::error::Result;
use crate::ground::store_path::{MAX_BASE_NAME, MAX_REFERENCES, StoreDir, StorePath};
use crate::ground::words::{Words, put_number, put_string};

const MAGIC: u64 = 0x4558_494e;
/// Longest signature, in bytes.
const MAX_SIGNATURE: u64 = 64 << 10;

/// A store item without its contents, as an archive describes it. None of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedItem {
    /// The item's name.
    pub path: StorePath,
    /// The items that it refers to, possibly itself among them.
    pub references: Vec<StorePath>,
    /// The derivation that made it.
    pub deriver: Option<StorePath>,
    /// The signature, an s-expression.
    pub signature: Option<Vec<u8>>,
    /// SHA-256 of its nar.
    pub nar_hash: [u8; 32],
    /// Size of its nar in bytes.
    pub nar_size: u64,
    /// The hash that must have been signed.
    pub signed_hash: [u8; 32],
}

/// Reads one item, and nothing after its last byte. Passes its contents to `visitor` as they come, before anything can
/// be verified.
pub fn read_item(reader: &mut dyn Read, store: &StoreDir, visitor: &mut dyn Visitor) -> Result<ExportedItem> {
    let mut input = WordReader::new(reader)?;
    nar::read(&mut input, visitor)?;
    let (nar_hash, nar_size) = (input.digest()?, input.offset());

    if input.read_number()? != MAGIC {
        return Err(input.malformed(nar_size, "the nar is not followed by what an export says about it"));
    }
    let path = read_path(&mut input, store)?;
    let references = read_references(&mut input, store)?;
    let deriver = read_optional_path(&mut input, store)?;
    let signed_hash = input.digest()?;

    let start = input.offset();
    let signature = match input.read_number()? {
        0 => None,
        1 => Some(input.read_string("signature", MAX_SIGNATURE)?),
        other => return Err(input.malformed(start, format!("{other} instead of 0 or 1 before the signature"))),
    };
    Ok(ExportedItem { path, references, deriver, signature, nar_hash, nar_size, signed_hash })
}

/// Returns what comes between the nar of an item and its signature.
pub fn encode_metadata(path: &StorePath, references: &[StorePath], deriver: Option<&StorePath>) -> Vec<u8> {
    let mut references: Vec<_> = references.iter().map(StorePath::as_str).collect();
    references.sort_unstable();
    let mut bytes = Vec::new();
    put_number(&mut bytes, MAGIC);
    put_string(&mut bytes, path.as_str());
    put_number(&mut bytes, references.len() as u64);
    references.iter().for_each(|reference| put_string(&mut bytes, reference.as_bytes()));
    put_string(&mut bytes, deriver.map_or("", StorePath::as_str));
    bytes
}

/// Returns `signature` in the form in which it follows the metadata.
pub fn encode_signature(signature: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_number(&mut bytes, 1);
    put_string(&mut bytes, signature);
    bytes
}

fn read_references(input: &mut WordReader, store: &StoreDir) -> Result<Vec<StorePath>> {
    let start = input.offset();
    let count = input.read_number()?;
    if count > MAX_REFERENCES {
        return Err(input.malformed(start, format!("{count} references, at most {MAX_REFERENCES} are allowed")));
    }
    (0..count).map(|_| read_path(input, store)).collect()
}

fn read_path(input: &mut WordReader, store: &StoreDir) -> Result<StorePath> {
    let start = input.offset();
    read_optional_path(input, store)?.ok_or_else(|| input.malformed(start, "the name of a store item is empty"))
}

fn read_optional_path(input: &mut WordReader, store: &StoreDir) -> Result<Option<StorePath>> {
    let start = input.offset();
    let bytes = input.read_string("name of a store item", (store.as_str().len() + 1 + MAX_BASE_NAME) as u64)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    match store.parse(&String::from_utf8_lossy(&bytes)) {
        Ok(path) => Ok(Some(path)),
        Err(error) => Err(input.malformed(start, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::nar::tests::{Event, Recorder};

    /// Two items that guix-daemon exported, framed as a bundle.
    const BUNDLE: &[u8] = include_bytes!("../../tests/fixtures/archive/two-items.bundle");

    fn store() -> StoreDir {
        StoreDir::new("/gnu/store").unwrap()
    }

    fn read(mut bytes: &[u8]) -> Result<(ExportedItem, Vec<Event>)> {
        let mut recorder = Recorder::default();
        let item = read_item(&mut bytes, &store(), &mut recorder)?;
        Ok((item, recorder.events))
    }

    /// Offsets of the parts of the first item in the bundle.
    const NAR: usize = 8;
    const MAGIC_AT: usize = NAR + 120;
    const REFERENCES: usize = MAGIC_AT + 8 + 8 + 56;
    const SIGNATURE: usize = REFERENCES + 8 + 8;

    #[test]
    fn items_of_the_daemon_are_read_to_their_last_byte() {
        let mut rest = &BUNDLE[NAR..];
        let mut recorder = Recorder::default();
        let first = read_item(&mut rest, &store(), &mut recorder).unwrap();
        assert_eq!(first.path.base_name(), "n0rvkfk2c1y6ava4sgvyrvfryn2ywafx-dependency");
        assert_eq!((first.references, first.deriver, first.nar_size), (vec![], None, 120));
        assert_eq!(first.signed_hash, crate::ground::gcrypt::sha256(&BUNDLE[NAR..SIGNATURE]).unwrap());
        assert_eq!(first.nar_hash, crate::ground::gcrypt::sha256(&BUNDLE[NAR..MAGIC_AT]).unwrap());
        assert!(first.signature.unwrap().starts_with(b"(signature"));
        assert_eq!(recorder.events, [Event::File(false, b"hello\n".to_vec())]);

        rest = rest.strip_prefix(&1u64.to_le_bytes()).unwrap();
        let second = read_item(&mut rest, &store(), &mut Recorder::default()).unwrap();
        assert_eq!(rest, [0; 8]);
        assert_eq!(second.references, [second.path.clone(), first.path]);
        assert_eq!(second.deriver.unwrap().base_name(), "d5zb8bajm7msg9xsg99fk7zj50gfcyda-fixture.drv");
        assert_eq!(second.nar_size, 9888);
    }

    #[test]
    fn items_are_described_as_the_daemon_does() {
        let mut rest = &BUNDLE[NAR..];
        let first = read_item(&mut rest, &store(), &mut Recorder::default()).unwrap();
        let bytes = encode_metadata(&first.path, &first.references, first.deriver.as_ref());
        assert_eq!(bytes, &BUNDLE[MAGIC_AT..SIGNATURE]);
        let bytes = encode_signature(&first.signature.unwrap());
        assert_eq!(bytes, &BUNDLE[SIGNATURE..SIGNATURE + bytes.len()]);

        let start = BUNDLE.len() - rest.len() + 8;
        let second = read_item(&mut &BUNDLE[start..], &store(), &mut Recorder::default()).unwrap();
        let unsorted: Vec<_> = second.references.iter().rev().cloned().collect();
        let bytes = encode_metadata(&second.path, &unsorted, second.deriver.as_ref());
        assert_eq!(bytes, &BUNDLE[start + second.nar_size as usize..][..bytes.len()]);
    }

    #[test]
    fn an_item_without_a_signature_is_read() {
        let unsigned = [&BUNDLE[NAR..SIGNATURE], &[0; 8]].concat();
        assert_eq!(read(&unsigned).unwrap().0.signature, None);
    }

    #[test]
    fn what_is_out_of_bounds_is_rejected() {
        let patched = |at: usize, number: u64| {
            let mut bytes = BUNDLE[NAR..].to_vec();
            bytes[at - NAR..at - NAR + 8].copy_from_slice(&number.to_le_bytes());
            read(&bytes).unwrap_err().to_string()
        };
        assert!(patched(MAGIC_AT, 0x4558_494f).contains("at byte 120: the nar is not followed"));
        assert!(patched(MAGIC_AT + 8, 1000).contains("name of a store item of 1000 bytes"));
        assert!(patched(REFERENCES, 65537).contains("65537 references"));
        assert!(patched(SIGNATURE, 2).contains("2 instead of 0 or 1"));
        assert!(patched(SIGNATURE + 8, 65537).contains("signature of 65537 bytes"));
        assert!(patched(MAGIC_AT + 16, 0x2f75_6e67_2f2f_2f2f).contains("it is not in /gnu/store"));
    }
}
