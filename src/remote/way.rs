// SPDX-License-Identifier: GPL-3.0-or-later
//! Decides by which way items go to a machine: through the helper or not, whole or imported, compressed or not.

use std::time::Duration;

use super::compression::CompressionPolicy;

/// The time that the helper costs: starting Guile, and another connection to the daemon, besides ...
const HELPER_COST: Duration = Duration::from_millis(150);

/// ... so many round trips: a channel and a greeting.
const HELPER_TURNS: u32 = 3;

/// What goes with an item, in bytes: names, or a signature.
const ITEM_OVERHEAD: u64 = 1 << 10;

/// Smallest transfer that is worth compressing, in bytes.
const MIN_COMPRESSED: u64 = 16 << 20;

/// The daemon there is given an item whole, to hold in memory, if so many times its size is available: it holds it in a
/// string that grows by doubling, and other builds may send such items at the same time.
const MEMORY_SHARE: u64 = 16;

/// Most that the daemon asks for at once during an import, in bytes. Without the helper, that costs a round trip.
const IMPORT_STEP: u64 = 32 << 10;

/// What is known of a machine and the way to it.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Whether the helper is in between.
    pub relayed: bool,
    /// Whether imports may be compressed by it.
    pub compresses: bool,
    /// How long a round trip takes.
    pub round_trip: Duration,
    /// The rate of the link, in bytes a second, if that is very slow.
    pub slow_link: Option<f64>,
    /// The level at which compressing is allowed, if it is.
    pub level: Option<i32>,
    /// Memory that is available there, in bytes.
    pub memory: u64,
}

impl Way {
    /// Is the helper worth its cost for `items` store items, of some `bytes` bytes in all?
    pub fn needs_helper(&self, items: usize, bytes: u64) -> bool {
        // What is small travels together.
        let steps = (items as u64).saturating_mul(ITEM_OVERHEAD).saturating_add(bytes).div_ceil(IMPORT_STEP);
        let saved = u32::try_from(steps).unwrap_or(u32::MAX).saturating_sub(HELPER_TURNS);
        !self.relayed && self.round_trip.saturating_mul(saved) > HELPER_COST
    }

    /// How an import of some `bytes` bytes is compressed.
    pub fn compression(&self, bytes: u64) -> CompressionPolicy {
        match (self.level.filter(|_| bytes >= MIN_COMPRESSED), self.slow_link) {
            (Some(level), Some(rate)) => CompressionPolicy::for_slow_link(level, rate),
            (level, _) => CompressionPolicy::new(level),
        }
    }

    /// Is an item of `size` bytes better handed to the daemon there whole than imported? Only if that can hold it in
    /// memory, and if it would not be compressed otherwise.
    pub fn prefers_whole_items(&self, size: u64) -> bool {
        let slow = self.slow_link.is_some() && self.level.is_some();
        let compressed = size >= MIN_COMPRESSED && (slow || self.compresses);
        !compressed && size <= self.memory / MEMORY_SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Way = Way {
        relayed: false,
        compresses: false,
        round_trip: Duration::from_micros(500),
        slow_link: None,
        level: Some(3),
        memory: 16 << 30,
    };

    #[test]
    fn the_helper_comes_where_round_trips_would_take_longer() {
        let far = Way { round_trip: Duration::from_millis(40), ..NEAR };
        // 150 ms are 300 round trips, or three, and it takes three to begin with.
        assert!(!NEAR.needs_helper(32 * 303, 0) && NEAR.needs_helper(32 * 303 + 1, 0));
        assert!(!NEAR.needs_helper(1, 302 * IMPORT_STEP) && NEAR.needs_helper(1, 303 * IMPORT_STEP));
        assert!(!far.needs_helper(4, 0) && !far.needs_helper(32 * 6, 0) && far.needs_helper(32 * 6 + 1, 0));
        assert!(!far.needs_helper(4, 128 << 10) && far.needs_helper(1, 192 << 10));
        assert!(far.needs_helper(usize::MAX / 2, u64::MAX / 2), "whatever is sent");
        assert!(!Way { relayed: true, ..far }.needs_helper(1000, 1 << 40), "it is there already");
        assert!(!far.needs_helper(0, 0));
    }

    #[test]
    fn much_is_compressed_where_it_is_allowed_and_from_the_beginning_where_the_link_is_slow() {
        let slow = Way { slow_link: Some(1e6), ..NEAR };
        let (much, little) = (MIN_COMPRESSED, MIN_COMPRESSED - 1);
        for (way, bytes, may, at_once) in [
            (NEAR, much, true, false),
            (NEAR, little, false, false),
            (slow, much, true, true),
            (slow, little, false, false),
            (Way { level: None, ..slow }, much, false, false),
        ] {
            let policy = way.compression(bytes);
            assert_eq!((policy.may_compress(), policy.level().is_some()), (may, at_once), "{way:?} {bytes}");
        }
    }

    #[test]
    fn items_are_whole_where_there_is_the_memory_and_they_would_not_be_compressed() {
        assert!(NEAR.prefers_whole_items(1 << 30) && !NEAR.prefers_whole_items((1 << 30) + 1));
        assert!(!Way { memory: 0, ..NEAR }.prefers_whole_items(1), "it does not say what it has");
        let slow = Way { slow_link: Some(1e6), ..NEAR };
        let relayed = Way { relayed: true, compresses: true, ..NEAR };
        for way in [slow, relayed] {
            assert!(way.prefers_whole_items(MIN_COMPRESSED - 1) && !way.prefers_whole_items(MIN_COMPRESSED), "{way:?}");
        }
        assert!(Way { level: None, ..slow }.prefers_whole_items(MIN_COMPRESSED), "compressing is not allowed");
    }
}
