// SPDX-License-Identifier: GPL-3.0-or-later
//! What an administrator asks about machines, and tells of them, without connecting to any.

use std::ffi::c_char;
use std::path::Path;

use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::farm::guix_offload_report;
use super::handle::{self, Out};
use super::machines::guix_offload_machines;
use super::{export, string};
use crate::doors::farm::drain::{self, Answer};
use crate::doors::farm::explain::{self, Subject};
use crate::doors::farm::lint;
use crate::ground::directories::Directories;
use crate::ground::error::Result;
use crate::machine::BuildMachine;

export! {
    /// Drains the machine of `machines` that is called `name`: it gets no new builds, and finishes those that it has.
    /// If the same host is listed with several ports, `name` is "NAME:PORT". The machine stays drained until it is
    /// resumed, also after a reboot. The mark is in the state directory, where all hooks, jobs and keepers of this host
    /// see it at their next choice of a machine; Guix's own `guix offload` does not know it. The report is about that
    /// machine. The caller frees `*report` with `guix_offload_report_free`.
    ///
    /// A machine that was drained before is no failure. Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL
    /// or `name` is none of the machines, or several of them, and with `GUIX_OFFLOAD_STORE` if the mark cannot be
    /// written.
    pub fn guix_offload_farm_drain(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        name: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        mark(report, engine, machines, name, drain::drain)
    }
}

export! {
    /// Lets the machine of `machines` that is called `name` have builds again. Otherwise as `guix_offload_farm_drain`.
    pub fn guix_offload_farm_resume(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        name: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        mark(report, engine, machines, name, drain::resume)
    }
}

export! {
    /// Reports which of `machines` are drained, since when, and how many of their slots are still taken. The report is
    /// about these machines alone. The caller frees `*report` with `guix_offload_report_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
    pub fn guix_offload_farm_drained(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(report, "report")?;
        let engine = handle::borrow(engine, "engine")?.share();
        let machines = handle::borrow(machines, "machines")?.to_vec();
        out.give(drained_report(drain::list(engine.directories(), &machines)));
        Ok(())
    }
}

export! {
    /// Explains what would become of a build now, and what counts for and against each of `machines`. `what` is a
    /// derivation of the store, whose file says what it needs; or a system type, and then `features` are those that the
    /// build needs besides, separated by commas; NULL: none.
    ///
    /// The text and the JSON say what a build hook would answer to guix-daemon and why; and of each machine, those
    /// first that would be tried, in that order: slots, load, free space and memory as builds saw them last, the bytes
    /// of the derivation's inputs that it is not known to have and the time that sending them takes, for how long it is
    /// left alone and why, whether it is drained, and what it does not offer. Machines that are equal stand in the
    /// order of `machines`; a hook takes them by chance. A note of the report is something that counts against a
    /// machine. `guix_offload_report_failures` is 1 if the build would not be accepted.
    ///
    /// Connects to no machine. Asks the keeper, if one runs, for at most 5 s: it alone knows what machines have. The
    /// caller frees `*report` with `guix_offload_report_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer but `features` is NULL, or `what` is neither a system
    /// type nor a derivation that can be read, and with `GUIX_OFFLOAD_STORE` if the state directory cannot be used.
    pub fn guix_offload_farm_explain(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        what: *const c_char,
        features: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(report, "report")?;
        let engine = handle::borrow(engine, "engine")?.share();
        let machines = handle::borrow(machines, "machines")?.to_vec();
        let (what, features) = (string::required(what, "what")?, string::optional(features, "features")?);
        let subject = Subject::parse(&engine.directories().store, what, features.unwrap_or(""))?;
        let answer = explain::explain(engine, &machines, &subject)?;
        let failures = usize::from(!answer.is_offloaded);
        out.give(guix_offload_report::of(answer.reports, failures, &answer.text, &answer.json));
        Ok(())
    }
}

export! {
    /// Checks `machines`, as they were loaded from a file, without connecting to any: malformed entries, systems that
    /// Guix does not know, private keys that guix-daemon's user cannot read, machines that are listed twice for a
    /// system, have no slots or no systems, or are drained; and whether the guix-daemon that runs on this host uses
    /// this library, as the environment of its process says. Root sees that; another user may not.
    ///
    /// A note of the report is a problem of a machine. Malformed entries are no machines, so they are only in the text
    /// and the JSON. `guix_offload_report_failures` is the number of errors, which keep machines from being used. The
    /// caller frees `*report` with `guix_offload_report_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
    pub fn guix_offload_farm_check(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(report, "report")?;
        let engine = handle::borrow(engine, "engine")?.share();
        let machines = handle::borrow(machines, "machines")?;
        let (file, problems) = (machines.file_name(), machines.problems());
        let answer = lint::check(engine.directories(), &file, &machines.to_vec(), problems, Path::new("/proc"));
        out.give(guix_offload_report::of(answer.reports, answer.errors, &answer.text, &answer.json));
        Ok(())
    }
}

fn mark(
    report: *mut *mut guix_offload_report,
    engine: *const guix_offload_engine,
    machines: *const guix_offload_machines,
    name: *const c_char,
    act: fn(&Directories, &[BuildMachine], &str) -> Result<Answer>,
) -> Result<()> {
    let out = Out::new(report, "report")?;
    let engine = handle::borrow(engine, "engine")?.share();
    let machines = handle::borrow(machines, "machines")?.to_vec();
    let name = string::required(name, "name")?;
    out.give(drained_report(act(engine.directories(), &machines, name)?));
    Ok(())
}

fn drained_report(Answer { reports, text, json }: Answer) -> guix_offload_report {
    guix_offload_report::of(reports, 0, &text, &json)
}
