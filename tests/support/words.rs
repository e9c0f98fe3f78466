// SPDX-License-Identifier: GPL-3.0-or-later
//! What goes over the wire, made byte by byte: honest or not.

use guix_offload::archive::{KeyPair, WordReader};
use guix_offload::ground::words::Words;

/// A number as it travels.
pub fn number(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// A string as it travels.
pub fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut word = number(bytes.len() as u64);
    word.extend_from_slice(bytes);
    word.resize(word.len().next_multiple_of(8), 0);
    word
}

pub fn strings(words: &[&str]) -> Vec<u8> {
    words.iter().flat_map(string).collect()
}

/// Frames of the worker protocol.
pub const NEXT: u64 = 0x6f6c_6d67;
pub const READ: u64 = 0x6461_7461;
pub const WRITE: u64 = 0x6461_7416;
pub const LAST: u64 = 0x616c_7473;
pub const ERROR: u64 = 0x6378_7470;

pub fn last() -> Vec<u8> {
    number(LAST)
}

/// A frame with data.
pub fn gives(data: &[u8]) -> Vec<u8> {
    [number(WRITE), string(data)].concat()
}

/// A frame with a failure.
pub fn fails(message: &str, status: u64) -> Vec<u8> {
    [number(ERROR), string(message), number(status)].concat()
}

/// The answer to a request that is answered with 1.
pub fn done() -> Vec<u8> {
    [last(), number(1)].concat()
}

/// Archive nodes.
pub fn file(contents: &[u8]) -> Vec<u8> {
    [strings(&["(", "type", "regular", "contents"]), string(contents), strings(&[")"])].concat()
}

pub fn symlink(target: &str) -> Vec<u8> {
    strings(&["(", "type", "symlink", "target", target, ")"])
}

pub fn directory(entries: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let mut node = strings(&["(", "type", "directory"]);
    for (name, child) in entries {
        node.extend([strings(&["entry", "(", "name"]), string(name), strings(&["node"])].concat());
        node.extend([child.clone(), strings(&[")"])].concat());
    }
    node.extend(strings(&[")"]));
    node
}

pub fn nar(node: Vec<u8>) -> Vec<u8> {
    [strings(&["nix-archive-1"]), node].concat()
}

/// An item as `export-path` gives it.
#[derive(Clone)]
pub struct Item {
    pub nar: Vec<u8>,
    pub path: String,
    pub references: Vec<String>,
    pub deriver: String,
}

impl Item {
    /// All that is signed.
    fn body(&self) -> Vec<u8> {
        let mut body = [self.nar.clone(), number(0x4558_494e), string(&self.path)].concat();
        body.extend(number(self.references.len() as u64));
        self.references.iter().for_each(|reference| body.extend(string(reference)));
        body.extend(string(&self.deriver));
        body
    }

    pub fn unsigned(&self) -> Vec<u8> {
        [self.body(), number(0)].concat()
    }

    pub fn signature(&self, keys: &KeyPair) -> Vec<u8> {
        keys.sign(&self.signed_hash()).expect("a signature")
    }

    /// What a signature of it is one of.
    pub fn signed_hash(&self) -> [u8; 32] {
        sha256(&self.body())
    }

    pub fn signed(&self, keys: &KeyPair) -> Vec<u8> {
        self.with_signature(&self.signature(keys))
    }

    pub fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        [self.body(), number(1), string(signature)].concat()
    }
}

pub fn sha256(mut bytes: &[u8]) -> [u8; 32] {
    let mut buffer = vec![0; bytes.len()];
    let mut input = WordReader::new(&mut bytes).unwrap();
    input.fill(&mut buffer).unwrap();
    input.digest().unwrap()
}
