// SPDX-License-Identifier: GPL-3.0-or-later
//! Which version of the library and of its ABI a program runs with.

use std::ffi::c_char;

use super::export;

/// Version of the ABI that this header describes. It changes when programs that were compiled earlier could break. The
/// library's SONAME has the same number.
pub const GUIX_OFFLOAD_ABI_VERSION: u32 = 1; // build.rs and Makefile read it here

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

export! {
    /// Returns the version of the ABI that the library has. A program compares it with `GUIX_OFFLOAD_ABI_VERSION`
    /// before it calls anything else. Any thread.
    pub fn guix_offload_abi_version() -> u32 {
        GUIX_OFFLOAD_ABI_VERSION
    }
}

export! {
    /// Returns the version of the library, such as "0.1.0". Static, never NULL. Any thread.
    pub fn guix_offload_version() -> *const c_char {
        VERSION.as_ptr().cast()
    }
}
