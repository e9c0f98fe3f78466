// SPDX-License-Identifier: GPL-3.0-or-later
//! Connections that wait for the next build, each for a limited time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::thread;

/// Idle connections. Dropping the pool closes them.
///
/// A thread closes those whose time is over; it exists only while there are any.
pub struct Pool<T: Send + 'static>(Arc<Shared<T>>);

struct Shared<T> {
    limit: Duration,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// The longest idle first.
    idle: Vec<(Instant, T)>,
    swept: bool,
}

impl<T: Send + 'static> Pool<T> {
    /// One in which a connection may wait unused for `limit` before it is closed.
    pub fn with_limit(limit: Duration) -> Self {
        let state = Mutex::new(State { idle: Vec::new(), swept: false });
        Pool(Arc::new(Shared { limit, state, changed: Condvar::new() }))
    }

    /// Takes the connection out that was used last, of those that are `suitable`, and says how long it was idle.
    pub fn take(&self, suitable: impl Fn(&T) -> bool) -> Option<(T, Duration)> {
        let mut state = self.0.state.lock();
        let index = state.idle.iter().rposition(|(_, connection)| suitable(connection))?;
        let (since, connection) = state.idle.remove(index);
        Some((connection, since.elapsed()))
    }

    /// Keeps `connection` for the next use.
    pub fn put(&self, connection: T) {
        let mut state = self.0.state.lock();
        state.idle.push((Instant::now(), connection));
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
    /// Closes connections whose time is over until there are none.
    fn sweep(&self) {
        let mut state = self.state.lock();
        while let Some(&(since, _)) = state.idle.first() {
            let end = since + self.limit;
            if Instant::now() < end {
                self.changed.wait_until(&mut state, end);
            } else {
                let (_, over) = state.idle.remove(0);
                // Closing may take a moment, in which the pool stays usable.
                parking_lot::MutexGuard::unlocked(&mut state, || drop(over));
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
