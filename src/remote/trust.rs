// SPDX-License-Identifier: GPL-3.0-or-later
//! Checks whether the key that a machine signs with is authorized here, before the machine builds anything.

use std::sync::Arc;

use super::Remote;
use crate::archive::{self, Acl, ExportedItem, NullVisitor};
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::machine::BuildMachine;
use crate::store;

/// The name and the contents of the item that a machine exports for this check. They are the same for all machines, so
/// the item's store file name is known before the item is there.
pub const TEXT: (&str, &str) = ("offload-trust", "Is what this machine signs let in by the one that offloads to it?");

/// The item that a machine exported to show whether it is trusted.
pub(super) struct Proof(ExportedItem);

impl Remote {
    /// Lets a request to export the text travel with the next request, unless the machine was asked for it already. As
    /// a rule, it was asked in the flight of the greeting.
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

    /// Keeps the export, or the reason why it failed, once it has come.
    pub(super) fn note_proof(&mut self) {
        let exported = self.link.client.take_exported();
        if let Some(exported) = exported.filter(|_| std::mem::take(&mut self.link.proves)) {
            self.proof = Some(exported.and_then(|bytes| self.read_proof(&bytes)));
        }
    }

    /// Fails with [`ErrorKind::Untrusted`] if this host accepts no archive of the machine: it has no signing key, or
    /// `acl` does not authorize the key. To show its key, the machine exports a text, once a connection. That costs a
    /// round trip only if no question was asked before.
    ///
    /// This check saves builds that would be in vain. Each output has a signature of its own, which is verified later.
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

/// Explains `error` if the daemon could not sign: its message then names the key's file.
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

/// Adds the command that authorizes the machine's key here, if `error` is [`ErrorKind::Untrusted`].
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
