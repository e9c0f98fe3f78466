// SPDX-License-Identifier: GPL-3.0-or-later
//! What all builds add up to, machine by machine, since the journal began.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Entry, Outcome, Phases};

/// Most machines that are counted each by itself.
const MAX_MACHINES: usize = 500;

/// The name under which the other machines are counted.
const OTHERS: &str = "(others)";

/// The totals of all machines. The numbers never decrease.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// When counting began, in seconds since the epoch.
    #[serde(default)]
    pub since: u64,
    /// The machines, by name. Builds that were given to no machine are under the empty name.
    pub machines: BTreeMap<String, MachineTotals>,
}

/// The totals of one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MachineTotals {
    /// Builds, by the words for what came of them. Words that only another version knows are kept.
    pub builds: BTreeMap<String, u64>,
    /// How many times it failed a build that was, or could have been, tried elsewhere.
    pub machine_failures: u64,
    /// Bytes of the archives that were sent, before compression.
    pub sent: u64,
    /// Bytes of the archives that were received, before compression.
    pub received: u64,
    /// The time that phases of builds took, in milliseconds.
    pub milliseconds: Phases,
}

impl Totals {
    /// Counts a build.
    pub fn add(&mut self, entry: &Entry) {
        for machine in &entry.failed_before {
            increase(&mut self.of(machine).machine_failures, 1);
        }
        let totals = self.of(entry.machine.as_deref().unwrap_or(""));
        increase(totals.builds.entry(entry.outcome.word().to_string()).or_default(), 1);
        let fails = entry.outcome == Outcome::MachineFailed && entry.machine.is_some();
        increase(&mut totals.machine_failures, fails.into());
        increase(&mut totals.sent, entry.sent);
        increase(&mut totals.received, entry.received);
        entry.milliseconds.named().iter().for_each(|(phase, time)| totals.milliseconds.add(phase, *time));
    }

    fn of(&mut self, machine: &str) -> &mut MachineTotals {
        let known = self.machines.contains_key(machine) || self.machines.len() < MAX_MACHINES;
        self.machines.entry(if known { machine } else { OTHERS }.to_string()).or_default()
    }
}

impl MachineTotals {
    /// Returns how many builds had this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        let is_known = |word: &str| Outcome::ALL.iter().any(|known| known.word() == word);
        let unknown = |word: &str| outcome == Outcome::Unknown && !is_known(word);
        let counts = self.builds.iter().filter(|(word, _)| *word == outcome.word() || unknown(word));
        counts.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }
}

/// Adds to a number that somebody else may have written to the file.
fn increase(number: &mut u64, more: u64) {
    *number = number.saturating_add(more);
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;

    #[test]
    fn builds_are_counted_for_their_machines() {
        let mut totals = Totals::default();
        totals.add(&entry(1, "w1", Outcome::Done));
        totals.add(&Entry { failed_before: vec!["w2".into()], ..entry(2, "w1", Outcome::Done) });
        totals.add(&entry(3, "w2", Outcome::MachineFailed));
        totals.add(&entry(4, "", Outcome::Cancelled));
        let w1 = &totals.machines["w1"];
        assert_eq!((w1.count(Outcome::Done), w1.machine_failures), (2, 0));
        assert_eq!((w1.sent, w1.received, w1.milliseconds.build), (6 << 20, 2 << 10, 8000));
        assert_eq!(totals.machines["w2"].machine_failures, 2);
        assert_eq!(totals.machines[""].count(Outcome::Cancelled), 1);
    }

    #[test]
    fn many_machines_do_not_make_it_grow() {
        let mut totals = Totals::default();
        (0..2 * MAX_MACHINES).for_each(|number| totals.add(&entry(1, &format!("m{number}"), Outcome::Done)));
        assert_eq!(totals.machines.len(), MAX_MACHINES + 1);
        assert_eq!(totals.machines[OTHERS].count(Outcome::Done), MAX_MACHINES as u64);
    }
}
