// SPDX-License-Identifier: GPL-3.0-or-later
//! The worker protocol: how a client talks to guix-daemon, over any stream.
//!
//! - [`replies`]: the words that a daemon sends, read within limits
//! - [`frame`]: what the daemon sends while it works on a request
//! - [`request`]: the parts of requests
//! - [`client`]: the requests, and their answers
//! - [`downloads`]: what its log says of downloads
//! - [`local_stream`]: the stream to the daemon of this host

mod client;
mod downloads;
mod frame;
mod local_stream;
mod replies;
mod request;

pub use client::{Additions, BuildOptions, Client, ExportReader, PathInfo, Substitute};
pub use downloads::Downloads;
pub use local_stream::LocalStream;
pub use replies::CLOSED;
pub use request::{ContentAddressed, NewItem, size_of_asking};

pub(crate) use client::FLIGHT;

pub(crate) use frame::NEXT as LOG_FRAME;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// A connection to a daemon: the stream beneath a [`Client`].
pub trait Stream: Read + Write + Send {
    /// Hands `request`, which begins an import, and all of `archive` to a relay: a process that runs beside the daemon,
    /// and feeds the import to it. `None`: there is no relay, and nothing was sent or read.
    ///
    /// The daemon asks for each 32 KiB of an import, and accepts nothing that it did not ask for. So without a relay,
    /// an import costs a round trip for each 32 KiB.
    fn feed(&mut self, request: &[u8], archive: &mut dyn Read) -> Option<io::Result<()>> {
        let _ = (request, archive);
        None
    }

    /// Hands `requests`, each of which the daemon answers with one string, to a relay that gives them to the daemon one
    /// after the other. The answers come in the same order. `None`: there is no relay, and nothing was sent.
    ///
    /// Without a relay, each request that is not small costs a round trip: the daemon treats bytes that come while it
    /// works as an error.
    fn submit(&mut self, requests: &[Vec<u8>]) -> Option<io::Result<()>> {
        let _ = requests;
        None
    }

    /// Makes the relay connect to the daemon anew; `None`: there is no relay.
    fn restart(&mut self) -> Option<io::Result<()>> {
        None
    }

    /// Returns whether there is a relay: see [`Stream::feed`].
    fn has_relay(&self) -> bool {
        false
    }
}

impl Stream for UnixStream {}
