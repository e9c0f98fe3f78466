// SPDX-License-Identifier: GPL-3.0-or-later
//! The exchange of signing keys with a machine: each of the two accepts what the other one signs.

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Report, TIME_LIMIT, check, connect, examine, text};
use crate::archive::{Acl, PublicKey};
use crate::ground::cancel::Cancel;
use crate::ground::child;
use crate::ground::directories::Directories;
use crate::ground::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::machine::BuildMachine;
use crate::remote::Remote;
use crate::report::json::document_of;
use crate::report::lines::PREFIX;

/// Time limit for a `guix archive --authorize`, here or there, and for reading a file there.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Most that is read of what `guix archive --authorize` prints, in bytes.
const MAX_OUTPUT: usize = 64 << 10;

/// Most that is read of this host's public key, in bytes.
const MAX_KEY: u64 = 64 << 10;

/// Where a `guix` may be that is not in the `PATH` of a session without a terminal.
const GUIX_PLACES: &str = "/run/current-system/profile/bin:/var/guix/profiles/per-user/root/current-guix/bin";

/// The signing keys of this host and of a machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    ours: PublicKey,
    theirs: PublicKey,
}

/// Keys, and who accepts which.
struct Exchange {
    machine: BuildMachine,
    keys: Keys,
    /// Whether the machine accepts ours, as far as its list can be read.
    accepted_there: bool,
    accepted_here: bool,
}

/// What came of an exchange.
pub struct Outcome {
    /// The report of the test that followed, or if nothing was done, one that fails if something is to be done.
    pub report: Report,
    exchange: Exchange,
    /// What was done, and what could not be done, in lines.
    said: String,
    tested: bool,
}

/// Reads both keys and who accepts which. Changes nothing.
pub fn look(directories: &Directories, machine: &BuildMachine, cancel: &Cancel) -> Result<Outcome> {
    let exchange = Exchange::of(directories, machine, cancel)?;
    let mut report = Report::new(machine.clone(), directories);
    if !(exchange.accepted_here && exchange.accepted_there) {
        let error = Error::new(ErrorKind::Untrusted, "the keys are not exchanged yet").on_machine(&machine.name);
        report.failure = Some(error);
    }
    Ok(Outcome { report, exchange, said: String::new(), tested: false })
}

/// Has each of the two accept the other one's key, unless it does already, and then tests the machine. What could not
/// be done is said in the text, with the command that does it. Fails if the keys are not those that were `confirmed`.
/// If it is cancelled, one of the two may accept the other one's key already.
pub fn authorize(
    directories: &Directories,
    machine: &BuildMachine,
    confirmed: &Keys,
    cancel: &Cancel,
) -> Result<Outcome> {
    let mut exchange = Exchange::of(directories, machine, cancel)?;
    if exchange.keys != *confirmed {
        let message = format!("the keys of this host and '{}' are not those that were confirmed", machine.name);
        return Err(Error::new(ErrorKind::Untrusted, message).on_machine(&machine.name));
    }
    let mut said = String::new();
    let name = &machine.name;
    if !exchange.accepted_there {
        match exchange.authorize_there(directories, cancel) {
            Ok(()) => tell(&mut said, &format!("'{name}' accepts what this host signs"), None),
            Err(error) => tell(&mut said, &format!("error: {error}"), error.hint_text()),
        }
    }
    if !exchange.accepted_here {
        match exchange.authorize_here(directories, cancel) {
            Ok(()) => tell(&mut said, &format!("this host accepts what '{name}' signs"), None),
            Err(error) => tell(&mut said, &format!("error: {error}"), error.hint_text()),
        }
    }
    let reports =
        examine(directories, std::slice::from_ref(machine), TIME_LIMIT, check::test, cancel, &mut |_| Ok(()))?;
    said += &text::test(&reports);
    let report = reports.into_iter().next();
    let report = report.ok_or_else(|| Error::new(ErrorKind::Internal, "a machine was not tested"))?;
    Ok(Outcome { report, exchange, said, tested: true })
}

fn tell(said: &mut String, message: &str, hint: Option<&str>) {
    writeln!(said, "{PREFIX}{message}").unwrap_or_default();
    hint.iter().for_each(|hint| writeln!(said, "hint: {hint}").unwrap_or_default());
}

impl Exchange {
    fn of(directories: &Directories, machine: &BuildMachine, cancel: &Cancel) -> Result<Self> {
        let ours = our_key(directories)?;
        let (remote, _guard) = connect(directories, machine, cancel)?;
        let reading = || format!("reading the signing key of '{}', /etc/guix/signing-key.pub", machine.name);
        let theirs = remote.run("cat /etc/guix/signing-key.pub", COMMAND_LIMIT)?;
        let theirs = PublicKey::parse(theirs.as_bytes()).context(reading).map_err(|error| {
            error.on_machine(&machine.name).hint(format!(
                "if it has no key pair yet, make it one, as root: {} guix archive --generate-key",
                machine.shell("root")
            ))
        })?;
        let accepted_here = match Acl::load(&directories.acl_file()) {
            Ok(acl) => acl.authorizes(&theirs),
            Err(_) if !directories.acl_file().exists() => false,
            Err(error) => return Err(error),
        };
        let accepted_there = is_accepted_there(&remote, &ours)?;
        Ok(Exchange { machine: machine.clone(), keys: Keys { ours, theirs }, accepted_there, accepted_here })
    }

    fn authorize_there(&mut self, directories: &Directories, cancel: &Cancel) -> Result<()> {
        let (remote, _guard) = connect(directories, &self.machine, cancel)?;
        // A key is printed without anything that a shell could take for something else.
        let program = format!(
            "PATH=$PATH:{GUIX_PLACES}\nguix archive --authorize 2>&1 <<'END-OF-KEY'\n{}\nEND-OF-KEY\n",
            self.keys.ours
        );
        let said = remote.run(&program, COMMAND_LIMIT)?;
        self.accepted_there = is_accepted_there(&remote, &self.keys.ours)?;
        if self.accepted_there {
            return Ok(());
        }
        let BuildMachine { name, user, .. } = &self.machine;
        let key = directories.configuration.join("signing-key.pub");
        let sudo = if user == "root" { "" } else { "sudo " };
        Err(self.failed(format!("user {user} cannot authorize this host's key on '{name}'"), &said).hint(format!(
            "as a user who may write /etc/guix/acl there: {} {sudo}guix archive --authorize < {}",
            self.machine.shell(user),
            key.display()
        )))
    }

    fn authorize_here(&mut self, directories: &Directories, cancel: &Cancel) -> Result<()> {
        let key = format!("{}\n", self.keys.theirs);
        let finished =
            child::run(&command(directories), key.as_bytes(), Instant::now() + COMMAND_LIMIT, MAX_OUTPUT, cancel);
        let said = match finished {
            Ok(finished) => String::from_utf8_lossy(&finished.stdout).into_owned() + &finished.stderr,
            Err(error) => format!("running guix: {error}"),
        };
        self.accepted_here = Acl::load(&directories.acl_file()).is_ok_and(|acl| acl.authorizes(&self.keys.theirs));
        if self.accepted_here {
            return Ok(());
        }
        let fetch = format!("{} cat /etc/guix/signing-key.pub", self.machine.shell(&self.machine.user));
        let message = format!("the key of '{}' cannot be authorized here", self.machine.name);
        Err(self.failed(message, &said).hint(format!("as root: {fetch} | guix archive --authorize")))
    }

    fn failed(&self, message: String, said: &str) -> Error {
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
        let message = last.map(|last| format!("{message}: {last}")).unwrap_or(message);
        Error::new(ErrorKind::Untrusted, message).on_machine(&self.machine.name)
    }
}

fn our_key(directories: &Directories) -> Result<PublicKey> {
    use std::io::Read;
    let file = directories.configuration.join("signing-key.pub");
    let reading = || format!("reading this host's signing key, {}", file.display());
    let hint = "make this host a key pair, as root: guix archive --generate-key";
    let mut text = Vec::new();
    std::fs::File::open(&file)
        .and_then(|opened| opened.take(MAX_KEY).read_to_end(&mut text))
        .io_context(ErrorKind::Store, reading)
        .map_err(|error| error.hint(hint))?;
    PublicKey::parse(&text).context(reading).map_err(|error| error.hint(hint))
}

/// Returns whether the machine's list has `key`. A list that cannot be read has none.
fn is_accepted_there(remote: &Remote, key: &PublicKey) -> Result<bool> {
    let list = remote.run("cat /etc/guix/acl 2>/dev/null", COMMAND_LIMIT)?;
    Ok(Acl::parse("/etc/guix/acl".as_ref(), list.as_bytes()).is_ok_and(|acl| acl.authorizes(key)))
}

#[allow(clippy::disallowed_methods)] // ground::spawn starts it
fn command(directories: &Directories) -> Command {
    let named = std::env::var_os("GUIX_OFFLOAD_GUIX").filter(|name| !name.is_empty());
    let mut command = Command::new(named.unwrap_or_else(|| "guix".into()));
    command.args(["archive", "--authorize"]).envs(std::env::vars_os()).envs(directories.variables());
    command
}

impl Outcome {
    /// Returns the keys, for [`authorize`] once they are confirmed.
    pub fn keys(&self) -> &Keys {
        &self.exchange.keys
    }

    /// Returns it for people: both keys if nothing was done, else what was done and what the test says.
    pub fn text(&self) -> String {
        if self.tested {
            return self.said.clone();
        }
        let Exchange { machine, keys: Keys { ours, theirs }, accepted_there, accepted_here } = &self.exchange;
        let name = &machine.name;
        let state = |accepted: &bool| if *accepted { "authorized" } else { "not authorized yet" };
        format!(
            "key of this host, {} on '{name}':\n{ours}\n\nkey of '{name}', {} here:\n{theirs}\n",
            state(accepted_there),
            state(accepted_here)
        )
    }

    /// Returns it as a line of JSON:
    ///
    /// ```text
    /// {"schema": 1, "name": ..., "ourKey": ..., "theirKey": ..., "authorizedThere": ..., "authorizedHere": ...,
    ///  "tested": ..., "error": ..., "hint": ...}
    /// ```
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            name: &'a str,
            our_key: String,
            their_key: String,
            authorized_there: bool,
            authorized_here: bool,
            tested: bool,
            error: Option<String>,
            hint: Option<&'a str>,
        }
        let Exchange { machine, keys: Keys { ours, theirs }, accepted_there, accepted_here } = &self.exchange;
        let document = Document {
            name: &machine.name,
            our_key: ours.to_string(),
            their_key: theirs.to_string(),
            authorized_there: *accepted_there,
            authorized_here: *accepted_here,
            tested: self.tested,
            error: self.report.failure.as_ref().map(Error::to_string),
            hint: self.report.failure.as_ref().and_then(Error::hint_text),
        };
        document_of(&document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::farm::tests::reports;
    use crate::machine::tests::machine;

    fn key(curve: &str) -> PublicKey {
        PublicKey::parse(format!("(public-key (ecc (curve {curve}) (q #AB#)))").as_bytes()).unwrap()
    }

    fn outcome(accepted_there: bool, accepted_here: bool) -> Outcome {
        let (ours, theirs) = (key("Ed25519"), key("Ours"));
        let exchange = Exchange { machine: machine("w1"), keys: Keys { ours, theirs }, accepted_there, accepted_here };
        Outcome { report: reports().remove(2), exchange, said: "said\n".into(), tested: false }
    }

    #[test]
    fn both_keys_are_shown_with_who_accepts_them() {
        let text = outcome(true, false).text();
        let there = "key of this host, authorized on 'w1':\n(public-key";
        assert!(text.starts_with(there) && text.contains("\nkey of 'w1', not authorized yet here:\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&outcome(false, true).json()).unwrap();
        assert_eq!(
            (&json["schema"], &json["authorizedThere"], &json["authorizedHere"]),
            (&1.into(), &false.into(), &true.into())
        );
        assert!(json["theirKey"].as_str().unwrap().contains("Ours") && json["error"].is_string());
        assert_eq!(Outcome { tested: true, ..outcome(true, true) }.text(), "said\n");
    }

    #[test]
    fn what_is_to_be_done_about_the_error_is_in_the_json_too() {
        let mut outcome = outcome(true, true);
        let full = Error::new(ErrorKind::Unavailable, "it is low on disk space").hint("free some space there");
        outcome.report.failure = Some(full);
        let json: serde_json::Value = serde_json::from_str(&outcome.json()).unwrap();
        assert_eq!(
            (&json["error"], &json["hint"]),
            (&"it is low on disk space".into(), &"free some space there".into())
        );
        outcome.report.failure = None;
        let json: serde_json::Value = serde_json::from_str(&outcome.json()).unwrap();
        assert!(json["error"].is_null() && json.get("hint").is_some_and(|hint| hint.is_null()), "{json}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "(private-key (ecc))", "nonsense", "<html>"] {
            assert!(PublicKey::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn without_a_key_here_the_machine_is_not_even_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let directories = crate::ground::directories::tests::below(scratch.path());
        let error = look(&directories, &machine("w1"), &Cancel::default()).err().unwrap();
        assert!(error.hint_text().unwrap().contains("guix archive --generate-key"), "{error}");
    }
}
