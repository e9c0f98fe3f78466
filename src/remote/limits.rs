// SPDX-License-Identifier: GPL-3.0-or-later
//! Time limits of waiting for a machine.

use std::time::Duration;

/// Time limits, one for each kind of wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For each step of connecting: until an address answers, for each message of the login, for each first request.
    pub step: Duration,
    /// For the next byte of the answer to a question, or to a request to add a temporary root.
    pub answer: Duration,
    /// For the next byte to move while something is sent or received.
    pub idle: Duration,
    /// For the answer to an import once all its bytes were sent, besides the time that [`Limits::import_rate`] adds.
    pub import: Duration,
    /// Part of an import, in bytes, for which its answer may take one second more.
    pub import_rate: u64,
}

impl Limits {
    /// The limits that are used outside tests.
    pub const DEFAULT: Limits = Limits {
        step: Duration::from_secs(15),
        answer: Duration::from_secs(60),
        idle: Duration::from_secs(180),
        import: Duration::from_secs(300),
        import_rate: 5 << 20,
    };

    /// Returns the limit for the answer to an import of `bytes` bytes.
    pub fn of_import(&self, bytes: u64) -> Duration {
        self.import + Duration::from_secs(bytes / self.import_rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_import_may_take_longer() {
        assert_eq!(Limits::DEFAULT.of_import(1000), Duration::from_secs(300));
        assert_eq!(Limits::DEFAULT.of_import(8 << 30), Duration::from_secs(300 + 1638));
    }
}
