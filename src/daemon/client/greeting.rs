// SPDX-License-Identifier: GPL-3.0-or-later
//! The greeting: both sides say what they are and which version of the protocol they speak.

use super::building::{Settings, options_arguments};
use super::{BuildOptions, Client, request};
use crate::daemon::Stream;
use crate::daemon::replies::{broken, lost, read_number};
use crate::daemon::request::Operation;
use crate::ground::error::{Context, Result};
use crate::ground::store_path::StoreDir;
use crate::ground::words::put_number;

pub(super) const CLIENT_MAGIC: u64 = 0x6e69_7863;
pub(super) const SERVER_MAGIC: u64 = 0x6478_696f;
/// The version that this client speaks: 1.0x63, that of Guix 1.2.0. The client uses nothing that came later.
pub(super) const CLIENT_VERSION: u64 = 0x163;
/// The oldest minor version that Guix's own client accepts: 0x61, of 2017.
const OLDEST_MINOR: u64 = 0x61;

impl Client {
    /// Greets the daemon at the other end of `stream`, whose store is `store`.
    pub fn handshake(stream: Box<dyn Stream>, store: &StoreDir) -> Result<Self> {
        let mut client = Self::new(stream, store);
        client.greet().context(|| "greeting the daemon")?;
        Ok(client)
    }

    /// Sends the greeting, together with the requests that `more` postpones, and returns at once. Makes the daemon log
    /// errors only, whatever options it was started with. Its answers are read before the first request, or by
    /// [`Client::finish_greeting`] and [`Client::catch_up`].
    pub fn later_handshake(
        stream: Box<dyn Stream>,
        store: &StoreDir,
        more: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Self> {
        let mut client = Self::new(stream, store);
        more(&mut client)?;
        client.greet_blindly()?;
        Ok(client)
    }

    /// Makes the relay connect to the daemon anew, and greets the daemon as [`Client::later_handshake`] does; `false`:
    /// there is no relay. The temporary roots of the connection before it are gone.
    pub fn restart(&mut self) -> Result<bool> {
        self.check_idle()?;
        let Some(restarted) = self.stream.get_mut().restart() else { return Ok(false) };
        restarted.map_err(lost)?;
        self.later.clear();
        self.owed.clear();
        self.greeted_with.clear();
        self.greet_blindly()?;
        Ok(true)
    }

    /// Sends the greeting and the queued requests, before the daemon has said anything.
    fn greet_blindly(&mut self) -> Result<()> {
        self.greeting = true;
        self.greeted_with = std::mem::take(&mut self.owed);
        let later = std::mem::take(&mut self.later);
        let greeting = [CLIENT_MAGIC.to_le_bytes().to_vec(), hello(), quiet(), later].concat();
        self.send(&greeting).context(|| "greeting the daemon")
    }

    /// Reads the daemon's side of the greeting, unless it was read.
    pub fn finish_greeting(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.greeting) {
            return Ok(());
        }
        let request = self.unfinished.take();
        let result = self
            .read_version()
            .and_then(|()| self.wait_quietly())
            .and_then(|()| self.wait_quietly()) // for the answer to the request that it be quiet
            .context(|| "greeting the daemon");
        self.unfinished = request.or(result.is_err().then_some(Operation::SetOptions));
        result
    }

    fn greet(&mut self) -> Result<()> {
        self.send(&CLIENT_MAGIC.to_le_bytes())?;
        self.read_version()?;
        self.send(&hello())?;
        self.wait_quietly()
    }

    fn read_version(&mut self) -> Result<()> {
        let magic = read_number(&mut self.stream)?;
        if magic != SERVER_MAGIC {
            return Err(broken(format!("what answers is not guix-daemon (it says {magic:#x})")));
        }
        self.version = read_number(&mut self.stream)?;
        if self.version & 0xff00 != CLIENT_VERSION & 0xff00 || self.version & 0xff < OLDEST_MINOR {
            return Err(broken(format!("guix-daemon speaks version {:#x} of its protocol, not 1.x", self.version))
                .hint("use a guix-daemon of version 1.2.0 or later there"));
        }
        Ok(())
    }
}

/// Returns what a client sends once it knows the daemon's version.
fn hello() -> Vec<u8> {
    let mut hello = Vec::new();
    put_number(&mut hello, CLIENT_VERSION);
    put_number(&mut hello, 0); // no processor affinity
    put_number(&mut hello, 0); // no space reserved for the garbage collector
    hello
}

/// Returns the request that makes a daemon log errors only.
fn quiet() -> Vec<u8> {
    let options = BuildOptions::default();
    request(Operation::SetOptions, &options_arguments(&options, &Settings::default()))
}
