// SPDX-License-Identifier: GPL-3.0-or-later
//! The keeper: the process that keeps connections open for the hooks of this host.

use std::ffi::{CStr, OsStr, c_int};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::net::sockopt;

use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::farm::guix_offload_report;
use super::handle::{self, Out};
use super::{descriptor, export};
use crate::build::engine::Engine;
use crate::doors::keeper::place::{Given, VARIABLE};
use crate::doors::keeper::{reach, report, server};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind};
use crate::report::log;

/// Returns the program to start as the keeper: `../libexec/guix-offload`, seen from the library. `None`: the program is
/// missing, or no keeper is wanted.
pub(super) fn program() -> Option<PathBuf> {
    // Nobody would see the standard error of a keeper, so a log that goes there rules it out.
    if std::env::var_os(VARIABLE).is_some_and(|value| value == "no") || log::is_to_stderr() {
        return None;
    }
    let program = library()?.parent()?.parent()?.join("libexec/guix-offload");
    program.is_file().then_some(program)
}

/// Returns the file that this code was loaded from.
fn library() -> Option<PathBuf> {
    // SAFETY: `Dl_info` is plain data for which all zeros is a valid value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let code = library as fn() -> Option<PathBuf> as *const std::ffi::c_void;
    // SAFETY: `info` outlives the call, which writes to it.
    if unsafe { libc::dladdr(code, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's name of a file that stays loaded, as we are in it.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    std::fs::canonicalize(OsStr::from_bytes(name.to_bytes())).ok()
}

/// Size, in bytes, from which what this process frees goes back to the kernel at once.
#[cfg(target_env = "gnu")]
const LARGE_BUFFER: c_int = 256 << 10;

/// Makes the C library give large buffers back to the kernel when they are freed. Otherwise it raises the size from
/// which it does so to that of the largest buffer so far, and each thread's part of the memory keeps what is smaller.
fn return_large_buffers() {
    // SAFETY: the call changes a setting of the allocator. No other thread runs yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BUFFER)
    };
}

export! {
    /// Does the builds of the hooks that connect to the listening socket `listener`. Blocks until no hook has come for
    /// a minute. If the library or the program is replaced, or the keeper is told to stop, blocks only until the builds
    /// that have begun are done. Holds `lock` open as long as hooks may come. Takes ownership of both descriptors.
    ///
    /// This call is for the program that `guix_offload_hook_serve` starts as "../libexec/guix-offload keeper serve",
    /// seen from the library, with the socket as its standard input and the lock as its standard output. No other
    /// thread may run in that program.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a descriptor is not open or `listener` is no listening socket, and
    /// with `GUIX_OFFLOAD_UNAVAILABLE` if that program is not there.
    pub fn guix_offload_keeper_serve(
        listener: c_int,
        lock: c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let socket = descriptor::duplicate(listener, "listener")?;
        descriptor::duplicate(lock, "lock")?;
        if !sockopt::socket_acceptconn(&socket).unwrap_or(false) {
            return Err(Error::new(ErrorKind::InvalidArgument, "argument 'listener' is no listening socket"));
        }
        // SAFETY: both are open, and the caller gives them away.
        let given = unsafe {
            Given { listener: OwnedFd::from_raw_fd(listener), lock: OwnedFd::from_raw_fd(lock) }
        };
        let program = program().ok_or_else(|| Error::new(ErrorKind::Unavailable, "the keeper's program is gone"))?;
        return_large_buffers();
        let engine = Engine::new(Directories::from_environment()?, Engine::IDLE_LIMIT)?;
        server::serve(given, engine, program, library(), Engine::IDLE_LIMIT)
    }
}

export! {
    /// Asks the keeper of this host and user, that is, of the directories of `engine`, what it is doing. The report has
    /// text and JSON, and no machines. It tells where each build is, in what phase and since when, how many bytes of
    /// how many have moved, which machines a build waits for, and which machines get no builds and for how long. Waits
    /// for at most 5 s. The caller frees `*report` with `guix_offload_report_free`.
    ///
    /// If no keeper is running, that is no failure. Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL,
    /// with `GUIX_OFFLOAD_UNAVAILABLE` if the keeper does not answer, and with `GUIX_OFFLOAD_PROTOCOL` if its version
    /// does not understand the question.
    pub fn guix_offload_keeper_status(
        report: *mut *mut guix_offload_report,
        engine: *const guix_offload_engine,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(report, "report")?;
        let engine = handle::borrow(engine, "engine")?;
        let keeper = reach::inspect(engine.share().directories())?;
        out.give(guix_offload_report::new(Vec::new(), keeper.as_ref(), &report::text(keeper.as_ref())));
        Ok(())
    }
}

export! {
    /// Tells the keeper of this host and user to end once the builds that it has accepted are done. Sets `*stopped` to
    /// 1, or to 0 if no keeper is running. The next hook starts another one. Waits for at most 5 s. Fails as
    /// `guix_offload_keeper_status` does.
    pub fn guix_offload_keeper_stop(
        engine: *const guix_offload_engine,
        stopped: *mut i32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(stopped, "stopped")?;
        let engine = handle::borrow(engine, "engine")?;
        out.set(reach::retire(engine.share().directories())?.into());
        Ok(())
    }
}
