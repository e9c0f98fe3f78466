// SPDX-License-Identifier: GPL-3.0-or-later
//! What came of an attempt to choose a machine: why the machines that were not chosen cannot be used, and what that
//! means for the build.

use std::fmt;

use super::history::{History, SetbackKind};
use super::order::Ranked;
use super::{Candidates, Choice};
use crate::ground::error::Error;
use crate::machine::BuildMachine;

/// What a machine that was reached lacks for another build.
pub(super) enum Full {
    /// It is overloaded, or low on what builds do not give back.
    NoRoom(Error),
    /// Memory that other builds of this host have: it is there when one of them ends, as a slot is.
    Memory,
}

/// What is wrong with the machines that were not chosen.
#[derive(Default)]
pub(super) struct ChoiceSummary {
    pub(super) busy: bool,
    pub(super) no_room: bool,
    pub(super) away: bool,
    pub(super) drained: bool,
    pub(super) misconfigured: Option<Error>,
    /// Machines that are in back-off or drained, and why.
    pub(super) left_alone: Vec<(usize, Error)>,
    /// Machines that could not be reached just now.
    pub(super) unreached: Vec<usize>,
    /// Whether a machine is being started or stopped.
    pub(super) starts: bool,
}

impl ChoiceSummary {
    /// Notes that a machine cannot be used, and why.
    pub(super) fn add(&mut self, kind: SetbackKind, reason: &Error) {
        match kind {
            SetbackKind::NoRoom => self.no_room = true,
            SetbackKind::Away => self.away = true,
            SetbackKind::Drained => self.drained = true,
            SetbackKind::Misconfigured | SetbackKind::ThisHost => {
                self.misconfigured.get_or_insert_with(|| reason.clone());
            }
        }
    }

    /// Notes that a machine that was reached has no room for the build.
    pub(super) fn add_full(&mut self, full: Full) {
        match full {
            Full::NoRoom(reason) => self.add(SetbackKind::NoRoom, &reason),
            Full::Memory => self.busy = true,
        }
    }

    /// Returns what that means for the build.
    pub(super) fn verdict(self) -> Choice {
        match self {
            ChoiceSummary { busy: true, .. } => Choice::Busy(None),
            ChoiceSummary { no_room: true, .. } => Choice::NoRoom,
            ChoiceSummary { misconfigured: Some(error), away: false, drained: false, .. } => {
                Choice::Misconfigured(error)
            }
            _ => Choice::Away,
        }
    }
}

impl fmt::Display for ChoiceSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChoiceSummary { busy, no_room, away, drained, misconfigured, .. } = self;
        let seen = [(*busy, "busy"), (*no_room, "full or overloaded"), (*away, "away"), (*drained, "drained")];
        let seen = seen.into_iter().chain([(misconfigured.is_some(), "misconfigured")]);
        let words: Vec<_> = seen.filter(|(seen, _)| *seen).map(|(_, word)| word).collect();
        f.write_str(&words.join(", "))
    }
}

/// Machines in the order in which they are tried, for a message.
pub(super) struct Ranking<'a> {
    pub(super) order: &'a [Ranked],
    pub(super) candidates: &'a Candidates,
    pub(super) histories: &'a [History],
}

impl fmt::Display for Ranking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, &Ranked { index, .. }) in self.order.iter().enumerate() {
            let BuildMachine { name, speed, .. } = &self.candidates.machines[index];
            write!(f, "{}{name} (speed {speed}", if number > 0 { ", then " } else { "" })?;
            if let Some(load) = self.histories[index].recent_load() {
                write!(f, ", load {load:.2}")?;
                let current = self.histories[index].current_load().unwrap_or(load);
                if (current - load).abs() >= 0.01 {
                    write!(f, " and now {current:.2}")?;
                }
            }
            let missing = self.candidates.missing_bytes(index);
            if missing > 0 {
                write!(f, ", lacks {missing} bytes of inputs")?;
            }
            f.write_str(")")?;
        }
        if self.order.is_empty() { f.write_str("no machine: all are left alone") } else { Ok(()) }
    }
}
