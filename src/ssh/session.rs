// SPDX-License-Identifier: GPL-3.0-or-later
//! Sessions as callers see them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::channel::{Channel, ChannelEnd, StallListener, Stalls};
use super::connect::{self, ConnectLimits, check_wanted};
use super::driver::{self, Keepalive};
use super::raw_channel::{RawChannel, Stop, encode_string};
use super::raw_session::RawSession;
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::event_fd::EventFd;
use crate::ground::thread;
use crate::machine::{BuildMachine, HostKey};

/// Time limit of connecting to a machine, as a multiple of the limit of each of its steps.
pub const STEPS: u32 = 4;

/// An SSH connection to a machine, logged in, over which any number of channels can be opened.
///
/// Clones are handles on the same session, and may be used from any thread. Dropping the last one closes the session
/// and its channels. Handles on channels do not keep the session open.
///
/// One thread per session does all the work. It receives no signals, and no call here causes SIGPIPE. After fork(2)
/// without exec, the child must neither use nor drop the handles that it has inherited. All descriptors are
/// close-on-exec.
#[derive(Clone)]
pub struct Session {
    handle: Arc<Handle>,
}

/// Exists once for all clones of a [`Session`].
struct Handle {
    link: Arc<SharedSession>,
}

/// The state that the handles of one session share with its driver.
pub(super) struct SharedSession {
    pub(super) machine: BuildMachine,
    pub(super) wake: Arc<EventFd>,
    /// The address that answered last time.
    pub(super) remembered: Option<IpAddr>,
    stalls: Arc<Stalls>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ready: bool,
    failure: Option<Error>,
    /// The session ends as soon as it is ready, and not before: see [`Session::leave`].
    leaving: bool,
    /// The address that has answered, unless it is the resolver's first.
    address: Option<IpAddr>,
    /// No handle is left.
    dropped: bool,
    /// Channels still to be opened, in order.
    requests: VecDeque<ChannelRequest>,
    /// All channels that somebody may wait on.
    channels: Vec<Weak<ChannelEnd>>,
}

/// A channel to be opened.
pub(super) struct ChannelRequest {
    pub(super) end: Arc<ChannelEnd>,
    pub(super) purpose: Purpose,
}

/// The purpose of a channel.
pub(super) enum Purpose {
    /// Forwarding to a socket. These are the fields of its open request (OpenSSH's `PROTOCOL`, section 2.4).
    Socket(Vec<u8>),
    /// Running a command.
    Exec(String),
}

impl ChannelRequest {
    /// Opens the channel: see [`RawChannel::open`].
    pub(super) fn open(&self, session: &RawSession) -> Result<RawChannel, Stop> {
        match &self.purpose {
            Purpose::Socket(message) => RawChannel::open(session, "direct-streamlocal@openssh.com", message),
            Purpose::Exec(_) => RawChannel::open(session, "session", &[]),
        }
    }
}

impl Session {
    /// Starts to connect to `machine`, and returns at once. Until we are logged in, each of the machine's answers may
    /// take `step`, and all of them together [`STEPS`] times that.
    ///
    /// Fails only with [`ErrorKind::Exhausted`], for lack of a descriptor or a thread.
    pub fn start(machine: &BuildMachine, step: Duration) -> Result<Session> {
        Self::start_at(machine, None, step)
    }

    /// Does the same as [`Session::start`], but tries the address `remembered`, from [`Session::address`], first.
    pub fn start_at(machine: &BuildMachine, remembered: Option<IpAddr>, step: Duration) -> Result<Session> {
        Self::start_with(machine, remembered, step, Keepalive::DEFAULT)
    }

    pub(super) fn start_with(
        machine: &BuildMachine,
        remembered: Option<IpAddr>,
        step: Duration,
        keepalive: Keepalive,
    ) -> Result<Self> {
        super::prepare();
        let link = Arc::new(SharedSession::new(machine, remembered)?);
        let patience = ConnectLimits { step, until: after(step.saturating_mul(STEPS)) };
        let session = Session { handle: Arc::new(Handle { link: Arc::clone(&link) }) };
        let _ = thread::spawn("guix-offload-ssh", move || driver::run(&link, patience, keepalive))?;
        Ok(session)
    }

    /// Waits until the session is logged in, for `timeout` at most. Returns `false` if it is still connecting.
    ///
    /// Fails with [`ErrorKind::Unavailable`] when the machine does not answer, [`ErrorKind::HostKey`] when its host key
    /// is not the pinned one, [`ErrorKind::Authentication`] when it rejects our key, [`ErrorKind::Configuration`] when
    /// the private key cannot be used or no algorithm is in common, [`ErrorKind::Protocol`] when it breaks the
    /// protocol, [`ErrorKind::Exhausted`] for lack of descriptors, and with the error of an abort.
    pub fn wait_ready(&self, timeout: Duration) -> Result<bool> {
        let deadline = after(timeout);
        let mut state = self.link().state.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.ready {
                return Ok(true);
            }
            if self.link().changed.wait_until(&mut state, deadline).timed_out() {
                return Ok(false);
            }
        }
    }

    /// Opens a stream to the Unix-domain socket `path` on the machine (`direct-streamlocal@openssh.com`).
    ///
    /// Returns at once. The channel can be written to already; it opens when the session is ready.
    pub fn open_socket(&self, path: &str) -> Channel {
        let mut message = Vec::new();
        encode_string(path, &mut message);
        // Two reserved fields.
        encode_string("", &mut message);
        message.extend(0u32.to_be_bytes());
        self.request(format!("the socket {path}"), Purpose::Socket(message))
    }

    /// Runs `command` with the user's shell on the machine. Returns at once, like [`Session::open_socket`].
    pub fn exec(&self, command: &str) -> Channel {
        let mut shown: String = command.chars().take(60).collect();
        if shown.len() < command.len() {
            shown.push_str("...");
        }
        self.request(format!("the command {shown:?}"), Purpose::Exec(command.to_string()))
    }

    /// Ends the session with `error`. Everything that waits on it or its channels fails with `error` at once, and the
    /// socket is closed without a good-bye. A session that has already failed keeps its first error.
    pub fn abort(&self, error: Error) {
        self.link().end(error, ChannelEnd::abort);
    }

    /// Ends the session with `error`, in good order. Everything that waits on it or its channels fails with `error` at
    /// once. A session that is still connecting logs in before it says good-bye: servers shut out clients that often
    /// leave earlier (OpenSSH's `PerSourcePenalties`).
    pub fn leave(&self, error: Error) {
        self.link().state.lock().leaving = true;
        self.link().end(error, ChannelEnd::abort);
    }

    /// Returns the address that has answered, if it is worth remembering: if it is not the resolver's first.
    pub fn address(&self) -> Option<IpAddr> {
        self.link().state.lock().address
    }

    /// Sets the listener, in place of an earlier one. It is called when no byte has moved for half a minute on a
    /// channel with a [stall limit](Channel::set_stall_limit), while somebody waits for one.
    pub fn tell_of_stalls(&self, listener: Option<StallListener>) {
        *self.link().stalls.0.lock() = listener;
    }

    /// Sleeps for `time`. Fails as soon as the session does, as when it is aborted.
    pub fn rest(&self, time: Duration) -> Result<()> {
        let deadline = after(time);
        let mut state = self.link().state.lock();
        while state.failure.is_none() {
            if self.link().changed.wait_until(&mut state, deadline).timed_out() {
                return Ok(());
            }
        }
        state.failure.clone().map_or(Ok(()), Err)
    }

    /// Returns why the session has failed, if it has.
    pub fn failure(&self) -> Option<Error> {
        self.link().failure()
    }

    fn request(&self, target: String, purpose: Purpose) -> Channel {
        let link = self.link();
        let (channel, end) = Channel::new(target, &link.machine.name, &link.wake, &link.stalls);
        let mut state = link.state.lock();
        state.channels.retain(|channel| channel.strong_count() > 0);
        state.channels.push(Arc::downgrade(&end));
        match &state.failure {
            Some(failure) => end.fail(failure),
            None => state.requests.push_back(ChannelRequest { end, purpose }),
        }
        drop(state);
        link.wake.raise();
        channel
    }

    fn link(&self) -> &SharedSession {
        &self.handle.link
    }
}

/// Returns the host key that the SSH server of `machine` shows: of the type of the pinned one, whichever key that is.
/// Does not log in. Each of the machine's answers may take `step`, and all of them together [`STEPS`] times that.
/// `cancel` ends it.
///
/// Fails with [`ErrorKind::HostKey`] if the server has no key of that type, and else as [`Session::wait_ready`] does.
pub fn shown_host_key(machine: &BuildMachine, step: Duration, cancel: &Cancel) -> Result<HostKey> {
    super::prepare();
    let limits = ConnectLimits { step, until: after(step.saturating_mul(STEPS)) };
    let link = Arc::new(SharedSession::new(machine, None)?);
    let cut_off = Arc::clone(&link);
    let _guard = cancel.guard(move |error| cut_off.end(error, ChannelEnd::abort));
    connect::shown_host_key(&link, limits).map_err(|error| error.on_machine(&machine.name))
}

/// Time that stands for one that is too long to count: a year.
const FOR_EVER: Duration = Duration::from_secs(365 * 86400);

/// Returns the instant after `time`, counted from now, or after [`FOR_EVER`].
pub fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + FOR_EVER)
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.state.lock().dropped = true;
        self.link.wake.raise();
    }
}

/// The driver's side.
impl SharedSession {
    pub(super) fn new(machine: &BuildMachine, remembered: Option<IpAddr>) -> Result<Self> {
        Ok(SharedSession {
            machine: machine.clone(),
            wake: Arc::new(EventFd::new()?),
            remembered,
            stalls: Arc::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(super) fn set_ready(&self) {
        self.state.lock().ready = true;
        self.changed.notify_all();
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.state.lock().failure.clone()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.state.lock().leaving
    }

    pub(super) fn set_address(&self, address: Option<IpAddr>) {
        self.state.lock().address = address;
    }

    /// Sleeps for `time`. Fails as soon as the session is not wanted any more.
    pub(super) fn pause(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        loop {
            check_wanted(self)?;
            if Instant::now() >= until {
                return Ok(());
            }
            self.wake.sleep_beside(&mut [], Some(until))?;
        }
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.state.lock().dropped
    }

    /// Returns the next channel to open, and discards requests whose channel nobody holds any more.
    pub(super) fn next_request(&self) -> Option<ChannelRequest> {
        let requests = &mut self.state.lock().requests;
        std::iter::from_fn(|| requests.pop_front()).find(|request| !request.end.is_dropped())
    }

    /// Marks the session as dead. Only the first reason counts.
    pub(super) fn fail(&self, error: Error) {
        self.end(error, ChannelEnd::fail);
    }

    /// Returns an error of this session's machine.
    pub(super) fn error(&self, kind: ErrorKind, message: String) -> Error {
        Error::new(kind, message).on_machine(&self.machine.name)
    }

    fn end(&self, error: Error, tell: impl Fn(&ChannelEnd, &Error)) {
        let error = error.on_machine(&self.machine.name);
        let mut state = self.state.lock();
        if state.failure.is_some() {
            return;
        }
        state.requests.clear();
        let channels = std::mem::take(&mut state.channels);
        state.failure = Some(error.clone());
        drop(state);
        self.changed.notify_all();
        channels.iter().filter_map(Weak::upgrade).for_each(|channel| tell(&channel, &error));
        self.wake.raise();
    }
}
