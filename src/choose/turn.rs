// SPDX-License-Identifier: GPL-3.0-or-later
//! Waiting for a turn: when a waiting build looks for a free build slot.

use std::time::{Duration, Instant};

use super::Resources;
use super::candidates::free_slots;
use super::queue::{Place, Queue};
use super::slot::LockDirectory;
use crate::ground::cancel::Cancel;
use crate::ground::error::Result;
use crate::machine::BuildMachine;

/// Fraction (1/20) of its waiting time so far after which the next build of the queue looks for a free slot again.
const POLL_SHARE: u32 = 20;
/// Shortest pause after which a waiting build looks for a free slot again.
const POLL_SHORTEST: Duration = Duration::from_millis(10);
/// Longest pause after which the next build of the queue looks for a free slot again.
const POLL_LONGEST: Duration = Duration::from_millis(250);
/// Builds ahead of a build that make its longest pause longer by another [`POLL_LONGEST`].
const POLL_CROWD: u32 = 8;

/// How long a waiting build leaves a free slot to the builds ahead of it, before it tries the machines itself.
const COURTESY: Duration = Duration::from_secs(1);

/// How long a waiting build that sees no free slot waits before it tries the machines again: they may be lost, or back.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// A build's turn to get a slot of one of its machines.
pub struct Turn<'a> {
    machines: Vec<&'a BuildMachine>,
    resources: &'a Resources,
    longest: Duration,
}

impl<'a> Turn<'a> {
    pub(super) fn new(machines: Vec<&'a BuildMachine>, resources: &'a Resources) -> Self {
        Turn { machines, resources, longest: LONGEST_TURN }
    }

    /// Makes it time to try the machines again after `limit`.
    pub fn within(self, limit: Duration) -> Self {
        Turn { longest: self.longest.min(limit), ..self }
    }

    /// Waits until the turn may have come for the build with this `place` in the queue, which has waited since
    /// `waiting_since`, or until it is time to try the machines again.
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
            // Before looking: a slot that is freed meanwhile ends the sleep.
            if let Some(place) = place {
                self.resources.queue.set_sleeping(place, Some(cancel));
            }
            let ahead = self.count_ahead(place);
            // If at least as many builds are ahead as there are slots, free slots do not matter.
            let free = if ahead < self.slot_count() { self.count_free() } else { 0 };
            let further_back = ahead.saturating_sub(free) as u32;
            let own_pause =
                (clock.now().saturating_duration_since(waiting_since) / POLL_SHARE).clamp(POLL_SHORTEST, POLL_LONGEST);
            let longest = POLL_LONGEST * (1 + further_back / POLL_CROWD);
            let pause = own_pause.saturating_mul(1 + further_back).min(longest);
            clock.sleep(pause.min(self.longest), cancel)?;
            let patience = if free > 0 { COURTESY.min(self.longest) } else { self.longest };
            if free > ahead || clock.now() - begun > patience {
                return Ok(());
            }
        }
    }

    /// Returns the number of build slots of the machines.
    pub(super) fn slot_count(&self) -> usize {
        self.machines.iter().map(|machine| machine.parallel_builds as usize).sum()
    }

    /// Returns the number of free build slots of the machines, for builds that find enough memory there.
    pub(super) fn count_free(&self) -> usize {
        let state = self.resources.directories.offload_state();
        let free = |machine: &&BuildMachine| {
            let taken_for = LockDirectory::taken_for(&state, machine).unwrap_or_default();
            free_slots(machine, &taken_for, &self.resources.histories.of(machine)) as usize
        };
        self.machines.iter().map(free).sum()
    }

    /// Returns how many builds that wait for one of the machines are ahead of `place`; without a place, all of them
    /// are.
    pub(super) fn count_ahead(&self, place: Option<&Place>) -> usize {
        count_ahead(&self.resources.queue, place, self.machines.iter().copied())
    }
}

/// Returns how many builds that wait for one of `machines` are ahead of `place`; without a place, all of them are.
pub(super) fn count_ahead<'a>(
    queue: &Queue,
    place: Option<&Place>,
    machines: impl Iterator<Item = &'a BuildMachine> + Clone,
) -> usize {
    queue.ahead_of(place).iter().filter(|waiting| machines.clone().any(|machine| waiting.wants(machine))).count()
}
