// SPDX-License-Identifier: GPL-3.0-or-later
//! Places in the threads of this library where tests make it panic. Only with the feature `test-panic`, which is never
//! installed; else passing one does nothing.

#[cfg(feature = "test-panic")]
static ARMED: parking_lot::Mutex<String> = parking_lot::Mutex::new(String::new());

/// Makes threads that pass `place` panic from now on; if it is empty, none.
#[cfg(feature = "test-panic")]
pub fn arm(place: &str) {
    *ARMED.lock() = place.to_string();
}

/// A thread of ours comes by at `place`.
#[cfg(feature = "test-panic")]
pub fn hit(place: &str) {
    if *ARMED.lock() == place {
        panic!("on purpose, in {place}");
    }
}

/// A thread of ours comes by.
#[cfg(not(feature = "test-panic"))]
#[inline]
pub fn hit(_: &str) {}
