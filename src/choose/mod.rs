// SPDX-License-Identifier: GPL-3.0-or-later
//! Choosing a machine: the best one that has a free slot, answers, and is neither overloaded nor full.

mod candidates;
mod choosing;
pub mod forecast;
pub mod history;
pub mod order;
pub mod pool;
pub mod queue;
pub mod slot;
pub mod turn;

use std::sync::Arc;
use std::time::Instant;

use crate::choose::history::Histories;
use crate::choose::pool::Pool;
use crate::choose::queue::{Queue, Slot};
use crate::choose::slot::Slots;
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::clock::Clock;
use crate::ground::directories::Directories;
use crate::ground::error::Error;
use crate::remote::{Connection, Connector, Line};

pub use candidates::Candidates;
pub use choosing::CLOCK_TOLERANCE;

/// What all builds of a process choose with. Any thread.
pub struct Resources {
    /// Where things are on this host.
    pub directories: Directories,
    /// What is remembered of machines.
    pub histories: Histories,
    /// The slots of the machines that are known.
    pub slots: Slots,
    /// The queue of those that wait for one.
    pub queue: Arc<Queue>,
    /// Connections to use again.
    pub pool: Pool<Box<dyn Connection>>,
    /// What connects to machines.
    pub connector: Arc<dyn Connector>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// A connected machine and a build slot on it. Dropping it closes the connection and frees the slot.
pub struct Lease {
    /// The machine.
    pub remote: Box<dyn Connection>,
    /// Which of the candidates it is.
    pub candidate: usize,
    /// Whether the connection is one that had been idle: if it fails, that says nothing about the machine.
    pub reused: bool,
    /// The slot.
    pub slot: Slot,
    /// Since when the slot is taken.
    pub since: Instant,
    /// Cuts the connection when cancelled.
    pub guard: Guard,
}

/// What came of an attempt to choose.
pub enum Choice {
    /// This machine.
    Machine(Box<Lease>),
    /// None now, but some machine is only short of a slot.
    Busy,
    /// None now: some machine is overloaded or full.
    NoRoom,
    /// None now: no machine can be reached, those aside with which something is wrong that waiting does not mend.
    Away,
    /// None ever: with every machine something is wrong that waiting does not mend. The first such error.
    Misconfigured(Error),
}

/// Cuts `line` when cancelled.
pub fn guard(cancel: &Cancel, line: Arc<dyn Line>) -> Guard {
    cancel.guard(move |error| line.abort(error))
}

#[cfg(test)]
pub(crate) mod tests;
