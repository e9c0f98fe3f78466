// SPDX-License-Identifier: GPL-3.0-or-later
//! How machines stand for a build: what a choice would make of them now, as far as is known without asking them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::history::{History, SetbackKind};
use super::order::{self, Ranked};
use super::slot::LockDirectory;
use super::summary::ChoiceSummary;
use super::{Candidates, Choice, Resources};
use crate::ground::error::{Error, ErrorKind};
use crate::machine::BuildMachine;
use crate::machine::suitability::{Probe, check_suitability};

/// A machine as it stands for a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// The machine.
    pub machine: BuildMachine,
    /// How many of its slots are taken; `None`: that cannot be seen.
    pub taken: Option<u32>,
    /// How many more builds find enough memory there, by what builds took there lately.
    pub memory_for: u32,
    /// How many builds wait for a slot of it.
    pub waiting: usize,
    /// Its load at present, normalised by cores, as it was seen in the last minute: what the order depends on.
    pub load: Option<f64>,
    /// The free space of its store, in bytes, as the last build saw it whose connection is still open.
    pub free_space: Option<u64>,
    /// Its available memory, likewise.
    pub memory: Option<u64>,
    /// Why it had no room for another build when it was seen last; `None`: it had, or nothing is known of it.
    pub unsuitable: Option<Error>,
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
    /// How much longer; `None`: nobody can tell.
    pub time: Option<Duration>,
    /// Whether it is drained, and gets no builds until it is resumed.
    pub is_drained: bool,
    /// Whether it could not be reached, and there is a program that starts it.
    pub can_be_started: bool,
}

/// What kind of reason there is to leave a machine alone, and the reason, an error with its name.
type Reason = (SetbackKind, Error);

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

/// Returns why `machine` is left alone, if it is, as a choice sees it.
fn left_alone(machine: &BuildMachine, history: &History, resources: &Resources) -> Option<(Reason, LeftAlone)> {
    let on_demand = &resources.on_demand;
    if let Some(error) = on_demand.is_under_way(machine) {
        let reason = "it is being started or stopped".into();
        let left_alone = LeftAlone { reason, hint: None, time: None, is_drained: false, can_be_started: false };
        return Some(((SetbackKind::Away, error), left_alone));
    }
    let setback = history.setback()?;
    let left_alone = LeftAlone {
        reason: setback.reason.to_string(),
        hint: setback.reason.hint_text().map(str::to_string),
        time: history.time_left(setback),
        is_drained: setback.kind == SetbackKind::Drained,
        can_be_started: setback.reason.kind() == ErrorKind::Unavailable
            && setback.kind == SetbackKind::Away
            && on_demand.can_start(machine),
    };
    Some(((setback.kind, setback.reason.clone().on_machine(&machine.name)), left_alone))
}

/// Returns how `machine` stands, but for what depends on the inputs.
fn standing(machine: &BuildMachine, history: &History, resources: &Resources) -> (Standing, Option<Reason>) {
    let probe = resources.pool.look(|remote| remote.machine().is_same(machine).then(|| *remote.probe()));
    // Its load is also known from builds of other processes, whose connections are not in this pool.
    let seen = match (probe, history.recent_load()) {
        (Some(probe), load) => Some(Probe { load: load.unwrap_or(probe.load), ..probe }),
        (None, Some(load)) => Some(Probe { load, free_space: u64::MAX, ..Probe::default() }),
        (None, None) => None,
    };
    let (reason, left_alone) = left_alone(machine, history, resources).unzip();
    let taken_for = LockDirectory::taken_for(&resources.directories.offload_state(), machine).ok();
    let memory_for = taken_for.as_ref().map_or(u32::MAX, |taken_for| history.more_builds(taken_for));
    let unsuitable = seen.and_then(|seen| check_suitability(machine, &seen).err());
    let memory = taken_for.as_ref().and_then(|taken_for| history.check_memory(taken_for).err());
    let standing = Standing {
        machine: machine.clone(),
        taken: taken_for.map(|taken_for| taken_for.len() as u32),
        memory_for,
        waiting: resources.queue.ahead_of(None).iter().filter(|waiting| waiting.wants(machine)).count(),
        load: history.current_load(),
        free_space: probe.map(|probe| probe.free_space),
        memory: probe.map(|probe| probe.memory).filter(|memory| *memory > 0),
        unsuitable: unsuitable.or(memory).map(|why| why.error(machine)),
        missing: None,
        rate: history.link_rate().or(history.slow_link()),
        sending: 0.0,
        cost: 0.0,
        left_alone,
    };
    (standing, reason)
}

/// Returns how a machine stands that can not do the build at all.
pub fn standing_of_other(machine: &BuildMachine, resources: &Resources) -> Standing {
    standing(machine, &resources.histories.of(machine), resources).0
}

impl Candidates {
    /// Returns how the candidates stand, and what a choice would come to. First come those that would be tried, in that
    /// order, equals in their own order; then those that are left alone. Asks no machine, and takes no slot.
    pub fn standings(&mut self) -> (Vec<Standing>, Outcome) {
        let resources = std::sync::Arc::clone(&self.resources);
        let histories: Vec<_> = self.machines.iter().map(|machine| resources.histories.of(machine)).collect();
        let with_histories = self.machines.iter().zip(&histories);
        let (mut standings, reasons): (Vec<_>, Vec<_>) =
            with_histories.map(|(machine, history)| standing(machine, history, &resources)).unzip();
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
        let outcome = self.outcome(&order, &standings, &reasons);
        (order.iter().map(|ranked| standings[ranked.index].clone()).collect(), outcome)
    }

    /// Returns what a choice would come to, with an index into `order`. `reasons`: why machines are left alone.
    fn outcome(&mut self, order: &[Ranked], standings: &[Standing], reasons: &[Option<Reason>]) -> Outcome {
        let mut summary = ChoiceSummary::default();
        for (kind, reason) in order.iter().filter_map(|ranked| reasons[ranked.index].as_ref()) {
            summary.add(*kind, reason);
        }
        let usable = order.iter().enumerate().filter(|(_, ranked)| reasons[ranked.index].is_none());
        let mut usable = usable.peekable();
        while let Some((place, ranked)) = usable.next() {
            let it = &standings[ranked.index];
            if !it.has_free_slot() {
                summary.busy = true;
                if usable.peek().is_some_and(|(_, next)| self.awaits(ranked, next).is_some()) {
                    return Outcome::Busy(Some(place));
                }
            } else if it.unsuitable.is_some() {
                summary.no_room = true;
            } else {
                return Outcome::Machine(place);
            }
        }
        match summary.verdict() {
            Choice::Busy(_) => Outcome::Busy(None),
            Choice::NoRoom => Outcome::NoRoom,
            Choice::Misconfigured(error) => Outcome::Misconfigured(error),
            // None was chosen.
            Choice::Away | Choice::Machine(_) => Outcome::Away,
        }
    }
}

impl Standing {
    /// Returns whether a new build would find a slot free, and enough memory: those that wait come first.
    pub fn has_free_slot(&self) -> bool {
        let free = self.machine.parallel_builds.saturating_sub(self.taken.unwrap_or(0)).min(self.memory_for);
        free as usize > self.waiting
    }
}
