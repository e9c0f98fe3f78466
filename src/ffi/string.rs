// SPDX-License-Identifier: GPL-3.0-or-later
//! Strings that come from C.

use std::ffi::{CStr, c_char};

use crate::error::{Error, ErrorKind, Result};

/// Borrows the string that the argument called `name` points to.
///
/// # Safety
/// `pointer` is null, or points to a NUL-terminated string that lives and does not change as long as the result.
pub unsafe fn required<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: what the caller promised.
    unsafe { optional(pointer, name) }?
        .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("argument '{name}' is NULL")))
}

/// As [`required`], where NULL means that there is none.
///
/// # Safety
/// As for [`required`].
pub unsafe fn optional<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: what the caller promised, and it is not null.
    unsafe { CStr::from_ptr(pointer) }
        .to_str()
        .map(Some)
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, format!("argument '{name}' is not UTF-8")))
}
