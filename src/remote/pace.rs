// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether to compress what is sent: only over a slow link, and only while that makes it faster.

use std::time::{Duration, Instant};

/// How much is sent before its rate counts, in bytes: the first of it only fills buffers on the way.
const LEAD: usize = 3 << 20;

/// Over how much the rate is measured, in bytes.
const SAMPLE: usize = 2 << 20;

/// Rate, in bytes a second, up to which compressing is tried: half of what the default level compresses on a core.
const SLOW: f64 = 100e6;

/// Rate, in bytes a second, up to which there is time to compress harder, by so many levels.
const VERY_SLOW: f64 = 25e6;
const HARDER: i32 = 3;

/// By how much compressing must raise the rate.
const GAIN: f64 = 1.1;

/// Measures the rate at which an import proceeds, and finds out whether compressing raises it.
pub struct Pace {
    /// The level at which to compress, if that is possible and was not in vain.
    level: Option<i32>,
    compressing: bool,
    /// The rate without compressing.
    plain: f64,
    /// When the sample began; `None`: it has not.
    begun: Option<Instant>,
    /// Bytes since the lead or the sample began.
    bytes: usize,
}

impl Pace {
    /// One for a new import, which may be compressed at `level`.
    pub fn new(level: Option<i32>) -> Self {
        Pace { level, compressing: false, plain: 0.0, begun: None, bytes: 0 }
    }

    /// The level at which to compress what comes next, if it is to be compressed.
    pub fn level(&self) -> Option<i32> {
        let harder = if self.plain < VERY_SLOW { HARDER } else { 0 };
        self.level.filter(|_| self.compressing).map(|level| level + harder)
    }

    /// Notes that `bytes` more, before compressing, were sent until `now`.
    pub fn note(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes;
        let Some(begun) = self.begun else {
            if self.bytes >= LEAD {
                (self.begun, self.bytes) = (Some(now), 0);
            }
            return;
        };
        if self.bytes < SAMPLE {
            return;
        }
        let rate = self.bytes as f64 / now.saturating_duration_since(begun).max(Duration::from_micros(1)).as_secs_f64();
        if !self.compressing {
            self.plain = rate;
            self.compressing = rate < SLOW && self.level.is_some();
        } else if rate < self.plain * GAIN {
            (self.compressing, self.level) = (false, None);
        }
        // Buffers on the way that are full of one kind say nothing of the other.
        (self.begun, self.bytes) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each MiB was compressed, over a link of `link` bytes a second for data that shrinks by `ratio`.
    fn run(level: Option<i32>, link: f64, ratio: f64) -> Vec<bool> {
        let (mut pace, mut now) = (Pace::new(level), Instant::now());
        (0..64)
            .map(|_| {
                let compressed = pace.level().is_some();
                let bytes = f64::from(1 << 20);
                let sent = if compressed { (bytes / ratio / link).max(bytes / 200e6) } else { bytes / link };
                now += Duration::from_secs_f64(sent);
                pace.note(1 << 20, now);
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
        for (rate, level) in [(12.5e6, 6), (50e6, 3)] {
            let (mut pace, begun) = (Pace::new(Some(3)), Instant::now());
            pace.note(LEAD, begun);
            pace.note(SAMPLE, begun + Duration::from_secs_f64(SAMPLE as f64 / rate));
            assert_eq!(pace.level(), Some(level));
        }
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
