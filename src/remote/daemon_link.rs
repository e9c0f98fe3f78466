// SPDX-License-Identifier: GPL-3.0-or-later
//! The connection to the daemon of a build machine: its socket forwarded by the SSH server, or through the relay.

use std::time::{Duration, Instant};

use super::compression::CompressionPolicy;
use super::relay::Relay;
use super::trust;
use crate::daemon::{Client, Stream};
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::ground::store_path::StoreDir;
use crate::ssh::{Channel, Session};
use crate::store::text_item;

impl Stream for Channel {}

/// Pauses between attempts: a server that allows one session frees a closed one a moment later.
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
    /// Whether the machine was asked along with the greeting for what shows whether it is trusted: see [`trust::TEXT`].
    pub proves: bool,
    /// An estimate of one round trip: how long the daemon took to answer its greeting, or a later question if that was
    /// faster.
    pub round_trip: Duration,
}

impl DaemonLink {
    /// Greets the daemon through the forwarded socket `channel`, or, if the server refused to forward it, starts the
    /// relay to reach the socket named `socket`. Either may take `limit`.
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
            // A missing socket is refused in the same words as all forwarding: the relay tells them apart.
            Err(_) => Self::through_relay(session, socket, store, limit, CompressionPolicy::new(None)),
        }
    }

    /// Greets the daemon through the forwarded socket `channel`, without waiting for either.
    pub fn open_later(channel: Channel, store: &StoreDir, round_trip: Duration) -> Result<DaemonLink> {
        let (path, _) = text_item(store, trust::TEXT.0, trust::TEXT.1)?;
        // Its daemon starts to sign now, and not when an output is waited for: that takes a tenth of a second.
        let client = Client::later_handshake(Box::new(channel.clone()), store, |client| client.export_later(&path))?;
        Ok(DaemonLink { client, channel, relayed: false, compresses: false, proves: false, round_trip })
    }

    /// As [`DaemonLink::through_relay`], on a server that forwards no sockets and may allow one session at a time. It
    /// forgets one a little after it has closed it.
    pub fn after_refusal(session: &Session, socket: &str, store: &StoreDir, limit: Duration) -> Result<DaemonLink> {
        for pause in SESSION_RETRY_PAUSES {
            match Self::through_relay(session, socket, store, limit, CompressionPolicy::new(None)) {
                Err(_) if session.failure().is_none() => std::thread::sleep(pause),
                result => return result,
            }
        }
        Self::through_relay(session, socket, store, limit, CompressionPolicy::new(None))
    }

    /// Starts the relay and greets the daemon, which listens on the socket named `socket`, through it.
    /// `policy` is how imports begin.
    pub fn through_relay(
        session: &Session,
        socket: &str,
        store: &StoreDir,
        limit: Duration,
        policy: CompressionPolicy,
    ) -> Result<DaemonLink> {
        let channel = session.exec(&Relay::command(policy.may_compress()));
        channel.set_deadline(Some(Instant::now() + limit));
        let relay = Relay::start(channel.clone(), socket, policy)?;
        let compresses = relay.compresses();
        let link = Self::greet(Box::new(relay), channel, true, store)?;
        Ok(DaemonLink { compresses, ..link })
    }

    /// Greets the daemon, and asks it along with that for what shows whether the machine is trusted. It signs that while
    /// nobody waits.
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

/// The file name of the socket that `GUIX_DAEMON_SOCKET` names: a file name, or a URI of one.
pub fn socket_file(name: &str) -> Result<&str> {
    match name.strip_prefix("unix://").or(name.strip_prefix("file://")).unwrap_or(name) {
        file if file.starts_with('/') => Ok(file),
        _ => Err(Error::new(ErrorKind::Unavailable, format!("the remote user's GUIX_DAEMON_SOCKET is '{name}'")).hint(
            "only sockets in the file system can be used: unset the variable for non-interactive sessions there",
        ))
        .context(|| "connecting to the daemon there"),
    }
}
