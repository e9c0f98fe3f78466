// SPDX-License-Identifier: GPL-3.0-or-later
//! What is known about a build machine before it is contacted, and which machine may do which build.

mod name;
mod systems;

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::error::{Error, ErrorKind, Result};
use crate::gcrypt;

/// A build machine, as described by a `build-machine` form of the machine file. Defaults are those of Guix
/// (`guix/scripts/offload.scm`).
#[derive(Clone, Debug, PartialEq)]
pub struct BuildMachine {
    /// Host name or address, an IPv6 address without brackets. Also names the machine in messages.
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
    /// Socket of the daemon there, an absolute file name. Default: `/var/guix/daemon-socket/socket`.
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
    /// Returns a machine of no system and with Guix's defaults for all that is not named here.
    pub fn new(
        name: impl Into<String>,
        user: impl Into<String>,
        private_key: impl Into<PathBuf>,
        host_key: HostKey,
    ) -> Self {
        BuildMachine {
            name: name.into(),
            port: Self::DEFAULT_PORT,
            systems: Vec::new(),
            user: user.into(),
            private_key: private_key.into(),
            host_key,
            compression: Self::DEFAULT_COMPRESSION.into(),
            compression_level: Self::DEFAULT_COMPRESSION_LEVEL,
            daemon_socket: Self::DEFAULT_DAEMON_SOCKET.into(),
            parallel_builds: Self::DEFAULT_PARALLEL_BUILDS,
            speed: Self::DEFAULT_SPEED,
            features: Vec::new(),
            overload_threshold: Some(Self::DEFAULT_OVERLOAD_THRESHOLD),
        }
    }

    /// The one gate of validity, whoever describes the machine: returns it with its name as it is looked up, or the
    /// first field that is not as it must be.
    pub fn admit(mut self) -> Result<Self, Flaw> {
        let flaw = |field, expected: &str| Err(Flaw { field, expected: expected.into(), hint: None });
        // The name becomes part of a file name and of lines that tools read.
        self.name = name::parse(&self.name)?;
        let texts = [
            ("user", &self.user, "an account, without control characters"),
            ("compression", &self.compression, "a list of methods, without control characters"),
        ];
        for (field, text, expected) in texts {
            if !is_text(text) {
                return flaw(field, expected);
            }
        }
        if self.port == 0 {
            return flaw("port", "a number from 1 to 65535");
        }
        // An empty one is none as yet.
        let key = self.private_key.as_os_str().to_string_lossy();
        if !key.is_empty() && !is_text(&key) {
            return flaw("private-key", "a file name, without control characters");
        }
        for (field, list) in [("systems", &self.systems), ("features", &self.features)] {
            if !list.iter().all(|text| is_text(text)) {
                return flaw(field, "a list of strings that are not empty and have no control characters");
            }
        }
        if self.compression_level > 9 {
            return flaw("compression-level", "a number from 0 to 9");
        }
        if !self.daemon_socket.starts_with('/') || !is_text(&self.daemon_socket) {
            return flaw("daemon-socket", "an absolute file name");
        }
        if !(self.speed.is_finite() && self.speed >= 0.0) {
            return flaw("speed", "a number that is not negative");
        }
        if self.overload_threshold.is_some_and(|load| !(load.is_finite() && load >= 0.0)) {
            return flaw("overload-threshold", "a number that is not negative, or #f");
        }
        Ok(self)
    }

    /// The systems that no build asks for, as they are misspelt or new, and what each may have been meant to be.
    pub fn unknown_systems(&self) -> impl Iterator<Item = (&str, Option<&'static str>)> {
        let unknown = self.systems.iter().filter(|system| !systems::is_known(system));
        unknown.map(|system| (system.as_str(), systems::nearest(system)))
    }

    /// The mode of the private key's file, if others than its owner, or than its owner's group where that is how this
    /// user comes to read it, have rights to it.
    pub fn exposed_key(&self) -> Option<u32> {
        let metadata = std::fs::metadata(&self.private_key).ok()?;
        let too_open = if metadata.uid() == rustix::process::geteuid().as_raw() { 0o077 } else { 0o007 };
        let mode = metadata.mode() & 0o7777;
        (metadata.is_file() && mode & too_open != 0).then_some(mode)
    }

    /// The level at which what is sent there may be compressed; `None`: not at all. With which method is agreed upon
    /// with the machine, whatever SSH calls those that are allowed.
    pub fn compresses_at(&self) -> Option<i32> {
        let allowed = self.compression.split(',').any(|method| !matches!(method.trim(), "" | "none"));
        (allowed && self.compression_level > 0).then(|| i32::from(self.compression_level))
    }

    /// The beginning of a command that somebody runs on the machine as `user`.
    pub fn shell(&self, user: &str) -> String {
        let port = if self.port == Self::DEFAULT_PORT { String::new() } else { format!("-p {} ", self.port) };
        format!("ssh {port}{user}@{}", self.name)
    }

    /// Does the machine offer the system and every feature that is required?
    pub fn matches(&self, requirements: &Requirements) -> bool {
        self.systems.contains(&requirements.system)
            && requirements.features.iter().all(|feature| self.features.contains(feature))
    }
}

/// Longest text of a machine, in bytes.
const MAX_TEXT: usize = 4096;

/// Is it a text that can be part of a line, and of a file name or a protocol with limits?
fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && !text.contains(char::is_control)
}

/// A field of a machine that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The field's name in the machine file.
    pub field: &'static str,
    /// What was expected there: a noun phrase.
    pub expected: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Flaw {
    /// The error for a machine called `name` that no machine file describes.
    pub fn error(self, name: &str) -> Error {
        let message = format!("machine {name:?}, field '{}': expected {}", self.field, self.expected);
        let error = Error::new(ErrorKind::InvalidArgument, message).on_machine(name);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
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
        let machine = BuildMachine::new(name, "root", "/nonexistent/key", HostKey::parse(KEY).unwrap());
        BuildMachine { systems: vec!["x86_64-linux".into()], ..machine }
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
    fn the_gate_refuses_what_a_machine_cannot_be() {
        let m = || machine("m");
        for (machine, field) in [
            (machine("w1\n# decline\n@ build-succeeded x"), "name"),
            (BuildMachine { user: String::new(), ..m() }, "user"),
            (BuildMachine { user: "a\n# accept".into(), ..m() }, "user"),
            (BuildMachine { port: 0, ..m() }, "port"),
            (BuildMachine { private_key: "/k\n".into(), ..m() }, "private-key"),
            (BuildMachine { systems: vec![String::new()], ..m() }, "systems"),
            (BuildMachine { features: vec!["a\x1b".into()], ..m() }, "features"),
            (BuildMachine { features: vec!["a".repeat(MAX_TEXT + 1)], ..m() }, "features"),
            (BuildMachine { compression: "zlib\n".into(), ..m() }, "compression"),
            (BuildMachine { compression_level: 10, ..m() }, "compression-level"),
            (BuildMachine { daemon_socket: "relative".into(), ..m() }, "daemon-socket"),
            (BuildMachine { speed: -1.0, ..m() }, "speed"),
            (BuildMachine { speed: f64::NAN, ..m() }, "speed"),
            (BuildMachine { overload_threshold: Some(f64::INFINITY), ..m() }, "overload-threshold"),
        ] {
            let name = machine.name.clone();
            let flaw = machine.admit().expect_err(field);
            assert_eq!(flaw.field, field);
            let error = flaw.error(&name);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("field '{field}': expected ")), "{error}");
        }
        assert_eq!(m().admit(), Ok(m()));
        assert_eq!(machine("[::1]").admit(), Ok(machine("::1")));
        assert_eq!(m().unknown_systems().count(), 0);
    }

    /// As OpenSSH judges it. The test must run as root.
    #[test]
    fn a_key_that_others_can_read_is_noticed() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let file = tempfile::NamedTempFile::new().unwrap();
        let machine = BuildMachine { private_key: file.path().into(), ..machine("m") };
        // Ours, or that of another user who gave it to a group that we are in.
        for (owner, mode, exposed) in [
            (0, 0o644, true),
            (0, 0o640, true),
            (0, 0o604, true),
            (65534, 0o644, true),
            (0, 0o600, false),
            (0, 0o400, false),
            (65534, 0o640, false),
        ] {
            chown(file.path(), Some(owner), Some(0)).unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(machine.exposed_key(), exposed.then_some(mode), "{owner} {mode:04o}");
        }
        assert_eq!(BuildMachine { private_key: "/nonexistent".into(), ..machine }.exposed_key(), None);
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
