// SPDX-License-Identifier: GPL-3.0-or-later
//! A build slot that is taken.

use std::path::Path;
use std::sync::Arc;

use crate::choose::queue::{Queue, name_of};
use crate::choose::slot::Lock;
use crate::machine::BuildMachine;

/// A taken slot. Dropping it frees the slot, and wakes the build that waits next for one of the machine.
pub struct TakenSlot {
    lock: Lock,
    _freed: Freed,
}

impl TakenSlot {
    /// Returns the slot of `machine` whose lock is `lock`. Builds in `queue` may wait for the slot.
    pub fn new(lock: Lock, queue: &Arc<Queue>, machine: &BuildMachine) -> Self {
        TakenSlot { lock, _freed: Freed { queue: Arc::clone(queue), machine: name_of(machine) } }
    }

    /// Returns the name of the lock file.
    pub fn name(&self) -> &Path {
        self.lock.name()
    }
}

/// A guard that wakes the next build when it is dropped. That is after the lock was dropped.
struct Freed {
    queue: Arc<Queue>,
    machine: String,
}

impl Drop for Freed {
    fn drop(&mut self) {
        self.queue.wake_next(std::slice::from_ref(&self.machine));
    }
}
