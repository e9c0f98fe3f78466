// SPDX-License-Identifier: GPL-3.0-or-later
//! Items whose names follow from their contents. Any daemon that is given the contents makes the same item, so they
//! need no signature (`makeStorePath`, `computeStorePathForText` and `makeFixedOutputPath` in Guix's
//! `nix/libstore/store-api.cc`).
//!
//! ```text
//! item = STORE "/" base32 (fold (sha256 (KIND ":sha256:" base16 (HASH) ":" STORE ":" NAME))) "-" NAME
//!   KIND "text" { ":" REFERENCE }, HASH that of a file's contents: derivations, and what `add-text-to-store` makes
//!   KIND "source", HASH that of the nar, no references: what `add-to-store` makes, recursively with SHA-256
//! fold = to 20 bytes: byte I is the exclusive or of all bytes I + 20 N
//! ```

use super::ValidPath;
use crate::archive::nar;
use crate::daemon::ContentAddressed;
use crate::ground::error::Result;
use crate::ground::gcrypt::sha256;
use crate::ground::store_path::{StoreDir, StorePath, base16, base32};
use crate::ground::words::number_at;

/// Returns what a daemon needs to make `item` again, or `None` if its name does not follow from its contents. `nar` is
/// its nar, with the hash that `item` has. Items with a deriver do not count: the daemon would not record the deriver.
pub fn contents(item: &ValidPath, nar: Vec<u8>, directory: &StoreDir) -> Result<Option<ContentAddressed>> {
    if item.deriver.is_some() {
        return Ok(None);
    }
    match text_of(&nar) {
        Some(text) if is_named(item, directory, &text_kind(item), &sha256(text)?)? => {
            return Ok(Some(ContentAddressed::Text(text.to_vec())));
        }
        _ => {}
    }
    Ok(is_source(item, directory)?.then_some(ContentAddressed::Source(nar)))
}

/// Returns whether the name of `item` follows from its nar. Looks only at the registered hash of the nar.
pub fn is_source(item: &ValidPath, directory: &StoreDir) -> Result<bool> {
    let alone = item.deriver.is_none() && item.references.is_empty();
    Ok(alone && is_named(item, directory, "source", &item.nar_hash)?)
}

fn text_kind(item: &ValidPath) -> String {
    let mut references: Vec<_> = item.references.iter().map(StorePath::as_str).collect();
    references.sort_unstable();
    ["text"].into_iter().chain(references).collect::<Vec<_>>().join(":")
}

/// Returns the contents of the file whose nar is `nar`; `None` unless it is the nar of a file that is not executable.
fn text_of(nar: &[u8]) -> Option<&[u8]> {
    let start = nar::file_nar_frame(false, 0).0.len();
    let size = number_at(nar, start.checked_sub(8)?)?;
    let (before, after) = nar::file_nar_frame(false, size);
    nar.strip_prefix(&*before)?.strip_suffix(&*after).filter(|text| text.len() as u64 == size)
}

fn is_named(item: &ValidPath, directory: &StoreDir, kind: &str, hash: &[u8; 32]) -> Result<bool> {
    Ok(item.path.hash_part() == hash_part(directory, kind, hash, item.path.name())?)
}

fn hash_part(directory: &StoreDir, kind: &str, hash: &[u8; 32], name: &str) -> Result<String> {
    let (hash, store) = (base16(hash), directory.as_str());
    let digest = sha256(format!("{kind}:sha256:{hash}:{store}:{name}").as_bytes())?;
    let mut folded = [0; 20];
    for (index, byte) in digest.iter().enumerate() {
        folded[index % 20] ^= byte;
    }
    Ok(base32(&folded))
}

/// Returns the item called `name` that is a file of this text without references, and its nar.
pub fn text_item(directory: &StoreDir, name: &str, text: &str) -> Result<(StorePath, Vec<u8>)> {
    let hash_part = hash_part(directory, "text", &sha256(text.as_bytes())?, name)?;
    let (before, after) = nar::file_nar_frame(false, text.len() as u64);
    let nar = [&before, text.as_bytes(), &after].concat();
    Ok((directory.parse(&format!("{}/{hash_part}-{name}", directory.as_str()))?, nar))
}

/// Returns the file name of the source called `name` with this nar.
#[cfg(test)]
pub(crate) fn source_path(directory: &StoreDir, name: &str, nar: &[u8]) -> StorePath {
    let hash_part = hash_part(directory, "source", &sha256(nar).unwrap(), name).unwrap();
    directory.parse(&format!("{}/{hash_part}-{name}", directory.as_str())).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that guix-daemon gave.
    fn item(base: &str, references: &[&str]) -> ValidPath {
        let store = StoreDir::new("/gnu/store").unwrap();
        let path = |base: &str| store.parse(&format!("/gnu/store/{base}")).unwrap();
        ValidPath {
            path: path(base),
            nar_hash: [0; 32],
            nar_size: 0,
            deriver: None,
            references: references.iter().map(|base| path(base)).collect(),
        }
    }

    fn nar(executable: bool, text: &[u8]) -> Vec<u8> {
        let (before, after) = nar::file_nar_frame(executable, text.len() as u64);
        [&before, text, &after].concat()
    }

    fn contents_of(item: &ValidPath, nar: &[u8]) -> Option<ContentAddressed> {
        let item = &ValidPath { nar_hash: sha256(nar).unwrap(), ..item.clone() };
        contents(item, nar.to_vec(), &StoreDir::new("/gnu/store").unwrap()).unwrap()
    }

    const REFERENCES: [&str; 2] = ["2kral4vsqqrvi0xdbq6nlmdry1d7z2z0-two", "iw7wvpzggzmz39bzh6brgvv9fysklfjk-one"];

    #[test]
    fn a_text_has_the_name_that_the_daemon_gives_it() {
        let (path, text) = text_item(&StoreDir::new("/gnu/store").unwrap(), "text", "some text\n").unwrap();
        assert_eq!(path.base_name(), "vzikbd3i93qi160w1kx9mzcbgzx57d4q-text");
        assert_eq!(text, nar(false, b"some text\n"));
    }

    #[test]
    fn texts_are_known_by_their_names() {
        let nar = nar(false, b"some text\n");
        let text = Some(ContentAddressed::Text(b"some text\n".to_vec()));
        assert_eq!(contents_of(&item("vzikbd3i93qi160w1kx9mzcbgzx57d4q-text", &[]), &nar), text);
        assert_eq!(
            contents_of(&item("j2miibkixbfys9gw121nrg71cf3qyyra-referrer", &[REFERENCES[1], REFERENCES[0]]), &nar),
            text
        );
        assert_eq!(contents_of(&item("j2miibkixbfys9gw121nrg71cf3qyyra-referrer", &[REFERENCES[0]]), &nar), None);
        assert_eq!(
            contents_of(&item("vzikbd3i93qi160w1kx9mzcbgzx57d4q-text", &[]), &self::nar(true, b"some text\n")),
            None
        );
        assert_eq!(
            contents_of(&item("vzikbd3i93qi160w1kx9mzcbgzx57d4q-text", &[]), &self::nar(false, b"some other\n")),
            None
        );
        assert_eq!(contents_of(&item("vzikbd3i93qi160w1kx9mzcbgzx57d4q-text", &[]), &nar[..nar.len() - 1]), None);
        let deriver = Some(item("vzikbd3i93qi160w1kx9mzcbgzx57d4q-text.drv", &[]).path);
        assert_eq!(
            contents_of(&ValidPath { deriver, ..item("vzikbd3i93qi160w1kx9mzcbgzx57d4q-text", &[]) }, &nar),
            None
        );
    }

    #[test]
    fn sources_are_known_by_their_names() {
        let nar = nar(true, b"#!/bin/sh\n");
        assert_eq!(
            contents_of(&item("92zm20z5mk0bgpn6qx9yxvnjlcrfrxl5-script", &[]), &nar),
            Some(ContentAddressed::Source(nar.clone()))
        );
        assert_eq!(contents_of(&item("92zm20z5mk0bgpn6qx9yxvnjlcrfrxl5-script", &[REFERENCES[0]]), &nar), None);
        assert_eq!(
            contents_of(&item("92zm20z5mk0bgpn6qx9yxvnjlcrfrxl5-script", &[]), &self::nar(true, b"#!/bin/bash\n")),
            None
        );
    }

    #[test]
    fn what_is_no_nar_of_a_text_is_not_taken_for_one() {
        let whole = nar(false, b"text");
        for length in 0..whole.len() {
            assert_eq!(text_of(&whole[..length]), None);
        }
        assert_eq!(text_of(&whole), Some(&b"text"[..]));
        let mut huge = whole.clone();
        let at = huge.len() - 4 - 4 - 16 - 8;
        huge[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(text_of(&huge), None);
    }
}
