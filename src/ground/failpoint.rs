// SPDX-License-Identifier: GPL-3.0-or-later
//! Places where tests make the threads of this library panic. They work only with the feature `test-panic`, with which
//! the library is never installed; without it, passing a place does nothing.

#[cfg(feature = "test-panic")]
static ARMED: parking_lot::Mutex<String> = parking_lot::Mutex::new(String::new());

/// Makes threads that pass `place` panic from now on. If `place` is empty, none do.
#[cfg(feature = "test-panic")]
pub fn arm(place: &str) {
    *ARMED.lock() = place.to_string();
}

/// Panics if `place` is armed. Threads of this library call this when they pass `place`.
#[cfg(feature = "test-panic")]
pub fn hit(place: &str) {
    if *ARMED.lock() == place {
        panic!("on purpose, in {place}");
    }
}

/// Does nothing.
#[cfg(not(feature = "test-panic"))]
#[inline]
pub fn hit(_: &str) {}
