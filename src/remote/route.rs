// SPDX-License-Identifier: GPL-3.0-or-later
//! By which way items reach the machine: with the helper or without, whole or imported, compressed or not.

use std::io::{self, Read};
use std::time::Instant;

use super::Remote;
use super::compression::{CompressionPolicy, SlowLinkDetector};
use super::daemon_link::DaemonLink;
use super::streams::Patient;
use super::way::Way;
use crate::ground::error::{ErrorKind, Result};
use crate::ground::store_path::StorePath;

impl Remote {
    /// Gets ready to receive `items` store items, of some `bytes` bytes in all.
    ///
    /// Where that would take many round trips, the helper comes in between, with a connection to the daemon that is
    /// used instead of the one there was.
    pub fn prepare_to_receive(&mut self, items: usize, bytes: u64) {
        let way = self.way();
        if way.needs_helper(items, bytes) {
            // A machine where no Guile can be started still receives, if slowly.
            let (step, policy) = (self.limits.step, way.compression(bytes));
            if let Ok(link) = DaemonLink::through_helper(&self.session, &self.socket, &self.store, step, policy) {
                self.former = Some(std::mem::replace(&mut self.link, link));
            }
        }
    }

    /// Returns what is known of the way to the machine.
    fn way(&self) -> Way {
        Way {
            relayed: self.link.relayed,
            compresses: self.link.compresses,
            round_trip: self.link.round_trip,
            slow_link: self.slow_link,
            level: self.machine.compression_level_if_allowed(),
            memory: self.probe.memory,
        }
    }

    /// Sets the rate of the link, in bytes a second, if it is known from before to be very slow.
    pub fn set_slow_link(&mut self, rate: Option<f64>) {
        self.slow_link = rate;
    }

    /// Returns the rate of the link, in bytes a second, if it is known to be very slow.
    pub fn slow_link(&self) -> Option<f64> {
        self.slow_link
    }

    /// Returns whether an item of `size` bytes is better handed to the daemon there whole than imported. Only if that
    /// can hold it in memory, and if it would not be compressed otherwise.
    pub fn prefers_whole_items(&self, size: u64) -> bool {
        self.way().prefers_whole_items(size)
    }

    /// Adds the item called `name`, whose name follows from its nar, which `nar` reads, and returns its name there. The
    /// daemon holds it in memory: see [`Remote::prefers_whole_items`]. Protected as what [`Remote::begin_adding`] adds.
    ///
    /// `None`: the link is so slow that it is better imported, which compresses it. The helper, with another connection
    /// to the daemon, is in between from then on; what was added before is not protected any more.
    pub fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<Option<StorePath>> {
        let Remote { machine, store, session, socket, link, slow_link, limits, .. } = self;
        let mut level = machine.compression_level_if_allowed().filter(|_| !link.relayed);
        let (mut watch, mut replacement) = (SlowLinkDetector::default(), None);
        let mut watched = Watched {
            inner: Patient::new(nar, &link.channel, *limits),
            go_on: |bytes| {
                if let Some((rate, level)) =
                    watch.note(bytes, Instant::now()).and_then(|rate| Some((rate, level.take()?)))
                {
                    *slow_link = Some(rate);
                    let policy = CompressionPolicy::for_slow_link(level, rate);
                    let link = DaemonLink::through_helper(session, socket, store, limits.step, policy);
                    replacement = link.ok().filter(|link| link.compresses);
                }
                replacement.is_none()
            },
        };
        let added = link.client.add_nar(name, &mut watched);
        match replacement {
            Some(link) => self.link = link,
            None if added.as_ref().is_err_and(|error| error.kind() == ErrorKind::Store) => return added.map(Some),
            None => return added.map(Some).map_err(|e| self.on_this_machine(e)),
        }
        Ok(None)
    }
}

/// A stream that breaks off once `go_on`, which is told how much was read, says so.
struct Watched<R: Read, F: FnMut(usize) -> bool> {
    inner: R,
    go_on: F,
}

impl<R: Read, F: FnMut(usize) -> bool> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if (self.go_on)(length) { Ok(length) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }
}
