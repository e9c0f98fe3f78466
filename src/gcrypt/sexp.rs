// SPDX-License-Identifier: GPL-3.0-or-later
//! S-expressions as libgcrypt reads and prints them, and signatures, whose parts are s-expressions.
//!
//! Two forms are read: the canonical one, `(3:tag4:data)`, which has one spelling for each value, and the advanced
//! one, `(tag #64617461#)`, in which Guix keeps keys and signatures.
#![allow(unsafe_code)] // Calls into libgcrypt, with the reason beside each.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use super::{GcryError, initialise, reason};
use crate::error::{Error, ErrorKind, Result};

// From gcrypt.h, whose numbers are part of its ABI.
const FORM_CANONICAL: c_int = 1;
const FORM_ADVANCED: c_int = 3;

#[link(name = "gcrypt")]
unsafe extern "C" {
    fn gcry_sexp_sscan(sexp: *mut *mut c_void, offset: *mut usize, text: *const c_char, length: usize) -> GcryError;
    fn gcry_sexp_release(sexp: *mut c_void);
    fn gcry_sexp_length(list: *mut c_void) -> c_int;
    fn gcry_sexp_nth(list: *mut c_void, number: c_int) -> *mut c_void;
    fn gcry_sexp_nth_data(list: *mut c_void, number: c_int, length: *mut usize) -> *const c_char;
    fn gcry_sexp_sprint(sexp: *mut c_void, form: c_int, buffer: *mut c_void, length: usize) -> usize;
    fn gcry_pk_sign(signature: *mut *mut c_void, data: *mut c_void, key: *mut c_void) -> GcryError;
    fn gcry_pk_verify(signature: *mut c_void, data: *mut c_void, key: *mut c_void) -> GcryError;
}

/// A list. It never changes.
pub struct Sexp(*mut c_void);

// SAFETY: a list is memory of its own, without ties to a thread.
unsafe impl Send for Sexp {}

impl Sexp {
    /// Reads a list in either form.
    pub fn parse(text: &[u8]) -> Result<Self> {
        initialise()?;
        let (mut sexp, mut offset) = (null_mut(), 0);
        // SAFETY: the out pointers are valid for writes; the text is given with its length and only read.
        let error = unsafe { gcry_sexp_sscan(&mut sexp, &mut offset, text.as_ptr().cast(), text.len()) };
        if error != 0 {
            let why = format!("not an s-expression: {} at byte {offset}", reason(error));
            return Err(Error::new(ErrorKind::InvalidArgument, why));
        }
        Self::own(sexp).ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "not an s-expression: it is empty"))
    }

    /// Takes over what a libgcrypt function returned: a list of ours to release, or null.
    fn own(sexp: *mut c_void) -> Option<Self> {
        (!sexp.is_null()).then_some(Sexp(sexp))
    }

    /// Number of elements, the tag included.
    pub fn len(&self) -> usize {
        // SAFETY: the list is alive and only read.
        unsafe { gcry_sexp_length(self.0) }.try_into().unwrap_or(0)
    }

    /// The bytes of element `number`, if there is one and it is no list. Number 0 is the tag.
    pub fn data(&self, number: usize) -> Option<&[u8]> {
        let mut length = 0;
        let number = number.try_into().ok()?;
        // SAFETY: the list is alive and `length` valid for the write; what is returned is inside the list, which
        // never changes, so it lives as long as the borrow of `self`.
        unsafe {
            let data = gcry_sexp_nth_data(self.0, number, &mut length);
            (!data.is_null()).then(|| std::slice::from_raw_parts(data.cast(), length))
        }
    }

    /// Element `number`, if there is one and it is a list.
    pub fn list(&self, number: usize) -> Option<Sexp> {
        if self.data(number).is_some() {
            return None;
        }
        // SAFETY: the list is alive; the copy of its element that is returned is ours.
        Self::own(unsafe { gcry_sexp_nth(self.0, number.try_into().ok()?) })
    }

    /// The elements after the tag that are lists.
    pub fn lists(&self) -> impl Iterator<Item = Sexp> {
        (1..self.len()).filter_map(|number| self.list(number))
    }

    /// The canonical form. Equal bytes mean equal lists.
    pub fn canonical(&self) -> Vec<u8> {
        self.print(FORM_CANONICAL)
    }

    /// As text in ASCII, lists after data: words as they are, all else in hexadecimal. libgcrypt's own text has bytes
    /// beyond ASCII in it now and then.
    pub fn text(&self) -> String {
        let is_word = |data: &[u8]| {
            data.first().is_some_and(u8::is_ascii_alphabetic)
                && data.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        };
        let datum = |data: &[u8]| match std::str::from_utf8(data) {
            Ok(word) if is_word(data) => word.to_string(),
            _ => format!("#{}#", data.iter().map(|byte| format!("{byte:02X}")).collect::<String>()),
        };
        let data = (0..self.len()).filter_map(|index| self.data(index).map(datum));
        let parts: Vec<String> = data.chain(self.lists().map(|list| list.text())).collect();
        format!("({})", parts.join(" "))
    }

    /// The advanced form, on one line.
    pub fn advanced(&self) -> String {
        let text = self.print(FORM_ADVANCED);
        String::from_utf8_lossy(&text).split_ascii_whitespace().collect::<Vec<_>>().join(" ").replace(" )", ")")
    }

    fn print(&self, form: c_int) -> Vec<u8> {
        // SAFETY: the list is alive; a null buffer asks for the length that is needed, and the second call gets a
        // buffer of that length.
        unsafe {
            let mut buffer = vec![0u8; gcry_sexp_sprint(self.0, form, null_mut(), 0)];
            let length = gcry_sexp_sprint(self.0, form, buffer.as_mut_ptr().cast(), buffer.len());
            buffer.truncate(length);
            buffer
        }
    }
}

impl Drop for Sexp {
    fn drop(&mut self) {
        // SAFETY: the list is ours and not used after this.
        unsafe { gcry_sexp_release(self.0) }
    }
}

/// A datum in canonical form.
pub fn canonical_datum(bytes: &[u8]) -> Vec<u8> {
    [format!("{}:", bytes.len()).as_bytes(), bytes].concat()
}

/// The list of `elements`, which are in canonical form, in canonical form.
pub fn canonical_list(elements: &[u8]) -> Vec<u8> {
    [b"(", elements, b")"].concat()
}

/// Signs `data`, a `(data ...)`, with `key`, a `(private-key ...)`: a `(sig-val ...)`.
pub fn sign(data: &Sexp, key: &Sexp) -> Result<Sexp> {
    let mut signature = null_mut();
    // SAFETY: the out pointer is valid for the write; both lists are alive and only read.
    let error = unsafe { gcry_pk_sign(&mut signature, data.0, key.0) };
    match Sexp::own(signature) {
        Some(signature) if error == 0 => Ok(signature),
        _ => Err(Error::new(ErrorKind::Store, format!("signing: {}", reason(error)))),
    }
}

/// Checks that `signature`, a `(sig-val ...)`, is one of `data`, a `(data ...)`, made with the secret half of `key`,
/// a `(public-key ...)`.
pub fn verify(signature: &Sexp, data: &Sexp, key: &Sexp) -> Result<()> {
    // SAFETY: the three lists are alive and only read.
    match unsafe { gcry_pk_verify(signature.0, data.0, key.0) } {
        0 => Ok(()),
        error => Err(Error::new(ErrorKind::Untrusted, reason(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_list_are_equal() {
        let advanced = Sexp::parse(b"(tag  #00FF62#\n (inner \"value\"))").unwrap();
        let canonical = Sexp::parse(b"(3:tag3:\0\xffb(5:inner5:value))").unwrap();
        assert_eq!(advanced.canonical(), b"(3:tag3:\0\xffb(5:inner5:value))");
        assert_eq!(advanced.canonical(), canonical.canonical());
        assert_eq!(canonical.advanced(), "(tag #00FF62# (inner value))");
    }

    #[test]
    fn a_list_is_taken_apart() {
        let list = Sexp::parse(b"(a b (c d (e f)) (g))").unwrap();
        assert_eq!(list.len(), 4);
        assert_eq!(list.data(0), Some(&b"a"[..]));
        assert_eq!(list.data(2), None);
        assert_eq!(list.data(4), None);
        assert_eq!(list.lists().map(|l| l.data(0).unwrap().to_vec()).collect::<Vec<_>>(), [b"c", b"g"]);
        assert_eq!(list.list(2).unwrap().list(2).unwrap().data(1), Some(&b"f"[..]));
        assert!(list.list(1).is_none() && list.list(4).is_none());
    }

    #[test]
    fn what_is_no_list_is_rejected() {
        for bad in [&b""[..], b" ", b"(", b"(a", b"a)", b"(3:ab)", b"(#6#)", b"(99999999999:a)"] {
            assert!(Sexp::parse(bad).is_err(), "{bad:?}");
        }
    }
}
