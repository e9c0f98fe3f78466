// SPDX-License-Identifier: GPL-3.0-or-later
//! Exporting a store item, signed, for another store: the same as guix-daemon's `export-path` (`LocalStore::exportPath`
//! in Guix's `nix/libstore/local-store.cc`), without the daemon and its signing process.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use super::{Dump, ValidPath};
use crate::archive::{self, KeyPair};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::gcrypt::Sha256;

/// An item of a bundle, produced while it is read; [`archive::read_item`] parses it. All its errors are of kind
/// [`ErrorKind::Store`], wrapped in an [`io::Error`].
pub struct Export<'a> {
    item: &'a ValidPath,
    keys: &'a KeyPair,
    nar: Dump,
    hash: Sha256,
    /// The bytes after the nar, once the nar was read, and how many of them were read.
    rest: Option<(Vec<u8>, usize)>,
}

impl<'a> Export<'a> {
    /// Begins to export `item`, which is in the directory `store` and is signed with `keys`.
    pub fn new(store: BorrowedFd, item: &'a ValidPath, keys: &'a KeyPair) -> Result<Self> {
        Ok(Export { item, keys, nar: Dump::new(store, &item.path)?, hash: Sha256::new()?, rest: None })
    }

    /// Returns the bytes after the nar. Fails, instead of signing, if the nar does not have the registered hash.
    fn trailer(&mut self) -> Result<Vec<u8>> {
        let ValidPath { path, nar_hash, deriver, references, .. } = self.item;
        if self.hash.try_clone()?.finish() != *nar_hash {
            return Err(damaged(self.item));
        }
        let mut rest = archive::encode_metadata(path, references, deriver.as_ref());
        self.hash.update(&rest);
        rest.extend(archive::encode_signature(&self.keys.sign(&self.hash.try_clone()?.finish())?));
        Ok(rest)
    }
}

/// Returns the error for an item whose contents no longer have the registered hash.
pub fn damaged(item: &ValidPath) -> Error {
    let message = format!("{} is not what it was when it was registered", item.path);
    Error::new(ErrorKind::Store, message).hint("find out what is damaged: guix gc --verify=contents")
}

impl Read for Export<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_none() {
            let length = self.nar.read(buffer)?;
            self.hash.update(&buffer[..length]);
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            self.rest = Some((self.trailer()?, 0));
        }
        let Some((rest, position)) = &mut self.rest else { return Ok(0) };
        let length = buffer.len().min(rest.len() - *position);
        buffer[..length].copy_from_slice(&rest[*position..][..length]);
        *position += length;
        Ok(length)
    }
}
