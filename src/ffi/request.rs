// SPDX-License-Identifier: GPL-3.0-or-later
//! What is to be built.

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Arc;

use super::cancellation::{cancel_of, guix_offload_cancellation};
use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::handle::{self, Out};
use super::machines::guix_offload_machines;
use super::string::{for_c, or_null};
use super::{export, string};
use crate::build::output_locks::OutputLocks;
use crate::build::request::{Request, Work, usual_options};
use crate::daemon::BuildOptions;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::Requirements;
use crate::store::Closure;

/// What is to be built: a derivation, what it requires of a machine, its inputs and outputs, and time limits.
/// Calls that take it copy what they need.
pub struct guix_offload_request {
    pub(super) requirements: Requirements,
    system: CString,
    derivation: CString,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    pub(super) options: BuildOptions,
    is_patient: bool,
    locks: Option<Arc<OutputLocks>>,
}

impl guix_offload_request {
    /// Returns the derivation. Fails if the name is not that of a derivation in `store`.
    pub(super) fn derivation(&self, store: &StoreDir) -> Result<StorePath> {
        let derivation = store.parse(text(&self.derivation))?;
        if !derivation.is_derivation() {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("'{derivation}' is not a derivation")));
        }
        Ok(derivation)
    }

    /// Returns the locks on the outputs, if the request has them.
    pub(super) fn locks(&self) -> Option<Arc<OutputLocks>> {
        self.locks.clone()
    }

    /// Fails if the outputs are locked: then no other can be added.
    fn check_unlocked(&self) -> Result<()> {
        match self.locks {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::InvalidArgument, "the outputs of this request are locked already")
                .hint("add all outputs first, then lock them, once")),
        }
    }

    /// Returns the request and the work as the engine takes them.
    pub(super) fn resolve(&self, store: &StoreDir) -> Result<(Request, Work)> {
        let parse = |items: &[CString]| items.iter().map(|item| store.parse(text(item))).collect::<Result<Vec<_>>>();
        let (requirements, derivation) = (self.requirements.clone(), self.derivation(store)?);
        let request = Request { requirements, derivation, is_patient: self.is_patient };
        let work = Work { inputs: parse(&self.inputs)?, outputs: parse(&self.outputs)?, options: self.options.clone() };
        Ok((request, work))
    }
}

/// Returns a text that came from C as UTF-8.
fn text(text: &CStr) -> &str {
    text.to_str().unwrap_or_default()
}

export! {
    /// Makes a request to build `derivation`, a store file name that ends in ".drv", for the system type `system`. It
    /// has no features, inputs, outputs or time limits yet. Strings are copied. The caller frees it with
    /// `guix_offload_request_free`. Calls that take the request fail with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a file
    /// name in it is not that of a store item.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a string is not UTF-8.
    pub fn guix_offload_request_new(
        request: *mut *mut guix_offload_request,
        system: *const c_char,
        derivation: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(request, "request")?;
        let system = string::required(system, "system")?;
        out.give(guix_offload_request {
            requirements: Requirements { system: system.into(), features: Vec::new() },
            system: for_c(system),
            derivation: for_c(string::required(derivation, "derivation")?),
            inputs: Vec::new(),
            outputs: Vec::new(),
            options: usual_options(),
            is_patient: true,
            locks: None,
        });
        Ok(())
    }
}

export! {
    /// Frees a request. NULL is fine.
    pub fn guix_offload_request_free(request: *mut guix_offload_request) {
        handle::free(request);
    }
}

export! {
    /// Adds a feature that the build requires of its machine, such as "kvm".
    ///
    /// This function and the next two fail with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a string is not
    /// UTF-8.
    pub fn guix_offload_request_add_feature(
        request: *mut guix_offload_request,
        feature: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let feature = string::required(feature, "feature")?.into();
        handle::borrow_mut(request, "request")?.requirements.features.push(feature);
        Ok(())
    }
}

export! {
    /// Adds a store item that the build needs. The inputs and the derivation together must be a closure: each item that
    /// one of them refers to is among them. `guix_offload_request_add_closure` adds all of it.
    pub fn guix_offload_request_add_input(
        request: *mut guix_offload_request,
        item: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let item = for_c(string::required(item, "item")?);
        handle::borrow_mut(request, "request")?.inputs.push(item);
        Ok(())
    }
}

export! {
    /// Adds an output that is to become valid in the local store. Its lock must be held until the build is over: by
    /// guix-daemon, whose build hook the caller is, or with `guix_offload_request_lock_outputs`. After that, fails with
    /// `GUIX_OFFLOAD_INVALID_ARGUMENT`.
    pub fn guix_offload_request_add_output(
        request: *mut guix_offload_request,
        item: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let item = for_c(string::required(item, "item")?);
        let request = handle::borrow_mut(request, "request")?;
        request.check_unlocked()?;
        request.outputs.push(item);
        Ok(())
    }
}

export! {
    /// Adds all inputs of the build, and those of its outputs that are not valid in the local store, as the store's
    /// database says. The inputs are what guix-daemon would give the build, with all that it refers to. What the
    /// request has already is not added again. Blocks while another process has the database locked. `cancellation` may
    /// be NULL; otherwise it stops this call.
    ///
    /// If no output is missing, none is added. Nothing here protects the inputs from the garbage collector.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, the derivation is none of the store, or
    /// the request has the locks on its outputs; with `GUIX_OFFLOAD_STORE` if the derivation or an input is not valid,
    /// or the database cannot be read; and with `GUIX_OFFLOAD_CANCELLED`. Then adds nothing.
    pub fn guix_offload_request_add_closure(
        request: *mut guix_offload_request,
        engine: *const guix_offload_engine,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let engine = handle::borrow(engine, "engine")?.share();
        let request = handle::borrow_mut(request, "request")?;
        request.check_unlocked()?;
        let derivation = request.derivation(&engine.directories().store)?;
        let Closure { inputs, missing } = engine.closure_of(&derivation, &cancel_of(cancellation))?;
        add_new(&mut request.inputs, &inputs);
        add_new(&mut request.outputs, &missing);
        Ok(())
    }
}

/// Adds those of `items` that are not among `names`.
fn add_new(names: &mut Vec<CString>, items: &[StorePath]) {
    let known: HashSet<CString> = names.iter().cloned().collect();
    names.extend(items.iter().map(|item| for_c(item.as_str())).filter(|name| !known.contains(name)));
}

export! {
    /// Locks the outputs of the request as guix-daemon does, so that nobody else builds them meanwhile. For a caller
    /// who is not guix-daemon's build hook: that has them locked. Call this when the request has all its outputs.
    /// Blocks until all others who have locked an output are done. `cancellation` may be NULL; otherwise it stops this
    /// call.
    ///
    /// Outputs that are valid by then, because others have built them, are removed from the request. Unless `missing`
    /// is NULL, sets `*missing` to the number of outputs that are left. If that is 0, there is nothing to build.
    ///
    /// The request has the locks, and each job that is started with it shares them. They are released when the request
    /// is freed and these jobs are over, or when the process ends. Whoever locks the outputs of several requests at
    /// once waits for ever if another process does so in another order.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` or `engine` is NULL, the request names something that is
    /// no store item, or its outputs are locked already; with `GUIX_OFFLOAD_STORE` if the local store cannot be written
    /// to, or its daemon or database fails; and with `GUIX_OFFLOAD_CANCELLED`. Then has no lock.
    pub fn guix_offload_request_lock_outputs(
        request: *mut guix_offload_request,
        engine: *const guix_offload_engine,
        cancellation: *const guix_offload_cancellation,
        missing: *mut usize,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let directories = handle::borrow(engine, "engine")?.share().directories();
        let request = handle::borrow_mut(request, "request")?;
        request.check_unlocked()?;
        let (Request { derivation, .. }, Work { outputs, .. }) = request.resolve(&directories.store)?;
        let (locks, left) = OutputLocks::take(directories, &derivation, &outputs, &cancel_of(cancellation))?;
        request.locks = Some(Arc::new(locks));
        request.outputs = left.iter().map(|output| for_c(output.as_str())).collect();
        if let Ok(out) = Out::new(missing, "missing") {
            out.set(request.outputs.len());
        }
        Ok(())
    }
}

export! {
    /// Sets after how many seconds the build is killed: `timeout` in all, `max_silent_time` without output. 0 means no
    /// limit. Both count only the build itself. The daemon of the build machine enforces them; if it does not, this
    /// host does some seconds later.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL.
    pub fn guix_offload_request_set_limits(
        request: *mut guix_offload_request,
        timeout: u64,
        max_silent_time: u64,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let options = &mut handle::borrow_mut(request, "request")?.options;
        (options.timeout, options.max_silent_time) = (timeout, max_silent_time);
        Ok(())
    }
}

export! {
    /// Sets whether the log has lines for programs, such as `@ build-started`: 0 or 1.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `print` is neither.
    pub fn guix_offload_request_set_build_trace(
        request: *mut guix_offload_request,
        print: c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(request, "request")?.options.print_build_trace = flag(print, "print")?;
        Ok(())
    }
}

export! {
    /// Sets how many cores the build may use; 0 means all. By default the machine's daemon decides. This and
    /// `guix_offload_request_set_rounds` also apply to later builds over the same `guix_offload_connection`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL.
    pub fn guix_offload_request_set_cores(
        request: *mut guix_offload_request,
        cores: u32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(request, "request")?.options.cores = Some(cores);
        Ok(())
    }
}

export! {
    /// Sets how many times the build is done, at least 1. The build fails if the outputs differ from one time to the
    /// next. Outputs that the machine already has are built again and compared. By default the machine's daemon
    /// decides.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `rounds` is 0.
    pub fn guix_offload_request_set_rounds(
        request: *mut guix_offload_request,
        rounds: u32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let options = &mut handle::borrow_mut(request, "request")?.options;
        if rounds == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "argument 'rounds' is 0, and must be at least 1"));
        }
        options.rounds = Some(rounds);
        Ok(())
    }
}

export! {
    /// Sets whether the machine keeps the build tree of a build that fails: 0 or 1. The hint of the error says on which
    /// machine, and where.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `keep` is neither.
    pub fn guix_offload_request_set_keep_failed(
        request: *mut guix_offload_request,
        keep: c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(request, "request")?.options.keep_failed = flag(keep, "keep")?;
        Ok(())
    }
}

export! {
    /// Sets whether the machine may fetch inputs from its own substitute servers, if that is faster than sending them:
    /// 0 or 1. The default is 1, or 0 if the environment has `GUIX_OFFLOAD_SUBSTITUTES=no`. The machine's daemon checks
    /// what it fetches against its own list of authorized keys, as for its own builds.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `fetch` is neither.
    pub fn guix_offload_request_set_substitutes(
        request: *mut guix_offload_request,
        fetch: c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(request, "request")?.options.sends_all = !flag(fetch, "fetch")?;
        Ok(())
    }
}

export! {
    /// Sets how much the machine's daemon adds to the builder's output in the log: from 0 (only errors, the default) to
    /// 7.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `level` is out of range.
    pub fn guix_offload_request_set_verbosity(
        request: *mut guix_offload_request,
        level: u32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let options = &mut handle::borrow_mut(request, "request")?.options;
        if level > MAX_VERBOSITY {
            let message = format!("argument 'level' is {level}, and must be at most {MAX_VERBOSITY}");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        options.verbosity = level;
        Ok(())
    }
}

export! {
    /// Sets whether a job waits, as long as it takes, while no machine can be reached or has room: 0, or 1 (the
    /// default). With 0, the job then fails with `GUIX_OFFLOAD_UNAVAILABLE`, for a caller who can have the build done
    /// otherwise. A job waits for a free slot in any case.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `request` is NULL or `patient` is neither.
    pub fn guix_offload_request_set_patient(
        request: *mut guix_offload_request,
        patient: c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(request, "request")?.is_patient = flag(patient, "patient")?;
        Ok(())
    }
}

/// Highest verbosity of a daemon.
const MAX_VERBOSITY: u32 = 7;

/// Returns the truth value of the argument called `name`.
pub fn flag(value: c_int, name: &str) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::new(ErrorKind::InvalidArgument, format!("argument '{name}' is {value}, neither 0 nor 1"))),
    }
}

export! {
    /// Returns how many of `machines` offer the system and the features that the request requires, whether they can be
    /// reached or not. If 0, no machine can ever do the build. 0 if a pointer is NULL.
    pub fn guix_offload_request_matches(
        request: *const guix_offload_request,
        machines: *const guix_offload_machines,
    ) -> usize {
        match (handle::borrow(request, "request"), handle::borrow(machines, "machines")) {
            (Ok(request), Ok(machines)) => machines.count_matching(&request.requirements),
            _ => 0,
        }
    }
}

export! {
    /// Returns the system type that the request is for. It lives as long as the request. NULL only if `request` is.
    pub fn guix_offload_request_system(request: *const guix_offload_request) -> *const c_char {
        handle::look(request, std::ptr::null(), |request| request.system.as_ptr())
    }
}

export! {
    /// Returns the derivation of the request. It lives as long as the request. NULL only if `request` is.
    pub fn guix_offload_request_derivation(request: *const guix_offload_request) -> *const c_char {
        handle::look(request, std::ptr::null(), |request| request.derivation.as_ptr())
    }
}

export! {
    /// Returns the number of inputs; 0 if `request` is NULL.
    pub fn guix_offload_request_input_count(request: *const guix_offload_request) -> usize {
        handle::look(request, 0, |request| request.inputs.len())
    }
}

export! {
    /// Returns the `index`th input, counted from 0; NULL if there are no more. It lives as long as the request.
    pub fn guix_offload_request_input(request: *const guix_offload_request, index: usize) -> *const c_char {
        handle::look(request, std::ptr::null(), |request| or_null(request.inputs.get(index)))
    }
}

export! {
    /// Returns the number of outputs that are to become valid; 0 if `request` is NULL.
    pub fn guix_offload_request_output_count(request: *const guix_offload_request) -> usize {
        handle::look(request, 0, |request| request.outputs.len())
    }
}

export! {
    /// Returns the `index`th output, counted from 0; NULL if there are no more. It lives until the outputs are locked
    /// or the request is freed.
    pub fn guix_offload_request_output(request: *const guix_offload_request, index: usize) -> *const c_char {
        handle::look(request, std::ptr::null(), |request| or_null(request.outputs.get(index)))
    }
}
