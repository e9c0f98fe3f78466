// SPDX-License-Identifier: GPL-3.0-or-later
//! What is known about a build machine before it is contacted, and which machine may do which build.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::error::{Error, ErrorKind, Result};
use crate::gcrypt;

/// A build machine, as described by a `build-machine` form of the machine file. Defaults are those of Guix
/// (`guix/scripts/offload.scm`).
#[derive(Clone, Debug, PartialEq)]
pub struct BuildMachine {
    /// Host name or address. Also names the machine in messages.
    pub name: String,
    /// Port of its SSH server. Default: 22.
    pub port: u16,
    /// System types that it builds for, such as `x86_64-linux`. With none of them it gets no builds.
    pub systems: Vec<String>,
    /// Account to log in to.
    pub user: String,
    /// File with the private key to log in with. Default: the first of `~/.ssh/id_ed25519` and `~/.ssh/id_rsa`
    /// that exists in the home directory of the process's user, or if neither does, `~/.ssh/id_ed25519`.
    pub private_key: PathBuf,
    /// The only host key that is trusted for this machine.
    pub host_key: HostKey,
    /// Compression methods that may be used, a comma-separated list. Default: `zlib@openssh.com,zlib`.
    pub compression: String,
    /// Compression level, 0 to 9. Default: 3.
    pub compression_level: u8,
    /// Socket of the daemon there. Default: `/var/guix/daemon-socket/socket`.
    pub daemon_socket: String,
    /// How many builds may run there at once: its number of build slots. With 0 it gets none. Default: 1.
    pub parallel_builds: u32,
    /// Speed relative to other machines, finite and not negative. Default: 1.
    pub speed: f64,
    /// Features that it offers, such as `kvm`.
    pub features: Vec<String>,
    /// Load, normalised by the number of cores, from which on it takes no more builds; `None`: any load is fine.
    /// Default: 0.8.
    pub overload_threshold: Option<f64>,
}

/// Values that Guix gives to fields that are left out.
impl BuildMachine {
    /// Default of `port`.
    pub const DEFAULT_PORT: u16 = 22;
    /// Default of `compression`.
    pub const DEFAULT_COMPRESSION: &str = "zlib@openssh.com,zlib";
    /// Default of `compression-level`.
    pub const DEFAULT_COMPRESSION_LEVEL: u8 = 3;
    /// Default of `daemon-socket`.
    pub const DEFAULT_DAEMON_SOCKET: &str = "/var/guix/daemon-socket/socket";
    /// Default of `parallel-builds`.
    pub const DEFAULT_PARALLEL_BUILDS: u32 = 1;
    /// Default of `speed`.
    pub const DEFAULT_SPEED: f64 = 1.0;
    /// Default of `overload-threshold`.
    pub const DEFAULT_OVERLOAD_THRESHOLD: f64 = 0.8;
}

/// What a build needs of the machine that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirements {
    /// System type of the derivation.
    pub system: String,
    /// Features that the derivation requires (`requiredSystemFeatures`).
    pub features: Vec<String>,
}

impl BuildMachine {
    /// Checks the fields that have more to them than their type, for a machine that no machine file describes.
    pub fn check(&self) -> Result<()> {
        let reject = |field: &str, expected: &str| {
            let message = format!("machine {:?}, field '{field}': expected {expected}", self.name);
            Err(Error::new(ErrorKind::InvalidArgument, message).on_machine(&self.name))
        };
        // The name becomes part of a file name.
        if self.name.is_empty() || self.name.starts_with('.') || self.name.contains(['/', '\0']) {
            return reject("name", "a host name");
        }
        if self.user.is_empty() || self.user.contains('\0') {
            return reject("user", "an account");
        }
        if self.port == 0 {
            return reject("port", "a number from 1 to 65535");
        }
        if self.compression_level > 9 {
            return reject("compression-level", "a number from 0 to 9");
        }
        if !self.daemon_socket.starts_with('/') {
            return reject("daemon-socket", "an absolute file name");
        }
        if !(self.speed.is_finite() && self.speed >= 0.0) {
            return reject("speed", "a number that is not negative");
        }
        if self.overload_threshold.is_some_and(|load| !(load.is_finite() && load >= 0.0)) {
            return reject("overload-threshold", "a number that is not negative, or none");
        }
        Ok(())
    }

    /// The level at which what is sent there may be compressed; `None`: not at all. With which method is agreed upon with
    /// the machine, whatever SSH calls those that are allowed.
    pub fn compresses_at(&self) -> Option<i32> {
        let allowed = self.compression.split(',').any(|method| !matches!(method.trim(), "" | "none"));
        (allowed && self.compression_level > 0).then(|| i32::from(self.compression_level))
    }

    /// Does the machine offer the system and every feature that is required?
    pub fn matches(&self, requirements: &Requirements) -> bool {
        self.systems.contains(&requirements.system)
            && requirements.features.iter().all(|feature| self.features.contains(feature))
    }
}

/// A host key as in an OpenSSH `.pub` file: a type and a blob.
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    algorithm: String,
    blob: Vec<u8>,
}

impl HostKey {
    /// Reads `TYPE BASE64 [COMMENT]`. The blob must be a key of that type (RFC 4253, section 6.6).
    pub fn parse(text: &str) -> Result<Self> {
        let reject = |why: &str| {
            Err(Error::new(ErrorKind::Configuration, format!("{text:?} is not a host key: {why}"))
                .hint("copy the line from /etc/ssh/ssh_host_ed25519_key.pub of the machine: 'ssh-ed25519 AAAA...'"))
        };
        let mut words = text.split_ascii_whitespace();
        let (Some(algorithm), Some(encoded)) = (words.next(), words.next()) else {
            return reject("expected a type and a key, separated by a space");
        };
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

    /// The key's type, such as `ssh-ed25519`.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The key as SSH sends it.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The fingerprint that `ssh-keygen -l` prints.
    pub fn fingerprint(&self) -> Result<String> {
        fingerprint(&self.blob)
    }
}

/// The fingerprint that `ssh-keygen -l` prints for the key `blob`: `SHA256:` and base 64 without padding.
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
pub(crate) mod tests {
    use super::*;

    /// A machine for the tests of other modules.
    pub fn machine(name: &str) -> BuildMachine {
        BuildMachine {
            name: name.into(),
            port: BuildMachine::DEFAULT_PORT,
            systems: vec!["x86_64-linux".into()],
            user: "root".into(),
            private_key: "/nonexistent/key".into(),
            host_key: HostKey::parse(KEY).unwrap(),
            compression: BuildMachine::DEFAULT_COMPRESSION.into(),
            compression_level: BuildMachine::DEFAULT_COMPRESSION_LEVEL,
            daemon_socket: BuildMachine::DEFAULT_DAEMON_SOCKET.into(),
            parallel_builds: BuildMachine::DEFAULT_PARALLEL_BUILDS,
            speed: BuildMachine::DEFAULT_SPEED,
            features: Vec::new(),
            overload_threshold: Some(BuildMachine::DEFAULT_OVERLOAD_THRESHOLD),
        }
    }

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI";

    #[test]
    fn a_host_key_is_read_and_printed_again() {
        let key = HostKey::parse(&format!("{KEY} root@example.org\n")).unwrap();
        assert_eq!(key.algorithm(), "ssh-ed25519");
        assert_eq!(key.blob().len(), 51);
        assert_eq!(key.to_string(), KEY);
        assert_eq!(key.fingerprint().unwrap().len(), "SHA256:".len() + 43);
    }

    #[test]
    fn what_is_sent_is_compressed_unless_the_machine_file_says_no() {
        let level = |compression: &str, compression_level| {
            BuildMachine { compression: compression.into(), compression_level, ..machine("m") }.compresses_at()
        };
        assert_eq!(machine("m").compresses_at(), Some(3));
        assert_eq!(level("none,zlib", 9), Some(9));
        assert_eq!((level("none", 3), level("", 3), level("zlib", 0)), (None, None, None));
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
        ] {
            let error = HostKey::parse(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{bad:?}");
            assert!(error.hint_text().is_some());
        }
    }
}
