// SPDX-License-Identifier: GPL-3.0-or-later
//! The connection to the daemon of a build machine. The SSH server forwards its socket, or the relay is in between.

use std::time::{Duration, Instant};

use super::compression::CompressionPolicy;
use super::relay::Relay;
use super::trust;
use crate::daemon::{Client, Stream};
use crate::ground::directories;
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::ground::store_path::StoreDir;
use crate::ssh::{Channel, Session};
use crate::store::text_item;

impl Stream for Channel {}

/// Pauses between attempts to start the relay: a server that allows one session frees it a moment after it was closed.
const SESSION_RETRY_PAUSES: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(400)];

/// A connection to a daemon, and the channel that carries it.
pub struct DaemonLink {
    /// The daemon.
    pub client: Client,
    /// The channel, to set its time limits.
    pub channel: Channel,
    /// Whether the relay is in between.
    pub relayed: bool,
    /// Whether imports may be compressed.
    pub compresses: bool,
    /// Whether the machine was asked to export [`trust::TEXT`], which shows whether it is trusted, and has not
    /// answered.
    pub proves: bool,
    /// An estimate of one round trip: how long the daemon took to answer its greeting, or a later question if that was
    /// faster.
    pub round_trip: Duration,
}

impl DaemonLink {
    /// Greets the daemon through the forwarded socket `channel`. If the server refused to forward it, starts the relay
    /// to reach the socket named `socket`. Each of the two may take `limit`.
    pub fn open(
        session: &Session,
        channel: Channel,
        socket: &str,
        store: &StoreDir,
        limit: Duration,
    ) -> Result<DaemonLink> {
        channel.set_deadline(Some(Instant::now() + limit));
        match channel.wait_open() {
            Ok(()) => Self::greet(Box::new(channel.clone()), channel, false, store),
            Err(refusal) if session.failure().is_some() => Err(refusal),
            // The server refuses a missing socket in the same words as all forwarding. The relay tells them apart.
            Err(_) => Self::through_relay(session, socket, store, limit, CompressionPolicy::new(None)),
        }
    }

    /// Sends the greeting to the daemon through the forwarded socket `channel`. Does not wait for the socket to open,
    /// nor for the answer.
    pub fn open_later(channel: Channel, store: &StoreDir, round_trip: Duration) -> Result<DaemonLink> {
        let (path, _) = text_item(store, trust::TEXT.0, trust::TEXT.1)?;
        // The daemon starts its signing process now, not when we wait for an output. That takes a tenth of a second.
        let client = Client::later_handshake(Box::new(channel.clone()), store, |client| client.export_later(&path))?;
        Ok(DaemonLink { client, channel, relayed: false, compresses: false, proves: false, round_trip })
    }

    /// Does the same as [`DaemonLink::through_relay`], on a server that forwards no sockets. Tries again a few times:
    /// the server may allow one session at a time, and frees a session a little after closing it.
    pub fn after_refusal(session: &Session, socket: &str, store: &StoreDir, limit: Duration) -> Result<DaemonLink> {
        for pause in SESSION_RETRY_PAUSES {
            match Self::through_relay(session, socket, store, limit, CompressionPolicy::new(None)) {
                Err(_) if session.failure().is_none() => session.rest(pause)?,
                result => return result,
            }
        }
        Self::through_relay(session, socket, store, limit, CompressionPolicy::new(None))
    }

    /// Starts the relay, and greets the daemon that listens on the socket named `socket` through it. Imports begin with
    /// `policy`.
    pub fn through_relay(
        session: &Session,
        socket: &str,
        store: &StoreDir,
        limit: Duration,
        policy: CompressionPolicy,
    ) -> Result<DaemonLink> {
        let channel = relay_channel(session, &policy);
        channel.set_deadline(Some(Instant::now() + limit));
        let relay = Relay::start(channel.clone(), socket, policy)?;
        let compresses = relay.compresses();
        let link = Self::greet(Box::new(relay), channel, true, store)?;
        Ok(DaemonLink { compresses, ..link })
    }

    /// Greets the daemon. In the same flight, asks it to export a signed text, which shows whether the machine is
    /// trusted: it signs the text while nobody waits.
    fn greet(stream: Box<dyn Stream>, channel: Channel, relayed: bool, store: &StoreDir) -> Result<DaemonLink> {
        let begun = Instant::now();
        let (name, text) = trust::TEXT;
        let (path, _) = text_item(store, name, text)?;
        let more = |client: &mut Client| client.export_text_later(name, text, &path);
        let mut client = Client::later_handshake(stream, store, more)?;
        client.finish_greeting()?;
        let round_trip = begun.elapsed();
        Ok(DaemonLink { client, channel, relayed, compresses: false, proves: true, round_trip })
    }
}

/// A connection to the daemon that is being opened, besides another one, for what needs no proof of trust.
pub struct Opening {
    /// The channel, through which another thread can end it.
    pub channel: Channel,
    /// The file name of the socket to which the relay, if it is in between, connects.
    relay_to: Option<String>,
    store: StoreDir,
}

impl Opening {
    /// Starts to connect to the daemon that listens on the socket named `socket`, through the relay if `relayed`.
    pub fn start(session: &Session, socket: &str, store: &StoreDir, relayed: bool) -> Opening {
        let channel =
            if relayed { relay_channel(session, &CompressionPolicy::new(None)) } else { session.open_socket(socket) };
        Opening { channel, relay_to: relayed.then(|| socket.to_string()), store: store.clone() }
    }

    /// Greets the daemon.
    pub fn greet(self) -> Result<Client> {
        let stream: Box<dyn Stream> = match &self.relay_to {
            Some(socket) => Box::new(Relay::start(self.channel, socket, CompressionPolicy::new(None))?),
            None => Box::new(self.channel),
        };
        Client::later_handshake(stream, &self.store, |_| Ok(()))
    }
}

fn relay_channel(session: &Session, policy: &CompressionPolicy) -> Channel {
    session.exec(&Relay::command(policy.may_compress()))
}

/// Returns the file name of the socket that `name`, the value of `GUIX_DAEMON_SOCKET` there, names.
pub fn socket_file(name: &str) -> Result<&str> {
    match directories::socket_file(name) {
        file if file.starts_with('/') => Ok(file),
        _ => Err(Error::new(ErrorKind::Unavailable, format!("the remote user's GUIX_DAEMON_SOCKET is '{name}'")).hint(
            "only sockets in the file system can be used: unset the variable for non-interactive sessions there",
        ))
        .context(|| "connecting to the daemon there"),
    }
}
