// SPDX-License-Identifier: GPL-3.0-or-later
//! Waiting for one's turn to get a build slot: when a build that waits looks for one.

use std::time::{Duration, Instant};

use super::Resources;
use super::queue::{Place, Queue};
use super::slot::LockDirectory;
use crate::ground::cancel::Cancel;
use crate::ground::error::Result;
use crate::machine::BuildMachine;

/// How often the next build to get a slot looks for one: this share of the time that it has waited ...
const POLL_SHARE: u32 = 20;
/// ... but not more often than this, ...
const POLL_SHORTEST: Duration = Duration::from_millis(10);
/// ... nor less often than this.
const POLL_LONGEST: Duration = Duration::from_millis(250);
/// A build further back looks less often than those before it: with so many more before it, another [`POLL_LONGEST`].
const POLL_CROWD: u32 = 8;

/// How long a build that sees a free slot leaves it to those that came before it, until it asks what became of them.
const COURTESY: Duration = Duration::from_secs(1);

/// How long a build that sees no free slot waits until it looks at the machines again: they may be lost, or back.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// A build's turn to get a slot of one of these machines.
pub struct Turn<'a> {
    machines: Vec<&'a BuildMachine>,
    resources: &'a Resources,
}

impl<'a> Turn<'a> {
    pub(super) fn new(machines: Vec<&'a BuildMachine>, resources: &'a Resources) -> Self {
        Turn { machines, resources }
    }

    /// Waits until it may have come for the build with this `place` in the queue, which has waited since then, or it is
    /// time to look at the machines again.
    pub fn wait(&self, place: Option<&Place>, waiting_since: Instant, cancel: &Cancel) -> Result<()> {
        let result = self.sleep_until_it_comes(place, waiting_since, cancel);
        if let Some(place) = place {
            self.resources.queue.set_sleeping(place, None);
        }
        result
    }

    fn sleep_until_it_comes(&self, place: Option<&Place>, waiting_since: Instant, cancel: &Cancel) -> Result<()> {
        let clock = &self.resources.clock;
        let begun = clock.now();
        loop {
            // Before it looks: what is freed meanwhile ends the sleep.
            if let Some(place) = place {
                self.resources.queue.set_sleeping(place, Some(cancel));
            }
            let ahead = self.count_ahead(place);
            // If more wait than there are slots, it need not look at those.
            let free = if ahead < self.slot_count() { self.count_free() } else { 0 };
            let further_back = ahead.saturating_sub(free) as u32;
            let own_pause =
                (clock.now().saturating_duration_since(waiting_since) / POLL_SHARE).clamp(POLL_SHORTEST, POLL_LONGEST);
            let longest = POLL_LONGEST * (1 + further_back / POLL_CROWD);
            clock.sleep(own_pause.saturating_mul(1 + further_back).min(longest), cancel)?;
            let patience = if free > 0 { COURTESY } else { LONGEST_TURN };
            if free > ahead || clock.now() - begun > patience {
                return Ok(());
            }
        }
    }

    /// How many build slots they have.
    pub(super) fn slot_count(&self) -> usize {
        self.machines.iter().map(|machine| machine.parallel_builds as usize).sum()
    }

    /// How many of those are free.
    pub(super) fn count_free(&self) -> usize {
        let state = self.resources.directories.offload_state();
        let free = |machine: &&BuildMachine| {
            let taken = LockDirectory::count_taken(&state, machine).unwrap_or(0);
            machine.parallel_builds.saturating_sub(taken) as usize
        };
        self.machines.iter().map(free).sum()
    }

    /// How many builds that wait for one of them came before the one with `place`, if it has one.
    pub(super) fn count_ahead(&self, place: Option<&Place>) -> usize {
        count_ahead(&self.resources.queue, place, self.machines.iter().copied())
    }
}

/// How many builds that wait for one of `machines` came before the one with `place`, if it has one.
pub(super) fn count_ahead<'a>(
    queue: &Queue,
    place: Option<&Place>,
    machines: impl Iterator<Item = &'a BuildMachine> + Clone,
) -> usize {
    queue.ahead_of(place).iter().filter(|waiting| machines.clone().any(|machine| waiting.wants(machine))).count()
}
