// SPDX-License-Identifier: GPL-3.0-or-later
//! A complete build hook.

use std::ffi::{c_char, c_int};
use std::path::PathBuf;
use std::ptr::null;
use std::sync::Arc;

use super::cancellation::{cancel_of, guix_offload_cancellation};
use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::handle::{self, Out};
use super::machines::guix_offload_machines;
use super::request::flag;
use super::{descriptor, export, keeper, string};
use crate::build::engine::Engine;
use crate::build::request::usual_options;
use crate::doors::hook::{self, Builder, InProcess, Options};
use crate::doors::keeper::client::WithKeeper;
use crate::ground::error::Result;
use crate::machine::file::Machines;

/// The settings of a build hook.
pub struct guix_offload_hook {
    engine: Arc<Engine>,
    /// Whether the engine has a listener.
    listened: bool,
    options: Options,
}

export! {
    /// Makes a hook that reads the machine file `machines.scm` in the engine's configuration directory and sets no time
    /// limits. The caller frees it with `guix_offload_hook_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
    pub fn guix_offload_hook_new(
        hook: *mut *mut guix_offload_hook,
        engine: *const guix_offload_engine,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(hook, "hook")?;
        let engine = handle::borrow(engine, "engine")?;
        let (listened, engine) = (engine.is_listened_to(), Arc::clone(engine.share()));
        let machines = Machines::in_file(engine.directories().machine_file());
        let build = usual_options();
        out.give(guix_offload_hook { engine, listened, options: Options { machines, build } });
        Ok(())
    }
}

export! {
    /// Frees a hook. NULL is fine.
    pub fn guix_offload_hook_free(hook: *mut guix_offload_hook) {
        handle::free(hook);
    }
}

export! {
    /// Sets the machine file. `file` is copied.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or `file` is not UTF-8.
    pub fn guix_offload_hook_set_machine_file(
        hook: *mut guix_offload_hook,
        file: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let file = PathBuf::from(string::required(file, "file")?);
        handle::borrow_mut(hook, "hook")?.options.machines = Machines::in_file(file);
        Ok(())
    }
}

export! {
    /// Gives the hook the machines that its machine file returns, for a caller who has evaluated it. Call it after
    /// `guix_offload_hook_set_machine_file`. The hook reads the file itself only once that has changed. The list is
    /// copied.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL.
    pub fn guix_offload_hook_set_machines(
        hook: *mut guix_offload_hook,
        machines: *const guix_offload_machines,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let machines = handle::borrow(machines, "machines")?.to_vec();
        handle::borrow_mut(hook, "hook")?.options.machines.set_evaluated(machines);
        Ok(())
    }
}

export! {
    /// Sets after how many seconds a build is killed: `timeout` in all, `max_silent_time` without output. Otherwise as
    /// `guix_offload_request_set_limits`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL.
    pub fn guix_offload_hook_set_limits(
        hook: *mut guix_offload_hook,
        timeout: u64,
        max_silent_time: u64,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let build = &mut handle::borrow_mut(hook, "hook")?.options.build;
        (build.timeout, build.max_silent_time) = (timeout, max_silent_time);
        Ok(())
    }
}

export! {
    /// Sets whether the log has lines for programs, such as `@ build-started`: 0 or 1.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `hook` is NULL or `print` is neither.
    pub fn guix_offload_hook_set_build_trace(
        hook: *mut guix_offload_hook,
        print: c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(hook, "hook")?.options.build.print_build_trace = flag(print, "print")?;
        Ok(())
    }
}

export! {
    /// Serves guix-daemon's requests from the descriptor `input` until a build is done or the daemon hangs up. Blocks.
    /// Writes replies and messages to `output`, and the build's log to `log`. The descriptors stay the caller's, who
    /// keeps them open. Sets `*exit_status` to what the process should exit with: 0, 1, 100 or 101. A build that fails
    /// is reported on `output` and by `*exit_status`; it is no failure of this call. Once nobody reads `output`, the
    /// daemon is gone, and the build is cancelled. After a build, waits until what was written to pipes has been read,
    /// or nobody has read for 10 s: guix-daemon discards what is left when the process ends.
    ///
    /// The keeper does the build: a process that has connections to machines for all hooks of this host and user. It is
    /// started if there is none. The build is done in this process instead if the program "../libexec/guix-offload",
    /// seen from the library, is missing, if the environment has `GUIX_OFFLOAD_KEEPER=no` or `GUIX_OFFLOAD_LOG=stderr`,
    /// if the engine has a listener, or if the keeper fails before it accepts the build.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or a descriptor is not open, and with
    /// `GUIX_OFFLOAD_EXHAUSTED` for lack of a descriptor or thread.
    pub fn guix_offload_hook_serve(
        hook: *mut guix_offload_hook,
        input: c_int,
        output: c_int,
        log: c_int,
        exit_status: *mut c_int,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        serve([input, output, log], hook, exit_status, null())
    }
}

export! {
    /// Serves guix-daemon's requests as `guix_offload_hook_serve`. `cancellation` may be NULL; otherwise it stops this
    /// call, which then fails with `GUIX_OFFLOAD_CANCELLED`: a build under way is cancelled, and the daemon, if it
    /// still waits for a reply, gets none.
    pub fn guix_offload_hook_serve_cancellable(
        hook: *mut guix_offload_hook,
        input: c_int,
        output: c_int,
        log: c_int,
        exit_status: *mut c_int,
        cancellation: *const guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        serve([input, output, log], hook, exit_status, cancellation)
    }
}

fn serve(
    [input, output, log]: [c_int; 3],
    hook: *mut guix_offload_hook,
    exit_status: *mut c_int,
    cancellation: *const guix_offload_cancellation,
) -> Result<()> {
    let hook = handle::borrow_mut(hook, "hook")?;
    let out = Out::new(exit_status, "exit_status")?;
    let input = descriptor::duplicate(input, "input")?;
    let output = descriptor::duplicate(output, "output")?;
    let log = descriptor::duplicate(log, "log")?;
    let engine = Arc::clone(&hook.engine);
    let builder: Box<dyn Builder> = match keeper::program().filter(|_| !hook.listened) {
        Some(program) => Box::new(WithKeeper::new(program, engine)),
        None => Box::new(InProcess::new(engine)),
    };
    let status =
        hook::serve(builder, &hook.options, input.into(), output.into(), log.into(), &cancel_of(cancellation))?;
    out.set(c_int::from(status));
    Ok(())
}
