// SPDX-License-Identifier: GPL-3.0-or-later
//! What was said already about machines that were passed over: they are so at each look, and a build that waits looks
//! often.

use std::collections::HashSet;

use crate::error::Error;

/// How many reasons are told apart; more of them, which only a machine that makes them up can have, are not said.
const MOST: usize = 256;

/// Machines, and what was said about them, less its digits: a load differs from one look to the next.
#[derive(Default)]
pub struct Said(HashSet<(String, String)>);

impl Said {
    /// Is this to be said about `machine`, for the first time? From then on it is said.
    pub fn is_new(&mut self, machine: &str, reason: &Error) -> bool {
        self.0.len() < MOST && self.0.insert(subject(machine, reason))
    }

    /// Is this warning, which is about no machine, to be said for the first time? Here numbers matter: it may be a line's.
    pub fn is_new_warning(&mut self, warning: &Error) -> bool {
        self.0.len() < MOST && self.0.insert((String::new(), warning.to_string()))
    }

    /// Was this said about `machine`, whatever the numbers in it?
    pub fn contains(&self, machine: &str, reason: &Error) -> bool {
        self.0.contains(&subject(machine, reason))
    }
}

fn subject(machine: &str, reason: &Error) -> (String, String) {
    (machine.to_string(), reason.to_string().replace(|c: char| c.is_ascii_digit(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_machine_that_never_says_the_same_twice_is_heard_so_often() {
        let mut said = Said::default();
        let reason = |number: usize| Error::new(ErrorKind::Unavailable, "x".repeat(number));
        assert_eq!((0..10 * MOST).filter(|number| said.is_new("m", &reason(*number))).count(), MOST);
        assert!(said.contains("m", &reason(MOST - 1)) && !said.contains("m", &reason(MOST)));
    }
}
