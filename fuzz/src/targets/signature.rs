// SPDX-License-Identifier: GPL-3.0-or-later
//! The list of authorized keys, and a signature that vouches for an archive.

use std::cell::OnceCell;

use guix_offload::archive::{Acl, verify};
use guix_offload::ground::error::ErrorKind;
use guix_offload::ground::store_path::StoreDir;
use tempfile::NamedTempFile;

use super::request::assert_printable;

/// Between the list and the signature.
pub const SEPARATOR: &[u8] = b"\n;;;;\n";

/// SHA-256 of `0`, of which the seeds are signatures.
const HASH: [u8; 32] = [
    0x5f, 0xec, 0xeb, 0x66, 0xff, 0xc8, 0x6f, 0x38, 0xd9, 0x52, 0x78, 0x6c, 0x6d, 0x69, 0x6c, 0x79, 0xc2, 0xdb, 0xc2,
    0x39, 0xdd, 0x4e, 0x91, 0xb4, 0x67, 0x29, 0xd7, 0x3a, 0x27, 0xfb, 0x57, 0xe9,
];

thread_local! {
    static FILE: OnceCell<NamedTempFile> = const { OnceCell::new() };
}

/// An ACL, [`SEPARATOR`], a signature.
pub fn run(data: &[u8]) {
    let at = data.windows(SEPARATOR.len()).position(|window| window == SEPARATOR);
    let (list, signature) = match at {
        Some(at) => (&data[..at], &data[at + SEPARATOR.len()..]),
        None => (data, data),
    };
    let acl = FILE.with(|file| {
        let file = file.get_or_init(|| NamedTempFile::new().unwrap());
        std::fs::write(file.path(), list).unwrap();
        Acl::load(file.path())
    });
    let acl = match acl {
        Ok(acl) => acl,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Configuration);
            return assert_printable(&error.to_string());
        }
    };
    let item = StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{}-x", "0".repeat(32))).unwrap();
    match verify(Some(signature), &HASH, &acl, &item) {
        // However it is written, it is one of this hash and no other.
        Ok(()) => {
            let mut other = HASH;
            other[31] ^= 1;
            assert_eq!(verify(Some(signature), &other, &acl, &item).unwrap_err().kind(), ErrorKind::Untrusted);
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Untrusted);
            assert_printable(&error.to_string());
        }
    }
}
