// SPDX-License-Identifier: GPL-3.0-or-later
//! All machines at once: tested, or asked how they are.

use std::ffi::{CString, c_char};
use std::ptr::null;
use std::time::Duration;

use super::cancellation::{cancel_of, guix_offload_cancellation};
use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::export;
use super::handle::{self, Out};
use super::machine::guix_offload_machine;
use super::machines::guix_offload_machines;
use super::string::{for_c, or_null};
use crate::doors::farm::{self, MachineState, Report, json, text};
use crate::doors::keeper;
use crate::doors::keeper::activity::KeeperReport;
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::Result;
use crate::machine::BuildMachine;
use crate::report::lines;

/// A report about machines, each of which has an index, counted from 0. It does not change: any number of threads may
/// read it. Everything that the functions below return lives as long as the report.
///
/// If there is no machine with the index, the functions below return NULL, 0, or what they return for a value that is
/// not known.
pub struct guix_offload_report {
    machines: Vec<Entry>,
    text: CString,
    json: CString,
}

/// What was found out about one machine, as C sees it.
struct Entry {
    report: Report,
    machine: guix_offload_machine,
    error: Option<guix_offload_error>,
    passed: Vec<CString>,
    notes: Vec<(CString, Option<CString>)>,
    kernel: Option<CString>,
    architecture: Option<CString>,
    host_name: Option<CString>,
    guix_version: Option<CString>,
    state: CString,
}

impl guix_offload_report {
    /// Takes reports on machines, and one on the keeper if there is one. `text` is for people.
    pub(super) fn new(reports: Vec<Report>, keeper: Option<&KeeperReport>, text: &str) -> Self {
        let json = for_c(&json::report(&reports, keeper));
        guix_offload_report { machines: reports.into_iter().map(Entry::new).collect(), text: for_c(text), json }
    }
}

impl Entry {
    fn new(report: Report) -> Self {
        let said = |text: fn(&MachineState) -> &String| {
            report.state.as_ref().map(text).filter(|text| !text.is_empty()).map(|text| for_c(text))
        };
        Entry {
            machine: guix_offload_machine::new(report.machine.clone()),
            error: report.failure.clone().map(Into::into),
            passed: report.checks_passed.iter().map(|text| for_c(text)).collect(),
            notes: report.notes.iter().map(|note| (for_c(&note.text), note.hint.as_deref().map(for_c))).collect(),
            kernel: said(|state| &state.survey.kernel),
            architecture: said(|state| &state.survey.architecture),
            host_name: said(|state| &state.survey.host_name),
            guix_version: said(|state| &state.survey.guix_version),
            state: for_c(text::state(&report)),
            report,
        }
    }
}

export! {
    /// Tests all `machines` at the same time, each of them once. A test checks that the machine can be connected to,
    /// has a Guix that works, imports what this host signs, and signs what this host imports. It leaves two small items
    /// as garbage in each of the two stores. Blocks until the slowest machine has answered or failed, for at most some
    /// 90 s. A machine that fails is no failure of this call. The caller frees `*report` with
    /// `guix_offload_report_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
    pub fn guix_offload_farm_test(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        make_report(report, engine, machines, null(), farm::test, |reports, _| text::test(reports))
    }
}

export! {
    /// Tests all `machines` as `guix_offload_farm_test`. `cancellation` may be NULL; otherwise it stops this call,
    /// which then fails with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_farm_test_cancellable(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        make_report(report, engine, machines, cancellation, farm::test, |reports, _| text::test(reports))
    }
}

export! {
    /// Asks all `machines` at the same time, each of them once, for their state. Also asks the keeper, if one runs,
    /// what it is doing. Changes nothing anywhere. Otherwise as `guix_offload_farm_test`.
    pub fn guix_offload_farm_status(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        make_report(report, engine, machines, null(), farm::status, describe_status)
    }
}

export! {
    /// Asks all `machines` for their state as `guix_offload_farm_status`. `cancellation` may be NULL; otherwise it
    /// stops this call, which then fails with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_farm_status_cancellable(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        make_report(report, engine, machines, cancellation, farm::status, describe_status)
    }
}

fn describe_status(reports: &[Report], keeper: Option<&KeeperReport>) -> String {
    let keeper = keeper.map(|keeper| format!("\n{}", keeper::report::text(Some(keeper))));
    text::status(reports) + &keeper.unwrap_or_default()
}

export! {
    /// Frees a report. NULL is fine.
    pub fn guix_offload_report_free(report: *mut guix_offload_report) {
        handle::free(report);
    }
}

/// A function that examines machines.
type Examine = fn(&Directories, &[BuildMachine], Duration, &Cancel) -> Result<Vec<Report>>;

/// Examines machines and hands the report to the caller.
fn make_report(
    report: *mut *mut guix_offload_report,
    engine: *const guix_offload_engine,
    machines: *const guix_offload_machines,
    cancellation: *const guix_offload_cancellation,
    examine: Examine,
    describe: fn(&[Report], Option<&KeeperReport>) -> String,
) -> Result<()> {
    let out = Out::new(report, "report")?;
    let engine = handle::borrow(engine, "engine")?.share();
    let machines = handle::borrow(machines, "machines")?.to_vec();
    let reports = examine(engine.directories(), &machines, farm::TIME_LIMIT, &cancel_of(cancellation))?;
    let keeper = keeper::reach::inspect(engine.directories());
    // The keeper is a side issue here: one that does not answer is no reason to fail.
    let unknown = keeper.as_ref().err().map(|error| lines::text(&lines::of_warning(error)));
    let keeper = keeper.ok().flatten();
    let text = describe(&reports, keeper.as_ref()) + &unknown.unwrap_or_default();
    out.give(guix_offload_report::new(reports, keeper.as_ref(), &text));
    Ok(())
}

/// Returns one machine of a report.
fn entry<'a>(report: *const guix_offload_report, index: usize) -> Option<&'a Entry> {
    handle::look(report, None, |report| report.machines.get(index))
}

/// Returns what the machine says of itself.
fn state<'a>(report: *const guix_offload_report, index: usize) -> Option<&'a MachineState> {
    entry(report, index).and_then(|entry| entry.report.state.as_ref())
}

export! {
    /// Returns the report for people: what `guix offload test` writes to standard error, or `guix offload status` to
    /// standard output. Each line ends with a newline. NULL only if `report` is.
    pub fn guix_offload_report_text(report: *const guix_offload_report) -> *const c_char {
        handle::look(report, std::ptr::null(), |report| report.text.as_ptr())
    }
}

export! {
    /// Returns the report for programs: a line of JSON, an object whose member "machines" has an object for each
    /// machine, and whose member "keeper" is an object, or null if no keeper runs.
    pub fn guix_offload_report_json(report: *const guix_offload_report) -> *const c_char {
        handle::look(report, std::ptr::null(), |report| report.json.as_ptr())
    }
}

export! {
    /// Returns the number of machines.
    pub fn guix_offload_report_count(report: *const guix_offload_report) -> usize {
        handle::look(report, 0, |report| report.machines.len())
    }
}

export! {
    /// Returns the number of machines that failed.
    pub fn guix_offload_report_failures(report: *const guix_offload_report) -> usize {
        handle::look(report, 0, |report| report.machines.iter().filter(|entry| entry.error.is_some()).count())
    }
}

export! {
    /// Returns the `index`th machine.
    pub fn guix_offload_report_machine(
        report: *const guix_offload_report,
        index: usize
    ) -> *const guix_offload_machine {
        entry(report, index).map_or(std::ptr::null(), |entry| &entry.machine)
    }
}

export! {
    /// Returns why the machine failed; NULL if it did not. The error belongs to the report.
    pub fn guix_offload_report_error(report: *const guix_offload_report, index: usize) -> *const guix_offload_error {
        entry(report, index).and_then(|entry| entry.error.as_ref()).map_or(std::ptr::null(), |error| error)
    }
}

export! {
    /// Returns the `number`th sentence, counted from 0, about what works on the machine; NULL if there are no more.
    pub fn guix_offload_report_passed(
        report: *const guix_offload_report,
        index: usize,
        number: usize
    ) -> *const c_char {
        or_null(entry(report, index).and_then(|entry| entry.passed.get(number)))
    }
}

export! {
    /// Returns the `number`th thing, counted from 0, that is odd about the machine; NULL if there are no more.
    pub fn guix_offload_report_note(report: *const guix_offload_report, index: usize, number: usize) -> *const c_char {
        or_null(entry(report, index).and_then(|entry| entry.notes.get(number)).map(|(text, _)| text))
    }
}

export! {
    /// Returns what to do about the `number`th odd thing, or NULL if there is nothing to do.
    pub fn guix_offload_report_note_hint(
        report: *const guix_offload_report,
        index: usize,
        number: usize,
    ) -> *const c_char {
        or_null(entry(report, index).and_then(|entry| entry.notes.get(number)).and_then(|(_, hint)| hint.as_ref()))
    }
}

export! {
    /// Returns in a word or two whether the machine gets builds: "ready", "overloaded", "low on space" or "failed". If
    /// the machine could not be connected to, the words say why: "misconfigured", "refused", "host key differs", "no
    /// Guix", "unreachable" or "failed".
    pub fn guix_offload_report_state(report: *const guix_offload_report, index: usize) -> *const c_char {
        or_null(entry(report, index).map(|entry| &entry.state))
    }
}

export! {
    /// Returns 1 if the machine was connected to, so that the functions below know its state; else 0.
    pub fn guix_offload_report_reachable(report: *const guix_offload_report, index: usize) -> i32 {
        i32::from(state(report, index).is_some())
    }
}

export! {
    /// Returns how many of the machine's build slots are taken by hooks of this host, whether it is reachable or not;
    /// -1 if that is not known.
    pub fn guix_offload_report_slots_taken(report: *const guix_offload_report, index: usize) -> i64 {
        entry(report, index).and_then(|entry| entry.report.slots_taken).map_or(-1, i64::from)
    }
}

export! {
    /// Returns the machine's load, divided by its number of cores; -1 if it is not known.
    pub fn guix_offload_report_load(report: *const guix_offload_report, index: usize) -> f64 {
        state(report, index).map_or(-1.0, |state| state.probe.load)
    }
}

export! {
    /// Returns the number of the machine's cores; 0 if it is not known.
    pub fn guix_offload_report_cores(report: *const guix_offload_report, index: usize) -> u32 {
        state(report, index).map_or(0, |state| state.survey.cores)
    }
}

export! {
    /// Returns the free space where the machine's store is, in bytes.
    pub fn guix_offload_report_free_space(report: *const guix_offload_report, index: usize) -> u64 {
        state(report, index).map_or(0, |state| state.probe.free_space)
    }
}

export! {
    /// Returns by how many seconds the machine's clock is ahead of ours; negative if it is behind. 0 also if that is
    /// not known.
    pub fn guix_offload_report_clock_difference(report: *const guix_offload_report, index: usize) -> i64 {
        state(report, index).and_then(|state| state.probe.clock_offset).unwrap_or(0)
    }
}

export! {
    /// Returns the version of the `guix` that the login user finds on the machine, or NULL.
    pub fn guix_offload_report_guix_version(report: *const guix_offload_report, index: usize) -> *const c_char {
        or_null(entry(report, index).and_then(|entry| entry.guix_version.as_ref()))
    }
}

export! {
    /// Returns the name and release of the machine's kernel, or NULL.
    pub fn guix_offload_report_kernel(report: *const guix_offload_report, index: usize) -> *const c_char {
        or_null(entry(report, index).and_then(|entry| entry.kernel.as_ref()))
    }
}

export! {
    /// Returns the machine's hardware, such as "x86_64", or NULL.
    pub fn guix_offload_report_architecture(report: *const guix_offload_report, index: usize) -> *const c_char {
        or_null(entry(report, index).and_then(|entry| entry.architecture.as_ref()))
    }
}

export! {
    /// Returns the host name that the machine gives itself, or NULL.
    pub fn guix_offload_report_host_name(report: *const guix_offload_report, index: usize) -> *const c_char {
        or_null(entry(report, index).and_then(|entry| entry.host_name.as_ref()))
    }
}
