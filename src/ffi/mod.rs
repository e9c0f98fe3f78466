// SPDX-License-Identifier: GPL-3.0-or-later
//! The C ABI: one file for each section of `include/guix-offload.h`, which is generated from the comments here.
//!
//! - [`version`]: which ABI this is
//! - [`error`]: statuses and errors
//! - [`cancellation`]: stopping calls that block
//! - [`machine`], [`machines`]: build machines, and lists of them
//! - [`engine`]: where things are on this host, and the connections that builds share
//! - [`request`]: what is to be built
//! - [`refusals`]: why machines were not chosen
//! - [`connection`]: the verbs, one by one: choose, connect, send, build, retrieve
//! - [`job`]: builds that run beside an event loop
//! - [`hook`]: a complete build hook
//! - [`keeper`]: the process that keeps connections open for the hooks of this host
//! - [`farm`]: all machines at once, tested or asked how they are
//!
//! The `export!` macro is the only way to define a function of the ABI: it makes the symbol and the boundary that no
//! panic crosses, so that neither can be forgotten.
#![allow(unsafe_code)] // Pointers from C; each use says what the caller promised.
#![allow(non_camel_case_types)] // Types are named as in C.
#![allow(clippy::missing_safety_doc)] // Safety is what the header says of each function.

pub mod cancellation;
pub mod connection;
pub mod engine;
pub mod error;
pub mod farm;
pub mod hook;
pub mod job;
pub mod keeper;
pub mod machine;
pub mod machines;
pub mod refusals;
pub mod request;
pub mod version;

mod descriptor;
mod handle;
mod string;
#[cfg(feature = "test-panic")]
mod test_panic;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ground::error::{Error, Result};
use error::{guix_offload_error, guix_offload_status};

/// Defines functions of the ABI. A function that returns a `guix_offload_status` has the error as its last parameter,
/// and its body is a `Result<()>`. The body of any other function yields what that returns; if the body panics, the
/// function returns all zeros.
macro_rules! export {
    ($(#[$meta:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> guix_offload_status $body:block) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $crate::ffi::error::guix_offload_status {
            $crate::ffi::report($crate::ffi::last!($($arg),*), || $body)
        }
    };
    ($(#[$meta:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) $(-> $result)? {
            $crate::ffi::shield(|| $body)
        }
    };
}
pub(crate) use export;

/// Expands to the name of an integer that stands for a constant of an enum, as a static C string.
macro_rules! named {
    ($value:expr, $type:ident, $($constant:ident = $name:literal),+ $(,)?) => {
        match $value { $(value if value == $type::$constant as i32 => $name,)+ _ => c"unknown" }.as_ptr()
    };
}
pub(crate) use named;

/// Expands to the last of its arguments.
macro_rules! last {
    ($last:ident) => { $last };
    ($first:ident, $($rest:ident),+) => { $crate::ffi::last!($($rest),+) };
}
pub(crate) use last;

/// Runs a fallible body, and hands its error, or panic, to the caller through `out`.
fn report(out: *mut *mut guix_offload_error, body: impl FnOnce() -> Result<()>) -> guix_offload_status {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Error::panicked(&*panic)));
    match result {
        Ok(()) => guix_offload_status::GUIX_OFFLOAD_OK,
        Err(error) => {
            let status = error.kind().into();
            if !out.is_null() {
                // SAFETY: the caller promised that the last parameter is NULL or valid for a write.
                unsafe { out.write(Box::into_raw(Box::new(error.into()))) };
            }
            status
        }
    }
}

/// The value that a function without a status returns if it panics.
trait OnPanic {
    fn on_panic() -> Self;
}

impl OnPanic for () {
    fn on_panic() {}
}

impl<T> OnPanic for *const T {
    fn on_panic() -> Self {
        std::ptr::null()
    }
}

impl<T> OnPanic for *mut T {
    fn on_panic() -> Self {
        std::ptr::null_mut()
    }
}

macro_rules! zero_on_panic {
    ($($type:ty),*) => { $(impl OnPanic for $type { fn on_panic() -> Self { Self::default() } })* };
}
zero_on_panic!(i32, i64, u32, u64, usize, f64);

/// Runs an infallible body.
fn shield<T: OnPanic>(body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| T::on_panic())
}

#[cfg(test)]
mod tests {
    use std::ffi::{CStr, c_char};

    /// Checks that `name` names each constant of an enum in the header, whose names begin with `prefix`.
    fn check_names(enumeration: &str, prefix: &str, name: unsafe extern "C" fn(i32) -> *const c_char) {
        // SAFETY: the functions take any number.
        let name = |value| unsafe { CStr::from_ptr(name(value)) }.to_str().unwrap();
        let header = include_str!("../../include/guix-offload.h");
        let body = header.split("typedef enum {").find(|body| body.contains(&format!("}} {enumeration};"))).unwrap();
        let constants: Vec<_> = body
            .split_once('}')
            .unwrap()
            .0
            .lines()
            .filter_map(|line| line.trim().strip_prefix(prefix)?.strip_suffix(',')?.split_once(" = "))
            .collect();
        assert!(constants.len() >= 3, "{constants:?}");
        for (constant, value) in constants {
            assert_eq!(name(value.parse().unwrap()), constant.to_lowercase().replace('_', "-"));
        }
        assert_eq!([i32::MIN, -100, 100, i32::MAX].map(name), ["unknown"; 4]);
    }

    #[test]
    fn each_constant_of_the_header_has_its_name() {
        check_names("guix_offload_status", "GUIX_OFFLOAD_", super::error::guix_offload_status_name);
        check_names("guix_offload_reply", "GUIX_OFFLOAD_", super::connection::guix_offload_reply_name);
        check_names("guix_offload_event_type", "GUIX_OFFLOAD_EVENT_", super::job::guix_offload_event_type_name);
    }
}
