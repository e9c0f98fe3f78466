// SPDX-License-Identifier: GPL-3.0-or-later
//! Store file names: `/gnu/store/HASH-NAME`, HASH being 32 characters of nix-base32.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ground::error::{Error, ErrorKind, Result};

/// Characters of nix-base32, in order of value (Guix's `nix/libutil/hash.cc`).
pub const BASE32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Returns `bytes` in nix-base32, 52 characters for a SHA-256: the digits of a number whose least significant byte
/// comes first, most significant digit first.
pub fn base32(bytes: &[u8]) -> String {
    let digits = (bytes.len() * 8).div_ceil(5);
    let byte = |index: usize| u16::from(bytes.get(index).copied().unwrap_or(0));
    (0..digits)
        .rev()
        .map(|digit| {
            let (index, shift) = (digit * 5 / 8, digit * 5 % 8);
            let pair = byte(index) | byte(index + 1) << 8;
            char::from(BASE32[usize::from(pair >> shift & 31)])
        })
        .collect()
}

/// Returns `bytes` in base 16, two digits a byte.
pub fn base16(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Characters of the hash part of a store file name.
const HASH_LENGTH: usize = 32;

/// Longest base name, in bytes, that guix-daemon's `checkStoreName` and the file system allow.
pub const MAX_BASE_NAME: usize = 255;

/// Most items that an item may refer to, in an archive and in the answer of a daemon. Guix sets no limit.
pub const MAX_REFERENCES: u64 = 1 << 16;

/// The directory that holds all store items. Absolute, without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreDir(Arc<str>);

impl StoreDir {
    /// Checks that `directory` can be a store: absolute, with no component that is empty, `.` or `..`.
    pub fn new(directory: &str) -> Result<Self> {
        let good = directory.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|c| !c.is_empty() && c != "." && c != ".." && c.bytes().all(|b| b.is_ascii_graphic()))
        });
        if !good {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("'{directory}' cannot be a store directory"))
                .hint("NIX_STORE_DIR must be an absolute file name such as /gnu/store"));
        }
        Ok(StoreDir(directory.into()))
    }

    /// Returns the directory's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that `path` is the name of an item directly in this store.
    pub fn parse(&self, path: &str) -> Result<StorePath> {
        let reject = |why: &str| {
            let shown: String = path.chars().take(MAX_BASE_NAME).collect();
            Err(Error::new(ErrorKind::InvalidArgument, format!("{shown:?} is not the name of a store item: {why}")))
        };
        let Some(base) = path.strip_prefix(self.as_str()).and_then(|rest| rest.strip_prefix('/')) else {
            return reject(&format!("it is not in {}", self.as_str()));
        };
        let bytes = base.as_bytes();
        if bytes.len() > MAX_BASE_NAME {
            return reject("it is too long");
        }
        if bytes.len() < HASH_LENGTH + 2
            || bytes[HASH_LENGTH] != b'-'
            || !bytes[..HASH_LENGTH].iter().all(|b| BASE32.contains(b))
        {
            return reject("it does not start with 32 characters of base 32 and a hyphen");
        }
        let name = &bytes[HASH_LENGTH + 1..];
        if name[0] == b'.' || !name.iter().all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(b)) {
            return reject("its name has a character that is not allowed");
        }
        Ok(StorePath { path: path.into(), base: self.as_str().len() + 1 })
    }
}

/// The full, checked name of a store item. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct StorePath {
    path: Arc<str>,
    /// Offset of the base name.
    base: usize,
}

impl From<StorePath> for String {
    fn from(path: StorePath) -> Self {
        path.as_str().into()
    }
}

/// Reads the name of an item of any store.
impl TryFrom<String> for StorePath {
    type Error = Error;

    fn try_from(path: String) -> Result<Self> {
        StoreDir::new(path.rsplit_once('/').map_or("", |(directory, _)| directory))?.parse(&path)
    }
}

impl StorePath {
    /// Returns the full name.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Returns the name within the store directory: `HASH-NAME`.
    pub fn base_name(&self) -> &str {
        &self.path[self.base..]
    }

    /// Returns the first part of the base name.
    pub fn hash_part(&self) -> &str {
        &self.base_name()[..HASH_LENGTH]
    }

    /// Returns the last part of the base name: what somebody called the item.
    pub fn name(&self) -> &str {
        &self.base_name()[HASH_LENGTH + 1..]
    }

    /// Returns whether this is the name of a derivation.
    pub fn is_derivation(&self) -> bool {
        self.path.ends_with(".drv")
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    #[test]
    fn base_32_is_that_of_guix() {
        // The name in .links that guix-daemon gave to a file of 8192 zero bytes.
        let (before, after) = crate::archive::nar::file_nar_frame(false, 8192);
        let hash = crate::ground::gcrypt::sha256(&[before, vec![0; 8192], after].concat()).unwrap();
        assert_eq!(base32(&hash), "1b8r8plrjzf5l2dhxbs5n4l2dy9fl7yj5lvwl3ilpjxp3pv4lnlc");
        assert_eq!(base32(&[0; 20]), "0".repeat(32));
        assert_eq!(base32(&[0xff; 20]), "z".repeat(32));
        assert_eq!(base32(&[1]), "01");
    }

    #[test]
    fn an_item_is_taken_apart() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let item = store.parse(&format!("/gnu/store/{HASH}-hello-2.12.drv")).unwrap();
        assert_eq!(item.base_name(), format!("{HASH}-hello-2.12.drv"));
        assert_eq!((item.hash_part(), item.name()), (HASH, "hello-2.12.drv"));
        assert!(item.is_derivation());
    }

    #[test]
    fn what_is_no_item_is_rejected() {
        let store = StoreDir::new("/gnu/store").unwrap();
        for bad in [
            "".to_string(),
            "/gnu/store".to_string(),
            format!("/gnu/stor/{HASH}-x"),
            format!("/gnu/store/{HASH}-"),
            format!("/gnu/store/{HASH}-.x"),
            format!("/gnu/store/{HASH}-a/b"),
            format!("/gnu/store/{HASH}-a\0"),
            format!("/gnu/store/{HASH}-a b"),
            format!("/gnu/store/{}-x", HASH.replace('0', "e")),
            format!("/gnu/store/{HASH}-{}", "x".repeat(300)),
            format!("/gnu/store/../store/{HASH}-x"),
        ] {
            assert!(store.parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_store_directory_is_absolute_and_plain() {
        for bad in ["", "/", "gnu/store", "/gnu//store", "/gnu/../store", "/gnu/store/", "/gnu/st ore"] {
            assert!(StoreDir::new(bad).is_err(), "{bad:?}");
        }
    }
}
