// SPDX-License-Identifier: GPL-3.0-or-later
//! A store item on its way to another store, signed: what guix-daemon's `export-path` gives (`LocalStore::exportPath`
//! in Guix's `nix/libstore/local-store.cc`), without the daemon and the process that signs for it.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use super::{Dump, ValidPath};
use crate::archive::{self, KeyPair};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::gcrypt::Sha256;

/// An item of a bundle in the making, as [`archive::read_item`] takes it apart. Its errors, all of
/// [`ErrorKind::Store`], come as what an [`io::Error`] carries.
pub struct Export<'a> {
    item: &'a ValidPath,
    keys: &'a KeyPair,
    nar: Dump,
    hash: Sha256,
    /// The bytes after the nar, once that is complete, and how much of them was read.
    rest: Option<(Vec<u8>, usize)>,
}

impl<'a> Export<'a> {
    /// Begins with `item` in the directory `store`, to be signed with `keys`.
    pub fn new(store: BorrowedFd, item: &'a ValidPath, keys: &'a KeyPair) -> Result<Self> {
        Ok(Export { item, keys, nar: Dump::new(store, &item.path)?, hash: Sha256::new()?, rest: None })
    }

    /// Returns the bytes after the nar. Does not sign an item whose nar is not what it was when it was registered.
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

/// The error for an item whose contents have another hash than when it was registered.
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
