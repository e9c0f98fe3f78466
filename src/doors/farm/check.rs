// SPDX-License-Identifier: GPL-3.0-or-later
//! The checks of one machine that is connected.

use rustix::rand::{GetRandomFlags, getrandom};

use super::retrieve::retrieve_through_daemon;
use super::{MachineState, Note, Report};
use crate::build::local_guix::LocalGuix;
use crate::build::transfer;
use crate::choose::CLOCK_TOLERANCE;
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::{StorePath, base32};
use crate::machine::suitability::Unsuitable;
use crate::remote::{Remote, explain_untrusted};
use crate::report::NullObserver;

/// Asks the machine how it is doing. Changes nothing, but that a machine's first connection leaves a text in its store
/// (`src/remote/trust.rs`).
pub fn status(report: &mut Report, remote: &mut Remote, _: &Directories) -> Result<()> {
    look(report, remote)?;
    note_lack_of_space(report);
    Ok(())
}

fn look(report: &mut Report, remote: &mut Remote) -> Result<()> {
    report.state = Some(MachineState { probe: *remote.probe(), survey: remote.survey()? });
    note_oddities(report, remote);
    Ok(())
}

/// Notes that the store of the machine is almost full, which is no failure of what only looks.
fn note_lack_of_space(report: &mut Report) {
    if let Some(full @ Unsuitable::LowOnSpace { .. }) = report.unsuitable() {
        let text = format!("machine '{}' gets no builds now: {full}", report.machine.name);
        let hint = full.error(&report.machine).hint_text().map(str::to_string);
        report.notes.push(Note { text, hint });
    }
}

/// Checks that the machine has a usable Guix: sends it a small item, and retrieves another one from it. Leaves both, as
/// garbage, in the local store and in that of the machine.
pub fn test(report: &mut Report, remote: &mut Remote, directories: &Directories) -> Result<()> {
    look(report, remote)?;
    if let Some(full @ Unsuitable::LowOnSpace { .. }) = report.unsuitable() {
        return Err(full.error(&report.machine));
    }
    let name = report.machine.name.clone();
    let theirs = remote.add_text("import-test", &nonce(&name)?)?;
    report.checks_passed.push(format!("Guix is usable on '{name}' (test returned \"{theirs}\")"));
    let version = report.state.as_ref().map_or("", |state| &state.survey.guix_version);
    if !version.is_empty() {
        report.checks_passed.push(format!("'{name}' is running GNU Guix {version}"));
    }

    let mut local = LocalGuix::connect(directories, &Cancel::default())?;
    let host = rustix::system::uname();
    let ours = local.add_text("export-test", &nonce(&host.nodename().to_string_lossy())?)?;
    remote.add_temp_root(&ours)?;
    send(&mut local, remote, &ours, directories)?;
    report.checks_passed.push(format!("'{name}' successfully imported '{ours}'"));

    retrieve_through_daemon(directories, &mut local, remote, &theirs)
        .map_err(|error| explain_untrusted(error, &report.machine))?;
    report.checks_passed.push(format!("successfully imported '{theirs}' from '{name}'"));
    Ok(())
}

/// Notes problems that do not prevent builds.
fn note_oddities(report: &mut Report, remote: &Remote) {
    let unsuitable = report.unsuitable();
    let Some(state) = &report.state else { return };
    let name = &report.machine.name;
    let mut note = |text: String, hint: &str| {
        report.notes.push(Note { text, hint: Some(hint.to_string()).filter(|hint| !hint.is_empty()) });
    };
    if let Some(offset) = state.probe.clock_offset.filter(|offset| *offset < -CLOCK_TOLERANCE) {
        note(
            format!("machine '{name}' is {} seconds behind", offset.unsigned_abs()),
            "set its clock: files from here seem to come from the future there",
        );
    }
    if remote.is_relayed() {
        note(
            format!(
                "the SSH server of '{name}' does not forward sockets, so a Guile process relays there, which is slower"
            ),
            "allow it in sshd_config there: 'AllowStreamLocalForwarding yes', no 'DisableForwarding'; and no \
             'restrict' \
             before the key in authorized_keys",
        );
    }
    if state.survey.guix_version.is_empty() {
        note(
            format!(
                "'guix' is not in the PATH of non-interactive SSH sessions of user {} on '{name}'",
                report.machine.user
            ),
            "builds work, but large files may be sent slowly; set PATH in ~/.bashrc or with SetEnv in sshd_config \
             there",
        );
    }
    if let Some(busy) = unsuitable.filter(|unsuitable| !matches!(unsuitable, Unsuitable::LowOnSpace { .. })) {
        note(format!("machine '{name}' gets no builds now: {busy}"), "");
    }
}

/// Makes the machine import `item`, and checks that it did.
fn send(local: &mut LocalGuix, remote: &mut Remote, item: &StorePath, directories: &Directories) -> Result<()> {
    let machine = remote.machine().clone();
    transfer::import_files(local, remote, std::slice::from_ref(item), &mut NullObserver).map_err(
        |error| match error.kind() {
            ErrorKind::Daemon => {
                error.hint(format!("see what the daemon on '{}' says, and whether its store has space", machine.name))
            }
            ErrorKind::Store => error.hint(format!(
                "if this host has no key pair yet ('{}'), make one, as root: guix archive --generate-key",
                directories.configuration.join("signing-key.pub").display()
            )),
            _ => error,
        },
    )?;
    match remote.missing(std::slice::from_ref(item))?.is_empty() {
        true => Ok(()),
        false => {
            Err(Error::new(ErrorKind::Daemon, format!("'{item}' was not properly imported on '{}'", machine.name)))
        }
    }
}

/// Returns a text that was in no store before, so that an item with it has to be sent.
fn nonce(name: &str) -> Result<String> {
    let mut random = [0u8; 20];
    getrandom(&mut random, GetRandomFlags::empty()).io_context(ErrorKind::Internal, || "asking for random bytes")?;
    Ok(format!("{name}-{}", base32(&random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_almost_full_is_noted_with_what_to_do() {
        let mut reports = crate::doors::farm::tests::reports();
        reports.iter_mut().for_each(super::note_lack_of_space);
        let [_, full, away] = &reports[..] else { panic!("three machines") };
        let note = full.notes.last().expect("a note");
        assert_eq!(note.text, "machine 'full' gets no builds now: it is low on disk space (1.0 MiB free)");
        assert!(note.hint.as_ref().is_some_and(|hint| hint.ends_with("@full guix gc -F 1G")), "{:?}", note.hint);
        assert!(full.failure.is_none() && away.notes.is_empty());
    }

    #[test]
    fn no_two_nonces_are_the_same() {
        assert_ne!(nonce("h").unwrap(), nonce("h").unwrap());
    }
}
