// SPDX-License-Identifier: GPL-3.0-or-later
//! Idle connections that wait for the next build, for a limited time. After a short pause, each releases what only an
//! immediate next build needs: it rests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ground::clock::{Clock, SystemClock};
use crate::ground::thread;

/// Idle connections. Dropping the pool closes them.
///
/// A thread closes connections whose time is over, and makes those rest that were not used for a moment. It exists only
/// while there are any.
pub struct Pool<T: Send + 'static>(Arc<Shared<T>>);

struct Shared<T> {
    limit: Duration,
    pause: Duration,
    rest: fn(&mut T) -> bool,
    clock: Arc<dyn Clock>,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// The longest idle first.
    idle: Vec<Idle<T>>,
    swept: bool,
}

struct Idle<T> {
    since: Instant,
    rests: bool,
    connection: T,
}

impl<T: Send + 'static> Pool<T> {
    /// Makes a pool in which a connection may stay unused for `limit` before it is closed.
    pub fn with_limit(limit: Duration) -> Self {
        Self::with_rest(limit, limit, |_| true, Arc::new(SystemClock))
    }

    /// Makes a pool as [`Pool::with_limit`] does. When a connection was not used for `pause`, the pool calls `rest`,
    /// which releases what only an immediate next build needs. If `rest` returns `false`, the pool drops the
    /// connection.
    pub fn with_rest(limit: Duration, pause: Duration, rest: fn(&mut T) -> bool, clock: Arc<dyn Clock>) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), swept: false });
        Pool(Arc::new(Shared { limit, pause, rest, clock, state, changed: Condvar::new() }))
    }

    /// Takes out the connection that was used last of those that are `suitable`, and returns how long it was idle.
    pub fn take(&self, suitable: impl Fn(&T) -> bool) -> Option<(T, Duration)> {
        let mut state = self.0.state.lock();
        let index = state.idle.iter().rposition(|idle| suitable(&idle.connection))?;
        let Idle { since, connection, .. } = state.idle.remove(index);
        Some((connection, self.0.clock.now().saturating_duration_since(since)))
    }

    /// Returns what `look` returns for the connection that was used last of those for which it returns something. The
    /// connections stay where they are.
    pub fn look<R>(&self, look: impl FnMut(&T) -> Option<R>) -> Option<R> {
        self.0.state.lock().idle.iter().rev().map(|idle| &idle.connection).find_map(look)
    }

    /// Keeps `connection` for the next use.
    pub fn put(&self, connection: T) {
        let mut state = self.0.state.lock();
        // The sweeper may wait for the end of others, which all rest.
        if state.idle.iter().all(|idle| idle.rests) {
            self.0.changed.notify_all();
        }
        state.idle.push(Idle { since: self.0.clock.now(), rests: false, connection });
        if !state.swept {
            let shared = Arc::clone(&self.0);
            state.swept = thread::spawn("guix-offload-pool", move || shared.sweep()).is_ok();
        }
        // Without a thread that would close it in time, it is closed now.
        let unswept = if state.swept { None } else { state.idle.pop() };
        drop(state);
        drop(unswept);
    }
}

impl<T> Shared<T> {
    /// Closes connections whose time is over and makes others rest, until there are none.
    fn sweep(&self) {
        let mut state = self.state.lock();
        while let Some(oldest) = state.idle.first() {
            let end = oldest.since + self.limit;
            let tired = state.idle.iter().position(|idle| !idle.rests);
            let pause = tired.map(|index| state.idle[index].since + self.pause);
            let now = self.clock.now();
            if now >= end {
                let over = state.idle.remove(0);
                // Closing may take a moment, in which the pool stays usable.
                parking_lot::MutexGuard::unlocked(&mut state, || drop(over));
            } else if let Some(index) = tired.filter(|_| pause.is_some_and(|pause| now >= pause)) {
                let mut idle = state.idle.remove(index);
                let rested = parking_lot::MutexGuard::unlocked(&mut state, || {
                    idle.rests = (self.rest)(&mut idle.connection);
                    idle.rests.then_some(idle)
                });
                if let Some(idle) = rested {
                    let place = state.idle.partition_point(|other| other.since <= idle.since);
                    state.idle.insert(place, idle);
                }
            } else {
                let next = pause.map_or(end, |pause| pause.min(end));
                self.changed.wait_for(&mut state, next.saturating_duration_since(now));
            }
        }
        state.swept = false;
    }
}

impl<T: Send + 'static> Drop for Pool<T> {
    fn drop(&mut self) {
        let idle = std::mem::take(&mut self.0.state.lock().idle);
        self.0.changed.notify_all();
        drop(idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_is_taken_first() {
        let pool = Pool::with_limit(Duration::from_secs(60));
        for number in 1..=4 {
            pool.put(number);
        }
        let take = |suitable: fn(&i32) -> bool| pool.take(suitable).map(|(number, _)| number);
        assert_eq!(take(|number| number % 2 == 1), Some(3));
        assert_eq!(take(|number| number % 2 == 1), Some(1));
        assert_eq!(take(|number| number % 2 == 1), None);
        assert_eq!(take(|_| true), Some(4));
    }

    #[test]
    fn what_is_idle_for_a_moment_rests_once_and_what_cannot_is_closed() {
        let rest = |number: &mut i32| {
            *number += 100;
            *number != 102
        };
        let pool = Pool::with_rest(Duration::from_secs(60), Duration::from_millis(30), rest, Arc::new(SystemClock));
        pool.put(1);
        assert_eq!(pool.take(|_| true).map(|(number, _)| number), Some(1), "not yet");
        pool.put(1);
        pool.put(2);
        let begun = Instant::now();
        while pool.0.state.lock().idle.iter().map(|idle| (idle.connection, idle.rests)).ne([(101, true)]) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(pool.take(|_| true).map(|(number, _)| number), Some(101));
        // The sweeper still waits for the end of what it has seen.
        pool.put(3);
        pool.put(101);
        pool.take(|number| *number == 3);
        std::thread::sleep(Duration::from_millis(100));
        pool.put(3);
        let begun = Instant::now();
        while pool.0.state.lock().idle.iter().any(|idle| !idle.rests) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not rest");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `count` clones are left.
    fn await_clones(of: &Arc<()>, count: usize) {
        let begun = Instant::now();
        while Arc::strong_count(of) != count {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} clones are left", Arc::strong_count(of));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_is_idle_too_long_is_closed_and_the_sweeper_ends() {
        let token = Arc::new(());
        let pool = Pool::with_limit(Duration::from_millis(30));
        for _ in 0..2 {
            pool.put(Arc::clone(&token));
            pool.put(Arc::clone(&token));
            await_clones(&token, 1);
        }
        let begun = Instant::now();
        while pool.0.state.lock().swept {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn dropping_the_pool_closes_all() {
        let token = Arc::new(());
        let pool = Pool::with_limit(Duration::from_secs(60));
        pool.put(Arc::clone(&token));
        let shared = Arc::clone(&pool.0);
        drop(pool);
        await_clones(&token, 1);
        let begun = Instant::now();
        while Arc::strong_count(&shared) > 1 {
            assert!(begun.elapsed() < Duration::from_secs(20), "the sweeper is still there");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
