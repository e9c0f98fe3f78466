// SPDX-License-Identifier: GPL-3.0-or-later
//! How long a machine is waited for.

use std::time::Duration;

/// Time limits, one for each kind of wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For each step of connecting: an address that answers, each message of the login, each of the first requests.
    pub step: Duration,
    /// For the answer to a question, or to the wish that something is protected.
    pub answer: Duration,
    /// For the next byte to move while something is sent or received.
    pub idle: Duration,
    /// For the answer to an import whose bytes are all there, and ...
    pub import: Duration,
    /// ... one second more for so many of its bytes.
    pub import_rate: u64,
}

impl Limits {
    /// The limits that the product has.
    pub const DEFAULT: Limits = Limits {
        step: Duration::from_secs(15),
        answer: Duration::from_secs(60),
        idle: Duration::from_secs(180),
        import: Duration::from_secs(300),
        import_rate: 5 << 20,
    };

    /// For the answer to an import of `bytes`.
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
