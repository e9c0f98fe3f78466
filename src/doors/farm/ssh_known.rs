// SPDX-License-Identifier: GPL-3.0-or-later
//! The host keys that ssh knows, as `ssh-keygen -F` finds them: also under hashed names.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::ground::cancel::Cancel;
use crate::ground::child::{self, Stopped};
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
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
    /// Asks ssh-keygen. Where there is none, no key is known. Fails if it has not said all: the rest may revoke a key.
    pub fn of(machine: &BuildMachine, cancel: &Cancel) -> Result<Self> {
        let name = name_of(machine);
        let mut known = Known::default();
        for file in [None, Some(GLOBAL_FILE)] {
            let mut command = command();
            command.args(["-F", &name]).args(file.iter().flat_map(|file| ["-f", file]));
            known.add(&said(&command, &name, TIME_LIMIT, cancel)?);
        }
        Ok(known)
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

/// Returns the name under which ssh knows `machine`.
pub fn name_of(machine: &BuildMachine) -> String {
    match machine.port {
        BuildMachine::DEFAULT_PORT => machine.name.clone(),
        port => format!("[{}]:{port}", machine.name),
    }
}

/// Returns all that `command` prints about the host `name`, nothing if there is no such program.
fn said(command: &Command, name: &str, limit: Duration, cancel: &Cancel) -> Result<String> {
    let asking = || format!("asking ssh-keygen which host keys '{name}' has");
    let said = match child::run(command, b"", Instant::now() + limit, MAX_OUTPUT, cancel) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        said => said.io_context(ErrorKind::Configuration, asking)?,
    };
    cancel.check()?;
    let why = match said.stopped {
        None => return Ok(String::from_utf8_lossy(&said.stdout).into_owned()),
        Some(Stopped::TookTooLong) => "it takes too long",
        Some(Stopped::PrintedTooMuch) => "it prints too much",
        Some(Stopped::Cancelled) => "it was cancelled",
    };
    Err(Error::new(ErrorKind::Configuration, format!("{}: {why}", asking()))
        .hint(format!("see what it does: ssh-keygen -F '{name}'")))
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

    #[test]
    #[allow(clippy::disallowed_methods)] // ground::spawn starts them
    fn half_of_an_answer_is_none() {
        let mut slow = Command::new("sleep");
        slow.arg("60");
        let error = |command: &Command, limit| said(command, "w1", limit, &Cancel::default()).unwrap_err().to_string();
        assert!(error(&slow, Duration::from_millis(50)).ends_with("'w1' has: it takes too long"));
        assert!(error(&Command::new("yes"), TIME_LIMIT).ends_with("'w1' has: it prints too much"));
        assert_eq!(said(&Command::new("/nonexistent/ssh-keygen"), "w1", TIME_LIMIT, &Cancel::default()).unwrap(), "");
    }
}
