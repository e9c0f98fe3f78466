// SPDX-License-Identifier: GPL-3.0-or-later
//! When to compress what is sent: only over a slow link, and only while that makes sending faster.

use std::time::{Duration, Instant};

/// Amount that is sent before the rate is measured, in bytes: it only fills buffers on the way.
const LEAD: usize = 3 << 20;

/// Amount over which the rate is measured, in bytes.
const SAMPLE: usize = 2 << 20;

/// Shortest time that a sample counts as: a clock may not have moved meanwhile.
const SHORTEST_SAMPLE: Duration = Duration::from_micros(1);

/// Rate, in bytes a second, below which compression is tried: half of what one core compresses at the default level.
const SLOW: f64 = 100e6;

/// Rate, in bytes a second, below which a link is very slow: then everything is compressed that can be, at any cost.
const VERY_SLOW: f64 = 25e6;

/// Rate, in bytes a second, below which there is time to compress harder, at least at the level `HARD`.
const CRAWLING: f64 = 15e6;
const HARD: i32 = 5;

/// Factor by which compression must raise the rate.
const GAIN: f64 = 1.1;

/// Number of samples in a row that must show that a link is very slow, or that compression is in vain. A single sample
/// may have been a pause.
const CONVINCING: u32 = 2;

/// A meter of the rate at which something is sent, sample by sample.
#[derive(Clone, Default)]
struct Meter {
    /// When the sample began; `None`: it has not begun.
    begun: Option<Instant>,
    /// Bytes since the lead or the sample began.
    bytes: usize,
}

impl Meter {
    /// Notes that `bytes` more were sent until `now`. At the end of a sample, returns its rate, in bytes a second.
    fn note(&mut self, bytes: usize, now: Instant) -> Option<f64> {
        self.bytes += bytes;
        let Some(begun) = self.begun else {
            if self.bytes >= LEAD {
                (self.begun, self.bytes) = (Some(now), 0);
            }
            return None;
        };
        if self.bytes < SAMPLE {
            return None;
        }
        let time = now.saturating_duration_since(begun).max(SHORTEST_SAMPLE);
        let rate = self.bytes as f64 / time.as_secs_f64();
        (self.begun, self.bytes) = (Some(now), 0);
        Some(rate)
    }
}

/// A detector of very slow links.
#[derive(Default)]
pub struct SlowLinkDetector {
    meter: Meter,
    /// How many samples in a row were very slow.
    slow: u32,
}

impl SlowLinkDetector {
    /// Notes that `bytes` more were sent until `now`. Returns the rate, in bytes a second, if the link proves very
    /// slow.
    pub fn note(&mut self, bytes: usize, now: Instant) -> Option<f64> {
        let rate = self.meter.note(bytes, now)?;
        self.slow = if rate < VERY_SLOW { self.slow + 1 } else { 0 };
        (self.slow >= CONVINCING).then_some(rate)
    }
}

/// The compression of an import: measures the rate of the import, and finds out whether compression raises it.
#[derive(Clone)]
pub struct CompressionPolicy {
    /// The level at which to compress; `None`: compression is not possible, or was in vain.
    level: Option<i32>,
    compressing: bool,
    /// The rate without compression, in bytes a second.
    plain: f64,
    /// How many samples in a row were no faster with compression.
    in_vain: u32,
    meter: Meter,
}

impl CompressionPolicy {
    /// Returns the policy for a new import, which may be compressed at `level`.
    pub fn new(level: Option<i32>) -> Self {
        CompressionPolicy { level, compressing: false, plain: 0.0, in_vain: 0, meter: Meter::default() }
    }

    /// Returns the policy for an import over a link with a known low `rate`, in bytes a second. It is compressed at
    /// `level` from the beginning.
    pub fn for_slow_link(level: i32, rate: f64) -> Self {
        CompressionPolicy { level: Some(level), compressing: true, plain: rate, in_vain: 0, meter: Meter::default() }
    }

    /// Returns whether compression is still possible.
    pub fn may_compress(&self) -> bool {
        self.level.is_some()
    }

    /// Returns the level at which to compress the next bytes; `None`: not at all.
    pub fn level(&self) -> Option<i32> {
        let least = if self.plain < CRAWLING { HARD } else { 0 };
        self.level.filter(|_| self.compressing).map(|level| level.max(least))
    }

    /// Notes that `bytes` more, counted before compression, were sent until `now`.
    pub fn note(&mut self, bytes: usize, now: Instant) {
        let Some(rate) = self.meter.note(bytes, now) else { return };
        if !self.compressing {
            self.plain = rate;
            self.compressing = rate < SLOW && self.level.is_some();
        } else {
            self.in_vain = if rate < self.plain * GAIN { self.in_vain + 1 } else { 0 };
            if self.in_vain == CONVINCING {
                (self.compressing, self.level) = (false, None);
            }
        }
        self.meter = Meter::default(); // buffers on the way that are full of one kind say nothing of the other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns for each MiB whether it was compressed, over a link of `link` bytes a second. `ratio`: how far it
    /// shrinks.
    fn run(level: Option<i32>, link: f64, ratio: f64) -> Vec<bool> {
        let (mut policy, mut now) = (CompressionPolicy::new(level), Instant::now());
        (0..64)
            .map(|_| {
                let compressed = policy.level().is_some();
                let bytes = f64::from(1 << 20);
                let sent = if compressed { (bytes / ratio / link).max(bytes / 200e6) } else { bytes / link };
                now += Duration::from_secs_f64(sent);
                policy.note(1 << 20, now);
                compressed
            })
            .collect()
    }

    #[test]
    fn a_slow_link_gets_compressed_data() {
        let compressed = run(Some(3), 12.5e6, 3.0);
        assert!(compressed[..5].iter().all(|compressed| !compressed));
        assert!(compressed[5..].iter().all(|compressed| *compressed));
    }

    #[test]
    fn the_slower_the_link_the_harder_is_compressed() {
        for (rate, level) in [(12.5e6, 5), (50e6, 3)] {
            let (mut policy, begun) = (CompressionPolicy::new(Some(3)), Instant::now());
            policy.note(LEAD, begun);
            policy.note(SAMPLE, begun + Duration::from_secs_f64(SAMPLE as f64 / rate));
            assert_eq!(policy.level(), Some(level));
        }
    }

    #[test]
    fn one_pause_does_not_make_a_link_slow() {
        let watch = |times: &[(usize, u64)]| {
            let (mut watch, mut now) = (SlowLinkDetector::default(), Instant::now());
            let mut note = |(bytes, ms): &(usize, u64)| {
                now += Duration::from_millis(*ms);
                watch.note(*bytes, now)
            };
            times.iter().map(&mut note).last().unwrap()
        };
        assert_eq!(watch(&[(LEAD, 1), (SAMPLE, 200), (SAMPLE, 100)]), Some(SAMPLE as f64 / 0.1));
        assert_eq!(watch(&[(LEAD, 1), (SAMPLE, 200), (SAMPLE, 20)]), None);
        assert_eq!(watch(&[(LEAD, 1), (SAMPLE, 200), (SAMPLE, 20), (SAMPLE, 200)]), None);
        assert_eq!(watch(&[(LEAD, 1000), (SAMPLE, 200)]), None);
    }

    #[test]
    fn a_link_that_is_known_to_be_slow_gets_compressed_data_at_once() {
        // Each sample: its time in milliseconds, and whether there is compression afterwards.
        let check = |samples: &[(u64, bool)]| {
            let (mut policy, mut now) = (CompressionPolicy::for_slow_link(3, 12.5e6), Instant::now());
            assert_eq!(policy.level(), Some(5));
            for (ms, compressed) in samples {
                policy.note(LEAD, now);
                now += Duration::from_millis(*ms);
                policy.note(SAMPLE, now);
                assert_eq!(policy.level().is_some(), *compressed, "{samples:?}");
            }
        };
        check(&[(50, true), (1000, true), (50, true), (1000, true)]); // pauses
        check(&[(50, true), (160, true), (160, false), (50, false)]); // in vain
    }

    #[test]
    fn what_gains_nothing_is_not_compressed_for_long() {
        assert!(run(Some(3), 12.5e6, 1.0)[20..].iter().all(|compressed| !compressed));
    }

    #[test]
    fn a_fast_link_and_a_machine_that_cannot_get_plain_data() {
        for (level, link) in [(Some(3), 300e6), (None, 1e6)] {
            assert!(run(level, link, 3.0).iter().all(|compressed| !compressed));
        }
    }
}
