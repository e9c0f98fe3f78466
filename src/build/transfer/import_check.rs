// SPDX-License-Identifier: GPL-3.0-or-later
//! Finding out whether a machine accepts this host's signatures, before much is sent.

use crate::build::local_guix::LocalGuix;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::machine::BuildMachine;
use crate::remote::Connection;

/// The item that the machine is asked to import: its name and its text.
const TEXT: (&str, &str) = ("offload-welcome", "Is what the host that offloads signs let in by this machine?");

/// Fails with [`ErrorKind::Untrusted`] if the machine does not accept this host's signatures. To find out, has the
/// machine import a small text, once per connection. Two round trips.
pub fn check_import_authorized(local: &LocalGuix, remote: &mut dyn Connection) -> Result<()> {
    if remote.has_imported() {
        return Ok(());
    }
    let (name, text) = TEXT;
    let bundle = local.bundle_of_text(name, text)?;
    remote.import(&mut &bundle[..]).map_err(|error| explain_refused(error, local, remote.machine()))
}

/// Explains why a daemon refuses to import: as a rule it does not know our key. Adds the command that authorizes it.
pub fn explain_refused(error: Error, local: &LocalGuix, machine: &BuildMachine) -> Error {
    explain(error, machine, &local.directories().configuration.join("signing-key.pub").display().to_string())
}

fn explain(error: Error, machine: &BuildMachine, key: &str) -> Error {
    let message = error.to_string();
    if error.kind() != ErrorKind::Daemon
        || !(message.contains("unauthorized public key") || message.contains("guix-authenticate"))
    {
        return error;
    }
    // The command is for root, since the user who builds may throttle change the list of keys.
    Error::new(ErrorKind::Untrusted, format!("it does not let in what this host signs: {message}"))
        .on_machine(&machine.name)
        .hint(format!("authorize this host's key there: {} guix archive --authorize < {key}", machine.shell("root")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn a_refused_key_comes_with_the_command_that_authorizes_it() {
        let refused = |machine: &BuildMachine, message: &str| {
            explain(Error::new(ErrorKind::Daemon, message), machine, "/etc/guix/signing-key.pub")
        };
        let builder = BuildMachine { user: "builder".into(), port: 2222, ..machine("w1") };
        let error = refused(&builder, "error: unauthorized public key: (public-key)");
        let hint = error.hint_text().unwrap();
        assert!(hint.ends_with("ssh -p 2222 root@w1 guix archive --authorize < /etc/guix/signing-key.pub"), "{hint}");
        assert_eq!((error.kind(), error.machine()), (ErrorKind::Untrusted, Some("w1")));
        let full = refused(&builder, "writing to file: No space left on device");
        assert_eq!((full.kind(), full.hint_text()), (ErrorKind::Daemon, None));
    }
}
