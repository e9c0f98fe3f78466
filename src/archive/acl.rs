// SPDX-License-Identifier: GPL-3.0-or-later
//! The list of keys whose archives may enter the store, `/etc/guix/acl` (`guix/pki.scm`).
//!
//! ```text
//! (acl (entry (public-key ...) ... (tag (guix import))) ...)
//! ```
//!
//! An entry with another tag authorizes nothing. At most 1 MiB is read.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::gcrypt::Sexp;

const MAX_SIZE: u64 = 1024 * 1024;
/// Characters of a key that are shown. One of RSA with 16384 bits takes half of them.
const MAX_SHOWN: usize = 8192;

/// The keys that a file authorizes. Can be shared by threads.
#[derive(Clone, Debug)]
pub struct Acl {
    file: PathBuf,
    keys: Vec<PublicKey>,
}

impl Acl {
    /// Reads the list from `file`.
    pub fn load(file: &Path) -> Result<Self> {
        let reading = || format!("reading the list of authorized keys, {}", file.display());
        let mut text = Vec::new();
        File::open(file)
            .and_then(|f| f.take(MAX_SIZE + 1).read_to_end(&mut text))
            .io_context(ErrorKind::Configuration, reading)
            .and_then(|_| parse(&text).context(reading))
            .map(|keys| Acl { file: file.into(), keys })
            .map_err(|error| {
                error.hint("authorize the build machine's key: guix archive --authorize < signing-key.pub")
            })
    }

    /// May archives that `key` signed enter the store?
    pub fn authorizes(&self, key: &PublicKey) -> bool {
        self.keys.contains(key)
    }

    /// The file that was read.
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
    if acl.data(0) != Some(b"acl") {
        return Err(corrupt("it is not an access control list, (acl (entry ...) ...)"));
    }
    let mut keys = Vec::new();
    for entry in acl.lists() {
        if entry.data(0) != Some(b"entry") {
            return Err(corrupt("it lists something that is no entry"));
        }
        if entry.lists().any(|part| authorizes_import(&part)) {
            keys.extend(entry.lists().filter(|part| part.data(0) == Some(b"public-key")).map(|k| PublicKey::new(&k)));
        }
    }
    Ok(keys)
}

/// Is `part` `(tag (guix import))`?
fn authorizes_import(part: &Sexp) -> bool {
    part.canonical() == b"(3:tag(4:guix6:import))"
}

/// A public key. Two are equal if their canonical forms are.
#[derive(Clone, Debug)]
pub struct PublicKey {
    canonical: Vec<u8>,
    advanced: String,
}

impl PublicKey {
    pub(super) fn new(key: &Sexp) -> Self {
        PublicKey { canonical: key.canonical(), advanced: key.advanced() }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for PublicKey {}

/// The form that `guix archive --authorize` reads. A key can come from anybody, and this may end up in a terminal or a
/// command: what no key of Guix has is shown as `?`, and what is too long is left out.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| if c.is_ascii_alphanumeric() || " ()#-".contains(c) { c } else { '?' };
        f.write_str(&self.advanced.chars().take(MAX_SHOWN).map(plain).collect::<String>())
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
            ("(comment x) (tag (guix import))", true),
            ("", false),
            ("(tag (guix export))", false),
            ("(tag (guix import x))", false),
            ("(x (tag (guix import)))", false),
        ] {
            let acl = load(&format!("(acl (entry {ECDSA} {tag}))")).unwrap();
            assert_eq!(acl.authorizes(&key(ECDSA)), authorized, "{tag}");
        }
        assert!(!load("(acl)").unwrap().authorizes(&key(ECDSA)));
        assert!(!load(&format!("(acl (entry (not {ECDSA}) (tag (guix import))))")).unwrap().authorizes(&key(ECDSA)));
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_with_a_hint() {
        let missing = Acl::load(Path::new("/nonexistent/acl"));
        let cases = ["", "\n", "(acl", "(public-key)", "(acl (public-key))", &"x".repeat(MAX_SIZE as usize + 1)];
        for error in cases.iter().map(|text| load(text)).chain([missing]).map(|result| result.unwrap_err()) {
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().contains("authorized keys, /"), "{error}");
            assert!(error.hint_text().unwrap().contains("guix archive --authorize"));
        }
    }
}
