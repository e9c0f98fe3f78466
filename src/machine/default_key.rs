// SPDX-License-Identifier: GPL-3.0-or-later
//! The private key that Guix uses if the machine file names none.

use std::path::{Path, PathBuf};

use crate::ground::error::{Error, ErrorKind, Result};

/// Returns the home directory of the process's effective user, from the user database. Not `$HOME`: a daemon may have
/// been started with somebody else's.
pub fn home_directory() -> Option<PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.ok().flatten().map(|user| user.dir)
}

/// Returns the private key that Guix uses if none is named: the first of `~/.ssh/id_ed25519` and `~/.ssh/id_rsa` that
/// exists in the home directory that the user database gives the process's user. If neither exists, it is the first
/// one.
pub fn default_private_key() -> Result<PathBuf> {
    default_key(home_directory().as_deref())
}

fn default_key(home: Option<&Path>) -> Result<PathBuf> {
    let Some(home) = home else {
        return Err(Error::new(
            ErrorKind::Configuration,
            "there is no default for 'private-key': the user has no home",
        )
        .hint("name the file in the field 'private-key'"));
    };
    let keys = ["id_ed25519", "id_rsa"].map(|name| home.join(".ssh").join(name));
    Ok(keys.iter().find(|key| key.exists()).unwrap_or(&keys[0]).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_key_is_the_first_that_exists() {
        let home = tempfile::tempdir().unwrap();
        let ssh = home.path().join(".ssh");
        std::fs::create_dir(&ssh).unwrap();
        assert_eq!(default_key(Some(home.path())).unwrap(), ssh.join("id_ed25519"));
        std::fs::write(ssh.join("id_rsa"), "").unwrap();
        assert_eq!(default_key(Some(home.path())).unwrap(), ssh.join("id_rsa"));
        std::fs::write(ssh.join("id_ed25519"), "").unwrap();
        assert_eq!(default_key(Some(home.path())).unwrap(), ssh.join("id_ed25519"));
        assert!(default_key(None).unwrap_err().hint_text().unwrap().contains("private-key"));
    }

    #[test]
    fn the_home_directory_is_that_of_the_user_database() {
        let id = std::process::Command::new("id").arg("-u").output().unwrap().stdout;
        let id = String::from_utf8(id).unwrap();
        let entry = std::process::Command::new("getent").args(["passwd", id.trim()]).output().unwrap().stdout;
        let entry = String::from_utf8(entry).unwrap();
        assert_eq!(home_directory().unwrap(), PathBuf::from(entry.split(':').nth(5).unwrap()));
    }
}
