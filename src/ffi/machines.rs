// SPDX-License-Identifier: GPL-3.0-or-later
//! Lists of build machines.

use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;
use std::ptr::null;

use super::cancellation::{cancel_of, guix_offload_cancellation};
use super::error::guix_offload_error;
use super::handle::{self, Out};
use super::machine::guix_offload_machine;
use super::{export, string};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::machine::file::{self, Inputs, LoadOptions, Loaded};
use crate::machine::{BuildMachine, Requirements};

/// A list of build machines.
#[derive(Default)]
pub struct guix_offload_machines {
    list: Vec<guix_offload_machine>,
    problems: Vec<guix_offload_error>,
    /// How many of `problems`, the first ones, are about machines that were left out.
    left_out: usize,
    /// The file that the list was loaded from.
    file: Option<CString>,
    /// What the list depends on, if it was loaded from a file.
    inputs: Option<Inputs>,
}

impl guix_offload_machines {
    /// Returns copies of the machines.
    pub(super) fn to_vec(&self) -> Vec<BuildMachine> {
        self.list.iter().map(|machine| machine.description().clone()).collect()
    }

    /// Returns how many of the machines match.
    pub(super) fn count_matching(&self, requirements: &Requirements) -> usize {
        self.list.iter().filter(|machine| machine.description().matches(requirements)).count()
    }
}

export! {
    /// Makes an empty list. The caller frees it with `guix_offload_machines_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `machines` is NULL.
    pub fn guix_offload_machines_new(
        machines: *mut *mut guix_offload_machines,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        Out::new(machines, "machines")?.give(guix_offload_machines::default());
        Ok(())
    }
}

export! {
    /// Makes the list of the machines in the machine file `file`. NULL stands for the one that Guix reads,
    /// `machines.scm` in the configuration directory that the environment names. The list is empty if the file does not
    /// exist. A file that is too complicated to be read in process is evaluated by a child process, `guile` or `guix
    /// repl`: then this call blocks until that is done, for at most 30 s. A machine that is malformed is left out. If
    /// the file returns no list of machines, the list is empty. `guix_offload_machines_problem` reports both. The
    /// caller frees the list with `guix_offload_machines_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `machines` is NULL, and with `GUIX_OFFLOAD_CONFIGURATION` and a
    /// message `FILE:LINE:COLUMN: ...` if the file cannot be read or evaluated.
    pub fn guix_offload_machines_load(
        machines: *mut *mut guix_offload_machines,
        file: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        load(machines, file, null())
    }
}

export! {
    /// Makes the list of the machines in a machine file as `guix_offload_machines_load`. `cancellation` may be NULL;
    /// otherwise it stops this call, which then fails with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_machines_load_cancellable(
        machines: *mut *mut guix_offload_machines,
        file: *const c_char,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        load(machines, file, cancellation)
    }
}

fn load(
    machines: *mut *mut guix_offload_machines,
    file: *const c_char,
    cancellation: *const guix_offload_cancellation,
) -> Result<()> {
    let out = Out::new(machines, "machines")?;
    let cancel = cancel_of(cancellation);
    cancel.check()?;
    let file = match string::optional(file, "file")? {
        Some(file) => PathBuf::from(file),
        None => Directories::from_environment()?.machine_file(),
    };
    let missing = || Loaded { inputs: Some(Inputs::of_file(&file, None)), ..Loaded::default() };
    let loaded = file::load(&file, &LoadOptions { cancel, ..LoadOptions::default() })?.unwrap_or_else(missing);
    out.give(guix_offload_machines {
        left_out: loaded.left_out.len(),
        list: loaded.machines.into_iter().map(guix_offload_machine::new).collect(),
        problems: loaded.left_out.into_iter().chain(loaded.warnings).map(guix_offload_error::from).collect(),
        file: Some(string::for_c(&file.to_string_lossy())),
        inputs: loaded.inputs,
    });
    Ok(())
}

export! {
    /// Frees a list, and the machines in it. NULL is fine.
    pub fn guix_offload_machines_free(machines: *mut guix_offload_machines) {
        handle::free(machines);
    }
}

export! {
    /// Adds a copy of `machine`, which stays the caller's.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
    pub fn guix_offload_machines_add(
        machines: *mut guix_offload_machines,
        machine: *const guix_offload_machine,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let list = &mut handle::borrow_mut(machines, "machines")?.list;
        let machine = handle::borrow(machine, "machine")?;
        list.try_reserve(1).map_err(|_| Error::new(ErrorKind::Exhausted, "out of memory"))?;
        list.push(guix_offload_machine::new(machine.description().clone()));
        Ok(())
    }
}

export! {
    /// Returns the name of the file that the list was loaded from; NULL if it was not loaded, or if `machines` is NULL.
    /// The name belongs to the list, and lives until the list is freed.
    pub fn guix_offload_machines_file(machines: *const guix_offload_machines) -> *const c_char {
        string::or_null(handle::look(machines, None, |machines| machines.file.as_ref()))
    }
}

export! {
    /// Returns the number of machines; 0 if `machines` is NULL.
    pub fn guix_offload_machines_count(machines: *const guix_offload_machines) -> usize {
        handle::look(machines, 0, |machines| machines.list.len())
    }
}

export! {
    /// Returns the `index`th machine, counted from 0; NULL if there are no more. It belongs to the list, and lives
    /// until a machine is added to the list or the list is freed.
    pub fn guix_offload_machines_get(
        machines: *const guix_offload_machines,
        index: usize
    ) -> *const guix_offload_machine {
        let machine = handle::look(machines, None, |machines| machines.list.get(index));
        machine.map_or(std::ptr::null(), |machine| machine)
    }
}

export! {
    /// Returns the `index`th problem, counted from 0, of the file that the list was loaded from; NULL if there are no
    /// more. A problem is something wrong, such as a machine that was left out, or something odd, such as a system that
    /// Guix does not know. Those that `guix_offload_machines_left_out` counts come first. Each has a hint. The problem
    /// belongs to the list, and lives until the list is freed.
    pub fn guix_offload_machines_problem(
        machines: *const guix_offload_machines,
        index: usize
    ) -> *const guix_offload_error {
        let problem = handle::look(machines, None, |machines| machines.problems.get(index));
        problem.map_or(std::ptr::null(), |error| error)
    }
}

export! {
    /// Returns how many problems, the first ones, are about what was left out: malformed machines, or a result that is
    /// no list of machines. The other problems are about machines that are used nevertheless. 0 if `machines` is NULL.
    pub fn guix_offload_machines_left_out(machines: *const guix_offload_machines) -> usize {
        handle::look(machines, 0, |machines| machines.left_out)
    }
}

export! {
    /// Returns 1 if the file that the list was loaded from would return the same machines now, else 0. For a caller who
    /// keeps a list. Compares the state of the file, and of the files that it reads, with what it was. A result that
    /// may depend on other things (the time, other programs) counts as current for 5 seconds, any result for ten
    /// minutes at most. Returns 0 for lists that were not loaded, and for NULL.
    pub fn guix_offload_machines_are_current(machines: *const guix_offload_machines) -> c_int {
        let inputs = handle::look(machines, None, |machines| machines.inputs.as_ref());
        c_int::from(inputs.is_some_and(Inputs::are_current))
    }
}
