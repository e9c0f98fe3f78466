// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether what a machine signs would be let in, found out before it builds anything.

use std::sync::Arc;

use super::Remote;
use crate::archive::{self, Acl, ExportedItem, NullVisitor};
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::machine::BuildMachine;
use crate::store;

/// The name of the item by which it is found out, and what it says: the same on all machines, so that its name in the
/// store is known before it is there.
pub const TEXT: (&str, &str) = ("offload-trust", "Is what this machine signs let in by the one that offloads to it?");

/// What a machine has exported, to be seen whether it is trusted.
pub(super) struct Proof(ExportedItem);

impl Remote {
    /// Has the machine export a text, which travels with the next question, unless it was asked for that already, as it
    /// is along with the greeting.
    pub(super) fn ask_for_proof(&mut self) -> Result<()> {
        if self.proof.is_some() || self.link.proves {
            return Ok(());
        }
        let (name, text) = TEXT;
        let (path, _) = store::text_item(&self.store, name, text)?;
        self.link.client.export_text_later(name, text, &path)?;
        self.link.proves = true;
        Ok(())
    }

    /// Takes note of what it has exported.
    pub(super) fn note_proof(&mut self) {
        let exported = self.link.client.take_exported();
        if let Some(exported) = exported.filter(|_| std::mem::take(&mut self.link.proves)) {
            self.proof = Some(exported.and_then(|bytes| self.read_proof(&bytes)));
        }
    }

    /// Fails with [`ErrorKind::Untrusted`] if no archive of the machine can be brought in: it has no signing key, or
    /// one that `acl` does not authorize. To see that, it exports a text, once a connection. That costs a round trip
    /// only if nothing was asked of it yet.
    ///
    /// This spares builds that would be for nothing. Whether an output is let in, its own signature decides.
    pub fn require_trust(&mut self, acl: &Arc<Acl>) -> Result<()> {
        if self.proof.is_none() {
            self.be_patient();
            self.ask_for_proof()
                .and_then(|()| self.link.client.settle())
                .context(|| asking(&self.machine))
                .map_err(|error| self.on_this_machine(error))?;
            self.note_proof();
        }
        let verified = match &self.proof {
            Some(Ok(Proof(item))) => archive::verify(item.signature.as_deref(), &item.signed_hash, acl, &item.path)
                .map_err(|error| explain_untrusted(error, &self.machine)),
            Some(Err(error)) => Err(without_a_key(error.clone(), &self.machine)),
            None => Err(Error::new(ErrorKind::Protocol, "it has exported nothing")),
        };
        if verified.is_err() && !matches!(self.proof, Some(Ok(_))) {
            self.proof = None; // it may have a key by the next time
        }
        verified.context(|| asking(&self.machine)).map_err(|error| self.on_this_machine(error))
    }

    fn read_proof(&self, bytes: &[u8]) -> Result<Proof> {
        let mut left = bytes;
        let item = archive::read_item(&mut left, &self.store, &mut NullVisitor)?;
        let (path, _) = store::text_item(&self.store, TEXT.0, TEXT.1)?;
        match (left.is_empty(), item.path == path) {
            (true, true) => Ok(Proof(item)),
            (false, _) => Err(Error::new(ErrorKind::Protocol, "bytes came after it")),
            (_, false) => Err(Error::new(ErrorKind::Untrusted, format!("{} came instead of it", item.path))),
        }
    }
}

fn asking(machine: &BuildMachine) -> String {
    format!("seeing by a text, '{}', whether what '{}' signs is trusted", TEXT.0, machine.name)
}

/// A daemon that cannot sign says so in the words of who tried: they name the file of the key.
fn without_a_key(error: Error, machine: &BuildMachine) -> Error {
    if error.kind() != ErrorKind::Daemon || !error.to_string().contains("signing-key.sec") {
        return error;
    }
    Error::new(ErrorKind::Untrusted, format!("it cannot sign what it exports: {error}")).hint(format!(
        "see that its daemon can read its key pair; if it has none, make it one, as root: {} guix archive \
         --generate-key; and authorize that key here",
        machine.shell("root")
    ))
}

/// Adds the command that authorizes the machine's key here.
pub fn explain_untrusted(error: Error, machine: &BuildMachine) -> Error {
    if error.kind() != ErrorKind::Untrusted {
        return error;
    }
    let fetch = format!("{} cat /etc/guix/signing-key.pub", machine.shell(&machine.user));
    Error::new(error.kind(), error.to_string()).hint(format!(
        "if you trust '{}', authorize its key here, as root: {fetch} | guix archive --authorize",
        machine.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn a_key_that_is_unknown_here_comes_with_the_command_that_authorizes_it() {
        let error = Error::new(ErrorKind::Untrusted, "by a stranger").hint("a general one");
        let hint = explain_untrusted(error, &machine("w1")).hint_text().unwrap().to_string();
        assert!(hint.ends_with("ssh root@w1 cat /etc/guix/signing-key.pub | guix archive --authorize"), "{hint}");
    }

    #[test]
    fn a_machine_that_cannot_sign_is_told_apart_from_one_that_lacks_the_item() {
        let why = "getting attributes of path `/etc/guix/signing-key.sec': No such file or directory";
        let error = without_a_key(Error::new(ErrorKind::Daemon, why), &machine("w1"));
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        assert!(error.hint_text().unwrap().contains("ssh root@w1 guix archive --generate-key"), "{error}");
        let gone = Error::new(ErrorKind::Daemon, "path `/gnu/store/x' is not valid");
        assert_eq!(without_a_key(gone, &machine("w1")).kind(), ErrorKind::Daemon);
    }
}
