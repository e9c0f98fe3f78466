// SPDX-License-Identifier: GPL-3.0-or-later
//! From a machine's name to a session that is logged in: TCP, key exchange, host key, authentication.
//!
//! What the machine file says is all that counts: the host key given there is the only one trusted, and the private
//! key given there the only identity offered. `known_hosts`, `~/.ssh/config` and agents are not looked at.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use libssh2_sys as codes;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect as connect_socket, socket_with, sockopt};
use ssh2::{ErrorCode, MethodType};

use super::key_file;
use super::raw_channel::Stop;
use super::session::SessionLink;
use super::wire::Wire;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::machine::fingerprint;

/// Fastest first, as measured with libssh2.
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com,\
                       aes256-ctr,aes192-ctr,aes128-ctr";

/// A session on its wire. Dropping it closes the socket at once.
pub struct Connection {
    pub session: ssh2::Session,
    pub wire: Arc<Wire>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Freeing the session closes its channels, which must not wait for the other side.
        self.wire.cut();
    }
}

/// Connects and logs in to the machine of `link`, before `deadline`.
pub fn connect(link: &SessionLink, deadline: Instant) -> Result<Connection> {
    // A private key that cannot be used is noticed even when the machine is away.
    let private_key = key_file::read(&link.machine.private_key)?;
    let socket = open_tcp(link, deadline)?;
    let mut session = ssh2::Session::new().map_err(|error| failed(link, "starting an SSH session", &error))?;
    let wire = Wire::attach(socket, &mut session);
    let mut connecting = Connecting { link, deadline, connection: Connection { session, wire } };
    connecting.exchange_keys()?;
    connecting.check_host_key()?;
    connecting.log_in(&private_key)?;
    Ok(connecting.connection)
}

/// Tries the machine's addresses in turn, each with its share of the time that is left.
fn open_tcp(link: &SessionLink, deadline: Instant) -> Result<OwnedFd> {
    let (name, port) = (link.machine.name.as_str(), link.machine.port);
    // This can take longer than it should, but it holds up only this thread: see `abort`.
    let addresses: Vec<SocketAddr> = (name, port)
        .to_socket_addrs()
        .io_context(ErrorKind::Unavailable, || format!("looking up the address of '{name}'"))
        .map_err(|error| error.hint("check the name in the machine file, and this machine's name service"))?
        .collect();
    let mut failure = Errno::HOSTUNREACH;
    for (index, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let until = Instant::now() + left / (addresses.len() - index) as u32;
        match try_address(link, *address, until)? {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    let why = match failure {
        Errno::TIMEDOUT => "no answer in time".to_string(),
        other => std::io::Error::from(other).to_string(),
    };
    Err(Error::new(ErrorKind::Unavailable, format!("cannot connect to '{name}', port {port}: {why}"))
        .hint(format!("check that '{name}' is up and that its SSH server listens on port {port}")))
}

/// The inner error is that of the address, the outer one ends it all.
fn try_address(link: &SessionLink, address: SocketAddr, until: Instant) -> Result<Result<OwnedFd, Errno>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match socket_with(family, SocketType::STREAM, flags, None) {
        // IPv6 may be switched off here, and yet the machine have such an address.
        Err(Errno::AFNOSUPPORT) => return Ok(Err(Errno::AFNOSUPPORT)),
        made => made.io_context(ErrorKind::Exhausted, || format!("making a socket for '{}'", link.machine.name))?,
    };
    match connect_socket(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => loop {
            check_wanted(link)?;
            if Instant::now() >= until {
                return Ok(Err(Errno::TIMEDOUT));
            }
            link.wake.sleep(socket.as_fd(), PollFlags::OUT, Some(until))?;
            match sockopt::socket_error(&socket) {
                Ok(Err(error)) | Err(error) => return Ok(Err(error)),
                Ok(Ok(())) if rustix::net::getpeername(&socket).is_ok_and(|peer| peer.is_some()) => break,
                Ok(Ok(())) => {}
            }
        },
        Err(error) => return Ok(Err(error)),
    }
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    Ok(Ok(socket))
}

/// Fails if the session was aborted, or nobody holds it any more.
fn check_wanted(link: &SessionLink) -> Result<()> {
    link.wake.clear();
    match link.failure() {
        Some(failure) => Err(failure),
        None if link.is_dropped() => Err(Error::new(ErrorKind::Cancelled, "the session was dropped")),
        None => Ok(()),
    }
}

/// The error for what libssh2 refused to do.
fn failed(link: &SessionLink, what: &str, error: &ssh2::Error) -> Error {
    let kind = match error.code() {
        ErrorCode::Session(codes::LIBSSH2_ERROR_SOCKET_DISCONNECT) => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    };
    Error::new(kind, format!("{what} with '{}' failed: {}", link.machine.name, error.message()))
}

/// A session that is not ready yet.
struct Connecting<'a> {
    link: &'a SessionLink,
    deadline: Instant,
    connection: Connection,
}

impl Connecting<'_> {
    fn exchange_keys(&mut self) -> Result<()> {
        let name = &self.link.machine.name;
        let pinned = self.link.machine.host_key.algorithm();
        // An ssh-rsa key signs with SHA-2; its old way of signing, with SHA-1, is what servers refuse today.
        let host_keys = if pinned == "ssh-rsa" { "rsa-sha2-512,rsa-sha2-256" } else { pinned };
        let session = &self.connection.session;
        session.method_pref(MethodType::HostKey, host_keys).map_err(|_| {
            Error::new(
                ErrorKind::Configuration,
                format!("host keys of type {pinned}, as that of '{name}', are not supported"),
            )
            .hint("give its key of type ssh-ed25519 in the machine file")
        })?;
        for direction in [MethodType::CryptCs, MethodType::CryptSc] {
            session.method_pref(direction, CIPHERS).map_err(|error| failed(self.link, "choosing a cipher", &error))?;
        }
        let outcome = self.drive("exchanging keys", |session| session.handshake())?;
        outcome.map_err(|error| match error.code() {
            ErrorCode::Session(codes::LIBSSH2_ERROR_KEX_FAILURE | codes::LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE)
                if self.connection.session.methods(MethodType::HostKey).is_none() =>
            {
                Error::new(
                    ErrorKind::Authentication,
                    format!("'{name}' has no host key of type {pinned}, which the machine file gives for it"),
                )
                .hint(format!("compare with 'ssh-keyscan -p {} {name}'", self.link.machine.port))
            }
            _ => failed(self.link, "exchanging keys", &error),
        })
    }

    fn check_host_key(&self) -> Result<()> {
        let machine = &self.link.machine;
        let Some((key, _)) = self.connection.session.host_key() else {
            return Err(Error::new(ErrorKind::Protocol, format!("'{}' sent no host key", machine.name)));
        };
        if key == machine.host_key.blob() {
            return Ok(());
        }
        let (seen, expected) = (fingerprint(key)?, machine.host_key.fingerprint()?);
        Err(Error::new(
            ErrorKind::Authentication,
            format!("the host key of '{}' is {seen}, but the machine file says {expected}", machine.name),
        )
        .hint(
            "if the machine was installed anew, put its new key (/etc/ssh/ssh_host_*_key.pub there) into the machine \
             file; if not, somebody may be in between",
        ))
    }

    fn log_in(&mut self, private_key: &str) -> Result<()> {
        let machine = &self.link.machine;
        let (name, user) = (&machine.name, &machine.user);
        let outcome =
            self.drive("logging in", |session| session.userauth_pubkey_memory(user, None, private_key, None))?;
        outcome.map_err(|error| match error.code() {
            // libssh2 says so, too, when it cannot read the answer at all.
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
            _ => failed(self.link, "logging in", &error),
        })
    }

    /// Calls `step` until it no longer blocks. The outer error is that of the connection, the inner one its result.
    fn drive<T>(
        &mut self,
        what: &str,
        mut step: impl FnMut(&mut ssh2::Session) -> Result<T, ssh2::Error>,
    ) -> Result<Result<T, ssh2::Error>> {
        let name = &self.link.machine.name;
        let Connection { session, wire } = &mut self.connection;
        loop {
            check_wanted(self.link)?;
            let mut moved = wire.receive();
            let before = wire.passed();
            let result = step(session);
            moved |= wire.passed() != before;
            moved |= wire.transmit();
            match result.map_err(Stop::from) {
                Ok(done) => return Ok(Ok(done)),
                Err(Stop::Failed(error)) => return Ok(Err(error)),
                Err(Stop::WouldBlock) => {}
            }
            let lost = |why: &str| {
                Error::new(ErrorKind::Unavailable, format!("connection to '{name}' lost while {what}: {why}"))
            };
            if Instant::now() >= self.deadline {
                return Err(lost("no answer in time"));
            }
            if !moved {
                if let Some(why) = wire.ended() {
                    return Err(lost(&why));
                }
                wire.sleep(&self.link.wake, Some(self.deadline))?;
            }
        }
    }
}
