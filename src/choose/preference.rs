// SPDX-License-Identifier: GPL-3.0-or-later
//! What a build gains on a machine that has its inputs, and whether it waits for a slot there though others are free.

use std::time::Duration;

use super::history::History;
use super::holdings::Input;
use super::order::{Outlook, Ranked};
use super::{Awaited, Candidates};

/// Time that builds take where none is known, in seconds.
const USUAL_BUILD_TIME: f64 = 10.0;

/// Rate of a link that was not measured, in bytes a second: Fast Ethernet is slower, most other links are faster.
pub const USUAL_RATE: f64 = 30e6;

/// What a build knows of its inputs, and the machine that it waits for.
#[derive(Default)]
pub(super) struct Preference {
    /// What the build reads, as far as is known.
    inputs: Vec<Input>,
    /// How long the build may wait for a machine that has its inputs while others are free.
    patience: Duration,
    /// The machine that the build waits for, or has waited for: it waits so for one, once.
    awaited: Option<Awaited>,
}

impl Candidates {
    /// Makes the choice depend on the `inputs` of the build. `patience` is how long the build may wait for a machine
    /// that has them, while others are free.
    pub fn set_inputs(&mut self, inputs: Vec<Input>, patience: Duration) {
        (self.preference.inputs, self.preference.patience) = (inputs, patience);
    }

    /// Returns whether the choice depends on inputs.
    pub(super) fn knows_inputs(&self) -> bool {
        !self.preference.inputs.is_empty()
    }

    /// Returns how many bytes of the inputs a candidate is not known to have.
    pub(super) fn missing_bytes(&self, index: usize) -> u64 {
        self.resources.holdings.missing_bytes(&self.machines[index], &self.preference.inputs)
    }

    /// Returns what is known of a candidate, with this `history`, for the build.
    pub(super) fn outlook(&self, index: usize, history: &History) -> Outlook {
        let rate = history.link_rate().or(history.slow_link()).unwrap_or(USUAL_RATE).max(1.0);
        Outlook { load: history.current_load(), sending: self.missing_bytes(index) as f64 / rate }
    }

    /// Returns how long builds on the candidates took lately, in seconds.
    pub(super) fn usual_build_time(histories: &[History]) -> f64 {
        let known: Vec<_> = histories.iter().filter_map(History::build_time).collect();
        if known.is_empty() {
            USUAL_BUILD_TIME
        } else {
            known.iter().sum::<Duration>().as_secs_f64() / known.len() as f64
        }
    }

    /// Decides whether to wait for the candidate `busy`, though `next` may be free: for as long as the choice of `next`
    /// would cost more time, and at most for as long as sending the inputs to it takes.
    pub(super) fn awaits(&mut self, busy: &Ranked, next: &Ranked) -> Option<Awaited> {
        let now = self.resources.clock.now();
        if self.preference.awaited.is_some() {
            return self.preference.awaited.filter(|awaited| awaited.candidate == busy.index && now < awaited.until);
        }
        let worth = (next.cost - busy.cost).min(next.sending - busy.sending).max(0.0);
        let worth =
            Duration::try_from_secs_f64(worth).unwrap_or(self.preference.patience).min(self.preference.patience);
        let expected = self.expected_wait_for(&self.machines[busy.index..=busy.index]);
        if expected.is_none_or(|wait| wait >= worth) {
            return None;
        }
        self.preference.awaited = Some(Awaited { candidate: busy.index, until: now + worth });
        self.preference.awaited
    }
}
