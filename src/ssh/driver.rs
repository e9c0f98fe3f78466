// SPDX-License-Identifier: GPL-3.0-or-later
//! The thread that does the work of one session.
//!
//! In each round it takes what the socket has, lets libssh2 and every channel go as far as they can, and sends the
//! result. It sleeps only after a round in which nothing has moved. No channel waits for another: a channel has at most
//! [`RECEIVE_WINDOW`] bytes on the way to its reader, and the server is granted all of them beforehand. So there is
//! always room for what comes, and a slow reader stops only its own channel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libssh2_sys as codes;
use ssh2::ErrorCode;

use super::channel::{ChannelEnd, RECEIVE_WINDOW, WINDOW_STEP};
use super::connect::{self, ConnectLimits, SshConnection, connect, overfilled};
use super::raw_channel::{OutputStream, RawChannel, Stop};
use super::session::{ChannelRequest, Purpose, SharedSession};
use super::socket_buffer::SocketBuffer;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::failpoint;

/// Most bytes that are copied at once between libssh2 and a channel's queues.
const SCRATCH: usize = 256 << 10;
/// How long input that no channel reads waits before a probe makes libssh2 take it in.
const UNREAD_INPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a session that ends in good order waits for the server to close it.
const GOOD_BYE: Duration = Duration::from_secs(15);

/// The limits beyond which a session is given up.
#[derive(Clone, Copy)]
pub struct Keepalive {
    /// Silence after which the server is asked for a sign of life.
    pub(super) idle: Duration,
    /// How long the server then has to answer.
    pub(super) patience: Duration,
    /// Most memory that libssh2 may hold for the session, in bytes, besides what its channels account for.
    pub(super) memory: usize,
}

impl Keepalive {
    /// 15 s of silence, then 60 s for an answer.
    pub const DEFAULT: Keepalive =
        Keepalive { idle: Duration::from_secs(15), patience: Duration::from_secs(60), memory: connect::MEMORY };
}

/// Connects, and serves the session of `link` until it fails or is no longer held.
pub fn run(link: &SharedSession, patience: ConnectLimits, keepalive: Keepalive) {
    let served = catch_unwind(AssertUnwindSafe(|| {
        failpoint::hit("session");
        let connection = connect(link, patience)?;
        link.set_ready();
        Driver::new(link, connection, keepalive).serve()
    }));
    let name = &link.machine.name;
    link.fail(match served {
        Ok(Ok(())) => Error::new(ErrorKind::Cancelled, format!("the session with '{name}' was closed")),
        Ok(Err(error)) => error,
        Err(panic) => Error::panicked(&*panic),
    });
}

struct Driver<'a> {
    link: &'a SharedSession,
    connection: SshConnection,
    keepalive: Keepalive,
    /// The channel that is being opened: libssh2 opens one at a time.
    opening: Option<Opening>,
    channels: Vec<OpenChannel>,
    /// Channels that nobody holds, on the way to being closed.
    closing: Vec<RawChannel>,
    /// When the server was asked for a sign of life that it still owes us.
    asked: Option<Instant>,
    scratch: Vec<u8>,
}

enum Opening {
    Requested(ChannelRequest),
    /// A channel that is closed as soon as it is open. Unlike a keepalive request, it makes libssh2 take in what comes
    /// even if there is no other channel, and it leaves nothing behind in libssh2's queue.
    Probe,
}

/// Whether something has moved.
type Moved = bool;

impl<'a> Driver<'a> {
    fn new(link: &'a SharedSession, mut connection: SshConnection, keepalive: Keepalive) -> Self {
        let opening = connection.opening.take().map(Opening::Requested);
        Driver {
            link,
            connection,
            keepalive,
            opening,
            channels: Vec::new(),
            closing: Vec::new(),
            asked: None,
            scratch: vec![0; SCRATCH],
        }
    }

    fn serve(&mut self) -> Result<()> {
        let wire = Arc::clone(&self.connection.wire);
        loop {
            self.link.wake.clear();
            let failure = self.link.failure();
            if self.link.is_leaving() || (self.link.is_dropped() && failure.is_none()) {
                // The server can then free what it holds for us now, rather than when TCP tells it.
                let _ = self.connection.session.disconnect();
                wire.transmit();
                if self.link.is_leaving() {
                    wire.see_off(&self.link.wake, Instant::now() + GOOD_BYE);
                }
            }
            if let Some(failure) = failure {
                return Err(failure);
            }
            if self.link.is_dropped() {
                return Ok(());
            }
            let passed = wire.passed();
            let mut moved = wire.receive();
            moved |= self.open_next()?;
            moved |= self.serve_channels()?;
            self.close_dropped();
            self.check_memory()?;
            moved |= wire.transmit();
            moved |= wire.passed() != passed;
            if !moved {
                if let Some(why) = wire.ended() {
                    return Err(self.lost(&why));
                }
                let until = self.keep_alive()?;
                wire.sleep(&self.link.wake, Some(until))?;
            }
        }
    }

    /// Fails if the server has filled the memory with more than it was allowed to send. libssh2 keeps what it does not
    /// understand, and what nobody waits for, forever.
    fn check_memory(&self) -> Result<()> {
        let windows = (self.channels.len() + self.closing.len()) * (RECEIVE_WINDOW + RECEIVE_WINDOW / 4);
        let held = self.connection.wire.held();
        if held > self.keepalive.memory + windows { Err(overfilled(self.link, held)) } else { Ok(()) }
    }

    fn lost(&self, why: &str) -> Error {
        self.link.error(ErrorKind::Unavailable, format!("connection to '{}' lost: {why}", self.link.machine.name))
    }

    /// Returns the error for a failed call into libssh2 after which the session cannot go on.
    fn broken(&self, error: &ssh2::Error) -> Error {
        self.lost(&self.connection.wire.ended().unwrap_or_else(|| error.message().to_string()))
    }

    /// Continues to open the next channel.
    fn open_next(&mut self) -> Result<Moved> {
        if self.opening.is_none() {
            self.opening = self.link.next_request().map(Opening::Requested);
        }
        let session = &self.connection.session;
        let opened = match &self.opening {
            None => return Ok(false),
            Some(Opening::Requested(request)) => request.open(session),
            Some(Opening::Probe) => RawChannel::open(session, "session", &[]),
        };
        let opened = match opened {
            Err(Stop::WouldBlock) => return Ok(false),
            Ok(raw) => Ok(raw),
            Err(Stop::Failed(error)) => match error.code() {
                ErrorCode::Session(codes::LIBSSH2_ERROR_CHANNEL_FAILURE) => Err(error),
                _ => return Err(self.broken(&error)),
            },
        };
        match (self.opening.take(), opened) {
            (Some(Opening::Requested(request)), Ok(raw)) => self.channels.push(OpenChannel::new(raw, request)),
            (Some(Opening::Requested(request)), Err(error)) => {
                request.end.refuse(error.message(), &self.refusal_hint(&request.purpose));
            }
            (_, Ok(raw)) => self.closing.push(raw),
            // A refused probe is an answer, too.
            (_, Err(_)) => {}
        }
        Ok(true)
    }

    fn refusal_hint(&self, purpose: &Purpose) -> String {
        let (name, user) = (&self.link.machine.name, &self.link.machine.user);
        match purpose {
            // sshd says "connect failed" in all these cases.
            Purpose::Socket(_) => format!(
                "the socket may be missing or closed to user {user}, or forwarding be switched off in sshd_config or \
                 authorized_keys on '{name}'"
            ),
            Purpose::Exec(_) => format!("see MaxSessions in sshd_config on '{name}'"),
        }
    }

    fn serve_channels(&mut self) -> Result<Moved> {
        let mut moved = false;
        let wire = Arc::clone(&self.connection.wire);
        let mut index = 0;
        while let Some(channel) = self.channels.get_mut(index) {
            let done = if channel.end.is_dropped() {
                true
            } else {
                match channel.serve(&wire, &mut self.scratch) {
                    Ok((some, done)) => {
                        moved |= some;
                        done
                    }
                    Err(Stop::WouldBlock) => false,
                    Err(Stop::Failed(error)) => return Err(self.broken(&error)),
                }
            };
            if done {
                self.closing.push(self.channels.swap_remove(index).raw);
            } else {
                index += 1;
            }
        }
        Ok(moved)
    }

    fn close_dropped(&mut self) {
        self.closing = self.closing.drain(..).filter_map(|raw| raw.free().err()).collect();
    }

    /// Asks for a sign of life if it is time to. Returns when to check again.
    fn keep_alive(&mut self) -> Result<Instant> {
        let wire = &self.connection.wire;
        let (now, heard) = (Instant::now(), wire.last_received());
        self.asked = self.asked.filter(|asked| *asked > heard);
        if let Some(asked) = self.asked {
            if now >= asked + self.keepalive.patience {
                return Err(self.lost(&format!("no answer for {} s", (now - heard).as_secs())));
            }
            return Ok(asked + self.keepalive.patience);
        }
        let stray = self.channels.is_empty() && self.closing.is_empty() && wire.has_input();
        let due = heard + if stray { UNREAD_INPUT_TIMEOUT } else { self.keepalive.idle };
        if now < due {
            return Ok(due);
        }
        self.asked = Some(now);
        if self.opening.is_none() {
            self.opening = Some(Opening::Probe);
        }
        // The probe goes out in the next round.
        Ok(now)
    }
}

/// A channel that the server has opened.
struct OpenChannel {
    raw: RawChannel,
    end: Arc<ChannelEnd>,
    /// The command, until the server has started it.
    command: Option<String>,
    is_exec: bool,
    /// Bytes by which to widen the window; libssh2 has not sent this yet.
    widening: u32,
    end_sent: bool,
    end_told: bool,
}

impl OpenChannel {
    fn new(raw: RawChannel, ChannelRequest { end, purpose }: ChannelRequest) -> Self {
        let command = match purpose {
            Purpose::Socket(_) => {
                end.set_open();
                None
            }
            Purpose::Exec(command) => Some(command),
        };
        OpenChannel { raw, end, is_exec: command.is_some(), command, widening: 0, end_sent: false, end_told: false }
    }

    /// Does what can be done without blocking. Returns whether anything moved, and whether the channel is done.
    fn serve(&mut self, wire: &SocketBuffer, scratch: &mut [u8]) -> Result<(Moved, bool), Stop> {
        self.widen_window()?;
        if let Some(command) = &self.command {
            match self.raw.request_exec(command) {
                Ok(()) => {
                    self.command = None;
                    self.end.set_open();
                }
                Err(Stop::Failed(error))
                    if error.code() == ErrorCode::Session(codes::LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED) =>
                {
                    self.end.refuse(error.message(), "check that the user's shell there can run commands");
                    return Ok((true, true));
                }
                Err(stop) => return Err(stop),
            }
        }
        let mut moved = self.receive(scratch)?;
        moved |= self.send(wire, scratch)?;
        if self.end_told && unless_blocked(self.raw.wait_closed())?.is_some() {
            self.end.set_closed(self.raw.exit_status());
            return Ok((true, true));
        }
        Ok((moved, false))
    }

    /// Lets the server send as much more as the reader has made room for.
    fn widen_window(&mut self) -> Result<(), Stop> {
        if self.widening == 0 {
            let room = RECEIVE_WINDOW.saturating_sub(self.end.queued() + self.raw.window());
            if room < WINDOW_STEP {
                return Ok(());
            }
            self.widening = room as u32;
        }
        self.raw.widen_window(self.widening)?;
        self.widening = 0;
        Ok(())
    }

    fn receive(&mut self, scratch: &mut [u8]) -> Result<Moved, Stop> {
        let mut moved = false;
        while let Some(count @ 1..) = unless_blocked(self.raw.read(OutputStream::Data, scratch))? {
            self.end.deliver(&scratch[..count]);
            moved = true;
        }
        while self.is_exec {
            let Some(count @ 1..) = unless_blocked(self.raw.read(OutputStream::Stderr, scratch))? else { break };
            self.end.deliver_stderr(&scratch[..count]);
            moved = true;
        }
        if !self.end_told && self.raw.at_end() {
            self.end.set_ended();
            self.end_told = true;
            moved = true;
        }
        Ok(moved)
    }

    fn send(&mut self, wire: &SocketBuffer, scratch: &mut [u8]) -> Result<Moved, Stop> {
        if self.command.is_some() || self.end_sent {
            return Ok(false);
        }
        let mut moved = false;
        while wire.takes_data() {
            let ready = self.end.peek_to_send(scratch);
            let mut done = 0;
            while done < ready && wire.takes_data() {
                match unless_blocked(self.raw.write(&scratch[done..ready]))? {
                    Some(count @ 1..) => done += count,
                    _ => break,
                }
            }
            if done > 0 {
                self.end.sent(done);
                moved = true;
            }
            if done < ready || ready == 0 {
                break;
            }
        }
        if self.end.is_finished() && unless_blocked(self.raw.send_eof())?.is_some() {
            self.end_sent = true;
            moved = true;
        }
        Ok(moved)
    }
}

/// Returns `None` if the call would block.
fn unless_blocked<T>(result: Result<T, Stop>) -> Result<Option<T>, Stop> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Stop::WouldBlock) => Ok(None),
        Err(stop) => Err(stop),
    }
}
