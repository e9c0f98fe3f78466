// SPDX-License-Identifier: GPL-3.0-or-later
//! A function that panics, for the tests of the boundary. Only with the feature `test-panic`, and in no header.

use super::error::guix_offload_error;
use super::export;

export! {
    /// Panics: 0, with a fixed message; 1, with one that is made; else with something that is no message.
    pub fn guix_offload_test_panic(how: i32, error: *mut *mut guix_offload_error) -> guix_offload_status {
        match how {
            0 => panic!("on purpose"),
            1 => panic!("on purpose, {how}"),
            _ => std::panic::panic_any(how),
        }
    }
}
