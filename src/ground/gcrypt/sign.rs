// SPDX-License-Identifier: GPL-3.0-or-later
//! Signatures: libgcrypt makes and verifies them. It takes and returns s-expressions.
#![allow(unsafe_code)] // Calls into libgcrypt, with the reason beside each.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use super::{GcryError, Sexp, initialise, reason};
use crate::ground::error::{Error, ErrorKind, Result};

// From gcrypt.h, whose number is part of its ABI.
const FORM_CANONICAL: c_int = 1;

/// Longest list that is passed to libgcrypt, in bytes of the canonical form. libgcrypt ends the process over a list of
/// 64 KiB in its own form, which has up to one byte more for each datum. Lists of RSA with 16384 bits have some 2 KiB,
/// private keys some 10 KiB.
const MAX_LIST: usize = 32 << 10;

#[link(name = "gcrypt")]
unsafe extern "C" {
    fn gcry_sexp_sscan(sexp: *mut *mut c_void, offset: *mut usize, text: *const c_char, length: usize) -> GcryError;
    fn gcry_sexp_release(sexp: *mut c_void);
    fn gcry_sexp_sprint(sexp: *mut c_void, form: c_int, buffer: *mut c_void, length: usize) -> usize;
    fn gcry_pk_sign(signature: *mut *mut c_void, data: *mut c_void, key: *mut c_void) -> GcryError;
    fn gcry_pk_verify(signature: *mut c_void, data: *mut c_void, key: *mut c_void) -> GcryError;
}

/// A list in libgcrypt's memory. It never changes.
struct Handle(*mut c_void);

impl Handle {
    /// Copies `list` to libgcrypt.
    fn of(list: &Sexp) -> Result<Self> {
        initialise()?;
        let text = list.canonical();
        if text.len() > MAX_LIST {
            return Err(Error::new(ErrorKind::Internal, format!("it is longer than {} KiB", MAX_LIST >> 10)));
        }
        let (mut sexp, mut offset) = (null_mut(), 0);
        // SAFETY: the out pointers are valid for writes; the text is given with its length and only read.
        let error = unsafe { gcry_sexp_sscan(&mut sexp, &mut offset, text.as_ptr().cast(), text.len()) };
        match Self::own(sexp) {
            Some(handle) if error == 0 => Ok(handle),
            _ => Err(Error::new(ErrorKind::Internal, format!("handing over a list: {}", reason(error)))),
        }
    }

    /// Takes over what a libgcrypt function returned: a list of ours to release, or null.
    fn own(sexp: *mut c_void) -> Option<Self> {
        (!sexp.is_null()).then_some(Handle(sexp))
    }

    /// Returns the canonical form.
    fn print(&self) -> Vec<u8> {
        // SAFETY: the list is alive; a null buffer asks for the length that is needed, and the second call gets a
        // buffer of that length.
        unsafe {
            let mut buffer = vec![0u8; gcry_sexp_sprint(self.0, FORM_CANONICAL, null_mut(), 0)];
            let length = gcry_sexp_sprint(self.0, FORM_CANONICAL, buffer.as_mut_ptr().cast(), buffer.len());
            buffer.truncate(length);
            buffer
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the list is ours and not used after this.
        unsafe { gcry_sexp_release(self.0) }
    }
}

/// Signs `data`, a `(data ...)`, with `key`, a `(private-key ...)`. Returns a `(sig-val ...)`.
pub fn sign(data: &Sexp, key: &Sexp) -> Result<Sexp> {
    let failed = |why: String| Error::new(ErrorKind::Store, format!("signing: {why}"));
    let handle = |list: &Sexp| Handle::of(list).map_err(|error| failed(error.to_string()));
    let (data, key, mut signature) = (handle(data)?, handle(key)?, null_mut());
    // SAFETY: the out pointer is valid for the write; both lists are alive and only read.
    let error = unsafe { gcry_pk_sign(&mut signature, data.0, key.0) };
    match Handle::own(signature) {
        Some(signature) if error == 0 => Sexp::parse(&signature.print()),
        _ => Err(failed(reason(error))),
    }
}

/// Checks that `signature`, a `(sig-val ...)`, is a signature of `data`, a `(data ...)`, by the private half of `key`,
/// a `(public-key ...)`.
pub fn verify(signature: &Sexp, data: &Sexp, key: &Sexp) -> Result<()> {
    let (signature, data, key) = (Handle::of(signature)?, Handle::of(data)?, Handle::of(key)?);
    // SAFETY: the three lists are alive and only read.
    match unsafe { gcry_pk_verify(signature.0, data.0, key.0) } {
        0 => Ok(()),
        error => Err(Error::new(ErrorKind::Untrusted, reason(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the canonical form that libgcrypt makes of a text.
    fn read_by_libgcrypt(text: &[u8]) -> Option<Vec<u8>> {
        initialise().unwrap();
        let (mut sexp, mut offset) = (null_mut(), 0);
        // SAFETY: as in `Handle::of`.
        let error = unsafe { gcry_sexp_sscan(&mut sexp, &mut offset, text.as_ptr().cast(), text.len()) };
        Handle::own(sexp).filter(|_| error == 0).map(|handle| handle.print())
    }

    #[test]
    fn texts_mean_what_they_mean_to_libgcrypt() {
        let fixtures: [&[u8]; 6] = [
            include_bytes!("../../../tests/fixtures/archive/acl"),
            include_bytes!("../../../tests/fixtures/archive/ecdsa.pub"),
            include_bytes!("../../../tests/fixtures/archive/ecdsa.signature"),
            include_bytes!("../../../tests/fixtures/archive/rsa.signature"),
            b"(3:tag(4:data12:(binary)\x00\xff\"#)5:(\"#:1(more #41 42# \"a\\n\\x41\\101\\\\\\\"'\" -./_:*+=))",
            b"(a b(c)(d(e f)#00#\"g\")1:h)",
        ];
        let bytes = b"()()##\"\"\\\\ \t\n01234567xabfnr:-'[]|{}&\x00\x80\xff";
        let mut numbers = fastrand::Rng::with_seed(1); // the same each time
        let mut below = |limit: usize| numbers.usize(..limit);
        let mut read = 0;
        for fixture in fixtures {
            assert_eq!(read_by_libgcrypt(fixture).as_deref(), Some(Sexp::parse(fixture).unwrap().canonical()));
            for _ in 0..1_000 {
                let mut text = fixture.to_vec();
                for _ in 0..=below(3) {
                    let at = below(text.len());
                    match below(3) {
                        0 => text[at] = bytes[below(bytes.len())],
                        1 => text.insert(at, bytes[below(bytes.len())]),
                        _ => drop(text.remove(at)),
                    }
                }
                // libgcrypt reads an empty list as nothing.
                let Some(ours) = Sexp::parse(&text).ok().filter(|list| list.canonical() != b"()") else { continue };
                read += 1;
                let theirs = read_by_libgcrypt(&text);
                assert_eq!(theirs.as_deref(), Some(ours.canonical()), "{}", text.escape_ascii());
            }
        }
        assert!(read > 500, "only {read} texts were lists");
    }

    #[test]
    fn a_list_that_would_end_the_process_is_not_handed_over() {
        let long = Sexp::parse(format!("(sig-val (ecdsa (r #{}#)))", "12".repeat(40_000)).as_bytes()).unwrap();
        let short = Sexp::parse(b"(data)").unwrap();
        for lists in [[&long, &short, &short], [&short, &long, &short], [&short, &short, &long]] {
            assert!(verify(lists[0], lists[1], lists[2]).unwrap_err().to_string().contains("longer than 32 KiB"));
        }
        let Err(error) = sign(&short, &long) else { panic!("it signs") };
        assert!(error.to_string().contains("signing: it is longer than 32 KiB"), "{error}");
    }
}
