// SPDX-License-Identifier: GPL-3.0-or-later
//! The route by which items reach the machine: through the relay or not, whole (`add-to-store`) or imported
//! (`import-paths`), compressed or not.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::Remote;
use super::compression::{CompressionPolicy, SlowLinkDetector};
use super::daemon_link::DaemonLink;
use super::streams::TimedReader;
use crate::ground::error::{ErrorKind, Result};
use crate::ground::store_path::StorePath;

/// Time that it takes to start the relay, besides round trips: to start Guile and connect to the daemon again.
const RELAY_COST: Duration = Duration::from_millis(150);

/// Number of round trips that it takes to start the relay: a channel and a greeting.
const RELAY_TURNS: u32 = 3;

/// Size of what goes with an item, in bytes: names, or a signature.
const ITEM_OVERHEAD: u64 = 1 << 10;

/// Smallest transfer that is worth compressing, in bytes.
const MIN_COMPRESSED: u64 = 16 << 20;

/// An item is sent whole only if this many times its size is available as memory there. The daemon holds the item in a
/// string that grows by doubling, and other builds may send items at the same time.
const MEMORY_SHARE: u64 = 16;

/// Most that the daemon asks for at once during an import, in bytes. Without the relay, each time costs a round trip.
const IMPORT_STEP: u64 = 32 << 10;

/// What is known of a machine and the route to it.
#[derive(Clone, Copy, Debug)]
struct Route {
    /// Whether the relay is in between.
    pub relayed: bool,
    /// Whether imports may be compressed on the way through it.
    pub compresses: bool,
    /// Time of a round trip.
    pub round_trip: Duration,
    /// The rate of the link, in bytes a second, if the link is very slow.
    pub slow_link: Option<f64>,
    /// The level of compression that the machine file allows; `None`: no compression.
    pub level: Option<i32>,
    /// Memory that is available there, in bytes.
    pub memory: u64,
}

impl Route {
    /// Returns whether the relay is worth its cost for `items` store items, of some `bytes` bytes in all.
    pub fn needs_relay(&self, items: usize, bytes: u64) -> bool {
        // Small items share steps.
        let steps = (items as u64).saturating_mul(ITEM_OVERHEAD).saturating_add(bytes).div_ceil(IMPORT_STEP);
        let saved = u32::try_from(steps).unwrap_or(u32::MAX).saturating_sub(RELAY_TURNS);
        !self.relayed && self.round_trip.saturating_mul(saved) > RELAY_COST
    }

    /// Returns the compression policy for an import of some `bytes` bytes.
    pub fn compression(&self, bytes: u64) -> CompressionPolicy {
        match (self.level.filter(|_| bytes >= MIN_COMPRESSED), self.slow_link) {
            (Some(level), Some(rate)) => CompressionPolicy::for_slow_link(level, rate),
            (level, _) => CompressionPolicy::new(level),
        }
    }

    /// Returns whether an item of `size` bytes is better sent whole than imported: if the daemon there can hold it in
    /// memory, and an import would not be compressed.
    pub fn prefers_whole_items(&self, size: u64) -> bool {
        let slow = self.slow_link.is_some() && self.level.is_some();
        let compressed = size >= MIN_COMPRESSED && (slow || self.compresses);
        !compressed && size <= self.memory / MEMORY_SHARE
    }
}

impl Remote {
    /// Prepares the connection for `items` store items, of some `bytes` bytes in all.
    ///
    /// If they would take many round trips, starts the relay, and uses its connection to the daemon from then on. The
    /// earlier connection stays open for its temporary roots.
    pub fn prepare_to_receive(&mut self, items: usize, bytes: u64) {
        let route = self.route();
        if route.needs_relay(items, bytes) {
            // A machine that cannot start Guile still receives the items, but slowly.
            let (step, policy) = (self.limits.step, route.compression(bytes));
            if let Ok(link) = DaemonLink::through_relay(&self.session, &self.socket, &self.store, step, policy) {
                self.former = Some(std::mem::replace(&mut self.link, link));
            }
        }
    }

    /// Returns what is known of the route to the machine.
    fn route(&self) -> Route {
        Route {
            relayed: self.link.relayed,
            compresses: self.link.compresses,
            round_trip: self.link.round_trip,
            slow_link: self.slow_link,
            level: self.machine.compression_level_if_allowed(),
            memory: self.probe.memory,
        }
    }

    /// Sets the rate of the link, in bytes a second, if the link is known from earlier to be very slow.
    pub fn set_slow_link(&mut self, rate: Option<f64>) {
        self.slow_link = rate;
    }

    /// Returns the rate of the link, in bytes a second, if the link is known to be very slow.
    pub fn slow_link(&self) -> Option<f64> {
        self.slow_link
    }

    /// Returns whether an item of `size` bytes is better sent whole than imported. So it is if the daemon there can
    /// hold it in memory, and an import of it would not be compressed.
    pub fn prefers_whole_items(&self, size: u64) -> bool {
        self.route().prefers_whole_items(size)
    }

    /// Adds the item called `name` whole, and returns its store file name, which follows from its nar. `nar` reads the
    /// nar. The daemon holds it in memory: see [`Remote::prefers_whole_items`]. The item is protected as items of
    /// [`Remote::begin_adding`] are.
    ///
    /// `None`: the link is so slow that the item is better imported, which compresses it. From then on, the relay is in
    /// between, with another connection to the daemon. The temporary roots of the connection before it are gone.
    pub fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<Option<StorePath>> {
        let Remote { machine, store, session, socket, link, slow_link, limits, .. } = self;
        let mut level = machine.compression_level_if_allowed().filter(|_| !link.relayed);
        let (mut watch, mut replacement) = (SlowLinkDetector::default(), None);
        let mut watched = StoppableReader {
            inner: TimedReader::new(nar, &link.channel, *limits),
            go_on: |bytes| {
                if let Some((rate, level)) =
                    watch.note(bytes, Instant::now()).and_then(|rate| Some((rate, level.take()?)))
                {
                    *slow_link = Some(rate);
                    let policy = CompressionPolicy::for_slow_link(level, rate);
                    let link = DaemonLink::through_relay(session, socket, store, limits.step, policy);
                    replacement = link.ok().filter(|link| link.compresses);
                }
                replacement.is_none()
            },
        };
        let added = link.client.add_nar(name, &mut watched);
        match replacement {
            Some(link) => {
                self.link = link;
                self.held.clear();
            }
            None if added.as_ref().is_err_and(|error| error.kind() == ErrorKind::Store) => return added.map(Some),
            None => return added.map(Some).map_err(|e| self.on_this_machine(e)),
        }
        Ok(None)
    }
}

/// A reader that fails once `go_on`, which it calls with the number of bytes of each read, returns `false`.
struct StoppableReader<R: Read, F: FnMut(usize) -> bool> {
    inner: R,
    go_on: F,
}

impl<R: Read, F: FnMut(usize) -> bool> Read for StoppableReader<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if (self.go_on)(length) { Ok(length) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Route = Route {
        relayed: false,
        compresses: false,
        round_trip: Duration::from_micros(500),
        slow_link: None,
        level: Some(3),
        memory: 16 << 30,
    };

    #[test]
    fn the_relay_comes_where_round_trips_would_take_longer() {
        let far = Route { round_trip: Duration::from_millis(40), ..NEAR };
        // 150 ms are 300 round trips, or three, and it takes three to begin with.
        assert!(!NEAR.needs_relay(32 * 303, 0) && NEAR.needs_relay(32 * 303 + 1, 0));
        assert!(!NEAR.needs_relay(1, 302 * IMPORT_STEP) && NEAR.needs_relay(1, 303 * IMPORT_STEP));
        assert!(!far.needs_relay(4, 0) && !far.needs_relay(32 * 6, 0) && far.needs_relay(32 * 6 + 1, 0));
        assert!(!far.needs_relay(4, 128 << 10) && far.needs_relay(1, 192 << 10));
        assert!(far.needs_relay(usize::MAX / 2, u64::MAX / 2), "whatever is sent");
        assert!(!Route { relayed: true, ..far }.needs_relay(1000, 1 << 40), "it is there already");
        assert!(!far.needs_relay(0, 0));
    }

    #[test]
    fn much_is_compressed_where_it_is_allowed_and_from_the_beginning_where_the_link_is_slow() {
        let slow = Route { slow_link: Some(1e6), ..NEAR };
        let (much, little) = (MIN_COMPRESSED, MIN_COMPRESSED - 1);
        for (route, bytes, may, at_once) in [
            (NEAR, much, true, false),
            (NEAR, little, false, false),
            (slow, much, true, true),
            (slow, little, false, false),
            (Route { level: None, ..slow }, much, false, false),
        ] {
            let policy = route.compression(bytes);
            assert_eq!((policy.may_compress(), policy.level().is_some()), (may, at_once), "{route:?} {bytes}");
        }
    }

    #[test]
    fn items_are_whole_where_there_is_the_memory_and_they_would_not_be_compressed() {
        assert!(NEAR.prefers_whole_items(1 << 30) && !NEAR.prefers_whole_items((1 << 30) + 1));
        assert!(!Route { memory: 0, ..NEAR }.prefers_whole_items(1), "it does not say what it has");
        let slow = Route { slow_link: Some(1e6), ..NEAR };
        let relayed = Route { relayed: true, compresses: true, ..NEAR };
        for route in [slow, relayed] {
            assert!(
                route.prefers_whole_items(MIN_COMPRESSED - 1) && !route.prefers_whole_items(MIN_COMPRESSED),
                "{route:?}"
            );
        }
        assert!(Route { level: None, ..slow }.prefers_whole_items(MIN_COMPRESSED), "compressing is not allowed");
    }
}
