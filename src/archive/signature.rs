// SPDX-License-Identifier: GPL-3.0-or-later
//! Verifying that a signature vouches for an archive, as `guix authenticate verify` does (`guix/pki.scm`).
//!
//! ```text
//! (signature
//!  (data (flags rfc6979) (hash sha256 #...#))        ; flags pkcs1 for RSA
//!  (sig-val (ecdsa (r #...#) (s #...#)))
//!  (public-key (ecc (curve Ed25519) (q #...#))))
//! ```
//!
//! libgcrypt, like Guix, finds the parts by their names, at any depth, and ignores what it does not know. In a forged
//! text it might find other parts than the ones read here: one part would be verified, and another believed. So
//! libgcrypt verifies only expressions that are made here, from the archive's hash, a key of the list, and the numbers
//! in the signature. The signature must equal these expressions byte by byte, in canonical form.

use super::acl::{Acl, PublicKey};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::gcrypt::{self, Sexp, canonical_datum, canonical_list};
use crate::ground::store_path::StorePath;

/// Checks that `signature` is a signature of `signed_hash` by a key that `acl` authorizes. `item` names the archive in
/// errors, all of which are of kind [`ErrorKind::Untrusted`].
pub fn verify(signature: Option<&[u8]>, signed_hash: &[u8; 32], acl: &Acl, item: &StorePath) -> Result<()> {
    let reject = |why: String| Error::new(ErrorKind::Untrusted, format!("archive of {item} {why}"));

    let Some(signature) = signature else {
        return Err(reject("is not signed".into())
            .hint("create the machine's key pair, as root, there: guix archive --generate-key"));
    };
    let signature = Sexp::parse(signature).map_err(|error| reject(format!("has a signature that is {error}")))?;
    let part = |number, tag: &str| signature.list(number).filter(|part| part.data(0) == Some(tag.as_bytes()));
    let (Some(data), Some(value), Some(subject)) = (part(1, "data"), part(2, "sig-val"), part(3, "public-key")) else {
        return Err(reject("has a signature that lacks its data, value or key".into()));
    };

    let key = PublicKey::new(&subject);
    if !acl.authorizes(&key) {
        let why = format!("is signed by a key that {} does not authorize: {key}", acl.file().display());
        return Err(reject(why).hint(
            "if this is the key in /etc/guix/signing-key.pub there, and you trust that machine, copy the file and run \
             here: guix archive --authorize < signing-key.pub",
        ));
    }
    let form = Form::of_key(&subject);
    let ours = form.data(signed_hash);
    if data.canonical() != ours {
        let hash = data.list(2).and_then(|hash| hash.data(2)?.try_into().ok());
        return Err(reject(match hash {
            Some(hash) if data.canonical() == form.data(&hash) => {
                "is corrupt: its hash is not the one that was signed".into()
            }
            _ => "has a signature that is not one of a SHA-256 hash".into(),
        }));
    }
    let whole = |value: &[u8]| {
        let parts = [&canonical_datum(b"signature"), &ours, value, subject.canonical()].concat();
        canonical_list(&parts) == signature.canonical()
    };
    let Some(value) = form.value(&value).filter(|value| whole(value)) else {
        return Err(reject("has a signature with something in it that no signature has".into()));
    };
    let judged = || gcrypt::verify(&Sexp::parse(&value)?, &Sexp::parse(&ours)?, &subject);
    judged().map_err(|error| reject(format!("has an invalid signature: {error}")))
}

/// The form of the signatures made with one kind of key.
pub(super) struct Form {
    /// How the hash is turned into a number.
    flags: &'static str,
    algorithm: &'static str,
    /// Names of the numbers in the value of the signature.
    numbers: &'static [&'static str],
}

impl Form {
    /// Returns the form for `key`, a public key (`key-type` and `bytevector->hash-data` in Guile-Gcrypt).
    pub(super) fn of_key(key: &Sexp) -> Self {
        match key.list(1).as_ref().and_then(|list| list.data(0)) {
            Some(b"rsa") => Form { flags: "pkcs1", algorithm: "rsa", numbers: &["s"] },
            Some(b"dsa") => Form { flags: "rfc6979", algorithm: "dsa", numbers: &["r", "s"] },
            _ => Form { flags: "rfc6979", algorithm: "ecdsa", numbers: &["r", "s"] },
        }
    }

    /// Returns the `(data ...)` of a SHA-256, in canonical form.
    pub(super) fn data(&self, hash: &[u8; 32]) -> Vec<u8> {
        let words = |words: &[&[u8]]| words.iter().flat_map(|word| canonical_datum(word)).collect::<Vec<_>>();
        let flags = canonical_list(&words(&[b"flags", self.flags.as_bytes()]));
        let hash = canonical_list(&words(&[b"hash", b"sha256", hash]));
        canonical_list(&[words(&[b"data"]), flags, hash].concat())
    }

    /// Returns the `(sig-val ...)` of the numbers in `value`, in canonical form; `None` if they are missing.
    fn value(&self, value: &Sexp) -> Option<Vec<u8>> {
        let list = value.list(1)?;
        let mut parts = canonical_datum(self.algorithm.as_bytes());
        for (index, name) in self.numbers.iter().enumerate() {
            let number = list.list(index + 1)?;
            parts
                .extend(canonical_list(&[canonical_datum(name.as_bytes()), canonical_datum(number.data(1)?)].concat()));
        }
        Some(canonical_list(&[canonical_datum(b"sig-val"), canonical_list(&parts)].concat()))
    }
}

#[cfg(test)]
#[path = "../../tests/support/forgeries.rs"]
mod forgeries;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::store_path::StoreDir;

    /// Made by `guix authenticate`: signatures of the SHA-256 of `0`, and of `10` and `11`, in which r and s
    /// respectively have lost a leading zero byte.
    const ECDSA: &str = include_str!("../../tests/fixtures/archive/ecdsa.signature");
    const ECDSA_SHORT_R: &str = include_str!("../../tests/fixtures/archive/ecdsa-short-r.signature");
    const ECDSA_SHORT_S: &str = include_str!("../../tests/fixtures/archive/ecdsa-short-s.signature");
    const RSA: &str = include_str!("../../tests/fixtures/archive/rsa.signature");

    fn check_with(acl: &str, signature: Option<&str>, signed: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, acl).unwrap();
        let item = StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{}-x", "0".repeat(32))).unwrap();
        let hash = gcrypt::sha256(signed.as_bytes()).unwrap();
        verify(signature.map(str::as_bytes), &hash, &Acl::load(file.path()).unwrap(), &item)
    }

    fn check(signature: &str, signed: &str) -> Result<()> {
        check_with(include_str!("../../tests/fixtures/archive/acl"), Some(signature), signed)
    }

    #[track_caller]
    fn assert_rejected(result: Result<()>, why: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        assert!(error.to_string().contains(why), "{error}");
    }

    #[test]
    fn signatures_of_guix_are_valid() {
        check(ECDSA, "0").unwrap();
        check(ECDSA_SHORT_R, "10").unwrap();
        check(ECDSA_SHORT_S, "11").unwrap();
        check(RSA, "0").unwrap();
    }

    #[test]
    fn each_reason_to_reject_has_its_message() {
        let unsigned = check_with("(acl)", None, "0").unwrap_err();
        assert!(unsigned.hint_text().unwrap().contains("--generate-key"));
        assert_rejected(Err(unsigned), "-x is not signed");

        let stranger = check_with("(acl)", Some(ECDSA), "0").unwrap_err();
        assert!(stranger.hint_text().unwrap().contains("guix archive --authorize"));
        assert!(stranger.to_string().contains("(public-key (ecc (curve Ed25519) (q #89DEEA52"), "{stranger}");
        assert_rejected(Err(stranger), "by a key that");

        assert_rejected(check("(signature", "0"), "not an s-expression");
        assert_rejected(check(&ECDSA.replace("sig-val", "value"), "0"), "lacks");
        assert_rejected(check(ECDSA, "1"), "is corrupt");
        assert_rejected(check(&RSA.replace("#C0415", "#C0416"), "0"), "invalid signature");
        assert_rejected(check(&ECDSA.replace("(r #0", "(r #1"), "0"), "invalid signature");
    }

    #[test]
    fn a_true_signature_of_something_else_does_not_pass() {
        for signature in [ECDSA, RSA] {
            let hash = |text: &[u8]| gcrypt::sha256(text).unwrap();
            for (lie, text) in super::forgeries::forgeries(signature, &hash(b"0"), &hash(b"1")) {
                assert_ne!(text, signature);
                match check(&text, "1") {
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Untrusted, "{lie}: {error}"),
                    Ok(()) => panic!("{lie} is believed: {text}"),
                }
            }
        }
        assert_rejected(check(&ECDSA.replace("sha256", "sha512"), "0"), "not one of a SHA-256");
        assert_rejected(check(&ECDSA.replace("#5FEC", "#5FEC5FEC"), "0"), "not one of a SHA-256");
    }

    #[test]
    fn a_signature_is_what_is_made_of_its_numbers() {
        let honest = Sexp::parse(ECDSA.as_bytes()).unwrap();
        let canonical = honest.canonical();
        let form = Form::of_key(&honest.list(3).unwrap());
        let data = form.data(&gcrypt::sha256(b"0").unwrap());
        assert!(canonical.windows(data.len()).any(|window| window == data));
        for (what, honest, from, to) in [
            ("a value before it", RSA, "(signature", "(signature (sig-val (rsa (s #01#)))"),
            ("a key before it", ECDSA, "(public-key", "(public-key (rsa (n #01#) (e #01#))) (public-key"),
            ("more before the key", ECDSA, "(public-key", "(x) (public-key"),
            ("a word before the data", ECDSA, "(data", "x (data"),
            ("another name", ECDSA, "(signature", "(x"),
            ("a doubled r", ECDSA, "(r #", "(r #01#) (r #"),
            ("an r before r", ECDSA, "(r #", "(r (r #01#) #"),
            ("an r beside r", ECDSA, "(r #", "(r #01# #"),
            ("flags of the value", ECDSA, "(ecdsa", "(flags eddsa) (ecdsa"),
            ("another algorithm", ECDSA, "(ecdsa", "(eddsa"),
            ("the flags of the other kind", ECDSA, "rfc6979", "pkcs1"),
            ("the flags of the other kind", RSA, "pkcs1", "rfc6979"),
            ("two flags", ECDSA, "rfc6979", "rfc6979 rfc6979"),
            ("a flag without effect", RSA, "pkcs1", "pkcs1 no-blinding"),
        ] {
            let text = honest.replacen(from, to, 1);
            assert_ne!(text, honest);
            let error = check(&text, "0").expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Untrusted, "{what}: {error}");
        }
    }

    /// All of these are below the limit for a signature, 64 KiB.
    #[test]
    fn what_is_too_much_for_libgcrypt_is_an_invalid_signature() {
        let many = "a ".repeat(32_000);
        for (what, from, to, why) in [
            ("a long list in the data", "(flags", format!("a (b {many}) (flags"), "not one of a SHA-256"),
            ("a long list for the value", "(ecdsa", format!("(a {many}) (ecdsa"), "that no signature has"),
            ("a long number", "(r #", format!("(r #{}", "12".repeat(32_000)), "invalid signature"),
        ] {
            assert_rejected(check(&ECDSA.replace(from, &to), "0"), why);
            assert!(ECDSA.contains(from), "{what}");
        }
    }
}
