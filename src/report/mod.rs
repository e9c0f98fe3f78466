// SPDX-License-Identifier: GPL-3.0-or-later
//! The events of a build, and the observers that report them to the caller who asked for it.

pub mod console;
pub mod journal;
pub mod json;
pub mod lines;
pub mod log;
pub mod phases;
pub(crate) mod said;
pub mod table;
pub(crate) mod told;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::ground::error::{Error, Result};
use crate::ground::store_path::StorePath;

/// A function that shows a line to the caller who asked for a build. Any thread may call it.
pub type Aside = Arc<dyn Fn(&str) + Send + Sync>;

/// Something that happened to a build, in the order in which it can happen.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A build slot was taken.
    SlotTaken {
        /// The slot's lock file.
        slot: &'a Path,
    },
    /// A machine said how loaded it is.
    Load {
        /// The machine's name.
        machine: &'a str,
        /// Load, normalised by the number of cores.
        load: f64,
    },
    /// A machine's clock is behind ours, so files there may seem to come from the future.
    ClockBehind {
        /// The machine's name.
        machine: &'a str,
        /// By how much, in seconds.
        seconds: u64,
    },
    /// A machine cannot take the build.
    PassedOver {
        /// The machine's name.
        machine: &'a str,
        /// Why.
        reason: &'a Error,
    },
    /// No machine can be used now. This host can do the build as well, and does it.
    BuiltHere {
        /// What is built.
        derivation: &'a StorePath,
    },
    /// No machine can take the build now, so the build waits. Comes again and again while it waits.
    Queued {
        /// Whether no machine answers. If not, some are busy.
        away: bool,
    },
    /// The build waits for a slot of this machine, which has the inputs, though another machine may be free.
    AwaitsSlot {
        /// The machine's name.
        machine: &'a str,
    },
    /// This machine will do the build.
    Chosen {
        /// The machine's name.
        machine: &'a str,
    },
    /// Store items are about to be sent.
    Sending {
        /// The machine's name.
        machine: &'a str,
        /// How many.
        items: usize,
        /// Size of their nars, in bytes.
        bytes: u64,
    },
    /// The machine fetches store items by itself, which are sent only if that fails. `Sending` has announced them.
    Fetching {
        /// The machine's name.
        machine: &'a str,
        /// How many.
        items: usize,
        /// Size of their nars, in bytes.
        bytes: u64,
    },
    /// The machine has everything; the build begins.
    Building {
        /// The machine's name.
        machine: &'a str,
        /// What is built.
        derivation: &'a StorePath,
    },
    /// The build succeeded.
    Built,
    /// Its outputs are about to be retrieved.
    Retrieving {
        /// The machine's name.
        machine: &'a str,
        /// How many.
        items: usize,
        /// Size of their nars, in bytes.
        bytes: u64,
    },
    /// Bytes moved since sending or retrieving began, out of those that `Sending` or `Retrieving` announced.
    Transferred {
        /// Bytes so far.
        bytes: u64,
    },
    /// An output arrived whole, with a valid signature.
    Verified {
        /// The output.
        item: &'a StorePath,
    },
    /// All outputs arrived; they are about to be registered.
    Received,
    /// The machine failed, not the build: another one is tried.
    Retrying {
        /// The machine's name.
        machine: &'a str,
        /// What happened.
        reason: &'a Error,
    },
    /// All outputs are valid in the local store.
    Done {
        /// What was built.
        derivation: &'a StorePath,
    },
}

/// A receiver of the events and the log of a build, called in the thread that does the work.
pub trait Observer {
    /// Receives `event`.
    fn event(&mut self, event: &Event<'_>);

    /// Receives a piece of the build's log, as the builder wrote it. An error ends the build.
    fn log(&mut self, text: &[u8]) -> Result<()>;

    /// Receives a detail of a decision, which is only meant for the log (see `GUIX_OFFLOAD_LOG`).
    fn detail(&mut self, text: fmt::Arguments<'_>) {
        let _ = text;
    }

    /// Returns a function that shows lines while this observer is borrowed elsewhere; `None` if it cannot show any.
    fn aside(&self) -> Option<Aside> {
        None
    }
}

/// An observer that ignores everything.
pub struct NullObserver;

impl Observer for NullObserver {
    fn event(&mut self, _: &Event<'_>) {}

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}
