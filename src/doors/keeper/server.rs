// SPDX-License-Identifier: GPL-3.0-or-later
//! The keeper's side: a thread serves each hook, and the keeper ends when it is of no use any more.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::build::engine::Engine;
use crate::doors::keeper::activity::{Activity, KeeperReport, LeftAlone};
use crate::doors::keeper::hook_server::Client;
use crate::doors::keeper::message::Identity;
use crate::doors::keeper::place::{BACKLOG, Given, KeeperDir, identity, require_own_or_root};
use crate::doors::keeper::voice::{Activities, Voice};
use crate::ground::cancel::Cancel;
use crate::ground::error::{ErrorKind, IoContext, Result};
use crate::ground::event_fd::EventFd;
use crate::ground::file_identity::FileIdentity;
use crate::ground::store_path::StorePath;
use crate::ground::thread;
use crate::machine::{BuildMachine, Requirements};

/// How often the keeper checks that its program and the library are still the same, and its socket, if the kernel does
/// not tell of that.
const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Pause before the keeper accepts connections again after it ran out of descriptors.
const RESPITE: Duration = Duration::from_millis(50);

/// Serves hooks that connect to the `given` socket; `engine` does their builds. Ends when no hook has come for
/// `idle_limit`. Also ends, once the builds that it has begun are done, if a client asks for that, if `program` (this
/// program) or its `library` is replaced, or if the socket is not ours any more.
pub fn serve(
    given: Given,
    engine: Engine,
    program: PathBuf,
    library: Option<PathBuf>,
    idle_limit: Duration,
) -> Result<()> {
    allow_all_descriptors();
    let listener = UnixListener::from(given.listener);
    // The kernel names the process that listened last to whoever connects, and that was the starter.
    rustix::net::listen(&listener, BACKLOG).io_context(ErrorKind::Unavailable, || "the keeper's socket")?;
    listener.set_nonblocking(true).io_context(ErrorKind::Unavailable, || "the keeper's socket")?;
    let place = KeeperDir::of(engine.directories());
    let keeper = Arc::new(Keeper {
        identity: identity(engine.directories(), &program)?,
        engine,
        begun: Instant::now(),
        machines: Mutex::default(),
        hooks: Mutex::default(),
        changed: EventFd::new()?,
        retires: AtomicBool::new(false),
        files: Files::of(std::iter::once(program).chain(library)),
    });
    let watch = place.watch();
    let own_socket = place.socket_identity();
    let mut idle_since = Instant::now();
    let mut lock = Some(given.lock);
    loop {
        let (idle, is_in_use) = keeper.hooks.lock().are_idle_and_in_use();
        let has_machines = keeper.engine.stop_idle();
        if is_in_use || has_machines {
            idle_since = Instant::now();
        }
        let lost = own_socket.is_none() || place.socket_identity() != own_socket;
        let of_no_use = lost || !keeper.is_current() || keeper.retires.load(Ordering::SeqCst);
        if of_no_use || idle && idle_since.elapsed() >= idle_limit {
            if let Some(lock) = lock.take() {
                keeper.hooks.lock().leaving = true;
                retire(&place, lost, lock);
                // Clients that connected just before.
                keeper.accept_all(&listener);
                continue;
            }
            if idle {
                keeper.hooks.lock().hang_up();
                return Ok(());
            }
        }
        let until = Instant::now() + if idle { FILES_CHECK_INTERVAL.min(idle_limit) } else { FILES_CHECK_INTERVAL };
        keeper.wait(&listener, watch.as_ref(), until)?;
        keeper.accept_all(&listener);
    }
}

/// Raises the limit of descriptors to the maximum: a hook that waits takes a few, one that builds some sixteen.
fn allow_all_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Lets another keeper start: removes the socket, unless that is lost, and releases the lock.
fn retire(place: &KeeperDir, lost: bool, lock: OwnedFd) {
    if !lost {
        place.remove_socket();
    }
    drop(lock);
}

/// The files that this program consists of, as they were when it was started.
struct Files(Vec<(Option<FileIdentity>, PathBuf)>);

impl Files {
    fn of(files: impl Iterator<Item = PathBuf>) -> Self {
        Files(files.map(|file| (FileIdentity::of(&file), file)).collect())
    }

    fn are_unchanged(&self) -> bool {
        self.0.iter().all(|(identity, file)| FileIdentity::of(file) == *identity)
    }
}

pub(super) struct Keeper {
    pub(super) engine: Engine,
    identity: Identity,
    begun: Instant,
    /// The machines of the last hook.
    machines: Mutex<Vec<BuildMachine>>,
    hooks: Mutex<Hooks>,
    /// Raised when a client or a job is gone, a client becomes a link, or the keeper is to end.
    pub(super) changed: EventFd,
    /// Whether the keeper is to end: a client asked for that, or came to this place and needs another keeper.
    retires: AtomicBool,
    files: Files,
}

#[derive(Default)]
struct Hooks {
    connected: HashMap<u64, Connected>,
    next: u64,
    /// Whether the keeper has let another one start.
    leaving: bool,
}

#[derive(Clone)]
struct Connected {
    stream: Arc<UnixStream>,
    cancel: Cancel,
    /// Whether the client has hung up, and its build was cancelled.
    gone: bool,
    role: Role,
    activities: Activities,
}

/// What a client is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    /// It is not welcome, or not yet.
    Stranger,
    /// A hook that is served.
    Hook,
    /// A link, which stays as long as its process, with or without jobs.
    Link,
}

impl Hooks {
    /// Returns whether nobody is connected but links without jobs, and whether a hook or a link with jobs is: clients
    /// that are not served keep no keeper from ending.
    fn are_idle_and_in_use(&self) -> (bool, bool) {
        let is_idle_link = |it: &Connected| it.role == Role::Link && it.activities.lock().is_empty();
        let mut others = self.connected.values().filter(|it| !is_idle_link(it)).peekable();
        (others.peek().is_none(), others.any(|it| it.role != Role::Stranger))
    }

    /// Hangs up on the links: the keeper ends.
    fn hang_up(&self) {
        for link in self.connected.values() {
            let _ = link.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Keeper {
    /// Waits until a client connects or hangs up, until `changed` is raised, until something was removed from the place
    /// that is watched, or until `until`. Cancels the builds of clients that have hung up.
    fn wait(&self, listener: &UnixListener, watch: Option<&OwnedFd>, until: Instant) -> Result<()> {
        self.changed.clear();
        let hooks = self.hooks.lock().connected.clone();
        let hooks: Vec<_> = hooks.into_iter().filter(|(_, hook)| !hook.gone).collect();
        let mut watched = vec![PollFd::new(listener, PollFlags::IN)];
        watched.extend(hooks.iter().map(|(_, hook)| PollFd::new(&hook.stream, PollFlags::RDHUP)));
        watched.extend(watch.map(|watch| PollFd::new(watch, PollFlags::IN)));
        self.changed.sleep_beside(&mut watched, Some(until))?;
        if let Some(watch) = watch {
            while rustix::io::read(watch, &mut [0; 4096][..]).is_ok_and(|length| length > 0) {}
        }
        for ((number, hook), watched) in hooks.iter().zip(&watched[1..]) {
            if !watched.revents().is_empty() {
                hook.cancel.cancel();
                if let Some(hook) = self.hooks.lock().connected.get_mut(number) {
                    hook.gone = true;
                }
            }
        }
        Ok(())
    }

    fn accept_all(self: &Arc<Self>, listener: &UnixListener) {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // For lack of a descriptor: some hook will be done soon.
                Err(_) => return std::thread::sleep(RESPITE),
            };
            // Other users are turned away without a reason. Root may inspect this keeper; its hooks use only root's
            // own.
            if require_own_or_root(&stream).is_ok() {
                let _ = self.admit(stream); // for want of a thread; the hook goes on by itself
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) -> Result<()> {
        let (stream, cancel, activities) = (Arc::new(stream), Cancel::default(), Activities::default());
        let number = {
            let mut hooks = self.hooks.lock();
            hooks.next += 1;
            let number = hooks.next;
            let (stream, cancel, activities) = (Arc::clone(&stream), cancel.clone(), Arc::clone(&activities));
            hooks.connected.insert(number, Connected { stream, cancel, gone: false, role: Role::Stranger, activities });
            number
        };
        let here = Here { keeper: Arc::clone(self), number };
        thread::spawn("guix-offload", move || {
            let client = Client { number, voice: Voice::new(stream, activities), cancel };
            // A panic ends only the connection of this client.
            let _ = catch_unwind(AssertUnwindSafe(|| client.serve(&here.keeper)));
            drop(here);
        })
        .map(|_| ())
    }

    /// Returns what the keeper is doing.
    pub(super) fn report(&self) -> KeeperReport {
        let mut builds: Vec<_> = {
            let hooks = self.hooks.lock();
            let reports = |hook: &Connected| hook.activities.lock().values().map(Activity::report).collect::<Vec<_>>();
            hooks.connected.values().flat_map(reports).collect()
        };
        builds.sort_by_key(|build| Reverse(build.age));
        let mut left_alone: Vec<LeftAlone> = Vec::new();
        for machine in self.machines.lock().iter() {
            if left_alone.iter().any(|other| other.machine == machine.name) {
                continue; // listed again, for another system
            }
            let history = self.engine.histories().of(machine);
            left_alone.extend(history.setback().map(|setback| LeftAlone {
                machine: machine.name.clone(),
                reason: setback.reason.clone(),
                time: history.time_left(setback),
            }));
        }
        KeeperReport {
            process: std::process::id(),
            version: self.identity.version.clone(),
            age: self.begun.elapsed(),
            builds,
            left_alone,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns whether the files that this program consists of are still those that it was started from.
    pub(super) fn is_current(&self) -> bool {
        self.files.are_unchanged()
    }

    pub(super) fn retire(&self) {
        self.retires.store(true, Ordering::SeqCst);
        self.changed.raise();
    }

    /// Notes what `client` is.
    pub(super) fn mark_as(&self, client: &Client, role: Role) {
        if let Some(connected) = self.hooks.lock().connected.get_mut(&client.number) {
            connected.role = role;
        }
        self.changed.raise();
    }

    /// Takes on a job of a link, so that the keeper does not end before it is over. Returns `false` if the keeper has
    /// let another one start.
    pub(super) fn add_job(&self, link: &Client, job: u64, activity: Activity) -> bool {
        let hooks = self.hooks.lock();
        if !hooks.leaving {
            link.voice.activities.lock().insert(job, activity);
        }
        !hooks.leaving
    }

    /// Begins an activity for a requested build of `derivation`, and remembers `machines`.
    pub(super) fn begin(
        &self,
        machines: &[BuildMachine],
        requirements: &Requirements,
        derivation: &StorePath,
    ) -> Activity {
        let mut known = self.machines.lock();
        if *known != machines {
            *known = machines.to_vec();
        }
        let candidates = machines.iter().filter(|machine| machine.matches(requirements));
        Activity::new(derivation.clone(), candidates.map(|machine| machine.name.clone()).collect())
    }
}

/// Keeps a client among those that are connected, until dropped.
struct Here {
    keeper: Arc<Keeper>,
    number: u64,
}

impl Drop for Here {
    fn drop(&mut self) {
        let gone = self.keeper.hooks.lock().connected.remove(&self.number);
        if let Some(hook) = gone {
            let _ = hook.stream.shutdown(Shutdown::Both);
        }
        self.keeper.changed.raise();
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
