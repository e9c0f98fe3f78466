// SPDX-License-Identifier: GPL-3.0-or-later
//! Does a signature vouch for an archive? As `guix authenticate verify` decides it (`guix/pki.scm`).
//!
//! ```text
//! (signature
//!  (data (flags rfc6979) (hash sha256 #...#))        ; flags pkcs1 for RSA
//!  (sig-val (ecdsa (r #...#) (s #...#)))
//!  (public-key (ecc (curve Ed25519) (q #...#))))
//! ```
//!
//! The data must have this shape to the letter, so that the hash compared here is the hash that libgcrypt verifies.

use super::acl::{Acl, PublicKey};
use crate::error::{Error, ErrorKind, Result};
use crate::gcrypt::{self, Sexp};
use crate::store::StorePath;

/// Checks that `signature` is one of `signed_hash`, made with a key that `acl` authorizes. `item` names the archive in
/// errors, all of which are [`ErrorKind::Untrusted`].
pub fn verify(signature: Option<&[u8]>, signed_hash: &[u8; 32], acl: &Acl, item: &StorePath) -> Result<()> {
    let reject = |why: String| Error::new(ErrorKind::Untrusted, format!("archive of {item} {why}"));

    let Some(signature) = signature else {
        return Err(reject("is not signed".into())
            .hint("create the machine's key pair, as root, there: guix archive --generate-key"));
    };
    let signature = Sexp::parse(signature).map_err(|error| reject(format!("has a signature that is {error}")))?;
    let (Some(data), Some(value), Some(subject)) =
        (signature.find("data"), signature.find("sig-val"), signature.find("public-key"))
    else {
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
    match hash_of(&data) {
        Some(hash) if hash == *signed_hash => {}
        Some(_) => return Err(reject("is corrupt: its hash is not the one that was signed".into())),
        None => return Err(reject("has a signature that is not one of a SHA-256 hash".into())),
    }
    gcrypt::verify(&value, &data, &subject).map_err(|error| reject(format!("has an invalid signature: {error}")))
}

/// The hash in `(data (flags ...) (hash sha256 #...#))`.
fn hash_of(data: &Sexp) -> Option<[u8; 32]> {
    let mut parts = data.lists();
    let (flags, hash) = (parts.next()?, parts.next()?);
    let well_formed = data.len() == 3
        && flags.data(0) == Some(b"flags")
        && hash.len() == 3
        && hash.data(0) == Some(b"hash")
        && hash.data(1) == Some(b"sha256");
    well_formed.then(|| hash.data(2)?.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreDir;

    /// Made by `guix authenticate`: signatures of the SHA-256 of `0`, and of `10` and `11`, where r and s happen to
    /// have lost a leading zero byte.
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
        // The signed hash under a name that is not looked at, and the wanted one where it is.
        let hash = |text: &str| {
            let digest = gcrypt::sha256(text.as_bytes()).unwrap();
            digest.iter().map(|b| format!("{b:02X}")).collect::<String>()
        };
        let forged = ECDSA.replace(&hash("0"), &hash("1"));
        assert_ne!(forged, ECDSA);
        assert_rejected(check(&forged, "1"), "invalid signature");
        let value = format!("(value #{}#) (hash sha256", hash("0"));
        assert_rejected(check(&forged.replace("(hash sha256", &value), "1"), "not one of a SHA-256");
        let value = format!("(value #{}#) ) (sig-val", hash("0"));
        assert_rejected(check(&forged.replacen(")\n (sig-val", &value, 1), "1"), "not one of a SHA-256");
        assert_rejected(check(&ECDSA.replace("sha256", "sha512"), "0"), "not one of a SHA-256");
        assert_rejected(check(&ECDSA.replace("#5FEC", "#5FEC5FEC"), "0"), "not one of a SHA-256");
    }
}
