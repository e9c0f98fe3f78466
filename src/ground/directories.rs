// SPDX-License-Identifier: GPL-3.0-or-later
//! The directories and files of Guix on this host.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::ground::error::Result;
use crate::ground::store_path::StoreDir;

/// The directories of one Guix installation, as guix-daemon, and so its hook, sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// The store, usually `/gnu/store`.
    pub store: StoreDir,
    /// Mutable state, usually `/var/guix`.
    pub state: PathBuf,
    /// Where `db.sqlite` is, usually `/var/guix/db`.
    pub database: PathBuf,
    /// Where `acl`, `machines.scm` and the signing key are, usually `/etc/guix`.
    pub configuration: PathBuf,
    /// The socket of the local daemon.
    pub daemon_socket: PathBuf,
}

impl Directories {
    /// Returns the directories that the environment names, with the defaults of Guix (`guix/config.scm`) for the
    /// others.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let directory =
            |name: &str, default: PathBuf| variable(name).filter(|v| !v.is_empty()).map_or(default, PathBuf::from);
        let state = directory("GUIX_STATE_DIRECTORY", "/var/guix".into());
        let socket = variable("GUIX_DAEMON_SOCKET").filter(|v| !v.is_empty());
        Ok(Directories {
            store: StoreDir::new(&variable("NIX_STORE_DIR").unwrap_or_else(|| "/gnu/store".into()))?,
            database: directory("GUIX_DATABASE_DIRECTORY", state.join("db")),
            configuration: directory("GUIX_CONFIGURATION_DIRECTORY", "/etc/guix".into()),
            daemon_socket: match socket {
                Some(name) => socket_file(&name).into(),
                None => state.join("daemon-socket/socket"),
            },
            state,
        })
    }

    /// Returns the variables from which [`Directories::from_environment`] makes these directories.
    pub fn variables(&self) -> [(&'static str, OsString); 5] {
        [
            ("NIX_STORE_DIR", self.store.as_str().into()),
            ("GUIX_STATE_DIRECTORY", self.state.clone().into()),
            ("GUIX_DATABASE_DIRECTORY", self.database.clone().into()),
            ("GUIX_CONFIGURATION_DIRECTORY", self.configuration.clone().into()),
            ("GUIX_DAEMON_SOCKET", self.daemon_socket.clone().into()),
        ]
    }

    /// Returns the machine file that Guix reads when none is named.
    pub fn machine_file(&self) -> PathBuf {
        self.configuration.join("machines.scm")
    }

    /// Returns the file that lists the keys whose archives may enter the store.
    pub fn acl_file(&self) -> PathBuf {
        self.configuration.join("acl")
    }

    /// Returns the directory in which offloading keeps its state, such as build slots and the histories of machines.
    pub fn offload_state(&self) -> PathBuf {
        self.state.join("offload")
    }
}

/// Returns the file name in `name`, the value of `GUIX_DAEMON_SOCKET`: a file name or a URI. Only a URI of a socket in
/// the file system names one, `unix://` or `file://`; any other is returned as it is.
pub fn socket_file(name: &str) -> &str {
    name.strip_prefix("unix://").or(name.strip_prefix("file://")).unwrap_or(name)
}

/// Returns a hint for a file that this process may not use: let the process's user do `what` with it. `command` makes
/// the command for that from the user's number.
pub fn for_daemons_user(what: &str, command: impl Fn(u32) -> String) -> String {
    let user = rustix::process::geteuid().as_raw();
    format!(
        "run this as root, or as the user that guix-daemon runs as; if that is user {user}, let it {what}, and enter \
         the directories above: {}",
        command(user)
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// Returns the directories of a host that has all files but the store below `root`.
    pub(crate) fn below(root: &Path) -> Directories {
        let at = |name: &str| root.join(name);
        Directories {
            store: StoreDir::new("/gnu/store").unwrap(),
            state: at("state"),
            database: at("state/db"),
            configuration: at("configuration"),
            daemon_socket: at("socket"),
        }
    }

    #[test]
    fn defaults_are_those_of_guix() {
        let d = Directories::from_variables(|_| None).unwrap();
        assert_eq!(d.store.as_str(), "/gnu/store");
        assert_eq!(d.database, PathBuf::from("/var/guix/db"));
        assert_eq!(d.machine_file(), PathBuf::from("/etc/guix/machines.scm"));
        assert_eq!(d.daemon_socket, PathBuf::from("/var/guix/daemon-socket/socket"));
    }

    #[test]
    fn their_variables_make_the_same_again() {
        let d = Directories::from_variables(|n| (n == "GUIX_STATE_DIRECTORY").then(|| "/s".into())).unwrap();
        let variables = d.variables();
        let find = |n: &str| variables.iter().find(|(name, _)| *name == n).map(|(_, value)| value.clone());
        let again = Directories::from_variables(|n| find(n)?.into_string().ok()).unwrap();
        assert_eq!(again, d);
    }

    #[test]
    fn the_state_directory_moves_what_is_below_it() {
        let d = Directories::from_variables(|n| (n == "GUIX_STATE_DIRECTORY").then(|| "/s".into())).unwrap();
        assert_eq!(d.database, PathBuf::from("/s/db"));
        assert_eq!(d.daemon_socket, PathBuf::from("/s/daemon-socket/socket"));
    }
}
