// SPDX-License-Identifier: GPL-3.0-or-later
//! Progress reports, at a rate that their listener can bear.

use std::fmt;
use std::time::{Duration, Instant};

use crate::ground::error::Result;
use crate::report::{Aside, Event, Observer};

/// Progress, in bytes, after which it is reported again.
const STEP: u64 = 64 << 10;
/// Time since the last progress report after which progress is reported even if few bytes have moved.
const INTERVAL: Duration = Duration::from_millis(100);

/// An observer that passes on all events, but throttles the reports of bytes: within a step and an interval, it passes
/// on only the last one. The pieces of an archive are as small as 8 bytes.
pub struct ThrottledObserver<'a> {
    inner: &'a mut dyn Observer,
    /// The number of bytes that was last reported, and when.
    told: u64,
    at: Instant,
    /// The number of bytes to report next.
    bytes: u64,
}

impl<'a> ThrottledObserver<'a> {
    /// Passes events on to `inner`.
    pub fn new(inner: &'a mut dyn Observer) -> Self {
        ThrottledObserver { inner, told: 0, at: Instant::now(), bytes: 0 }
    }

    fn catch_up(&mut self) {
        if self.bytes != self.told {
            (self.told, self.at) = (self.bytes, Instant::now());
            self.inner.event(&Event::Transferred { bytes: self.bytes });
        }
    }
}

impl Observer for ThrottledObserver<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Transferred { bytes } = *event {
            self.bytes = bytes;
            // Fewer bytes than before: something is sent again.
            if bytes < self.told || bytes - self.told >= STEP || self.at.elapsed() >= INTERVAL {
                self.catch_up();
            }
        } else {
            self.catch_up();
            self.inner.event(event);
        }
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.inner.log(text)
    }

    fn detail(&mut self, text: fmt::Arguments<'_>) {
        self.inner.detail(text);
    }

    fn aside(&self) -> Option<Aside> {
        self.inner.aside()
    }
}

/// Reports at the end what was not reported yet.
impl Drop for ThrottledObserver<'_> {
    fn drop(&mut self) {
        self.catch_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Listener(Vec<String>);

    impl Observer for Listener {
        fn event(&mut self, event: &Event<'_>) {
            self.0.push(match event {
                Event::Transferred { bytes } => bytes.to_string(),
                _ => "another".into(),
            });
        }

        fn log(&mut self, _: &[u8]) -> Result<()> {
            Ok(())
        }

        fn detail(&mut self, text: fmt::Arguments<'_>) {
            self.0.push(text.to_string());
        }

        fn aside(&self) -> Option<Aside> {
            Some(std::sync::Arc::new(|_| {}))
        }
    }

    #[test]
    fn whatever_is_no_progress_is_passed_on() {
        let mut listener = Listener::default();
        let mut throttle = ThrottledObserver::new(&mut listener);
        throttle.detail(format_args!("a detail"));
        assert!(throttle.aside().is_some());
        drop(throttle);
        assert_eq!(listener.0, ["a detail"]);
    }

    #[test]
    fn small_steps_are_told_together_and_the_last_one_always() {
        let mut listener = Listener::default();
        let begun = Instant::now();
        let mut throttle = ThrottledObserver::new(&mut listener);
        (1..=32 << 10).for_each(|count| throttle.event(&Event::Transferred { bytes: count * 8 }));
        throttle.event(&Event::Received);
        throttle.event(&Event::Transferred { bytes: 8 + (256 << 10) });
        drop(throttle);
        let most = 4 + begun.elapsed().as_millis() / INTERVAL.as_millis() + 1;
        let told = listener.0;
        assert!((told.len() as u128) < most + 3, "{told:?}");
        assert_eq!(told[told.len() - 3..], ["262144", "another", "262152"]);
    }

    #[test]
    fn a_byte_now_and_then_is_told_and_so_is_a_new_beginning() {
        let mut listener = Listener::default();
        let mut throttle = ThrottledObserver::new(&mut listener);
        std::thread::sleep(INTERVAL);
        throttle.event(&Event::Transferred { bytes: 9 });
        throttle.event(&Event::Transferred { bytes: 1 });
        drop(throttle);
        assert_eq!(listener.0, ["9", "1"]);
    }
}
