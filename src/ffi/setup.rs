// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that are new: described, and made to exchange keys with this host.

use std::ffi::c_char;
use std::ptr::null;

use super::cancellation::{cancel_of, guix_offload_cancellation};
use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::export;
use super::farm::guix_offload_report;
use super::handle::{self, Out};
use super::machine::guix_offload_machine;
use super::string;
use crate::doors::farm::authorize;
use crate::doors::farm::scan::{self, Question};
use crate::ground::error::{Error, ErrorKind, Result};

export! {
    /// Connects to a machine that no machine file has yet, and makes a form for the machine file of what it finds. The
    /// report has one machine; its text is the form in Scheme, with comments. `host` is "HOST" or "HOST:PORT", an IPv6
    /// address in brackets. `user` is the account to log in to, NULL for root.
    ///
    /// Nothing is sent to the machine, and nobody logs in, before its host key is confirmed: ssh knows the machine
    /// under that key (`ssh-keygen -F`), or `accepted`, which may be NULL, is its fingerprint, "SHA256:...". If the key
    /// is not confirmed, the report's form has only what the server shows to everybody, and the machine counts as
    /// failed, with a hint on how to go on. `private_key` is the file to log in with; if it is NULL, those that the
    /// machine file names are tried, and then `~/.ssh/id_ed25519` and `~/.ssh/id_rsa`. If logging in fails, the machine
    /// counts as failed, too. The caller frees `*report` with `guix_offload_report_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `report`, `engine` or `host` is NULL, or a text is malformed, with
    /// `GUIX_OFFLOAD_UNAVAILABLE` if the server does not answer, and with `GUIX_OFFLOAD_HOST_KEY` if its key is not the
    /// one that is accepted, is not the one that ssh knows, or is revoked.
    pub fn guix_offload_scan(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        host: *const c_char,
        user: *const c_char,
        accepted: *const c_char,
        private_key: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        scan_machine(report, engine, [host, user, accepted, private_key], null())
    }
}

export! {
    /// Describes a machine as `guix_offload_scan`. `cancellation` may be NULL; otherwise it stops this call, which then
    /// fails with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_scan_cancellable(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        host: *const c_char,
        user: *const c_char,
        accepted: *const c_char,
        private_key: *const c_char,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        scan_machine(report, engine, [host, user, accepted, private_key], cancellation)
    }
}

fn scan_machine(
    report: *mut *mut guix_offload_report,
    engine: *const guix_offload_engine,
    [host, user, accepted, private_key]: [*const c_char; 4],
    cancellation: *const guix_offload_cancellation,
) -> Result<()> {
    let out = Out::new(report, "report")?;
    let engine = handle::borrow(engine, "engine")?.share();
    let question = Question {
        host: string::required(host, "host")?.into(),
        user: string::optional(user, "user")?.map(Into::into),
        accepted: string::optional(accepted, "accepted")?.map(Into::into),
        private_key: string::optional(private_key, "private_key")?.map(Into::into),
    };
    let scan = scan::scan(engine.directories(), &question, &cancel_of(cancellation))?;
    let (text, json) = (scan.text(), scan.json());
    out.give(guix_offload_report::with_texts(vec![scan.report], &text, &json));
    Ok(())
}

export! {
    /// Exchanges signing keys with `machine`, so that each of the two accepts what the other one signs.
    ///
    /// If `confirmed` is NULL, changes nothing: the report's text shows both keys and who accepts which. The machine
    /// counts as failed if something is to be done. Once the user has confirmed the keys, the caller calls this again
    /// with that report as `confirmed`. Then runs `guix archive --authorize` there, as the machine's user, and here,
    /// where that is needed, and tests the machine as `guix_offload_farm_test` does. The text of the new report says
    /// what was done, which command does what could not be done, and what the test says. To do it again does no harm.
    /// Blocks for some minutes at most. The caller frees `*report` with `guix_offload_report_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `report`, `engine` or `machine` is NULL or `confirmed` shows no
    /// keys; with `GUIX_OFFLOAD_STORE` if this host has no signing key; with `GUIX_OFFLOAD_UNTRUSTED` if the machine
    /// has none, or the keys are not those that `confirmed` shows; and if the machine cannot be connected to, as
    /// `guix_offload_connect` does.
    pub fn guix_offload_authorize(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machine: *const guix_offload_machine,
        confirmed: *const guix_offload_report,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        authorize_each_other(report, engine, machine, confirmed, null())
    }
}

export! {
    /// Exchanges signing keys as `guix_offload_authorize`. `cancellation` may be NULL; otherwise it stops this call,
    /// which then fails with `GUIX_OFFLOAD_CANCELLED`. One of the two may accept the other one's key by then.
    pub fn guix_offload_authorize_cancellable(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machine: *const guix_offload_machine,
        confirmed: *const guix_offload_report,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        authorize_each_other(report, engine, machine, confirmed, cancellation)
    }
}

fn authorize_each_other(
    report: *mut *mut guix_offload_report,
    engine: *const guix_offload_engine,
    machine: *const guix_offload_machine,
    confirmed: *const guix_offload_report,
    cancellation: *const guix_offload_cancellation,
) -> Result<()> {
    let out = Out::new(report, "report")?;
    let engine = handle::borrow(engine, "engine")?.share();
    let machine = handle::borrow(machine, "machine")?.description();
    let cancel = cancel_of(cancellation);
    let no_keys = || Error::new(ErrorKind::InvalidArgument, "argument 'confirmed' shows no keys");
    let outcome = match handle::look(confirmed, None, Some) {
        None => authorize::look(engine.directories(), machine, &cancel)?,
        Some(confirmed) => {
            let keys = confirmed.keys.as_ref().ok_or_else(no_keys)?;
            authorize::authorize(engine.directories(), machine, keys, &cancel)?
        }
    };
    let (text, json, keys) = (outcome.text(), outcome.json(), outcome.keys().clone());
    let mut report = guix_offload_report::with_texts(vec![outcome.report], &text, &json);
    report.keys = Some(keys);
    out.give(report);
    Ok(())
}
