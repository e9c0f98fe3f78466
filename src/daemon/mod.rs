// SPDX-License-Identifier: GPL-3.0-or-later
//! The worker protocol: how a client talks to guix-daemon, over any stream.
//!
//! - [`wire`]: integers, strings and lists
//! - [`frame`]: what the daemon sends while it works on a request
//! - [`request`]: what requests are made of
//! - [`client`]: the requests, and their answers
//! - [`local_stream`]: the stream to the daemon of this host

mod client;
mod frame;
mod local_stream;
mod request;
mod wire;

pub use client::{Additions, BuildOptions, Client, Export, PathInfo};
pub use local_stream::LocalStream;
pub use request::{Addition, Contents, size_of_asking};
pub use wire::CLOSED;

pub(crate) use client::FLIGHT;

pub(crate) use frame::NEXT as LOG_FRAME;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// A connection to a daemon: the stream beneath a [`Client`].
pub trait Stream: Read + Write + Send {
    /// Hands `request`, which begins an import, and everything in `archive` to a peer that feeds it to the daemon from
    /// beside it, if there is one.
    ///
    /// The daemon asks for every 32 KiB of an import and takes nothing that it did not ask for, so without such a peer
    /// an import costs a round trip for each 32 KiB. `None`: there is no such peer, and nothing was sent or read.
    fn feed(&mut self, request: &[u8], archive: &mut dyn Read) -> Option<io::Result<()>> {
        let _ = (request, archive);
        None
    }

    /// Hands over `requests`, each of which the daemon answers with one string, to a peer that gives it one after the
    /// other, if there is one. The answers come in the same order.
    ///
    /// Without such a peer each request costs a round trip, unless it is small, for the daemon takes what comes while
    /// it works as an error. `None`: there is no such peer, and nothing was sent.
    fn submit(&mut self, requests: &[Vec<u8>]) -> Option<io::Result<()>> {
        let _ = requests;
        None
    }

    /// Makes such a peer connect to the daemon anew; returns `None` if there is none.
    fn restart(&mut self) -> Option<io::Result<()>> {
        None
    }

    /// Is there such a peer?
    fn has_peer(&self) -> bool {
        false
    }
}

impl Stream for UnixStream {}
