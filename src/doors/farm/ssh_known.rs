// SPDX-License-Identifier: GPL-3.0-or-later
//! The host keys that ssh knows, as `ssh-keygen -F` finds them: also under hashed names.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::ground::cancel::Cancel;
use crate::ground::child;
use crate::machine::{BuildMachine, HostKey};

/// The file for all users; that of this user is where ssh-keygen looks by itself.
const GLOBAL_FILE: &str = "/etc/ssh/ssh_known_hosts";

/// Time limit for ssh-keygen.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Most that is read of what ssh-keygen prints, in bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// What ssh says of a key that a machine shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It knows the machine under this key.
    Known,
    /// It knows no key of this type for the machine.
    Unknown,
    /// It knows the machine under another key of this type.
    Differs,
    /// The key is revoked.
    Revoked,
}

/// The keys that ssh knows for one machine.
#[derive(Debug, Default, PartialEq)]
pub struct Known {
    keys: Vec<HostKey>,
    revoked: Vec<HostKey>,
}

impl Known {
    /// Asks ssh-keygen. If it cannot be run, no key is known.
    pub fn of(machine: &BuildMachine) -> Self {
        let name = match machine.port {
            BuildMachine::DEFAULT_PORT => machine.name.clone(),
            port => format!("[{}]:{port}", machine.name),
        };
        let mut known = Known::default();
        for file in [None, Some(GLOBAL_FILE)] {
            let mut command = command();
            command.args(["-F", &name]).args(file.iter().flat_map(|file| ["-f", file]));
            let said = child::run(&command, b"", Instant::now() + TIME_LIMIT, MAX_OUTPUT, &Cancel::default());
            known.add(&said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default());
        }
        known
    }

    /// Adds the keys in what ssh-keygen prints: lines of a file of known hosts, and comments.
    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (marker, rest) = match line.split_once(' ') {
                Some((marker, rest)) if marker.starts_with('@') => (marker, rest),
                _ => ("", line),
            };
            let Some(Ok(key)) = rest.split_once(' ').map(|(_, key)| HostKey::parse(key)) else { continue };
            match marker {
                "" => self.keys.push(key),
                "@revoked" => self.revoked.push(key),
                _ => {} // an authority that signs host keys shows none itself
            }
        }
    }

    /// Returns the types of the keys.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(HostKey::algorithm)
    }

    /// Returns what is to be thought of `key`.
    pub fn judge(&self, key: &HostKey) -> Verdict {
        match () {
            () if self.revoked.contains(key) => Verdict::Revoked,
            () if self.keys.contains(key) => Verdict::Known,
            () if self.types().any(|known| known == key.algorithm()) => Verdict::Differs,
            () => Verdict::Unknown,
        }
    }
}

#[allow(clippy::disallowed_methods)] // ground::spawn starts it
fn command() -> Command {
    let mut command = Command::new("ssh-keygen");
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::KEY;

    #[test]
    fn a_key_is_known_differs_is_unknown_or_revoked() {
        let other = HostKey::of_nobody("ssh-ed25519");
        let rsa = HostKey::of_nobody("ssh-rsa");
        let judged = |text: &str| {
            let mut known = Known::default();
            known.add(text);
            [&HostKey::parse(KEY).unwrap(), &other, &rsa].map(|key| known.judge(key))
        };
        let line = format!("# Host w1 found: line 3 \n|1|abc=|def= {KEY}\n");
        assert_eq!(judged(&line), [Verdict::Known, Verdict::Differs, Verdict::Unknown]);
        assert_eq!(judged(""), [Verdict::Unknown; 3]);
        assert_eq!(judged(&format!("{line}@revoked w1 {KEY}\n"))[0], Verdict::Revoked);
        assert_eq!(judged(&format!("@cert-authority *.example {KEY}\n")), [Verdict::Unknown; 3]);
        assert_eq!(judged("w1 ssh-ed25519\nw1\n\nw1 ssh-ed25519 !!!\n"), [Verdict::Unknown; 3]);
    }
}
