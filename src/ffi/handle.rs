// SPDX-License-Identifier: GPL-3.0-or-later
//! Handles: values of ours that C holds by an opaque pointer.
//!
//! Their safety contract is what the header says of every function: a pointer is NULL or what it claims to be, a handle
//! is freed once, and no two threads use one at once unless its documentation allows that.

use crate::ground::error::{Error, ErrorKind, Result};

fn is_null(name: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("argument '{name}' is NULL"))
}

/// Borrows the handle that the argument called `name` points to.
pub fn borrow<'a, T>(handle: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: the caller of the ABI promised NULL or a live handle.
    unsafe { handle.as_ref() }.ok_or_else(|| is_null(name))
}

/// Returns what `at` finds in the handle, or `if_null` if there is none.
pub fn look<'a, T: 'a, R>(handle: *const T, if_null: R, at: impl FnOnce(&'a T) -> R) -> R {
    borrow(handle, "").map_or(if_null, at)
}

/// As [`borrow`], but mutably.
pub fn borrow_mut<'a, T>(handle: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: the caller of the ABI promised NULL or a live handle that nobody else uses meanwhile.
    unsafe { handle.as_mut() }.ok_or_else(|| is_null(name))
}

/// The pointer to where a result goes, checked before the work begins.
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Takes the argument called `name`, which must not be NULL.
    pub fn new(pointer: *mut T, name: &str) -> Result<Self> {
        if pointer.is_null() { Err(is_null(name)) } else { Ok(Out(pointer)) }
    }

    /// Writes the result.
    pub fn set(self, value: T) {
        // SAFETY: the caller of the ABI promised that it is valid for a write.
        unsafe { self.0.write(value) }
    }
}

impl<T> Out<*mut T> {
    /// Hands `value` to the caller, who frees it.
    pub fn give(self, value: T) {
        self.set(Box::into_raw(Box::new(value)));
    }
}

/// Takes a handle back from the caller; `None` if it is NULL.
pub fn take<T>(handle: *mut T) -> Option<T> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: the caller of the ABI hands back, once, what [`Out::give`] gave.
    Some(*unsafe { Box::from_raw(handle) })
}

/// Takes a handle back to free it. NULL is fine.
pub fn free<T>(handle: *mut T) {
    drop(take(handle));
}
