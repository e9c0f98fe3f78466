// SPDX-License-Identifier: GPL-3.0-or-later
//! Descriptors that come from C.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// A close-on-exec duplicate of the descriptor that the argument called `name` is, which the caller keeps.
pub fn duplicate(descriptor: c_int, name: &str) -> Result<OwnedFd> {
    if descriptor < 0 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("argument '{name}' is {descriptor}, no descriptor"),
        ));
    }
    // SAFETY: the borrow lasts for this call; a number that is not an open descriptor makes it fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed
        .try_clone_to_owned()
        .io_context(ErrorKind::InvalidArgument, || format!("argument '{name}', descriptor {descriptor}"))
}
