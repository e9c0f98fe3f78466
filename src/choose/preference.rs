// SPDX-License-Identifier: GPL-3.0-or-later
//! What a build gains on a machine that has its inputs, and whether it waits for a slot there though others are free.

use std::time::{Duration, Instant};

use super::Candidates;
use super::history::History;
use super::holdings::Input;
use super::order::{Outlook, Ranked};

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
    preferred: Option<Preferred>,
}

/// A machine that is busy, and for which a build waits, though others are free: it has the inputs.
#[derive(Clone, Copy, Debug)]
struct Preferred {
    index: usize,
    until: Instant,
    /// Whether the last choice was to wait for it.
    is_chosen: bool,
}

impl Candidates {
    /// Makes the choice depend on the `inputs` of the build. `patience` is how long the build may wait for a machine
    /// that has them, while others are free.
    pub fn set_inputs(&mut self, inputs: Vec<Input>, patience: Duration) {
        (self.preference.inputs, self.preference.patience) = (inputs, patience);
    }

    /// Returns how many bytes of the inputs a candidate is not known to have.
    pub(super) fn missing_bytes(&self, index: usize) -> u64 {
        self.resources.holdings.missing_bytes(&self.machines[index], &self.preference.inputs)
    }

    /// Returns what is known of a candidate, with this `history`, for the build.
    pub(super) fn outlook(&self, index: usize, history: &History) -> Outlook {
        let rate = history.link_rate().or(history.slow_link()).unwrap_or(USUAL_RATE).max(1.0);
        Outlook { load: history.recent_load(), sending: self.missing_bytes(index) as f64 / rate }
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
    /// would cost more time, and at most for as long as sending the inputs to it takes. Waits so once for a build.
    pub(super) fn prefers(&mut self, busy: &Ranked, next: &Ranked) -> bool {
        let now = self.resources.clock.now();
        if let Some(preferred) = &mut self.preference.preferred {
            preferred.is_chosen = preferred.index == busy.index && now < preferred.until;
            return preferred.is_chosen;
        }
        let worth = (next.cost - busy.cost).min(next.sending - busy.sending).max(0.0);
        let worth =
            Duration::try_from_secs_f64(worth).unwrap_or(self.preference.patience).min(self.preference.patience);
        let expected = self.expected_wait_for(&self.machines[busy.index..=busy.index]);
        if expected.is_none_or(|wait| wait >= worth) {
            return false;
        }
        self.preference.preferred = Some(Preferred { index: busy.index, until: now + worth, is_chosen: true });
        true
    }

    /// Begins another choice.
    pub(super) fn prefer_none(&mut self) {
        if let Some(preferred) = &mut self.preference.preferred {
            preferred.is_chosen = false;
        }
    }

    /// Returns the candidate that the last choice was to wait for, whether it still waits or not.
    pub fn last_preferred(&self) -> Option<usize> {
        self.preference.preferred.filter(|preferred| preferred.is_chosen).map(|preferred| preferred.index)
    }

    /// Returns the candidate that the build waits for by the last choice, though others are free, and how long it still
    /// waits for it.
    pub fn preferred(&self) -> Option<(usize, Duration)> {
        let Preferred { index, until, .. } = self.preference.preferred.filter(|preferred| preferred.is_chosen)?;
        let left = until.saturating_duration_since(self.resources.clock.now());
        (!left.is_zero()).then_some((index, left))
    }
}
