// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether what a machine signs would be let in, found out before it builds anything.

use std::io::Read as _;
use std::sync::Arc;

use super::Remote;
use crate::archive::{self, Acl, ExportedItem, Unseen};
use crate::ground::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;

/// Largest item by which it is found out, as an archive in bytes: no derivation is as large.
const MAX_ITEM: u64 = 64 << 20;

/// The item by which it is found out where there is no derivation: its name, and what it says.
const TEXT: (&str, &str) = ("offload-trust", "Is what this machine signs let in by the one that offloads to it?");

impl Remote {
    /// Fails with [`ErrorKind::Untrusted`] if no archive of the machine can be brought in: it has no signing key, or
    /// one that `acl` does not authorize. To see that, it exports `item`, a small one that it has; once a connection,
    /// as long as the list of keys stays the same.
    pub fn require_trust(&mut self, acl: &Arc<Acl>, item: &StorePath) -> Result<()> {
        if self.vouched.as_ref().is_some_and(|known| known == acl) {
            return Ok(());
        }
        let asked = self.ask_for(item).map_err(|error| without_a_key(error, &self.machine)).and_then(|found| {
            archive::verify(found.signature.as_deref(), &found.signed_hash, acl, &found.path)
                .map_err(|error| explain_untrusted(error, &self.machine))?;
            match found.path == *item {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Untrusted, format!("{} came instead of it", found.path))),
            }
        });
        let asking = || format!("seeing by '{item}' whether what '{}' signs is trusted", self.machine.name);
        asked.context(asking).map_err(|error| self.on_this_machine(error))?;
        self.vouched = Some(Arc::clone(acl));
        Ok(())
    }

    /// As [`Remote::require_trust`], by a text that is added there, always the same.
    pub fn require_trust_by_text(&mut self, acl: &Arc<Acl>) -> Result<()> {
        let (name, text) = TEXT;
        let item = self.add_text(name, text)?;
        self.require_trust(acl, &item)
    }

    /// Makes the machine export `item`, and reads that to its end.
    fn ask_for(&mut self, item: &StorePath) -> Result<ExportedItem> {
        let store = self.store.clone();
        let mut archive = self.export(item)?;
        let found = archive::read_item(&mut (&mut archive).take(MAX_ITEM), &store, &mut Unseen)?;
        // What the daemon says after it: that it is complete.
        match archive.read(&mut [0; 1]).io_context(ErrorKind::Protocol, || "reading on after it")? {
            0 => Ok(found),
            _ => Err(Error::new(ErrorKind::Protocol, "bytes came after it")),
        }
    }
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
