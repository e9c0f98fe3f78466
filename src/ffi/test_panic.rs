// SPDX-License-Identifier: GPL-3.0-or-later
//! Functions that panic, for the tests of the boundary. Only with the feature `test-panic`, and in no header.

use std::ffi::c_char;

use super::error::guix_offload_error;
use super::{export, string};
use crate::ground::failpoint;

export! {
    /// Panics: if `how` is 0, with a fixed message; if 1, with a formatted one; else with something that is no message.
    pub fn guix_offload_test_panic(how: i32, error: *mut *mut guix_offload_error) -> guix_offload_status {
        match how {
            0 => panic!("on purpose"),
            1 => panic!("on purpose, {how}"),
            _ => std::panic::panic_any(how),
        }
    }
}

export! {
    /// Makes threads that pass `place` panic from now on (see [`crate::ground::failpoint`]); if it is "", none.
    pub fn guix_offload_test_panic_at(
        place: *const c_char,
        error: *mut *mut guix_offload_error
    ) -> guix_offload_status {
        failpoint::arm(string::required(place, "place")?);
        Ok(())
    }
}

export! {
    /// Panics instead of returning nothing.
    pub fn guix_offload_test_panic_void() {
        panic!("on purpose");
    }
}

export! {
    /// Panics instead of returning a pointer.
    pub fn guix_offload_test_panic_pointer() -> *const c_char {
        panic!("on purpose");
    }
}

export! {
    /// Panics instead of returning a number.
    pub fn guix_offload_test_panic_number() -> i64 {
        panic!("on purpose");
    }
}

export! {
    /// Panics instead of returning a fraction.
    pub fn guix_offload_test_panic_fraction() -> f64 {
        panic!("on purpose");
    }
}
