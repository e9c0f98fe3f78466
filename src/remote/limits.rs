// SPDX-License-Identifier: GPL-3.0-or-later
//! How long a machine is waited for.

use std::time::Duration;

/// Time limits, one for each kind of wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For each step of connecting: an address that answers, each message of the login, each of the first requests.
    pub step: Duration,
}

impl Limits {
    /// Those that the product has.
    pub const DEFAULT: Limits = Limits { step: Duration::from_secs(15) };
}
