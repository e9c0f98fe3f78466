// SPDX-License-Identifier: GPL-3.0-or-later
//! The host key that a machine is pinned to.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

use super::gate::{MAX_TEXT, shown};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::gcrypt;

/// Longest type of a key, in bytes (RFC 4251, section 6).
const MAX_ALGORITHM: usize = 64;

/// A host key as in an OpenSSH `.pub` file: a type and a blob.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    algorithm: String,
    blob: Vec<u8>,
}

impl HostKey {
    /// Reads `TYPE BASE64 [COMMENT]`. The type is a name as SSH has them (RFC 4251, section 6), the blob a key of that
    /// type (RFC 4253, section 6.6).
    pub fn parse(text: &str) -> Result<Self> {
        let reject = |why: &str| {
            Err(Error::new(ErrorKind::Configuration, format!("{} is not a host key: {why}", shown(text)))
                .hint("copy the line from /etc/ssh/ssh_host_ed25519_key.pub of the machine: 'ssh-ed25519 AAAA...'"))
        };
        let mut words = text.split_ascii_whitespace();
        let (Some(algorithm), Some(encoded)) = (words.next(), words.next()) else {
            return reject("expected a type and a key, separated by a space");
        };
        let is_name = algorithm.len() <= MAX_ALGORITHM && algorithm.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name {
            return reject("its type is no name");
        }
        if encoded.len() > MAX_TEXT {
            return reject(&format!("the key has more than {MAX_TEXT} characters"));
        }
        let Ok(blob) = STANDARD.decode(encoded) else {
            return reject("the key is not in base 64");
        };
        // The blob repeats the type, as a string with a length of four bytes, big-endian, before it.
        let named =
            blob.split_first_chunk::<4>().and_then(|(length, rest)| rest.get(..u32::from_be_bytes(*length) as usize));
        if named != Some(algorithm.as_bytes()) || blob.len() <= algorithm.len() + 4 {
            return reject(&format!("the key is not of type {algorithm}"));
        }
        Ok(HostKey { algorithm: algorithm.to_string(), blob })
    }

    /// Reads a key as SSH sends it.
    pub fn from_blob(blob: &[u8]) -> Result<Self> {
        let named =
            blob.split_first_chunk::<4>().and_then(|(length, rest)| rest.get(..u32::from_be_bytes(*length) as usize));
        let algorithm = named.and_then(|name| std::str::from_utf8(name).ok());
        match algorithm {
            Some(algorithm) => Self::parse(&format!("{algorithm} {}", STANDARD.encode(blob))),
            None => Err(Error::new(ErrorKind::Protocol, "the server's host key is no key")),
        }
    }

    /// Returns a key of the type `algorithm` that no server has.
    pub fn of_nobody(algorithm: &str) -> Self {
        let length = (algorithm.len() as u32).to_be_bytes();
        HostKey { algorithm: algorithm.into(), blob: [&length[..], algorithm.as_bytes(), &[0; 4]].concat() }
    }

    /// Returns the key's type, such as `ssh-ed25519`.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// Returns the key as SSH sends it.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Returns the fingerprint that `ssh-keygen -l` prints.
    pub fn fingerprint(&self) -> Result<String> {
        fingerprint(&self.blob)
    }
}

/// Returns the fingerprint that `ssh-keygen -l` prints for the key `blob`: `SHA256:` and base 64 without padding.
pub fn fingerprint(blob: &[u8]) -> Result<String> {
    Ok(format!("SHA256:{}", STANDARD_NO_PAD.encode(gcrypt::sha256(blob)?)))
}

/// `TYPE BASE64`, as in a `.pub` file.
impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, STANDARD.encode(&self.blob))
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::KEY;

    #[test]
    fn a_host_key_is_read_and_printed_again() {
        let key = HostKey::parse(&format!("{KEY} root@example.org\n")).unwrap();
        assert_eq!(key.algorithm(), "ssh-ed25519");
        assert_eq!(key.blob().len(), 51);
        assert_eq!(key.to_string(), KEY);
        assert_eq!(key.fingerprint().unwrap().len(), "SHA256:".len() + 43);
    }

    #[test]
    fn what_is_no_host_key_is_rejected() {
        let truncated = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5";
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 !!!!",
            &KEY.replace("ssh-ed25519", "ssh-rsa"),
            truncated,
            "ssh-ed25519 AAAA",
            // A key of a type with a control character in it.
            "ssh-\x1bx AAAABnNzaC0beAAAAAF4",
        ] {
            let error = HostKey::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{bad:?}");
            assert!(error.hint_text().is_some());
        }
    }
}
