// SPDX-License-Identifier: GPL-3.0-or-later
//! Where things are on this host, and what all builds of a process share.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use super::error::guix_offload_error;
use super::handle::{self, Out};
use super::request::guix_offload_request;
use super::string::for_c;
use super::{export, keeper, string};
use crate::build::engine::Engine;
use crate::doors::job::{Started, in_process};
use crate::doors::keeper::link::Link;
use crate::doors::keeper::place::VARIABLE;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::BuildMachine;
use crate::report::log::Listener;

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
    listener: Option<Listener>,
    /// Its directories, in the order of `guix_offload_directory`.
    names: [CString; 5],
    /// The keeper that does its jobs; `None`: threads of this process do.
    link: Option<Arc<Link>>,
}

impl guix_offload_engine {
    pub(super) fn share(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Returns whether it has a listener.
    pub(super) fn is_listened_to(&self) -> bool {
        self.listener.is_some()
    }

    /// Makes one with the directories that the environment names, and with the link, if any, that `link` makes for
    /// them.
    fn new(link: impl FnOnce(&Directories) -> Result<Option<Arc<Link>>>) -> Result<Self> {
        let directories = Directories::from_environment()?;
        let link = link(&directories)?;
        let engine = Arc::new(Engine::new(directories, Engine::IDLE_LIMIT)?);
        let names = names(engine.directories());
        Ok(guix_offload_engine { engine, listener: None, names, link })
    }

    /// Starts to build what `request` asks for.
    pub(super) fn start(&self, machines: &[BuildMachine], request: &guix_offload_request) -> Result<Started> {
        let (locks, (request, work)) = (request.locks(), request.resolve(&self.engine.directories().store)?);
        match &self.link {
            Some(link) => link.start(machines, request, work, locks),
            None => in_process::start(&self.engine, machines, request, work, locks),
        }
    }

    /// Replaces the engine, and the link if there is one.
    fn renew(&mut self, directories: Directories, idle_limit: Duration) -> Result<()> {
        if let Some(link) = &mut self.link {
            *link = Arc::new(Link::new(link.program().into(), directories.clone()));
        }
        self.names = names(&directories);
        self.engine = Arc::new(Engine::new(directories, idle_limit)?.with_listener(self.listener.clone()));
        Ok(())
    }
}

/// Returns the names of the directories, in the order of `guix_offload_directory`.
fn names(directories: &Directories) -> [CString; 5] {
    directories.variables().map(|(_, name)| for_c(&name.to_string_lossy()))
}

/// A function that is called with a line about what happens to a build or is decided about it, and why. `text` is the
/// line, without its newline, for people to read. `derivation` is the derivation of the build; NULL if the line is
/// about no build. Both live for the call. Any thread may make the call, and several may at the same time. The function
/// must return soon, and must not throw, jump out, or call the library.
pub type guix_offload_listener_function =
    Option<unsafe extern "C" fn(data: *mut c_void, derivation: *const c_char, text: *const c_char)>;

/// A listener in C: the function and its data.
struct CListener {
    listener: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char),
    data: *mut c_void,
}

// SAFETY: the header demands a function that any thread may call with that data.
unsafe impl Send for CListener {}
// SAFETY: as above.
unsafe impl Sync for CListener {}

impl CListener {
    fn tell(&self, derivation: Option<&StorePath>, text: &str) {
        let (derivation, text) = (derivation.map(|path| for_c(path.as_str())), for_c(text));
        let derivation = derivation.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        // SAFETY: both live for the call, and the header demands the rest.
        unsafe { (self.listener)(self.data, derivation, text.as_ptr()) }
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
        out.give(guix_offload_engine::new(|_| Ok(None))?);
        Ok(())
    }
}

export! {
    /// Makes an engine whose jobs are done by the keeper, the process that does the builds of hooks (see
    /// `guix_offload_hook_serve`). All other calls work as with any engine. This call neither connects to anything nor
    /// starts a thread: the first job connects, and starts the keeper if there is none. The caller frees the engine
    /// with `guix_offload_engine_free`.
    ///
    /// Jobs of such an engine have no thread in this process. They share one descriptor, for which the process has four
    /// open. Messages from the keeper wait in the socket until a call for a job reads them. When the process ends, its
    /// jobs are cancelled. Outputs become valid in a call for their job. If the keeper ends, the jobs that it has begun
    /// fail with `GUIX_OFFLOAD_UNAVAILABLE`, and the next job gets another keeper. The listener of the engine is not
    /// called for its jobs.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` as `guix_offload_engine_new`, and with `GUIX_OFFLOAD_UNAVAILABLE` if
    /// the program "../libexec/guix-offload", seen from the library, is missing, or the environment has
    /// `GUIX_OFFLOAD_KEEPER=no` or `GUIX_OFFLOAD_LOG=stderr`.
    pub fn guix_offload_engine_connect(
        engine: *mut *mut guix_offload_engine,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(engine, "engine")?;
        let link = |directories: &Directories| {
            let program = keeper::program().ok_or_else(|| {
                let hint = "install it, or do without a keeper: guix_offload_engine_new";
                let message = format!("there is no program \"../libexec/guix-offload\", or {VARIABLE} is 'no'");
                Error::new(ErrorKind::Unavailable, message).hint(hint)
            })?;
            Ok(Some(Arc::new(Link::new(program, directories.clone()))))
        };
        out.give(guix_offload_engine::new(link)?);
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
    /// Sets the directory `which`, a `guix_offload_directory`, to `name`, an absolute file name that is copied. No
    /// other thread may use the engine meanwhile. Jobs, hooks and connections that were made with it before keep the
    /// old directories.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL, `which` is no `guix_offload_directory`, or
    /// `name` is not absolute.
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
        let idle_limit = engine.engine.idle_limit();
        engine.renew(directories, idle_limit)
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
        engine.renew(directories, Duration::from_secs(seconds.into()))
    }
}

export! {
    /// Sets the listener: a function that is called with what `GUIX_OFFLOAD_LOG` would write. That is then written
    /// nowhere. NULL: no listener. `data` is passed to the function, and must live until the engine and all that was
    /// made with it are freed. No other thread may use the engine meanwhile. What was made with it before goes on as
    /// before. With a listener, a hook does its build in this process, without the keeper.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `engine` is NULL.
    pub fn guix_offload_engine_set_listener(
        engine: *mut guix_offload_engine,
        listener: guix_offload_listener_function,
        data: *mut c_void,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let engine = handle::borrow_mut(engine, "engine")?;
        engine.listener = listener.map(|listener| -> Listener {
            let told = CListener { listener, data };
            Arc::new(move |derivation, text| told.tell(derivation, text))
        });
        let (directories, idle_limit) = (engine.engine.directories().clone(), engine.engine.idle_limit());
        engine.renew(directories, idle_limit)
    }
}

export! {
    /// Returns the directory `which`, a `guix_offload_directory`; NULL if it is none, or if `engine` is NULL. The name
    /// lives until a setter changes the engine, or it is freed.
    pub fn guix_offload_engine_directory(engine: *const guix_offload_engine, which: i32) -> *const c_char {
        handle::look(engine, std::ptr::null(), |engine| {
            string::or_null(usize::try_from(which).ok().and_then(|which| engine.names.get(which)))
        })
    }
}

export! {
    /// Returns for how many seconds a connection waits for the next build; 0 if `engine` is NULL.
    pub fn guix_offload_engine_idle_limit(engine: *const guix_offload_engine) -> u32 {
        handle::look(engine, 0, |engine| engine.engine.idle_limit().as_secs().try_into().unwrap_or(u32::MAX))
    }
}
