// SPDX-License-Identifier: GPL-3.0-or-later
//! How machines stand for a build: what a choice would make of them now, as far as is known without asking them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::history::{History, SetbackKind};
use super::order::{self, Ranked};
use super::slot::LockDirectory;
use super::{Candidates, Resources};
use crate::ground::error::Error;
use crate::machine::BuildMachine;
use crate::machine::suitability::{MINIMUM_FREE_SPACE, is_overloaded};

/// A machine as it stands for a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The machine.
    pub machine: BuildMachine,
    /// How many of its slots are taken; `None`: that cannot be seen.
    pub taken: Option<u32>,
    /// How many builds wait for a slot of it.
    pub waiting: usize,
    /// Its load, normalised by cores, as it was seen in the last minute.
    pub load: Option<f64>,
    /// The free space of its store, in bytes, as the last build saw it whose connection is still open.
    pub free_space: Option<u64>,
    /// Its available memory, likewise.
    pub memory: Option<u64>,
    /// How many bytes of the inputs it is not known to have; `None`: nothing is known of any machine, or of the inputs.
    pub missing: Option<u64>,
    /// The rate at which items were sent to it lately, in bytes of nars a second.
    pub rate: Option<f64>,
    /// How long sending what is missing takes, in seconds; 0 if that is not known.
    pub sending: f64,
    /// How long the build is expected to take there, in seconds: the order of the machines.
    pub cost: f64,
    /// Why it gets no builds, if it is left alone.
    pub left_alone: Option<LeftAlone>,
}

/// Why a machine is left alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftAlone {
    /// The reason, without its hint.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// How much longer; `None`: it is drained, and gets no builds until it is resumed.
    pub time: Option<Duration>,
}

impl LeftAlone {
    fn new(history: &History) -> Option<(SetbackKind, Error, Self)> {
        let setback = history.setback()?;
        let hint = setback.reason.hint_text().map(str::to_string);
        let left_alone = LeftAlone { reason: setback.reason.to_string(), hint, time: history.time_left(setback) };
        Some((setback.kind, setback.reason.clone(), left_alone))
    }
}

/// What a choice would come to, as far as is known without asking a machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The one with this index among the standings, if it answers and has room.
    Machine(usize),
    /// All slots are taken of those that could be used, or of the one with this index, which is worth waiting for.
    Busy(Option<usize>),
    /// Some machine is overloaded or full, and no other can be used.
    NoRoom,
    /// All machines are away or drained.
    Away,
    /// All machines are misconfigured. Holds the first such error.
    Misconfigured(Error),
}

/// Returns how `machine` stands, but for what depends on the inputs.
fn standing(machine: &BuildMachine, resources: &Resources) -> (Standing, History) {
    let history = resources.histories.of(machine);
    let probe = resources.pool.look(|remote| remote.machine().is_same(machine).then(|| *remote.probe()));
    let standing = Standing {
        machine: machine.clone(),
        taken: LockDirectory::count_taken(&resources.directories.offload_state(), machine).ok(),
        waiting: resources.queue.ahead_of(None).iter().filter(|waiting| waiting.wants(machine)).count(),
        load: history.recent_load(),
        free_space: probe.map(|probe| probe.free_space),
        memory: probe.map(|probe| probe.memory).filter(|memory| *memory > 0),
        missing: None,
        rate: history.link_rate().or(history.slow_link()),
        sending: 0.0,
        cost: 0.0,
        left_alone: LeftAlone::new(&history).map(|(_, _, left_alone)| left_alone),
    };
    (standing, history)
}

/// Returns how a machine stands that can not do the build at all.
pub fn standing_of_other(machine: &BuildMachine, resources: &Resources) -> Standing {
    standing(machine, resources).0
}

impl Candidates {
    /// Returns how the candidates stand, and what a choice would come to. First come those that would be tried, in that
    /// order, equals in their own order; then those that are left alone. Asks no machine, and takes no slot.
    pub fn standings(&mut self) -> (Vec<Standing>, Outcome) {
        let resources = std::sync::Arc::clone(&self.resources);
        let (mut standings, histories): (Vec<_>, Vec<_>) =
            self.machines.iter().map(|machine| standing(machine, &resources)).unzip();
        let outlooks: Vec<_> = (0..histories.len()).map(|index| self.outlook(index, &histories[index])).collect();
        let build_time = Self::usual_build_time(&histories);
        let mut order = order::order(&self.machines, build_time, |index| outlooks[index], &mut self.random);
        let place = |ranked: &Ranked| (standings[ranked.index].left_alone.is_some(), ranked.index);
        order.sort_by(|one, other| {
            let ((one_is_left, one_index), (other_is_left, other_index)) = (place(one), place(other));
            one_is_left.cmp(&other_is_left).then(one.cost.total_cmp(&other.cost)).then(one_index.cmp(&other_index))
        });
        for Ranked { index, cost, sending } in &order {
            (standings[*index].cost, standings[*index].sending) = (*cost, *sending);
            standings[*index].missing = self.knows_inputs().then(|| self.missing_bytes(*index));
        }
        let outcome = self.outcome(&order, &standings, &histories);
        (order.iter().map(|ranked| standings[ranked.index].clone()).collect(), outcome)
    }

    /// Returns what a choice would come to, with an index into `order`.
    fn outcome(&mut self, order: &[Ranked], standings: &[Standing], histories: &[History]) -> Outcome {
        let (mut busy, mut no_room, mut away, mut misconfigured) = (false, false, false, None);
        let mut usable = Vec::new();
        for (place, ranked) in order.iter().enumerate() {
            match LeftAlone::new(&histories[ranked.index]) {
                None => usable.push((place, *ranked)),
                Some((SetbackKind::NoRoom, ..)) => no_room = true,
                Some((SetbackKind::Away | SetbackKind::Drained, ..)) => away = true,
                Some((SetbackKind::Misconfigured | SetbackKind::ThisHost, error, _)) => {
                    misconfigured.get_or_insert_with(|| error.on_machine(&self.machines[ranked.index].name));
                }
            }
        }
        let mut usable = usable.into_iter().peekable();
        while let Some((place, ranked)) = usable.next() {
            let it = &standings[ranked.index];
            if !it.has_free_slot() {
                busy = true;
                if usable.peek().is_some_and(|(_, next)| self.awaits(&ranked, next).is_some()) {
                    return Outcome::Busy(Some(place));
                }
            } else if it.lacks_room() {
                no_room = true;
            } else {
                return Outcome::Machine(place);
            }
        }
        match misconfigured {
            _ if busy => Outcome::Busy(None),
            _ if no_room => Outcome::NoRoom,
            Some(error) if !away => Outcome::Misconfigured(error),
            _ => Outcome::Away,
        }
    }
}

impl Standing {
    /// Returns whether a new build would find a slot free: those that wait come first.
    pub fn has_free_slot(&self) -> bool {
        let free = self.machine.parallel_builds.saturating_sub(self.taken.unwrap_or(0)) as usize;
        free > self.waiting
    }

    /// Returns whether it was overloaded or full when it was seen last.
    pub fn lacks_room(&self) -> bool {
        self.load.is_some_and(|load| is_overloaded(&self.machine, load))
            || self.free_space.is_some_and(|free| free < MINIMUM_FREE_SPACE)
    }
}
