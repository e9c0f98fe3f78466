// SPDX-License-Identifier: GPL-3.0-or-later
//! Where things are on this host, and what all builds of a process share.

use std::ffi::c_char;
use std::sync::Arc;
use std::time::Duration;

use super::error::guix_offload_error;
use super::handle::{self, Out};
use super::{export, string};
use crate::build::engine::Engine;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind};
use crate::ground::store_path::StoreDir;

/// A directory or file of this host's Guix.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum guix_offload_directory {
    /// The store. Default: `NIX_STORE_DIR`, or "/gnu/store".
    GUIX_OFFLOAD_STORE_DIRECTORY = 0,
    /// Mutable state. Default: `GUIX_STATE_DIRECTORY`, or "/var/guix". Build slots are in "offload" below it.
    GUIX_OFFLOAD_STATE_DIRECTORY = 1,
    /// The store's database. Default: `GUIX_DATABASE_DIRECTORY`, or "/var/guix/db".
    GUIX_OFFLOAD_DATABASE_DIRECTORY = 2,
    /// The list of authorized keys and the machine file. Default: `GUIX_CONFIGURATION_DIRECTORY`, or "/etc/guix".
    GUIX_OFFLOAD_CONFIGURATION_DIRECTORY = 3,
    /// The local daemon's socket. Default: `GUIX_DAEMON_SOCKET`, or "/var/guix/daemon-socket/socket".
    GUIX_OFFLOAD_DAEMON_SOCKET = 4,
}

/// What all builds of a process share: the directories of this host's Guix, and connections to machines. A connection
/// is kept for a while after a build, with a thread of its own, for the next build. Handles made with an engine keep
/// what they need of it, so it may be freed before them.
pub struct guix_offload_engine {
    engine: Arc<Engine>,
}

impl guix_offload_engine {
    pub(super) fn share(&self) -> &Arc<Engine> {
        &self.engine
    }
}

export! {
    /// Makes an engine with the directories that the environment names, or else those of Guix. Does not connect to
    /// anything. The caller frees it with `guix_offload_engine_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `engine` is NULL or `NIX_STORE_DIR` is no absolute file name.
    pub fn guix_offload_engine_new(
        engine: *mut *mut guix_offload_engine,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(engine, "engine")?;
        let directories = Directories::from_environment()?;
        out.give(guix_offload_engine { engine: Arc::new(Engine::new(directories, Engine::IDLE_LIMIT)?) });
        Ok(())
    }
}

export! {
    /// Frees an engine and closes the connections that it keeps. NULL is fine.
    pub fn guix_offload_engine_free(engine: *mut guix_offload_engine) {
        handle::free(engine);
    }
}

export! {
    /// Sets one of the directories, a `guix_offload_directory`, to `name`, which is absolute and copied. No other
    /// thread may use the engine at that time. Jobs, hooks and connections that were made with it before keep the old
    /// directories.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL, `which` is none of them, or `name` is not
    /// absolute.
    pub fn guix_offload_engine_set_directory(
        engine: *mut guix_offload_engine,
        which: i32,
        name: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        use guix_offload_directory::*;
        let engine = handle::borrow_mut(engine, "engine")?;
        let name = string::required(name, "name")?;
        if !name.starts_with('/') {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{name:?} is not an absolute file name")));
        }
        let mut directories = engine.engine.directories().clone();
        match which {
            _ if which == GUIX_OFFLOAD_STORE_DIRECTORY as i32 => directories.store = StoreDir::new(name)?,
            _ if which == GUIX_OFFLOAD_STATE_DIRECTORY as i32 => directories.state = name.into(),
            _ if which == GUIX_OFFLOAD_DATABASE_DIRECTORY as i32 => directories.database = name.into(),
            _ if which == GUIX_OFFLOAD_CONFIGURATION_DIRECTORY as i32 => directories.configuration = name.into(),
            _ if which == GUIX_OFFLOAD_DAEMON_SOCKET as i32 => directories.daemon_socket = name.into(),
            _ => {
                let message = format!("argument 'which' is {which}, no guix_offload_directory");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        engine.engine = Arc::new(Engine::new(directories, engine.engine.idle_limit())?);
        Ok(())
    }
}

export! {
    /// Sets for how many seconds a connection waits for the next build before it is closed: 60 by default. No other
    /// thread may use the engine meanwhile. What was made with it before keeps the old limit.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `engine` is NULL.
    pub fn guix_offload_engine_set_idle_limit(
        engine: *mut guix_offload_engine,
        seconds: u32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let engine = handle::borrow_mut(engine, "engine")?;
        let directories = engine.engine.directories().clone();
        engine.engine = Arc::new(Engine::new(directories, Duration::from_secs(seconds.into()))?);
        Ok(())
    }
}
