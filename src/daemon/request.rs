// SPDX-License-Identifier: GPL-3.0-or-later
//! The parts of requests: their numbers, lists of items, and the contents of items that the daemon is to make.

use crate::ground::store_path::StorePath;
use crate::ground::words::{put_number, put_string};

/// The numbers of the requests (Guix's `nix/libstore/worker-protocol.hh`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    AddToStore = 7,
    AddTextToStore = 8,
    BuildPaths = 9,
    AddTempRoot = 11,
    ExportPath = 16,
    SetOptions = 19,
    QueryPathInfo = 26,
    ImportPaths = 27,
    QuerySubstitutablePathInfos = 30,
    QueryValidPaths = 31,
}

/// Contents from which the name of an item follows: a daemon makes the item without a signature.
#[derive(Debug, PartialEq, Eq)]
pub enum ContentAddressed {
    /// The contents of a file that is not executable. The item may have references.
    Text(Vec<u8>),
    /// The nar of any file or tree. The item has no references.
    Source(Vec<u8>),
}

/// An item for the daemon to make. Its name follows from its contents, so no signature is needed.
#[derive(Clone, Copy, Debug)]
pub struct NewItem<'a> {
    /// The item's name: its file name without the hash.
    pub name: &'a str,
    /// Its contents.
    pub contents: &'a ContentAddressed,
    /// The items that it refers to, all of which must be valid. Empty if its contents are a nar.
    pub references: &'a [StorePath],
}

impl NewItem<'_> {
    /// Returns the kind of the request that makes the item.
    pub(super) fn operation(&self) -> Operation {
        match self.contents {
            ContentAddressed::Text(_) => Operation::AddTextToStore,
            ContentAddressed::Source(_) => Operation::AddToStore,
        }
    }

    /// Returns the request that makes the item.
    pub(super) fn request(&self) -> Vec<u8> {
        match self.contents {
            ContentAddressed::Text(text) => {
                let mut request = Vec::new();
                put_number(&mut request, Operation::AddTextToStore as u64);
                put_string(&mut request, self.name);
                put_string(&mut request, text);
                put_paths(&mut request, self.references);
                request
            }
            ContentAddressed::Source(nar) => {
                let mut request = addition_of_nar(self.name);
                request.extend_from_slice(nar);
                request
            }
        }
    }
}

/// Returns the beginning of a request to make an item of a nar. The nar must follow.
pub fn addition_of_nar(name: &str) -> Vec<u8> {
    let mut request = Vec::new();
    put_number(&mut request, Operation::AddToStore as u64);
    put_string(&mut request, name);
    put_number(&mut request, 1); // what follows is meant
    put_number(&mut request, 1); // the nar, not only a file's contents, is hashed
    put_string(&mut request, "sha256");
    request
}

/// Returns the size, in bytes, of requests to add a temporary root for each of `paths` and to ask which are valid.
pub fn size_of_asking(paths: &[StorePath]) -> usize {
    let sizes = paths.iter().map(|path| path.as_str().len().next_multiple_of(8));
    sizes.map(|size| 16 + size + 8 + size).sum::<usize>() + 16
}

/// Appends a list of items.
pub fn put_paths(to: &mut Vec<u8>, paths: &[StorePath]) {
    put_number(to, paths.len() as u64);
    for path in paths {
        put_string(to, path.as_str());
    }
}
