// SPDX-License-Identifier: GPL-3.0-or-later
//! The machines that can do a build: what is known of them, and of their slots, without asking them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::history::{ANSWER_LIFETIME, History};
use super::preference::Preference;
use super::queue::{Place, Waiting};
use super::slot::{LockDirectory, SharedSlots};
use super::taken_slot::TakenSlot;
use super::turn::{self, Turn};
use super::{Resources, forecast};
use crate::ground::error::Result;
use crate::machine::BuildMachine;
use crate::machine::suitability::is_overloaded;

/// How long a slot must have been free before a waiting build takes it out of turn: the processes of the builds ahead
/// of it may have been stopped.
const OVERTAKE: Duration = Duration::from_secs(2);

/// How long after an answer a machine is assumed to be there, in seconds, for a build that could be done without it.
const SHORT_ANSWER_LIFETIME: u64 = 2;

/// Whether candidates have a slot for one more build, as far as is known without asking them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownRoom {
    /// They do, by what machines answered a moment ago.
    Sure,
    /// They do, by older answers. A build that is accepted has to wait for a machine that is lost meanwhile.
    Likely,
    /// Nobody knows of a slot.
    Unknown,
}

/// Returns how many slots of `machine` are free for builds that find enough memory there, where those that are taken
/// have been for these times.
pub(super) fn free_slots(machine: &BuildMachine, taken_for: &[Duration], history: &History) -> u32 {
    machine.parallel_builds.saturating_sub(taken_for.len() as u32).min(history.more_builds(taken_for))
}

/// The machines that can do a build, and their slots.
pub struct Candidates {
    pub(super) resources: Arc<Resources>,
    pub(super) machines: Vec<BuildMachine>,
    slots: Vec<SharedSlots>,
    /// For each machine, since when a slot has been free that the builds ahead do not take.
    untaken: Vec<Option<Instant>>,
    pub(super) random: fastrand::Rng,
    pub(super) preference: Preference,
}

impl Candidates {
    /// Makes candidates of `machines`, all of which match what the build requires.
    pub fn new(resources: &Arc<Resources>, machines: Vec<BuildMachine>) -> Result<Self> {
        let state = resources.directories.offload_state();
        let slots = machines.iter().map(|machine| resources.slots.of(&state, machine)).collect::<Result<_>>()?;
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let random = fastrand::Rng::with_seed(seed ^ u64::from(std::process::id()));
        let untaken = vec![None; machines.len()];
        let resources = Arc::clone(resources);
        Ok(Candidates { resources, machines, slots, untaken, random, preference: Preference::default() })
    }

    /// Returns the name of a candidate.
    pub fn name(&self, index: usize) -> &str {
        &self.machines[index].name
    }

    /// Returns the number of candidates.
    pub fn count(&self) -> usize {
        self.machines.len()
    }

    /// Returns the machines for which `eligible` holds.
    fn eligible(&self, eligible: impl Fn(usize) -> bool) -> impl Iterator<Item = &BuildMachine> {
        self.machines.iter().enumerate().filter(move |(index, _)| eligible(*index)).map(|(_, machine)| machine)
    }

    /// Returns the turn of a build, on the machines for which `eligible` holds and that are not in back-off.
    pub fn turn(&self, eligible: impl Fn(usize) -> bool) -> Turn<'_> {
        let left_alone = |machine: &BuildMachine| self.resources.histories.of(machine).setback().is_some();
        let machines = self.eligible(eligible).filter(|machine| !left_alone(machine)).collect();
        Turn::new(machines, &self.resources)
    }

    /// Returns how many waiting builds some candidate can do.
    pub fn count_waiting(&self) -> usize {
        self.count_waiting_for(&self.machines)
    }

    fn count_waiting_for(&self, machines: &[BuildMachine]) -> usize {
        turn::count_ahead(&self.resources.queue, None, machines.iter())
    }

    /// Returns how long a build that joins the queue now is expected to wait for a slot; `None`: nobody can tell.
    pub fn expected_wait(&self) -> Option<Duration> {
        self.expected_wait_for(&self.machines)
    }

    pub(super) fn expected_wait_for(&self, machines: &[BuildMachine]) -> Option<Duration> {
        let state = self.resources.directories.offload_state();
        let slots = |machine: &BuildMachine| {
            let history = self.resources.histories.of(machine);
            let left_alone = history.setback().is_some();
            let taken_for = LockDirectory::taken_for(&state, machine).ok().filter(|_| !left_alone)?;
            Some(forecast::MachineSlots { count: machine.parallel_builds, taken_for, build_time: history.build_time() })
        };
        let slots: Vec<_> = machines.iter().filter_map(slots).collect();
        forecast::expected_wait(self.count_waiting_for(machines), &slots)
    }

    /// Returns whether a candidate has a slot for one more build, as far as is known from what other builds of this
    /// host saw.
    pub fn known_room(&self) -> KnownRoom {
        let state = self.resources.directories.offload_state();
        // The queue first, then the slots: a build takes its slot, and then leaves the queue.
        let waiting = self.count_waiting();
        let (mut sure, mut likely) = (0, 0);
        for machine in &self.machines {
            let history = self.resources.histories.of(machine);
            let load = history.fresh_load(ANSWER_LIFETIME).filter(|load| !is_overloaded(machine, *load));
            let taken_for = load.and_then(|_| LockDirectory::taken_for(&state, machine).ok());
            let free = taken_for.map_or(0, |taken_for| free_slots(machine, &taken_for, &history) as usize);
            likely += free;
            if history.fresh_load(SHORT_ANSWER_LIFETIME).is_some() {
                sure += free;
            }
        }
        match waiting {
            _ if waiting < sure => KnownRoom::Sure,
            _ if waiting < likely => KnownRoom::Likely,
            _ => KnownRoom::Unknown,
        }
    }

    /// Joins the queue, for a build that can go to the candidates for which `eligible` holds.
    pub fn join_queue(&self, eligible: impl Fn(usize) -> bool) -> Result<Place> {
        self.resources.queue.join(&self.eligible(eligible).cloned().collect::<Vec<_>>())
    }

    /// Takes a slot of a candidate, unless the builds that are `ahead` in the queue will take all free ones. `waits`:
    /// this build is in the queue itself.
    pub(super) fn take_slot(&mut self, index: usize, ahead: &[Waiting], waits: bool) -> Result<Option<TakenSlot>> {
        let machine = &self.machines[index];
        let rivals = ahead.iter().filter(|waiting| waiting.wants(machine)).count();
        if !waits && rivals >= machine.parallel_builds as usize {
            return Ok(None);
        }
        let Some(lock) = self.slots[index].lock().try_take()? else {
            self.untaken[index] = None;
            return Ok(None);
        };
        let slot = TakenSlot::new(lock, &self.resources.queue, machine);
        if rivals > 0 {
            let taken_for = LockDirectory::taken_for(&self.resources.directories.offload_state(), machine)?;
            let free = free_slots(machine, &taken_for, &self.resources.histories.of(machine)) as usize;
            let now = self.resources.clock.now();
            let since = *self.untaken[index].get_or_insert(now);
            if rivals > free && !(waits && now.saturating_duration_since(since) > OVERTAKE) {
                return Ok(None);
            }
        }
        self.untaken[index] = None;
        Ok(Some(slot))
    }
}
