// SPDX-License-Identifier: GPL-3.0-or-later
//! What is known about a build machine before it is contacted, and which machine may do which build.

mod default_key;
pub mod file;
mod gate;
mod host_key;
mod name;
pub mod suitability;
mod systems;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::default_key::default_private_key;
pub use self::gate::{Flaw, integers, key_file, number, quoted, title};
pub use self::host_key::{HostKey, fingerprint};

/// A build machine, as described by a `build-machine` form of the machine file. Defaults are those of Guix
/// (`guix/scripts/offload.scm`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildMachine {
    /// Host name or address, an IPv6 address without brackets. Also names the machine in messages.
    pub name: String,
    /// Port of its SSH server. Default: 22.
    pub port: u16,
    /// System types that it builds for, such as `x86_64-linux`. If there are none, it gets no builds.
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
    /// Load, normalised by the number of cores, from which on the machine gets no more builds; `None`: any load is
    /// fine. Default: 0.8.
    pub overload_threshold: Option<f64>,
}

/// Guix's defaults of the fields, and the label of a machine.
impl BuildMachine {
    /// Returns `NAME:PORT`, the name of the machine's directory in `STATE/offload`, as `guix offload` has it
    /// (`machine-slot-file` in Guix's `guix/scripts/offload.scm`).
    pub fn label(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }

    /// Returns whether `other` is the same machine, perhaps listed for other systems.
    pub fn is_same(&self, other: &BuildMachine) -> bool {
        (&self.name, self.port) == (&other.name, other.port)
    }

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

/// The requirements of a build on its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// System type of the derivation.
    pub system: String,
    /// Features that the derivation requires (`requiredSystemFeatures`).
    pub features: Vec<String>,
}

impl BuildMachine {
    /// Returns a machine without systems, and with Guix's defaults for all fields that are not given.
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

    /// Returns the systems that Guix does not know, and so no build asks for: they are misspelt or new. With each comes
    /// the system that may be meant.
    pub fn unknown_systems(&self) -> impl Iterator<Item = (&str, Option<&'static str>)> {
        let unknown = self.systems.iter().filter(|system| !systems::is_known(system));
        unknown.map(|system| (system.as_str(), systems::nearest(system)))
    }

    /// Returns the mode of the private key's file, if it gives rights to too many. A file of this user must be for its
    /// owner only. A file of another user may be for its group, too: that is how this user comes to read it.
    pub fn exposed_key(&self) -> Option<u32> {
        let metadata = std::fs::metadata(&self.private_key).ok()?;
        let too_open = if metadata.uid() == rustix::process::geteuid().as_raw() { 0o077 } else { 0o007 };
        let mode = metadata.mode() & 0o7777;
        (metadata.is_file() && mode & too_open != 0).then_some(mode)
    }

    /// Returns the level for compressing what is sent there; `None` if it must not be compressed. The method is agreed
    /// upon with the machine, and need not be one that `compression` names.
    pub fn compression_level_if_allowed(&self) -> Option<i32> {
        let allowed = self.compression.split(',').any(|method| !matches!(method.trim(), "" | "none"));
        (allowed && self.compression_level > 0).then(|| i32::from(self.compression_level))
    }

    /// Returns the beginning of a command line that runs something on the machine as `user`.
    pub fn shell(&self, user: &str) -> String {
        let port = if self.port == Self::DEFAULT_PORT { String::new() } else { format!("-p {} ", self.port) };
        format!("ssh {port}{user}@{}", self.name)
    }

    /// Returns whether the machine offers the system and every feature that is required.
    pub fn matches(&self, requirements: &Requirements) -> bool {
        self.systems.contains(&requirements.system)
            && requirements.features.iter().all(|feature| self.features.contains(feature))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A host key for the tests of all modules.
    pub const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI";

    /// Returns a machine for the tests of other modules.
    pub fn machine(name: &str) -> BuildMachine {
        let machine = BuildMachine::new(name, "root", "/nonexistent/key", HostKey::parse(KEY).unwrap());
        BuildMachine { systems: vec!["x86_64-linux".into()], ..machine }
    }

    #[test]
    fn what_is_sent_is_compressed_unless_the_machine_file_says_no() {
        let level = |compression: &str, compression_level| {
            BuildMachine { compression: compression.into(), compression_level, ..machine("m") }
                .compression_level_if_allowed()
        };
        assert_eq!(machine("m").compression_level_if_allowed(), Some(3));
        assert_eq!(level("none,zlib", 9), Some(9));
        assert_eq!((level("none", 3), level("", 3), level("zlib", 0)), (None, None, None));
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
}
