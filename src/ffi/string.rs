// SPDX-License-Identifier: GPL-3.0-or-later
//! Strings from C, and strings for C.

use std::ffi::{CStr, CString, c_char};

use crate::ground::error::{Error, ErrorKind, Result};

/// Longest string that the C ABI takes, in bytes, with its NUL byte.
const MAX_LENGTH: usize = 1 << 20;

/// Borrows the string that the argument called `name` points to, for the duration of the call.
pub fn required<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    optional(pointer, name)?.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("argument '{name}' is NULL")))
}

/// As [`required`], but NULL is allowed: there is no string.
pub fn optional<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller of the ABI promised a NUL-terminated string.
    if unsafe { libc::strnlen(pointer, MAX_LENGTH) } == MAX_LENGTH {
        let message = format!("argument '{name}' is longer than {} bytes", MAX_LENGTH - 1);
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    // SAFETY: as above; it lives for the duration of the call, and so does the borrow.
    unsafe { CStr::from_ptr(pointer) }
        .to_str()
        .map(Some)
        .map_err(|_| Error::new(ErrorKind::InvalidArgument, format!("argument '{name}' is not UTF-8")))
}

/// Returns `text` for C. A NUL byte, at which C would stop, becomes a replacement character.
pub fn for_c(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Returns a text to C; NULL if there is none. It lives as long as what holds it.
pub fn or_null(text: Option<&CString>) -> *const c_char {
    text.map_or(std::ptr::null(), |text| text.as_ptr())
}
