// SPDX-License-Identifier: GPL-3.0-or-later
//! The time, and sleeping: a trait, so that tests can use a clock of their own and need not wait.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::cancel::Cancel;
use super::error::Result;

/// A clock to read and to sleep by. Any thread.
pub trait Clock: Send + Sync {
    /// Returns the current time, to measure how long something takes.
    fn now(&self) -> Instant;

    /// Returns the seconds since the epoch, to compare with times that other processes wrote down.
    fn since_epoch(&self) -> u64;

    /// Sleeps for `time`; fails as soon as `cancel` is cancelled.
    fn sleep(&self, time: Duration, cancel: &Cancel) -> Result<()>;
}

/// This host's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn since_epoch(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn sleep(&self, time: Duration, cancel: &Cancel) -> Result<()> {
        cancel.sleep(time)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::ground::error::ErrorKind;

    type Action = Box<dyn FnMut(Duration) + Send>;

    /// A clock that only [`TurnedClock::turn`] and sleeping move forward. A sleep returns at once.
    pub struct TurnedClock {
        begun: Instant,
        passed: Mutex<Duration>,
        sleeps: Mutex<Vec<Duration>>,
        during_sleep: Mutex<Option<Action>>,
    }

    impl TurnedClock {
        pub fn new() -> Arc<Self> {
            let (begun, passed) = (Instant::now(), Mutex::default());
            Arc::new(TurnedClock { begun, passed, sleeps: Mutex::default(), during_sleep: Mutex::default() })
        }

        /// Lets time pass.
        pub fn turn(&self, time: Duration) {
            *self.passed.lock() += time;
        }

        /// Returns the length of each sleep since the last call.
        pub fn take_sleeps(&self) -> Vec<Duration> {
            std::mem::take(&mut self.sleeps.lock())
        }

        /// Calls `action` at the end of each sleep, with the sum of the sleeps that were not taken yet.
        pub fn during_sleep(&self, action: impl FnMut(Duration) + Send + 'static) {
            *self.during_sleep.lock() = Some(Box::new(action));
        }
    }

    impl Clock for TurnedClock {
        fn now(&self) -> Instant {
            self.begun + *self.passed.lock()
        }

        fn since_epoch(&self) -> u64 {
            1_700_000_000 + self.passed.lock().as_secs()
        }

        fn sleep(&self, time: Duration, cancel: &Cancel) -> Result<()> {
            self.turn(time);
            self.sleeps.lock().push(time);
            let all = self.sleeps.lock().iter().sum();
            if let Some(action) = &mut *self.during_sleep.lock() {
                action(all);
            }
            cancel.check()
        }
    }

    #[test]
    fn a_sleep_turns_the_clock_and_ends_when_cancelled() {
        let (clock, cancel) = (TurnedClock::new(), Cancel::default());
        let (now, epoch) = (clock.now(), clock.since_epoch());
        clock.sleep(Duration::from_secs(3600), &cancel).unwrap();
        assert_eq!((clock.now(), clock.since_epoch()), (now + Duration::from_secs(3600), epoch + 3600));
        cancel.cancel();
        assert_eq!(clock.sleep(Duration::ZERO, &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(clock.take_sleeps(), [Duration::from_secs(3600), Duration::ZERO]);
        assert_eq!(SystemClock.sleep(Duration::from_secs(3600), &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
