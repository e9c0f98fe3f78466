// SPDX-License-Identifier: GPL-3.0-or-later
//! A complete build hook.

use std::ffi::{c_char, c_int};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use super::error::guix_offload_error;
use super::{export, string};
use crate::daemon::BuildOptions;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::hook::{self, Options};
use crate::store::Directories;

/// How a build hook is to work. Not for two threads at once.
pub struct guix_offload_hook {
    options: Options,
}

/// Borrows the hook that C hands in.
fn look<'a>(hook: *mut guix_offload_hook) -> Result<&'a mut guix_offload_hook> {
    // SAFETY: the caller promised NULL or a live hook that no other thread uses.
    unsafe { hook.as_mut() }.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "argument 'hook' is NULL"))
}

export! {
    /// Makes a hook with the directories that the environment names (`NIX_STORE_DIR`, `GUIX_STATE_DIRECTORY`,
    /// `GUIX_DATABASE_DIRECTORY`, `GUIX_CONFIGURATION_DIRECTORY`, `GUIX_DAEMON_SOCKET`; else those of Guix), the
    /// machine file `machines.scm` in the configuration directory, and no time limits. The caller frees it with
    /// `guix_offload_hook_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL or `NIX_STORE_DIR` is no absolute file name.
    pub fn guix_offload_hook_new(hook: *mut *mut guix_offload_hook, error: *mut *mut guix_offload_error) -> guix_offload_status {
        if hook.is_null() {
            return Err(Error::new(ErrorKind::InvalidArgument, "argument 'hook' is NULL"));
        }
        let directories = Directories::from_environment()?;
        let machine_file = directories.machine_file();
        let build = BuildOptions { max_silent_time: 0, timeout: 0, print_build_trace: false };
        let options = Options { directories, machine_file, build };
        // SAFETY: the caller promised that it is valid for a write.
        unsafe { hook.write(Box::into_raw(Box::new(guix_offload_hook { options }))) };
        Ok(())
    }
}

export! {
    /// Frees a hook. NULL is fine.
    pub fn guix_offload_hook_free(hook: *mut guix_offload_hook) {
        if !hook.is_null() {
            // SAFETY: the caller hands back what `guix_offload_hook_new` gave it, once.
            drop(unsafe { Box::from_raw(hook) });
        }
    }
}

export! {
    /// Sets the machine file. `file` is copied.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if an argument is NULL or not UTF-8.
    pub fn guix_offload_hook_set_machine_file(
        hook: *mut guix_offload_hook,
        file: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let hook = look(hook)?;
        // SAFETY: the caller promised NULL or a string.
        hook.options.machine_file = PathBuf::from(unsafe { string::required(file, "file") }?);
        Ok(())
    }
}

export! {
    /// Sets after how many seconds a build is killed, in all and without output. 0: no limit. Both are enforced by the
    /// daemon of the build machine, and some seconds later here.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL.
    pub fn guix_offload_hook_set_limits(
        hook: *mut guix_offload_hook,
        timeout: u64,
        max_silent_time: u64,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let build = &mut look(hook)?.options.build;
        (build.timeout, build.max_silent_time) = (timeout, max_silent_time);
        Ok(())
    }
}

export! {
    /// Sets whether the log has lines for machines, such as `@ build-started`: 0 or 1.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL or `print` is neither.
    pub fn guix_offload_hook_set_build_trace(
        hook: *mut guix_offload_hook,
        print: c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let hook = look(hook)?;
        if !matches!(print, 0 | 1) {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("argument 'print' is {print}, neither 0 nor 1")));
        }
        hook.options.build.print_build_trace = print == 1;
        Ok(())
    }
}

export! {
    /// Serves guix-daemon's requests from the descriptor `input` until a build is done or the daemon hangs up. Blocks.
    /// Replies and messages go to `output`, the build's log to `log`; the descriptors stay the caller's, who keeps them
    /// open. Afterwards `*exit_status` is what the process should exit with: 0, 1, 100 or 101. A build's failure is
    /// reported on `output` and in `*exit_status`; it is not a failure of this call.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a descriptor is not open.
    pub fn guix_offload_hook_serve(
        hook: *mut guix_offload_hook,
        input: c_int,
        output: c_int,
        log: c_int,
        exit_status: *mut c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let hook = look(hook)?;
        if exit_status.is_null() {
            return Err(Error::new(ErrorKind::InvalidArgument, "argument 'exit_status' is NULL"));
        }
        let (input, output, log) = (duplicate(input, "input")?, duplicate(output, "output")?, duplicate(log, "log")?);
        let status = hook::serve(&hook.options, input.into(), output.into(), log.into())?;
        // SAFETY: the caller promised that it is valid for a write.
        unsafe { exit_status.write(c_int::from(status)) };
        Ok(())
    }
}

/// A close-on-exec duplicate of a descriptor that the caller keeps.
fn duplicate(descriptor: c_int, name: &str) -> Result<std::os::fd::OwnedFd> {
    if descriptor < 0 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("argument '{name}' is {descriptor}, no descriptor"),
        ));
    }
    // SAFETY: the borrow lasts for this call; a number that is not an open descriptor makes it fail with EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed
        .try_clone_to_owned()
        .io_context(ErrorKind::InvalidArgument, || format!("argument '{name}', descriptor {descriptor}"))
}
