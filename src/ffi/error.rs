// SPDX-License-Identifier: GPL-3.0-or-later
//! Statuses and errors.

use std::ffi::{CString, c_char};

use super::string::for_c;
use super::{export, handle};
use crate::error::{Class, Error, ErrorKind};

/// What a call returns: `GUIX_OFFLOAD_OK`, or why it failed. Failures are negative.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum guix_offload_status {
    /// The call did what it says.
    GUIX_OFFLOAD_OK = 0,
    /// An argument is NULL, malformed or out of range; nothing was done.
    GUIX_OFFLOAD_INVALID_ARGUMENT = -1,
    /// The machine file, or a file that it names, is missing, unreadable or wrong; or the machine's SSH server or account
    /// is set up so that it cannot be used.
    GUIX_OFFLOAD_CONFIGURATION = -2,
    /// A machine cannot be reached, went away, or lacks what a build needs.
    GUIX_OFFLOAD_UNAVAILABLE = -3,
    /// The machine rejects the user's key.
    GUIX_OFFLOAD_AUTHENTICATION = -4,
    /// The other side broke a protocol or a format.
    GUIX_OFFLOAD_PROTOCOL = -5,
    /// An archive is not signed by an authorized key, or is not what was asked for.
    GUIX_OFFLOAD_UNTRUSTED = -6,
    /// A guix-daemon refused a request.
    GUIX_OFFLOAD_DAEMON = -7,
    /// The local store, its database or its file system failed.
    GUIX_OFFLOAD_STORE = -8,
    /// The builder failed: trying again would fail again.
    GUIX_OFFLOAD_BUILD_FAILED = -9,
    /// The build exceeded a time limit.
    GUIX_OFFLOAD_TIMED_OUT = -10,
    /// The caller cancelled.
    GUIX_OFFLOAD_CANCELLED = -11,
    /// Out of descriptors or threads, or the system is out of memory. Nothing is lost: the call may be made again.
    GUIX_OFFLOAD_EXHAUSTED = -12,
    /// A defect of the library.
    GUIX_OFFLOAD_INTERNAL = -13,
    /// The machine's host key is not the pinned one.
    GUIX_OFFLOAD_HOST_KEY = -14,
    /// The machine can be logged in to and has no Guix, or one that is not running.
    GUIX_OFFLOAD_NO_GUIX = -15,
}

impl From<ErrorKind> for guix_offload_status {
    fn from(kind: ErrorKind) -> Self {
        use guix_offload_status::*;
        match kind {
            ErrorKind::InvalidArgument => GUIX_OFFLOAD_INVALID_ARGUMENT,
            ErrorKind::Configuration => GUIX_OFFLOAD_CONFIGURATION,
            ErrorKind::Unavailable => GUIX_OFFLOAD_UNAVAILABLE,
            ErrorKind::Authentication => GUIX_OFFLOAD_AUTHENTICATION,
            ErrorKind::HostKey => GUIX_OFFLOAD_HOST_KEY,
            ErrorKind::NoGuix => GUIX_OFFLOAD_NO_GUIX,
            ErrorKind::Protocol => GUIX_OFFLOAD_PROTOCOL,
            ErrorKind::Untrusted => GUIX_OFFLOAD_UNTRUSTED,
            ErrorKind::Daemon => GUIX_OFFLOAD_DAEMON,
            ErrorKind::Store => GUIX_OFFLOAD_STORE,
            ErrorKind::BuildFailed => GUIX_OFFLOAD_BUILD_FAILED,
            ErrorKind::TimedOut => GUIX_OFFLOAD_TIMED_OUT,
            ErrorKind::Cancelled => GUIX_OFFLOAD_CANCELLED,
            ErrorKind::Exhausted => GUIX_OFFLOAD_EXHAUSTED,
            ErrorKind::Internal => GUIX_OFFLOAD_INTERNAL,
        }
    }
}

/// Why a call failed. Every call that can fail has a last parameter `guix_offload_error **`: NULL, or where to put one
/// on failure, which the caller frees with `guix_offload_error_free`. It is not touched on success. An error does not
/// change.
pub struct guix_offload_error {
    status: guix_offload_status,
    class: Class,
    message: CString,
    machine: Option<CString>,
    hint: Option<CString>,
}

impl From<Error> for guix_offload_error {
    fn from(error: Error) -> Self {
        guix_offload_error {
            status: error.kind().into(),
            class: error.class(),
            message: for_c(&error.to_string()),
            machine: error.machine().map(for_c),
            hint: error.hint_text().map(for_c),
        }
    }
}

/// Borrows the error that C hands in, for the functions below.
fn look<T>(error: *const guix_offload_error, if_null: T, at: impl FnOnce(&guix_offload_error) -> T) -> T {
    // SAFETY: the caller promised NULL or a live error.
    unsafe { error.as_ref() }.map_or(if_null, at)
}

export! {
    /// Frees an error. NULL is fine.
    pub fn guix_offload_error_free(error: *mut guix_offload_error) {
        handle::free(error);
    }
}

export! {
    /// The status that the failed call returned; `GUIX_OFFLOAD_OK` if `error` is NULL.
    pub fn guix_offload_error_code(error: *const guix_offload_error) -> i32 {
        look(error, 0, |error| error.status as i32)
    }
}

export! {
    /// What went wrong, and where. UTF-8; lives as long as the error; NULL only if `error` is NULL.
    pub fn guix_offload_error_message(error: *const guix_offload_error) -> *const c_char {
        look(error, std::ptr::null(), |error| error.message.as_ptr())
    }
}

export! {
    /// Name of the machine with which it happened, or NULL. Lives as long as the error.
    pub fn guix_offload_error_machine(error: *const guix_offload_error) -> *const c_char {
        look(error, std::ptr::null(), |error| error.machine.as_ref().map_or(std::ptr::null(), |text| text.as_ptr()))
    }
}

export! {
    /// What to do about it, or NULL. Lives as long as the error.
    pub fn guix_offload_error_hint(error: *const guix_offload_error) -> *const c_char {
        look(error, std::ptr::null(), |error| error.hint.as_ref().map_or(std::ptr::null(), |text| text.as_ptr()))
    }
}

export! {
    /// The status with which a build hook that fails so exits: 100 (the build itself failed, and would again), 101 (it
    /// exceeded a time limit) or 1 (it may be tried again); 0 if `error` is NULL.
    pub fn guix_offload_error_exit_status(error: *const guix_offload_error) -> i32 {
        look(error, 0, |error| i32::from(error.class.exit_status()))
    }
}
