// SPDX-License-Identifier: GPL-3.0-or-later
//! Choosing a machine: the best one that has a free slot, answers, and is neither overloaded nor full.

mod candidates;
mod choosing;
pub mod drained;
pub mod forecast;
pub mod history;
pub mod holdings;
pub mod memory_use;
pub mod on_demand;
pub mod order;
pub mod pool;
mod preference;
pub mod queue;
pub mod slot;
pub mod standing;
mod summary;
pub mod taken_slot;
pub mod turn;

use std::sync::Arc;
use std::time::Instant;

use crate::choose::history::Histories;
use crate::choose::holdings::Holdings;
use crate::choose::on_demand::OnDemand;
use crate::choose::pool::Pool;
use crate::choose::queue::Queue;
use crate::choose::slot::Slots;
use crate::choose::taken_slot::TakenSlot;
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::clock::Clock;
use crate::ground::directories::Directories;
use crate::ground::error::Error;
use crate::remote::{Connection, Connector, Line};

pub use candidates::{Candidates, KnownRoom};
pub use choosing::CLOCK_TOLERANCE;
pub use preference::USUAL_RATE;

/// What all builds of a process share to choose a machine. Any thread.
pub struct Resources {
    /// Guix's directories on this host.
    pub directories: Directories,
    /// The histories of machines.
    pub histories: Histories,
    /// What machines are known to have.
    pub holdings: Holdings,
    /// Starts and stops machines.
    pub on_demand: OnDemand,
    /// The slots of the machines that are known.
    pub slots: Slots,
    /// The queue of builds that wait for a slot.
    pub queue: Arc<Queue>,
    /// Idle connections, to be used again.
    pub pool: Pool<Box<dyn Connection>>,
    /// Makes connections to machines.
    pub connector: Arc<dyn Connector>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// A connected machine and a build slot on it. Dropping it closes the connection and frees the slot.
pub struct Lease {
    /// The machine.
    pub remote: Box<dyn Connection>,
    /// The index of the machine among the candidates.
    pub candidate: usize,
    /// Whether the connection had been idle: if it fails, that says nothing about the machine.
    pub reused: bool,
    /// The slot.
    pub slot: TakenSlot,
    /// When the slot was taken.
    pub since: Instant,
    /// Cuts the connection when cancelled.
    pub guard: Guard,
}

/// A candidate that a build waits for, though others may be free: it has the inputs.
#[derive(Clone, Copy, Debug)]
pub struct Awaited {
    /// Its index among the candidates.
    pub candidate: usize,
    /// When it is no longer worth to wait for it.
    pub until: Instant,
}

/// The result of an attempt to choose.
pub enum Choice {
    /// This machine.
    Machine(Box<Lease>),
    /// None now, but some machine lacks only a free slot. Holds the machine to wait for, if it is one alone.
    Busy(Option<Awaited>),
    /// None now: some machine is overloaded or full.
    NoRoom,
    /// None now: no machine can be reached, or those that could are drained; misconfigured machines do not count.
    Away,
    /// None ever: all machines are misconfigured, and waiting does not repair that. Holds the first such error.
    Misconfigured(Error),
}

/// Cuts `line` when `cancel` is cancelled while the guard lives.
pub fn cut_when_cancelled(cancel: &Cancel, line: Arc<dyn Line>) -> Guard {
    cancel.guard(move |error| line.abort(error))
}

#[cfg(test)]
pub(crate) mod tests;
