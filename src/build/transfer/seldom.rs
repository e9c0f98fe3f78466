// SPDX-License-Identifier: GPL-3.0-or-later
//! Progress, told at a rate that whoever listens can bear.

use std::time::{Duration, Instant};

use crate::ground::error::Result;
use crate::report::{Event, Observer};

/// So many bytes are worth a word, ...
const STEP: u64 = 64 << 10;
/// ... or so much time, on a slow link.
const INTERVAL: Duration = Duration::from_millis(100);

/// Passes on what an observer is told, but of the bytes that have moved only the last of what happens within a step and
/// an interval: the pieces of an archive are as small as 8 bytes.
pub struct Seldom<'a> {
    inner: &'a mut dyn Observer,
    /// What was told last, and when.
    told: u64,
    at: Instant,
    /// What is to be told.
    bytes: u64,
}

impl<'a> Seldom<'a> {
    /// Passes on to `inner`.
    pub fn new(inner: &'a mut dyn Observer) -> Self {
        Seldom { inner, told: 0, at: Instant::now(), bytes: 0 }
    }

    fn catch_up(&mut self) {
        if self.bytes != self.told {
            (self.told, self.at) = (self.bytes, Instant::now());
            self.inner.event(&Event::Transferred { bytes: self.bytes });
        }
    }
}

impl Observer for Seldom<'_> {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Transferred { bytes } = *event {
            self.bytes = bytes;
            // Fewer than before: something is sent again.
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
}

/// What was not told is told at the end.
impl Drop for Seldom<'_> {
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
    }

    #[test]
    fn small_steps_are_told_together_and_the_last_one_always() {
        let mut listener = Listener::default();
        let begun = Instant::now();
        let mut seldom = Seldom::new(&mut listener);
        (1..=32 << 10).for_each(|count| seldom.event(&Event::Transferred { bytes: count * 8 }));
        seldom.event(&Event::Received);
        seldom.event(&Event::Transferred { bytes: 8 + (256 << 10) });
        drop(seldom);
        let most = 4 + begun.elapsed().as_millis() / INTERVAL.as_millis() + 1;
        let told = listener.0;
        assert!((told.len() as u128) < most + 3, "{told:?}");
        assert_eq!(told[told.len() - 3..], ["262144", "another", "262152"]);
    }

    #[test]
    fn a_byte_now_and_then_is_told_and_so_is_a_new_beginning() {
        let mut listener = Listener::default();
        let mut seldom = Seldom::new(&mut listener);
        std::thread::sleep(INTERVAL);
        seldom.event(&Event::Transferred { bytes: 9 });
        seldom.event(&Event::Transferred { bytes: 1 });
        drop(seldom);
        assert_eq!(listener.0, ["9", "1"]);
    }
}
