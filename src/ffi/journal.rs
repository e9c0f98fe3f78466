// SPDX-License-Identifier: GPL-3.0-or-later
//! The journal of this host's builds, and what they add up to.

use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::export;
use super::farm::guix_offload_report;
use super::handle::{self, Out};
use crate::ground::error::Result;
use crate::report::journal::file::{self, Kept};
use crate::report::journal::show;

export! {
    /// Reads the last `count` builds of this host, or if that is 0, all that the journal in the state directory of
    /// `engine` still has: some thousand. Each build that an engine was given is there once it is over: those of hooks,
    /// of the keeper, of jobs, and of the verbs. The report has text and JSON, and no machines. The caller frees
    /// `*report` with `guix_offload_report_free`.
    ///
    /// It tells when a build ended, its derivation and machine, what came of it and why, which machines failed it
    /// before, how long each phase took, and how many bytes were sent and received. The JSON is a line, an object whose
    /// member "schema" is 1 and whose member "builds" has an object for each build, the oldest first.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL, and with `GUIX_OFFLOAD_UNAVAILABLE` if the
    /// journal cannot be read. That there is none is no failure.
    pub fn guix_offload_journal_log(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        count: usize,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        make_report(report, engine, |kept| (show::log_text(kept, count), show::log_json(kept, count)))
    }
}

export! {
    /// Adds up the builds of this host, machine by machine, since its journal began: builds by what came of them,
    /// failures of the machine, bytes each way, time of each phase. Otherwise as `guix_offload_journal_log`. The member
    /// "machines" of the JSON has an object for each machine.
    pub fn guix_offload_journal_stats(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        make_report(report, engine, |kept| (show::stats_text(kept), show::stats_json(kept)))
    }
}

export! {
    /// Adds up the builds of this host as `guix_offload_journal_stats` does. The text of the report is what Prometheus
    /// reads, version 0.0.4 of its text format. No counter in it decreases, unless the journal is removed.
    pub fn guix_offload_journal_metrics(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        make_report(report, engine, |kept| (show::metrics(kept), show::stats_json(kept)))
    }
}

/// Reads the journal and hands the caller a report with what `describe` makes of it: text and JSON.
fn make_report(
    report: *mut *mut guix_offload_report,
    engine: *const guix_offload_engine,
    describe: impl FnOnce(&Kept) -> (String, String),
) -> Result<()> {
    let out = Out::new(report, "report")?;
    let engine = handle::borrow(engine, "engine")?.share();
    let (text, json) = describe(&file::read(&engine.directories().offload_state())?);
    out.give(guix_offload_report::with_texts(Vec::new(), &text, &json));
    Ok(())
}
