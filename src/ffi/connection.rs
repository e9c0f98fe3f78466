// SPDX-License-Identifier: GPL-3.0-or-later
//! The verbs, one by one, each blocking: choose, connect, send, build, retrieve.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::cancellation::{cancel_of, guix_offload_cancellation};
use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::handle::{self, Out};
use super::machine::guix_offload_machine;
use super::machines::guix_offload_machines;
use super::refusals::guix_offload_refusals;
use super::request::guix_offload_request;
use super::string::for_c;
use super::{descriptor, export, named};
use crate::build::engine::Engine;
use crate::build::refusals::Refusals;
use crate::build::request::{Request, Work};
use crate::build::site::{Site, Task};
use crate::choose::Choice;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::remote::Line;
use crate::report::{Event, NullObserver, Observer};

/// The answer to a request.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum guix_offload_reply {
    /// No machine can ever do the build.
    GUIX_OFFLOAD_DECLINE = 0,
    /// No machine can do the build now.
    GUIX_OFFLOAD_POSTPONE = 1,
    /// The build is accepted.
    GUIX_OFFLOAD_ACCEPT = 2,
}

export! {
    /// Returns the name of a `guix_offload_reply`, such as "accept", as `guix_offload_status_name` does.
    pub fn guix_offload_reply_name(reply: i32) -> *const c_char {
        named!(
            reply,
            guix_offload_reply,
            GUIX_OFFLOAD_DECLINE = c"decline",
            GUIX_OFFLOAD_POSTPONE = c"postpone",
            GUIX_OFFLOAD_ACCEPT = c"accept",
        )
    }
}

/// A connection to a machine.
pub struct guix_offload_connection {
    engine: Arc<Engine>,
    site: Site,
    machine: guix_offload_machine,
}

/// A machine that was chosen for a build: a connection to it and one of its build slots.
pub struct guix_offload_lease {
    connection: guix_offload_connection,
}

/// Names of store items.
pub struct guix_offload_items {
    names: Vec<CString>,
}

/// A function that is called with the number of bytes moved so far and the estimated total, in the thread that called
/// the verb. It returns 0 to go on, or anything else to cancel; after that, the connection can only be freed. It must
/// return, and must not throw, jump out, or use the connection.
pub type guix_offload_progress_function =
    Option<unsafe extern "C" fn(data: *mut c_void, bytes: u64, total: u64) -> c_int>;

/// A function that is called with a piece of a build's log: `length` bytes, without a NUL byte at their end, that live
/// for the call. Otherwise as `guix_offload_progress_function`.
pub type guix_offload_log_function =
    Option<unsafe extern "C" fn(data: *mut c_void, text: *const c_char, length: usize) -> c_int>;

impl guix_offload_connection {
    fn new(engine: &Arc<Engine>, site: Site) -> Self {
        let machine = guix_offload_machine::new(site.machine().clone());
        guix_offload_connection { engine: Arc::clone(engine), site, machine }
    }

    /// Does `verb` for `request`, with the callbacks.
    fn perform<T>(
        &mut self,
        request: &guix_offload_request,
        mut callbacks: Callbacks,
        verb: impl FnOnce(&mut Site, &Task, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        let (Request { derivation, .. }, work) = request.resolve(&self.engine.directories().store)?;
        let Work { inputs: mut items, outputs, options } = work;
        items.push(derivation.clone());
        let task = Task { derivation: &derivation, items: &items, outputs: &outputs, options: &options };
        let result = verb(&mut self.site, &task, &mut callbacks);
        callbacks.outcome(result)
    }
}

/// An observer that calls back while a verb is at work.
struct Callbacks {
    line: Arc<dyn Line>,
    progress: guix_offload_progress_function,
    log: Log,
    data: *mut c_void,
    total: u64,
    cancelled: bool,
}

enum Log {
    None,
    Function(unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> c_int),
    Descriptor(OwnedFd),
}

impl Callbacks {
    fn new(
        connection: &guix_offload_connection,
        progress: guix_offload_progress_function,
        log: Log,
        data: *mut c_void,
    ) -> Self {
        Callbacks { line: connection.site.line(), progress, log, data, total: 0, cancelled: false }
    }

    fn cancelled() -> Error {
        Error::new(ErrorKind::Cancelled, "cancelled by a callback")
    }

    /// Returns the result of a verb, or that a callback cancelled it.
    fn outcome<T>(&self, result: Result<T>) -> Result<T> {
        if self.cancelled { Err(Self::cancelled()) } else { result }
    }
}

impl Observer for Callbacks {
    fn event(&mut self, event: &Event<'_>) {
        let bytes = match *event {
            Event::Sending { bytes, .. } | Event::Retrieving { bytes, .. } => {
                self.total = bytes;
                0
            }
            Event::Fetching { bytes, .. } => {
                self.total = self.total.saturating_sub(bytes);
                return;
            }
            Event::Transferred { bytes } => bytes,
            _ => return,
        };
        let Some(progress) = self.progress.filter(|_| !self.cancelled) else { return };
        // SAFETY: the caller of the ABI gave function and data to go together, for the duration of the verb.
        if unsafe { progress(self.data, bytes, self.total) } != 0 {
            self.cancelled = true;
            self.line.abort(Self::cancelled());
        }
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        match &self.log {
            Log::None => Ok(()),
            Log::Descriptor(file) => {
                descriptor::write_all(file, text).io_context(ErrorKind::Cancelled, || "writing the build log")
            }
            // SAFETY: as above; the text lives for the call.
            Log::Function(function) => match unsafe { function(self.data, text.as_ptr().cast(), text.len()) } {
                0 => Ok(()),
                _ => {
                    self.cancelled = true;
                    self.line.abort(Self::cancelled());
                    Err(Self::cancelled())
                }
            },
        }
    }
}

export! {
    /// Chooses one of `machines` for `request`: one that offers the system and the features, has a free slot, answers,
    /// and is neither overloaded nor full.
    ///
    /// Sets `*reply` to a `guix_offload_reply`. If that is `GUIX_OFFLOAD_ACCEPT`, sets `*lease` to a lease of the
    /// machine, which the caller frees with `guix_offload_lease_free`. Blocks until machines have answered. If one does
    /// not, that takes at most some 15 s for each step of connecting. `cancellation` may be NULL; otherwise it stops
    /// this call and everything that is done with the lease.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, with `GUIX_OFFLOAD_CONFIGURATION`,
    /// `GUIX_OFFLOAD_AUTHENTICATION`, `GUIX_OFFLOAD_HOST_KEY`, `GUIX_OFFLOAD_NO_GUIX` or `GUIX_OFFLOAD_UNTRUSTED` if
    /// all machines that could do it are misconfigured, with `GUIX_OFFLOAD_STORE` if the state directory cannot be
    /// used, and with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_choose(
        lease: *mut *mut guix_offload_lease,
        reply: *mut i32,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        request: *const guix_offload_request,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = (Out::new(lease, "lease")?, Out::new(reply, "reply")?);
        choose(out, engine, machines, request, cancellation, &mut NullObserver)?;
        Ok(())
    }
}

export! {
    /// Chooses one of `machines` as `guix_offload_choose` does, and says why others were not chosen: sets `*refusals`
    /// to a list, which the caller frees with `guix_offload_refusals_free`. Unless the reply is `GUIX_OFFLOAD_ACCEPT`,
    /// it has an error for each machine. A machine that failed is left alone for a while, 5 s to a minute, before
    /// another call tries it again: then the error is the one with which it failed.
    ///
    /// Fails as `guix_offload_choose`.
    pub fn guix_offload_choose_explained(
        lease: *mut *mut guix_offload_lease,
        reply: *mut i32,
        refusals: *mut *mut guix_offload_refusals,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        request: *const guix_offload_request,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let (out, refusals) = ((Out::new(lease, "lease")?, Out::new(reply, "reply")?), Out::new(refusals, "refusals")?);
        let mut seen = Refusals::default();
        let is_chosen = choose(out, engine, machines, request, cancellation, &mut seen)?;
        let (machines, request) = (handle::borrow(machines, "machines")?, handle::borrow(request, "request")?);
        let errors = seen.of(&machines.to_vec(), &request.requirements, is_chosen);
        refusals.give(guix_offload_refusals::new(errors));
        Ok(())
    }
}

/// Chooses a machine, and sets lease and reply. Returns whether there is a lease.
fn choose(
    (lease, reply): (Out<*mut guix_offload_lease>, Out<i32>),
    engine: *const guix_offload_engine,
    machines: *const guix_offload_machines,
    request: *const guix_offload_request,
    cancellation: *const guix_offload_cancellation,
    observer: &mut dyn Observer,
) -> Result<bool> {
    let engine = handle::borrow(engine, "engine")?.share();
    let machines = handle::borrow(machines, "machines")?.to_vec();
    let request = handle::borrow(request, "request")?;
    let (requirements, derivation) = (&request.requirements, request.derivation(&engine.directories().store).ok());
    let cancel = cancel_of(cancellation);
    let answer = match engine.choose(&machines, requirements, derivation.as_ref(), &cancel, observer)? {
        None => guix_offload_reply::GUIX_OFFLOAD_DECLINE,
        Some(Choice::Busy(_) | Choice::NoRoom | Choice::Away) => guix_offload_reply::GUIX_OFFLOAD_POSTPONE,
        Some(Choice::Misconfigured(error)) => return Err(error),
        Some(Choice::Machine(chosen)) => {
            let connection = guix_offload_connection::new(engine, engine.site(*chosen, &cancel));
            lease.give(guix_offload_lease { connection });
            guix_offload_reply::GUIX_OFFLOAD_ACCEPT
        }
    };
    reply.set(answer as i32);
    Ok(matches!(answer, guix_offload_reply::GUIX_OFFLOAD_ACCEPT))
}

export! {
    /// Returns the connection to the chosen machine. It belongs to the lease: do not free it. NULL only if `lease` is.
    pub fn guix_offload_lease_connection(lease: *mut guix_offload_lease) -> *mut guix_offload_connection {
        handle::borrow_mut(lease, "lease").map_or(std::ptr::null_mut(), |lease| &mut lease.connection)
    }
}

export! {
    /// Releases the slot and frees the lease. The engine keeps the connection for the next build. NULL is fine.
    pub fn guix_offload_lease_free(lease: *mut guix_offload_lease) {
        if let Some(guix_offload_lease { connection }) = handle::take(lease) {
            connection.site.release();
        }
    }
}

export! {
    /// Connects to `machine`, without a build slot. Blocks for at most some 15 s at each step. `cancellation` may be
    /// NULL; otherwise it stops this call and everything that is done with the connection. The caller frees the
    /// connection with `guix_offload_connection_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL, with `GUIX_OFFLOAD_UNAVAILABLE`,
    /// `GUIX_OFFLOAD_PROTOCOL`, `GUIX_OFFLOAD_AUTHENTICATION`, `GUIX_OFFLOAD_HOST_KEY`, `GUIX_OFFLOAD_NO_GUIX` or
    /// `GUIX_OFFLOAD_CONFIGURATION` if the machine cannot be connected to, and with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_connect(
        connection: *mut *mut guix_offload_connection,
        engine: *const guix_offload_engine,
        machine: *const guix_offload_machine,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(connection, "connection")?;
        let engine = handle::borrow(engine, "engine")?.share();
        let machine = handle::borrow(machine, "machine")?.description();
        let site = engine.connect(machine, &cancel_of(cancellation))?;
        out.give(guix_offload_connection::new(engine, site));
        Ok(())
    }
}

export! {
    /// Closes and frees a connection that `guix_offload_connect` made. NULL is fine.
    pub fn guix_offload_connection_free(connection: *mut guix_offload_connection) {
        handle::free(connection);
    }
}

export! {
    /// Returns the machine of a connection. It belongs to the connection. NULL only if `connection` is.
    pub fn guix_offload_connection_machine(connection: *const guix_offload_connection) -> *const guix_offload_machine {
        handle::borrow(connection, "connection").map_or(std::ptr::null(), |connection| &connection.machine)
    }
}

export! {
    /// Sends what the machine lacks of the derivation of `request` and its inputs. Blocks until that is done.
    /// `progress` may be NULL. Unless `sent` is NULL, sets `*sent` to a list of what was sent, which the caller frees
    /// with `guix_offload_items_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the request names something that is no
    /// store item, with `GUIX_OFFLOAD_STORE` if the local store cannot be read or this host has no signing key, with
    /// `GUIX_OFFLOAD_DAEMON` if the machine's daemon does not take an item, with `GUIX_OFFLOAD_UNAVAILABLE` if the
    /// connection is lost, and with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_send(
        connection: *mut guix_offload_connection,
        request: *const guix_offload_request,
        progress: guix_offload_progress_function,
        data: *mut c_void,
        sent: *mut *mut guix_offload_items,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let connection = handle::borrow_mut(connection, "connection")?;
        let callbacks = Callbacks::new(connection, progress, Log::None, data);
        let names = connection.perform(handle::borrow(request, "request")?, callbacks, Site::send)?;
        if let Ok(out) = Out::new(sent, "sent") {
            out.give(guix_offload_items { names: names.iter().map(|name| for_c(name.as_str())).collect() });
        }
        Ok(())
    }
}

export! {
    /// Builds the derivation of `request` on the machine, which must have all that the build needs. Blocks until that
    /// is done. Hands the log to the function `log`, with `data`; if `log` is NULL, writes it to the descriptor
    /// `log_descriptor`, which stays the caller's; if that is -1, discards it. If nobody reads from the descriptor any
    /// more, cancels the build, without a SIGPIPE.
    ///
    /// Before the first build on a connection, checks that this host trusts what the machine signs.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the descriptor is not open, with
    /// `GUIX_OFFLOAD_UNTRUSTED`, `GUIX_OFFLOAD_CONFIGURATION` or `GUIX_OFFLOAD_STORE` if no output could be imported
    /// here, with `GUIX_OFFLOAD_BUILD_FAILED` or `GUIX_OFFLOAD_TIMED_OUT`, with `GUIX_OFFLOAD_DAEMON` if the machine's
    /// daemon could not attempt the build, with `GUIX_OFFLOAD_UNAVAILABLE` if the connection is lost, and with
    /// `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_build(
        connection: *mut guix_offload_connection,
        request: *const guix_offload_request,
        log_descriptor: c_int,
        log: guix_offload_log_function,
        data: *mut c_void,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let connection = handle::borrow_mut(connection, "connection")?;
        let request = handle::borrow(request, "request")?;
        let log = match log {
            Some(function) => Log::Function(function),
            None if log_descriptor == -1 => Log::None,
            None => Log::Descriptor(descriptor::duplicate(log_descriptor, "log_descriptor")?),
        };
        let callbacks = Callbacks::new(connection, None, log, data);
        connection.perform(request, callbacks, Site::build)
    }
}

export! {
    /// Retrieves the outputs of `request`, which the machine has built: verifies them, moves them into the local store
    /// and makes them valid, all of them or none. Blocks until that is done. The caller has the locks on
    /// them: see `guix_offload_request_add_output`. `progress` may be NULL.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or the request names something that is no
    /// store item, with `GUIX_OFFLOAD_UNTRUSTED` if an archive is not signed by an authorized key or is not what was
    /// asked for, with `GUIX_OFFLOAD_PROTOCOL` if it is malformed, with `GUIX_OFFLOAD_STORE` if the local store fails,
    /// with `GUIX_OFFLOAD_DAEMON` if the machine lacks an output, with `GUIX_OFFLOAD_UNAVAILABLE` if the connection is
    /// lost, and with `GUIX_OFFLOAD_CANCELLED`.
    pub fn guix_offload_retrieve(
        connection: *mut guix_offload_connection,
        request: *const guix_offload_request,
        progress: guix_offload_progress_function,
        data: *mut c_void,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let connection = handle::borrow_mut(connection, "connection")?;
        let callbacks = Callbacks::new(connection, progress, Log::None, data);
        connection.perform(handle::borrow(request, "request")?, callbacks, Site::retrieve)
    }
}

export! {
    /// Frees a list of items. NULL is fine.
    pub fn guix_offload_items_free(items: *mut guix_offload_items) {
        handle::free(items);
    }
}

export! {
    /// Returns the number of items; 0 if `items` is NULL.
    pub fn guix_offload_items_count(items: *const guix_offload_items) -> usize {
        handle::look(items, 0, |items| items.names.len())
    }
}

export! {
    /// Returns the `index`th item, counted from 0; NULL if there are no more. It lives as long as the list.
    pub fn guix_offload_items_get(items: *const guix_offload_items, index: usize) -> *const c_char {
        let name = handle::borrow(items, "items").ok().and_then(|items| items.names.get(index));
        name.map_or(std::ptr::null(), |name| name.as_ptr())
    }
}
