// SPDX-License-Identifier: GPL-3.0-or-later
//! What an administrator asks about machines, and tells of them, without connecting to any.

use std::ffi::c_char;

use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::farm::guix_offload_report;
use super::handle::{self, Out};
use super::machines::guix_offload_machines;
use super::{export, string};
use crate::doors::farm::drain::{self, Answer};
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
