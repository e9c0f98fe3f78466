// SPDX-License-Identifier: GPL-3.0-or-later
//! Which reasons for passing over machines were already shown. A build that waits looks at the machines often, and
//! finds the same reasons each time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ground::error::Error;
use crate::report::lines;

/// Most reasons that are told apart. Only a machine that makes up reasons has more; those are not shown.
const MOST: usize = 256;

/// How long the same reason for passing over a machine is not shown again. A user who waits wants to know why.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// When each reason was last shown, by machine and by its text without digits: a load differs from one look to the
/// next.
#[derive(Default)]
pub struct Said(HashMap<(String, String), Instant>);

impl Said {
    /// Returns whether `reason` is to be shown for `machine` now, for the first time or again. If so, counts it as
    /// shown.
    pub fn is_due(&mut self, machine: &str, reason: &Error) -> bool {
        self.is_due_at(subject(machine, reason), Instant::now())
    }

    /// Returns whether this warning, which is about no machine, was not shown yet. If so, counts it as shown. Digits
    /// matter: they may be a line number.
    pub fn is_new_warning(&mut self, warning: &Error) -> bool {
        let subject = (String::new(), warning.to_string());
        !self.0.contains_key(&subject) && self.is_due_at(subject, Instant::now())
    }

    fn is_due_at(&mut self, subject: (String, String), now: Instant) -> bool {
        let due = match self.0.get(&subject) {
            Some(said) => now.saturating_duration_since(*said) >= AGAIN,
            None => self.0.len() < MOST,
        };
        if due {
            self.0.insert(subject, now);
        }
        due
    }

    /// Returns the lines about an error that ends a build. If it says that a machine is misconfigured, and was shown
    /// before as a reason, returns [`lines::NONE_IS_USABLE`] instead.
    pub fn of_failure(&self, error: &Error) -> Vec<String> {
        if error.kind().is_misconfiguration() && error.machine().is_some_and(|machine| self.contains(machine, error)) {
            return vec![lines::NONE_IS_USABLE.to_string()];
        }
        lines::of_error(error)
    }

    /// Returns whether `reason` was shown for `machine`, digits aside.
    fn contains(&self, machine: &str, reason: &Error) -> bool {
        self.0.contains_key(&subject(machine, reason))
    }
}

fn subject(machine: &str, reason: &Error) -> (String, String) {
    (machine.to_string(), reason.to_string().replace(|c: char| c.is_ascii_digit(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::error::ErrorKind;

    #[test]
    fn the_same_is_said_again_after_ten_minutes() {
        let (mut said, begun) = (Said::default(), Instant::now());
        let subject = || ("m".to_string(), "it is full".to_string());
        let due: Vec<_> =
            (0..25 * 60).step_by(5).filter(|s| said.is_due_at(subject(), begun + Duration::from_secs(*s))).collect();
        assert_eq!(due, [0, 600, 1200]);
    }

    #[test]
    fn a_machine_that_never_says_the_same_twice_is_heard_so_often() {
        let mut said = Said::default();
        let reason = |number: usize| Error::new(ErrorKind::Unavailable, "x".repeat(number));
        assert_eq!((0..10 * MOST).filter(|number| said.is_due("m", &reason(*number))).count(), MOST);
        assert!(said.contains("m", &reason(MOST - 1)) && !said.contains("m", &reason(MOST)));
    }
}
