// SPDX-License-Identifier: GPL-3.0-or-later
//! Stopping work that is under way in another thread.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ground::error::{Error, ErrorKind, Result};

/// A cancellation, given once and seen by all who hold a clone: the work is not wanted any more.
///
/// The thread that works checks it between steps ([`Cancel::check`]) and sleeps with it ([`Cancel::sleep`]). Before a
/// step that blocks, it says how to cut that step off ([`Cancel::guard`]).
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.check().is_ok() { "Cancel" } else { "Cancel (given)" })
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

type Action = Box<dyn Fn(Error) + Send>;

#[derive(Default)]
struct State {
    cancelled: bool,
    /// Whether the current sleep, or the next one, is to end.
    woken: bool,
    guards: Vec<(u64, Action)>,
    next: u64,
}

impl Cancel {
    /// Cancels. Only the first call has an effect. Any thread.
    pub fn cancel(&self) {
        let guards = {
            let mut state = self.0.state.lock();
            state.cancelled = true;
            std::mem::take(&mut state.guards)
        };
        self.0.changed.notify_all();
        for (_, cut_off) in guards {
            cut_off(cancelled());
        }
    }

    /// Fails with [`ErrorKind::Cancelled`] once cancelled.
    pub fn check(&self) -> Result<()> {
        if self.0.state.lock().cancelled { Err(cancelled()) } else { Ok(()) }
    }

    /// Sleeps for `time`, or until [woken](Cancel::wake); fails as soon as cancelled.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let mut state = self.0.state.lock();
        while !state.cancelled {
            if std::mem::take(&mut state.woken) || self.0.changed.wait_until(&mut state, until).timed_out() {
                return Ok(());
            }
        }
        Err(cancelled())
    }

    /// Ends the current sleep, or the next one.
    pub fn wake(&self) {
        self.0.state.lock().woken = true;
        self.0.changed.notify_all();
    }

    /// Calls `cut_off`, with the error to fail with, when this is cancelled while the guard lives; at once if it is
    /// cancelled already.
    #[must_use]
    pub fn guard(&self, cut_off: impl Fn(Error) + Send + 'static) -> Guard {
        let mut state = self.0.state.lock();
        let number = state.next;
        state.next += 1;
        if state.cancelled {
            drop(state);
            cut_off(cancelled());
        } else {
            state.guards.push((number, Box::new(cut_off)));
        }
        Guard { shared: Arc::downgrade(&self.0), number }
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled")
}

/// A `cut_off` that is registered for as long as this lives.
pub struct Guard {
    shared: Weak<Shared>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.state.lock().guards.retain(|(number, _)| *number != self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_sleep_ends_when_cancelled() {
        let cancel = Cancel::default();
        cancel.sleep(Duration::from_millis(1)).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| cancel.sleep(Duration::from_secs(60)));
            std::thread::sleep(Duration::from_millis(20));
            cancel.cancel();
            assert_eq!(sleeper.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        });
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert!(cancel.check().is_err() && cancel.sleep(Duration::ZERO).is_err());
    }

    #[test]
    fn who_is_woken_sleeps_no_longer() {
        let (cancel, long) = (Cancel::default(), Duration::from_secs(600));
        cancel.wake();
        cancel.sleep(long).unwrap(); // also if that was before
        std::thread::scope(|scope| {
            let sleeping = scope.spawn(|| cancel.sleep(long));
            std::thread::sleep(Duration::from_millis(10));
            cancel.wake();
            sleeping.join().unwrap().unwrap();
        });
        let begun = Instant::now();
        cancel.sleep(Duration::from_millis(20)).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(20), "once");
    }

    #[test]
    fn what_is_guarded_is_cut_off_once() {
        let cancel = Cancel::default();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = |by: usize| {
            let count = Arc::clone(&count);
            move |_| {
                count.fetch_add(by, Ordering::SeqCst);
            }
        };
        drop(cancel.guard(counter(100)));
        let _guard = cancel.guard(counter(1));
        cancel.cancel();
        cancel.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let _late = cancel.guard(counter(10));
        assert_eq!(count.load(Ordering::SeqCst), 11);
    }
}
