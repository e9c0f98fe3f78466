// SPDX-License-Identifier: GPL-3.0-or-later
//! The keys that authorize archives to enter the store, from `/etc/guix/acl` (`guix/pki.scm`).
//!
//! ```text
//! (acl (entry (public-key ...) (tag (guix import))) ...)
//! ```
//!
//! As in Guix, a list with anything else in it authorizes no key at all. At most 1 MiB is read.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::ground::directories::for_daemons_user;
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::ground::gcrypt::{Sexp, canonical_datum, canonical_list};

/// Largest list of keys that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// Most characters of a key that are shown. An RSA key of 16384 bits takes half of them.
const MAX_SHOWN: usize = 8192;

/// The keys that a file authorizes. Can be shared by threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    file: PathBuf,
    keys: Vec<PublicKey>,
}

impl Acl {
    /// Reads the list from `file`.
    pub fn load(file: &Path) -> Result<Self> {
        let reading = || format!("reading the list of authorized keys, {}", file.display());
        let mut text = Vec::new();
        match File::open(file).and_then(|f| f.take(MAX_SIZE + 1).read_to_end(&mut text)) {
            Ok(_) => parse(&text).map(|keys| Acl { file: file.into(), keys }).context(reading).map_err(|error| {
                error
                    .hint("Guix accepts no archive with such a list either: move it away, and authorize each key again")
            }),
            Err(error) => {
                let hint = match error.kind() {
                    io::ErrorKind::NotFound => {
                        "authorize the build machine's key: guix archive --authorize < signing-key.pub".into()
                    }
                    io::ErrorKind::PermissionDenied => {
                        for_daemons_user("read it", |_| format!("chmod a+r {}", file.display()))
                    }
                    _ => "see that it is a file that can be read".into(),
                };
                Err(Error::io(ErrorKind::Configuration, reading(), error).hint(hint))
            }
        }
    }

    /// Reads the list from `text`, the contents of `file` of some host.
    pub fn parse(file: &Path, text: &[u8]) -> Result<Self> {
        Ok(Acl { file: file.into(), keys: parse(text)? })
    }

    /// Returns whether archives that `key` signed may enter the store.
    pub fn authorizes(&self, key: &PublicKey) -> bool {
        self.keys.contains(key)
    }

    /// Returns the file that was read.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

fn parse(text: &[u8]) -> Result<Vec<PublicKey>> {
    let corrupt = |why: &str| Error::new(ErrorKind::Configuration, why);
    if text.len() as u64 > MAX_SIZE {
        return Err(corrupt("it is larger than 1 MiB"));
    }
    let acl = Sexp::parse(text).map_err(|error| corrupt(&error.to_string()))?;
    let not_a_list = || corrupt("it is not an access control list, (acl (entry ...) ...)");
    if acl.data(0) != Some(b"acl") {
        return Err(not_a_list());
    }
    let mut keys = Vec::new();
    for (index, element) in acl.elements().skip(1).enumerate() {
        let entry = Sexp::of_element(element).ok_or_else(not_a_list)?;
        let key = entry.list(1).map(|key| PublicKey::new(&key));
        let wrong = || corrupt(&format!("entry {} is not (entry (public-key ...) (tag (guix import)))", index + 1));
        keys.push(key.filter(|key| element == entry_of(key)).ok_or_else(wrong)?);
    }
    Ok(keys)
}

/// Returns the entry that authorizes `key`, in canonical form.
fn entry_of(key: &PublicKey) -> Vec<u8> {
    canonical_list(&[&canonical_datum(b"entry"), key.0.canonical(), b"(3:tag(4:guix6:import))"].concat())
}

/// A public key. Two are equal if their canonical forms are.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Sexp);

impl PublicKey {
    pub(super) fn new(key: &Sexp) -> Self {
        PublicKey(key.clone())
    }

    /// Reads a key as `signing-key.pub` has it.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let key = Sexp::parse(text)?;
        match key.data(0) {
            Some(b"public-key") => Ok(PublicKey(key)),
            _ => Err(Error::new(ErrorKind::Untrusted, "it is no public key")),
        }
    }
}

/// Writes the form that `guix archive --authorize` reads. A key can come from anybody, and this text may end up in a
/// terminal or a command. So it has only letters, digits, blanks, brackets, hyphens and `#`, and is cut if too long.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.text();
        f.write_str(text.get(..MAX_SHOWN).unwrap_or(&text))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `guix archive --authorize` for both keys.
    const ACL: &str = include_str!("../../tests/fixtures/archive/acl");
    const ECDSA: &str = include_str!("../../tests/fixtures/archive/ecdsa.pub");
    const RSA: &str = include_str!("../../tests/fixtures/archive/rsa.pub");

    fn key(text: &str) -> PublicKey {
        PublicKey::new(&Sexp::parse(text.as_bytes()).unwrap())
    }

    fn load(text: &str) -> Result<Acl> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Acl::load(file.path())
    }

    #[test]
    fn the_keys_that_guix_lists_are_authorized() {
        let acl = load(ACL).unwrap();
        assert!(acl.authorizes(&key(ECDSA)));
        assert!(acl.authorizes(&key(RSA)));
        assert!(!acl.authorizes(&key(&ECDSA.replace("89DE", "89DF"))));
        assert_eq!(key(&key(ECDSA).to_string()), key(ECDSA));
    }

    #[test]
    fn a_key_is_shown_without_surprises() {
        let odd = key("(10:public-key9:a'b;\x1b|`$\n)").to_string();
        assert!(odd.starts_with("(public-key "), "{odd}");
        assert!(!odd.contains(['\'', ';', '\x1b', '|', '`', '$', '\n', '"', '\\']), "{odd}");
        assert_eq!(key(&format!("(public-key {})", "x".repeat(20_000))).to_string().len(), MAX_SHOWN);
    }

    #[test]
    fn only_the_tag_for_imports_authorizes() {
        for (tag, authorized) in [
            ("(tag (guix import))", true),
            ("(comment x) (tag (guix import))", false),
            ("(tag (guix import)) (valid (not-after 2020))", false),
            ("x (tag (guix import))", false),
            ("(tag (guix import)) (tag (guix import))", false),
            ("", false),
            ("(tag (guix export))", false),
            ("(tag (guix import x))", false),
            ("(x (tag (guix import)))", false),
            ("(tag (guix [x] import))", false),
        ] {
            let acl = load(&format!("(acl (entry {RSA} (tag (guix import))) (entry {ECDSA} {tag}))"));
            assert_eq!(acl.as_ref().is_ok_and(|acl| acl.authorizes(&key(ECDSA))), authorized, "{tag}");
            // As in Guix, the list counts as a whole or not at all.
            assert_eq!(acl.is_ok_and(|acl| acl.authorizes(&key(RSA))), authorized, "{tag}");
        }
        let before = load(&format!("(acl (entry (tag (guix import)) {ECDSA}))"));
        assert!(before.unwrap_err().to_string().contains("entry 1"));
        let twice = load(&format!("(acl (entry {ECDSA} {RSA} (tag (guix import))))"));
        assert!(twice.unwrap_err().to_string().contains("entry 1"));
        assert!(!load("(acl)").unwrap().authorizes(&key(ECDSA)));
        assert!(!load(&format!("(acl (entry (not {ECDSA}) (tag (guix import))))")).unwrap().authorizes(&key(ECDSA)));
    }

    #[test]
    fn a_long_or_deep_list_costs_what_it_is_long() {
        let brackets = |count: usize| "(".repeat(count) + &")".repeat(count);
        let acl = load(&format!("(acl (entry {} (tag (guix import))))", brackets(400_000))).unwrap();
        assert_eq!(acl.keys.len(), 1);
        let error = load(&format!("(acl (x {}))", brackets(400_000))).unwrap_err();
        assert!(error.to_string().contains("entry 1 is not"), "{error}");
        let error = load(&format!("(acl {})", "x ".repeat(400_000))).unwrap_err();
        assert!(error.to_string().contains("not an access control list"), "{error}");
        assert_eq!(key(&format!("(public-key {})", brackets(200_000))).to_string().len(), MAX_SHOWN);
    }

    /// Needs root, who can become somebody else in one thread.
    #[test]
    fn a_list_that_may_not_be_read_is_no_list_without_the_key_needs_root() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o600)).unwrap();
        let error = crate::store::tests::as_nobody(|| Acl::load(file.path()).map(|_| ())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("65534") && hint.ends_with(&format!("chmod a+r {}", file.path().display())), "{hint}");
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_with_a_hint_that_fits() {
        let missing = Acl::load(Path::new("/nonexistent/acl"));
        let cases = [
            ("", "is empty"),
            ("\n", "is empty"),
            ("(acl", "not an s-expression"),
            ("(public-key)", "not an access control list"),
            ("(acl (public-key))", "entry 1 is not"),
            ("(acl x)", "not an access control list"),
            ("(acl) (acl)", "not an"),
            (&"x".repeat(MAX_SIZE as usize + 1), "larger than 1 MiB"),
        ];
        let unreadable =
            cases.iter().map(|(text, why)| (load(text), *why, "move it away, and authorize each key again"));
        let missing = (missing, "No such file", "guix archive --authorize");
        for (result, why, hint) in unreadable.chain([missing]) {
            let error = result.expect_err(why);
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("authorized keys, /"), "{error}");
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.hint_text().unwrap().contains(hint), "{error}");
        }
    }
}
