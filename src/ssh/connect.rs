// SPDX-License-Identifier: GPL-3.0-or-later
//! From a machine's name to a session that is logged in: TCP, key exchange, host key, authentication.
//!
//! Only the machine file counts: its host key is the only one trusted, and its private key the only identity offered.
//! `known_hosts`, `~/.ssh/config` and agents are ignored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use libssh2_sys as codes;
use ssh2::{ErrorCode, MethodType};

use super::agreement;
use super::key_file;
use super::raw_channel::Stop;
use super::raw_session::RawSession;
use super::session::{ChannelRequest, SharedSession};
use super::socket_buffer::SocketBuffer;
use super::tcp::{self, Connected};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::machine::{HostKey, fingerprint};

/// Ciphers, fastest first, as measured with libssh2.
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com,\
                       aes256-ctr,aes192-ctr,aes128-ctr";

/// Most memory that libssh2 may hold for a session, in bytes, besides what its channels account for.
pub const MEMORY: usize = 2 << 20;

/// The first and the longest pause before connecting again to a server that has turned us away.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// Time limits of connecting.
#[derive(Clone, Copy)]
pub struct ConnectLimits {
    /// For opening a TCP connection, and then for each time that nothing comes.
    pub step: Duration,
    /// For everything together.
    pub until: Instant,
}

/// A session and the buffer of its socket. Dropping it closes the socket at once.
pub struct SshConnection {
    pub session: RawSession,
    pub wire: Arc<SocketBuffer>,
    /// The channel that is being opened: the request has left together with that to log in.
    pub opening: Option<ChannelRequest>,
}

impl Drop for SshConnection {
    fn drop(&mut self) {
        // Freeing the session closes its channels, which must not wait for the other side.
        self.wire.cut();
    }
}

/// Connects and logs in to the machine of `link`.
pub fn connect(link: &SharedSession, limits: ConnectLimits) -> Result<SshConnection> {
    // A private key that cannot be used is reported even when the machine is unreachable.
    let private_key = key_file::read(&link.machine.private_key)?;
    let begun = Instant::now();
    let (step, mut limits, mut pause) = (limits.step, limits, PAUSES[0]);
    let mut reason = None;
    loop {
        let connection = match start(link, limits) {
            Ok(connection) => connection,
            // If the machine has turned us away before, that is the better reason.
            Err(error) => return Err(reason.unwrap_or(error)),
        };
        let greeting_until = Some(Instant::now() + limits.step);
        let mut connecting = Connecting { link, limits, connection, greeting_until };
        let error = match connecting.exchange_keys() {
            Ok(stage) => {
                connecting.greeting_until = None;
                connecting.check_host_key()?;
                connecting.log_in(&private_key, stage)?;
                return Ok(connecting.connection);
            }
            Err(error) => error,
        };
        let wire = &connecting.connection.wire;
        let (words, is_ssh) = agreement::greeting(&wire.beginnings()[0]);
        if is_ssh || error.kind() != ErrorKind::Unavailable || wire.ended().is_none() {
            return Err(if is_ssh { error } else { reason.unwrap_or(error) });
        }
        // A server with too many connections does this with a message: it is up. Without one it may be no server.
        let time = if words.is_empty() { step / 3 } else { step * 2 };
        let error = turned_away(link, error, &words);
        if Instant::now() + pause > limits.until.min(begun + time) {
            return Err(error);
        }
        limits.step = step.min(time);
        reason.get_or_insert(error);
        link.pause(pause.mul_f64(0.5 + fastrand::f64()))?;
        pause = (pause * 2).min(PAUSES[1]);
    }
}

/// Connects to the machine of `link`, and returns the host key that its server shows: of the type of the pinned one,
/// whichever key that is. Does not log in.
pub fn shown_host_key(link: &SharedSession, limits: ConnectLimits) -> Result<HostKey> {
    let greeting_until = Some(Instant::now() + limits.step);
    let mut connecting = Connecting { link, limits, connection: start(link, limits)?, greeting_until };
    connecting.exchange_keys()?;
    let name = &link.machine.name;
    let key = connecting.connection.session.host_key();
    HostKey::from_blob(&key.ok_or_else(|| Error::new(ErrorKind::Protocol, format!("'{name}' sent no host key")))?)
}

/// Opens a TCP connection to the machine of `link`, and sends nothing yet.
fn start(link: &SharedSession, limits: ConnectLimits) -> Result<SshConnection> {
    let until = limits.until.min(Instant::now() + limits.step);
    let Connected { socket, address, is_first } = tcp::open(link, until)?;
    link.set_address((!is_first).then_some(address));
    let wire = SocketBuffer::new(socket);
    let session = RawSession::new(&wire).map_err(|error| failed(link, "starting an SSH session", &error))?;
    Ok(SshConnection { session, wire, opening: None })
}

/// Returns the error for a server that closes the connection before it says that it speaks SSH.
fn turned_away(link: &SharedSession, error: Error, words: &str) -> Error {
    let name = &link.machine.name;
    let error = if words.is_empty() {
        error
    } else {
        let message = format!("connection to '{name}' lost while exchanging keys: its SSH server says {words:?}");
        Error::new(ErrorKind::Unavailable, message)
    };
    error.hint(format!("see MaxStartups and PerSourcePenalties in sshd_config on '{name}'"))
}

/// Fails if the session was aborted, or if nobody holds it any more. A session that is to end in good order goes on.
pub fn check_wanted(link: &SharedSession) -> Result<()> {
    link.wake.clear();
    match link.failure() {
        _ if link.is_leaving() => Ok(()),
        Some(failure) => Err(failure),
        None if link.is_dropped() => Err(Error::new(ErrorKind::Cancelled, "the session was dropped")),
        None => Ok(()),
    }
}

/// Returns the error for a server that has filled `held` bytes of memory with data that nobody asked for.
pub fn overfilled(link: &SharedSession, held: usize) -> Error {
    let message = format!("'{}' sends what nobody asked for: {} MiB of it", link.machine.name, held >> 20);
    link.error(ErrorKind::Protocol, message).hint("its SSH server is broken, or wants to do harm")
}

/// Returns the error for a call that libssh2 refused.
fn failed(link: &SharedSession, what: &str, error: &ssh2::Error) -> Error {
    let kind = match error.code() {
        ErrorCode::Session(codes::LIBSSH2_ERROR_SOCKET_DISCONNECT) => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    };
    Error::new(kind, format!("{what} with '{}' failed: {}", link.machine.name, error.message()))
}

/// A session that is not ready yet.
struct Connecting<'a> {
    link: &'a SharedSession,
    limits: ConnectLimits,
    connection: SshConnection,
    /// Deadline by which the server must have said that it speaks SSH, whatever it says before; `None` once it has.
    greeting_until: Option<Instant>,
}

/// How far [`RawSession::handshake`] has come once keys are exchanged.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// The server was asked to let us log in, and has not answered.
    ServiceRequested,
    /// The server lets us log in.
    Served,
}

impl Connecting<'_> {
    /// Exchanges keys. Whoever the server is, it is told no more than that we want to log in.
    fn exchange_keys(&mut self) -> Result<Stage> {
        let name = &self.link.machine.name;
        let pinned = self.link.machine.host_key.algorithm();
        // An ssh-rsa key signs with SHA-2. Today servers refuse its old way of signing, with SHA-1.
        let host_keys = if pinned == "ssh-rsa" { "rsa-sha2-512,rsa-sha2-256" } else { pinned };
        let session = &self.connection.session;
        session.prefer(MethodType::HostKey, host_keys).map_err(|_| {
            Error::new(
                ErrorKind::Configuration,
                format!("host keys of type {pinned}, as that of '{name}', are not supported"),
            )
            .hint("give its key of type ssh-ed25519 in the machine file")
        })?;
        for direction in [MethodType::CryptCs, MethodType::CryptSc] {
            session.prefer(direction, CIPHERS).map_err(|error| failed(self.link, "choosing a cipher", &error))?;
        }
        let wire = Arc::clone(&self.connection.wire);
        let outcome = self.drive("exchanging keys", |session| match unless_blocked(session.handshake())? {
            Some(()) => Ok(Stage::Served),
            None if agreement::requests_service(&wire.beginnings()[1]) => Ok(Stage::ServiceRequested),
            None => Err(Stop::WouldBlock),
        })?;
        let result = outcome.map_err(|error| {
            let [theirs, ours] = wire.beginnings();
            agreement::disagreement(name, self.link.machine.port, pinned, &theirs, &ours)
                .unwrap_or_else(|| failed(self.link, "exchanging keys", &error))
        });
        if result.is_ok() {
            wire.forget_beginnings();
        }
        result
    }

    fn check_host_key(&self) -> Result<()> {
        let machine = &self.link.machine;
        let Some(key) = self.connection.session.host_key() else {
            return Err(Error::new(ErrorKind::Protocol, format!("'{}' sent no host key", machine.name)));
        };
        if key == machine.host_key.blob() {
            return Ok(());
        }
        let (seen, expected) = (fingerprint(&key)?, machine.host_key.fingerprint()?);
        Err(Error::new(
            ErrorKind::HostKey,
            format!("the host key of '{}' is {seen}, but the machine file says {expected}", machine.name),
        )
        .hint(
            "if the machine was installed anew, put its new key (/etc/ssh/ssh_host_*_key.pub there) into the machine \
             file; if not, somebody may be in between",
        ))
    }

    /// Logs in, in one round trip: the server's leave to do so, which it always gives, is not waited for, nor is its
    /// answer before a channel is requested. An RSA key takes two, since the leave comes with the names of the
    /// signatures that the server accepts.
    fn log_in(&mut self, private_key: &str, mut stage: Stage) -> Result<()> {
        const DOING: &str = "logging in";
        if stage == Stage::ServiceRequested && !key_file::has_one_way_of_signing(private_key) {
            let served = self.drive(DOING, |session| Ok(session.handshake()?))?;
            served.map_err(|error| failed(self.link, DOING, &error))?;
            stage = Stage::Served;
        }
        let user = &self.link.machine.user;
        // The handshake only looks at packets that it reads itself. No other call must read what it waits for: libssh2
        // has taken all input, and nothing is received until the calls below have sent their requests.
        let session = &self.connection.session;
        unless_blocked(session.log_in_at_once(user, private_key)).map_err(|error| self.explain(&error))?;
        if let Some(request) = self.link.next_request() {
            match request.open(session) {
                Err(Stop::Failed(error)) => return Err(failed(self.link, "opening a channel", &error)),
                _ => self.connection.opening = Some(request),
            }
        }
        let outcome = self.drive(DOING, |session| {
            if stage == Stage::ServiceRequested {
                session.handshake()?;
                stage = Stage::Served;
            }
            Ok(session.log_in(user, private_key)?)
        })?;
        outcome.map_err(|error| self.explain(&error))
    }

    /// Returns the error for a failed attempt to log in.
    fn explain(&self, error: &ssh2::Error) -> Error {
        let machine = &self.link.machine;
        let (name, user) = (&machine.name, &machine.user);
        match error.code() {
            // libssh2 reports this also when it cannot read the answer at all.
            ErrorCode::Session(codes::LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED) if error.message().starts_with("Waiting") => {
                let message = format!("logging in to '{name}' failed: what its SSH server answers cannot be read");
                Error::new(ErrorKind::Protocol, message)
                    .hint(format!("a login banner ('Banner' in sshd_config on '{name}') must be shorter than 35 KB"))
            }
            ErrorCode::Session(
                codes::LIBSSH2_ERROR_AUTHENTICATION_FAILED | codes::LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED,
            ) => {
                let key = machine.private_key.display();
                Error::new(
                    ErrorKind::Authentication,
                    format!("'{name}' does not let user {user} in with the key {key}"),
                )
                .hint(format!("add what 'ssh-keygen -y -f {key}' prints to ~{user}/.ssh/authorized_keys on '{name}'"))
            }
            ErrorCode::Session(codes::LIBSSH2_ERROR_FILE) => key_file::not_a_key(&machine.private_key, error.message()),
            _ => failed(self.link, "logging in", error),
        }
    }

    /// Calls `step` until it no longer blocks. The outer error is the connection's; the inner result is that of `step`.
    fn drive<T>(
        &mut self,
        what: &str,
        mut step: impl FnMut(&RawSession) -> Result<T, Stop>,
    ) -> Result<Result<T, ssh2::Error>> {
        let name = &self.link.machine.name;
        let SshConnection { session, wire, .. } = &mut self.connection;
        loop {
            check_wanted(self.link)?;
            let mut moved = wire.receive();
            let before = wire.passed();
            let result = step(session);
            moved |= wire.passed() != before;
            moved |= wire.transmit();
            match result {
                Ok(done) => return Ok(Ok(done)),
                Err(Stop::Failed(error)) => return Ok(Err(error)),
                Err(Stop::WouldBlock) => {}
            }
            let lost = |why: &str| {
                Error::new(ErrorKind::Unavailable, format!("connection to '{name}' lost while {what}: {why}"))
            };
            if wire.held() > MEMORY {
                return Err(overfilled(self.link, wire.held()));
            }
            let until = self.limits.until.min(wire.last_received() + self.limits.step);
            let now = Instant::now();
            if now >= until {
                return Err(lost("no answer in time"));
            }
            if self.greeting_until.is_some_and(|until| now >= until) && !agreement::greeting(&wire.beginnings()[0]).1 {
                return Err(lost("it talks, but says nothing of SSH"));
            }
            if !moved {
                if let Some(why) = wire.ended() {
                    return Err(lost(&why));
                }
                wire.sleep(&self.link.wake, Some(until))?;
            }
        }
    }
}

/// Returns `None` if the call would block.
fn unless_blocked<T>(result: Result<T, ssh2::Error>) -> Result<Option<T>, ssh2::Error> {
    match result.map_err(Stop::from) {
        Ok(value) => Ok(Some(value)),
        Err(Stop::WouldBlock) => Ok(None),
        Err(Stop::Failed(error)) => Err(error),
    }
}
