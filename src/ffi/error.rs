// SPDX-License-Identifier: GPL-3.0-or-later
//! Statuses and errors.

use std::ffi::{CString, c_char};

use super::string::{for_c, or_null};
use super::{export, handle, named};
use crate::ground::error::{Class, Error, ErrorKind};
use crate::report::lines;

/// The status that a call returns: `GUIX_OFFLOAD_OK`, or the kind of its failure. Failures are negative.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum guix_offload_status {
    /// The call did what it says.
    GUIX_OFFLOAD_OK = 0,
    /// An argument is NULL, malformed or out of range; nothing was done.
    GUIX_OFFLOAD_INVALID_ARGUMENT = -1,
    /// The machine file, or a file that it names, is missing, unreadable or wrong; or the machine's SSH server or
    /// account is set up so that it cannot be used.
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
    /// The machine accepts the login, but has no Guix, or one that is not running.
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
            ErrorKind::Daemon | ErrorKind::Collected => GUIX_OFFLOAD_DAEMON,
            ErrorKind::Store => GUIX_OFFLOAD_STORE,
            ErrorKind::BuildFailed => GUIX_OFFLOAD_BUILD_FAILED,
            ErrorKind::TimedOut => GUIX_OFFLOAD_TIMED_OUT,
            ErrorKind::Cancelled => GUIX_OFFLOAD_CANCELLED,
            ErrorKind::Exhausted => GUIX_OFFLOAD_EXHAUSTED,
            ErrorKind::Internal => GUIX_OFFLOAD_INTERNAL,
        }
    }
}

export! {
    /// Returns the name of a `guix_offload_status`: that of the constant without its prefix, in lower case, with
    /// hyphens, such as "timed-out". Returns "unknown" for any other value. Static, never NULL. Any thread.
    pub fn guix_offload_status_name(status: i32) -> *const c_char {
        named!(
            status,
            guix_offload_status,
            GUIX_OFFLOAD_OK = c"ok",
            GUIX_OFFLOAD_INVALID_ARGUMENT = c"invalid-argument",
            GUIX_OFFLOAD_CONFIGURATION = c"configuration",
            GUIX_OFFLOAD_UNAVAILABLE = c"unavailable",
            GUIX_OFFLOAD_AUTHENTICATION = c"authentication",
            GUIX_OFFLOAD_PROTOCOL = c"protocol",
            GUIX_OFFLOAD_UNTRUSTED = c"untrusted",
            GUIX_OFFLOAD_DAEMON = c"daemon",
            GUIX_OFFLOAD_STORE = c"store",
            GUIX_OFFLOAD_BUILD_FAILED = c"build-failed",
            GUIX_OFFLOAD_TIMED_OUT = c"timed-out",
            GUIX_OFFLOAD_CANCELLED = c"cancelled",
            GUIX_OFFLOAD_EXHAUSTED = c"exhausted",
            GUIX_OFFLOAD_INTERNAL = c"internal",
            GUIX_OFFLOAD_HOST_KEY = c"host-key",
            GUIX_OFFLOAD_NO_GUIX = c"no-guix"
        )
    }
}

/// Why a call failed. Every call that can fail has a last parameter `guix_offload_error **`, which may be NULL. On
/// failure the call puts an error there, which the caller frees with `guix_offload_error_free`; on success it leaves
/// the pointer as it is. An error does not change.
pub struct guix_offload_error {
    status: guix_offload_status,
    class: Class,
    message: CString,
    machine: Option<CString>,
    hint: Option<CString>,
    lines: CString,
    warning_lines: CString,
}

impl From<Error> for guix_offload_error {
    fn from(error: Error) -> Self {
        guix_offload_error {
            status: error.kind().into(),
            class: error.class(),
            message: for_c(&error.to_string()),
            machine: error.machine().map(for_c),
            hint: error.hint_text().map(for_c),
            lines: for_c(&lines::text(&lines::of_error(&error))),
            warning_lines: for_c(&lines::text(&lines::of_warning(&error))),
        }
    }
}

export! {
    /// Frees an error. NULL is fine.
    pub fn guix_offload_error_free(error: *mut guix_offload_error) {
        handle::free(error);
    }
}

export! {
    /// Returns the status that the failed call returned; `GUIX_OFFLOAD_OK` if `error` is NULL.
    pub fn guix_offload_error_code(error: *const guix_offload_error) -> i32 {
        handle::look(error, 0, |error| error.status as i32)
    }
}

export! {
    /// Returns what went wrong, and where: UTF-8, one line. The text lives as long as the error. NULL only if `error`
    /// is.
    pub fn guix_offload_error_message(error: *const guix_offload_error) -> *const c_char {
        handle::look(error, std::ptr::null(), |error| error.message.as_ptr())
    }
}

export! {
    /// Returns the name of the machine that the error is about, or NULL if there is none. The name lives as long as the
    /// error.
    pub fn guix_offload_error_machine(error: *const guix_offload_error) -> *const c_char {
        handle::look(error, std::ptr::null(), |error| or_null(error.machine.as_ref()))
    }
}

export! {
    /// Returns what the user can do about the error, or NULL if that is not known. The text lives as long as the error.
    pub fn guix_offload_error_hint(error: *const guix_offload_error) -> *const c_char {
        handle::look(error, std::ptr::null(), |error| or_null(error.hint.as_ref()))
    }
}

export! {
    /// Returns the exit status of a build hook that fails with this error: 100 if the build itself failed and would
    /// fail again, 101 if the build exceeded a time limit, 1 if it may be tried again. 0 if `error` is NULL.
    pub fn guix_offload_error_exit_status(error: *const guix_offload_error) -> i32 {
        handle::look(error, 0, |error| i32::from(error.class.exit_status()))
    }
}

export! {
    /// Returns the lines with which a build hook reports the error, each with a newline at its end: what is wrong, with
    /// which machine, and what to do about it. The lines live as long as the error. NULL only if `error` is.
    pub fn guix_offload_error_lines(error: *const guix_offload_error) -> *const c_char {
        handle::look(error, std::ptr::null(), |error| error.lines.as_ptr())
    }
}

export! {
    /// Returns the lines with which a build hook warns of the error and goes on, as it does for problems of a machine
    /// file. Otherwise as `guix_offload_error_lines`.
    pub fn guix_offload_error_warning_lines(error: *const guix_offload_error) -> *const c_char {
        handle::look(error, std::ptr::null(), |error| error.warning_lines.as_ptr())
    }
}
