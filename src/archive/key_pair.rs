// SPDX-License-Identifier: GPL-3.0-or-later
//! The key pair that this host signs archives with, as `guix authenticate sign` does (`guix/scripts/authenticate.scm`,
//! `guix/pki.scm`): `signing-key.pub` and `signing-key.sec` in `/etc/guix`, which `guix archive --generate-key` makes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::signature::Form;
use crate::ground::directories::for_daemons_user;
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::ground::file_identity::FileIdentity;
use crate::ground::gcrypt::{self, Sexp};

/// Names of the files with its two halves.
const SECRET: &str = "signing-key.sec";
const PUBLIC: &str = "signing-key.pub";

/// A key pair. Nothing prints its secret half.
pub struct KeyPair {
    secret: Sexp,
    public: Sexp,
}

impl KeyPair {
    /// Reads the pair in the directory `configuration`.
    pub fn load(configuration: &Path) -> Result<Self> {
        let half = |name: &str, tag: &str| {
            let file = configuration.join(name);
            let what = || format!("reading the signing key '{}'", file.display());
            let mut text = Vec::new();
            let opened = File::open(&file).and_then(|mut file| {
                file.read_to_end(&mut text)?;
                Ok(file.metadata()?.mode())
            });
            let mode = opened.map_err(|error| {
                let hint = match error.kind() {
                    io::ErrorKind::NotFound => {
                        "create this host's key pair, as root: guix archive --generate-key".into()
                    }
                    io::ErrorKind::PermissionDenied => {
                        for_daemons_user("read it", |user| format!("chown {user} {}", file.display()))
                    }
                    _ => "see that it is a file that can be read".into(),
                };
                Error::io(ErrorKind::Store, what(), error).hint(hint)
            })?;
            if tag == "private-key" && mode & 0o007 != 0 {
                let message = format!("it can be read by others (its mode is {:04o})", mode & 0o7777);
                return Err(Error::new(ErrorKind::Store, message).context(what()).hint(format!(
                    "run 'chmod o= {}'; if others may have seen it, replace it: guix archive --generate-key",
                    file.display()
                )));
            }
            let wrong = |why: String| Error::new(ErrorKind::Store, why).context(what());
            let sexp = Sexp::parse(&text).map_err(|error| wrong(error.to_string()))?;
            if sexp.data(0) != Some(tag.as_bytes()) {
                return Err(wrong(format!("it is no {tag}")));
            }
            Ok(sexp)
        };
        Ok(KeyPair { secret: half(SECRET, "private-key")?, public: half(PUBLIC, "public-key")? })
    }

    /// Returns the current identity of each file that [`KeyPair::load`] reads.
    pub fn identity(configuration: &Path) -> [Option<FileIdentity>; 2] {
        [SECRET, PUBLIC].map(|name| FileIdentity::of(&configuration.join(name)))
    }

    /// Returns the signature of a SHA-256, in the form that a bundle contains.
    pub fn sign(&self, hash: &[u8; 32]) -> Result<Vec<u8>> {
        let data = Sexp::parse(&Form::of_key(&self.public).data(hash))?;
        let value = gcrypt::sign(&data, &self.secret).context(|| "the host's signing key")?;
        let parts = [data, value].map(|part| part.text());
        Ok(format!("(signature {} {} {})", parts[0], parts[1], self.public.text()).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::archive::{Acl, verify};
    use crate::ground::gcrypt::sha256;
    use crate::ground::store_path::StoreDir;

    fn set_mode(file: &Path, mode: u32) {
        std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
    }

    /// Makes a directory with a key pair that `guix archive --generate-key` made.
    fn directory(name: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for half in ["pub", "sec"] {
            let from = format!("{}/tests/fixtures/archive/{name}.{half}", env!("CARGO_MANIFEST_DIR"));
            let to = directory.path().join(format!("signing-key.{half}"));
            std::fs::copy(from, &to).unwrap();
            set_mode(&to, if half == "sec" { 0o400 } else { 0o644 });
        }
        directory
    }

    #[test]
    fn signatures_of_either_kind_are_valid() {
        for name in ["signing-ecc", "signing-rsa"] {
            let directory = directory(name);
            let acl = directory.path().join("acl");
            let key = std::fs::read_to_string(directory.path().join("signing-key.pub")).unwrap();
            std::fs::write(&acl, format!("(acl (entry {key} (tag (guix import))))")).unwrap();
            let item = StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{}-x", "0".repeat(32))).unwrap();
            let hash = sha256(b"contents").unwrap();
            let signature = KeyPair::load(directory.path()).unwrap().sign(&hash).unwrap();
            verify(Some(&signature), &hash, &Acl::load(&acl).unwrap(), &item).unwrap();
        }
    }

    #[test]
    fn bytes_of_a_signature_that_look_like_text_are_in_hexadecimal() {
        let value = Sexp::parse(b"(7:sig-val(5:ecdsa(1:r3:\n\xb4\xfc)(1:s3:\x01\x02\x03)))").unwrap();
        assert_eq!(value.text(), "(sig-val (ecdsa (r #0AB4FC#) (s #010203#)))");
        assert_eq!(Sexp::parse(value.text().as_bytes()).unwrap().canonical(), value.canonical());
    }

    #[track_caller]
    fn assert_rejected(directory: &Path, why: &str) {
        let Err(error) = KeyPair::load(directory) else { panic!("it was loaded") };
        assert_eq!(error.kind(), ErrorKind::Store);
        assert!(error.to_string().contains(why), "{error}");
    }

    #[test]
    fn what_is_no_key_pair_is_rejected_without_telling_it_needs_root() {
        let directory = directory("signing-ecc");
        let secret = directory.path().join("signing-key.sec");
        set_mode(&secret, 0o644);
        assert_rejected(directory.path(), "signing-key.sec': it can be read by others (its mode is 0644)");
        assert!(KeyPair::load(directory.path()).err().unwrap().hint_text().unwrap().contains("chmod o= /"));
        set_mode(&secret, 0o640);
        KeyPair::load(directory.path()).unwrap();
        let public = std::fs::read(directory.path().join("signing-key.pub")).unwrap();
        std::fs::write(&secret, public).unwrap();
        assert_rejected(directory.path(), "signing-key.sec': it is no private-key");
        std::fs::write(&secret, "(private-key (secret #1234#)").unwrap();
        assert_rejected(directory.path(), "signing-key.sec': not an s-expression");
        set_mode(&secret, 0o400);
        set_mode(directory.path(), 0o755);
        let error = crate::store::tests::as_nobody(|| KeyPair::load(directory.path()).map(|_| ())).unwrap_err();
        assert!(error.hint_text().unwrap().ends_with(&format!("chown 65534 {}", secret.display())), "{error}");
        std::fs::remove_file(&secret).unwrap();
        assert_rejected(directory.path(), "signing-key.sec': No such file");
        assert!(KeyPair::load(directory.path()).err().unwrap().hint_text().unwrap().contains("--generate-key"));
    }
}
