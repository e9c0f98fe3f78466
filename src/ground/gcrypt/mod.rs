// SPDX-License-Identifier: GPL-3.0-or-later
//! The few functions of libgcrypt that are needed, declared by hand: SHA-256 here, signatures in [`mod@sign`]. [`sexp`]
//! holds s-expressions, the form of signatures and keys.
//!
//! guix-daemon and `guix` themselves sign, verify and hash with libgcrypt, so it is on every machine that runs Guix.
//! The host process may have initialised it already, as Guile does; then this module does not initialise it again.
#![allow(unsafe_code)] // Calls into libgcrypt, with the reason beside each.

mod sexp;
mod sign;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use once_cell::sync::OnceCell;

use crate::ground::error::{Error, ErrorKind, Result};

pub use sexp::{Sexp, canonical_datum, canonical_list};
pub use sign::{sign, verify};

// From gcrypt.h, whose numbers are part of its ABI.
const GCRYCTL_DISABLE_SECMEM: c_int = 37;
const GCRYCTL_INITIALIZATION_FINISHED: c_int = 38;
const GCRYCTL_INITIALIZATION_FINISHED_P: c_int = 40;
const GCRY_MD_SHA256: c_int = 8;

type GcryError = c_uint;

#[link(name = "gcrypt")]
unsafe extern "C" {
    fn gcry_check_version(required: *const c_char) -> *const c_char;
    fn gcry_control(command: c_int, ...) -> GcryError;
    fn gcry_strerror(error: GcryError) -> *const c_char;
    fn gcry_md_open(handle: *mut *mut c_void, algorithm: c_int, flags: c_uint) -> GcryError;
    fn gcry_md_close(handle: *mut c_void);
    fn gcry_md_copy(copy: *mut *mut c_void, handle: *mut c_void) -> GcryError;
    fn gcry_md_write(handle: *mut c_void, buffer: *const c_void, length: usize);
    fn gcry_md_read(handle: *mut c_void, algorithm: c_int) -> *mut u8;
}

/// Initialises libgcrypt unless this library or the host process has done so.
fn initialise() -> Result<()> {
    static INITIALISED: OnceCell<()> = OnceCell::new();
    INITIALISED
        .get_or_try_init(|| {
            // SAFETY: these calls are what libgcrypt's manual asks for at the start; no argument is a pointer that
            // must outlive its call.
            unsafe {
                if gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P) != 0 {
                    return Ok(());
                }
                if gcry_check_version(c"1.8.0".as_ptr()).is_null() {
                    return Err(Error::new(ErrorKind::Internal, "libgcrypt is older than 1.8.0"));
                }
                // The one private key is in a file that this process may read anyway: no secure memory is needed.
                check("initialising libgcrypt", gcry_control(GCRYCTL_DISABLE_SECMEM, 0))?;
                check("initialising libgcrypt", gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0))
            }
        })
        .map(|_| ())
}

/// Turns a libgcrypt error code into an error that says what was being done.
fn check(what: &str, error: GcryError) -> Result<()> {
    if error == 0 { Ok(()) } else { Err(Error::new(ErrorKind::Internal, format!("{what}: {}", reason(error)))) }
}

/// Returns libgcrypt's text for an error code.
fn reason(error: GcryError) -> String {
    // SAFETY: gcry_strerror returns a static NUL-terminated string for every code.
    unsafe { CStr::from_ptr(gcry_strerror(error)) }.to_string_lossy().into_owned()
}

/// A SHA-256 computation. A clone goes on from the same state.
pub struct Sha256(*mut c_void);

// SAFETY: a message digest handle has no ties to a thread; it is used by one thread at a time through `&mut`.
unsafe impl Send for Sha256 {}

impl Sha256 {
    /// Starts with no bytes.
    pub fn new() -> Result<Self> {
        initialise()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is valid for the write; on success it holds an open handle, which Drop closes.
        check("opening SHA-256", unsafe { gcry_md_open(&mut handle, GCRY_MD_SHA256, 0) })?;
        Ok(Sha256(handle))
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        // SAFETY: the handle is open, and the pointer and length are those of a live slice.
        unsafe { gcry_md_write(self.0, bytes.as_ptr().cast(), bytes.len()) }
    }

    /// Returns a second computation that goes on from this state.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = std::ptr::null_mut();
        // SAFETY: as in `new`; the original handle is open and only read.
        check("copying SHA-256", unsafe { gcry_md_copy(&mut copy, self.0) })?;
        Ok(Sha256(copy))
    }

    /// Returns the digest of all bytes added.
    pub fn finish(self) -> [u8; 32] {
        // SAFETY: the handle is open; gcry_md_read finalises it and returns its own buffer of 32 bytes, which is
        // copied before Drop closes the handle.
        unsafe { *gcry_md_read(self.0, GCRY_MD_SHA256).cast::<[u8; 32]>() }
    }
}

impl Drop for Sha256 {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used after this.
        unsafe { gcry_md_close(self.0) }
    }
}

/// Returns the SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Result<[u8; 32]> {
    let mut state = Sha256::new()?;
    state.update(bytes);
    Ok(state.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn sha256_agrees_with_the_standard() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(hex(&sha256(b"abc").unwrap()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_clone_goes_its_own_way() {
        let mut one = Sha256::new().unwrap();
        one.update(b"a");
        let two = one.try_clone().unwrap();
        one.update(b"bc");
        assert_eq!(one.finish(), sha256(b"abc").unwrap());
        assert_eq!(two.finish(), sha256(b"a").unwrap());
    }
}
