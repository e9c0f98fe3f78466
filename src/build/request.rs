// SPDX-License-Identifier: GPL-3.0-or-later
//! A build as the engine is asked for it, and the answers.

use std::time::Instant;

use crate::choose::queue::Place;
use crate::choose::{Candidates, Lease};
use crate::daemon::BuildOptions;
use crate::ground::store_path::StorePath;
use crate::machine::{BuildMachine, Requirements};

/// A build that somebody asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the build requires of a machine.
    pub requirements: Requirements,
    /// The derivation.
    pub derivation: StorePath,
    /// Whether the build, once accepted, waits as long as it takes when no machine can be reached or has room.
    pub is_patient: bool,
}

/// The inputs, outputs and options of a build.
#[derive(Clone, Debug)]
pub struct Work {
    /// The closure of all that the build needs.
    pub inputs: Vec<StorePath>,
    /// The outputs that are to become valid.
    pub outputs: Vec<StorePath>,
    /// Limits and trace.
    pub options: BuildOptions,
}

/// The environment variable that, set to `no`, makes this host send all inputs, even those that machines could fetch.
const SUBSTITUTES_VARIABLE: &str = "GUIX_OFFLOAD_SUBSTITUTES";

/// Returns the options of a build of which nothing else is known.
pub fn usual_options() -> BuildOptions {
    let sends_all = std::env::var_os(SUBSTITUTES_VARIABLE).is_some_and(|value| value == "no");
    BuildOptions { sends_all, ..BuildOptions::default() }
}

/// A question about a build.
#[derive(Clone, Copy)]
pub struct Inquiry<'a> {
    /// All machines there are.
    pub machines: &'a [BuildMachine],
    /// What is to be built.
    pub request: &'a Request,
    /// Limits and trace.
    pub options: &'a BuildOptions,
    /// Whether this host could do the build as well.
    pub could_build_here: &'a dyn Fn() -> bool,
}

/// The answer to an inquiry.
pub enum Reply {
    /// No machine can ever do this build, or none can do it now and this host can.
    Decline,
    /// No machine can do it now.
    Postpone,
    /// The build will be done.
    Accept(Box<Accepted>),
}

/// A build that was accepted: a machine is ready for it, or it has a place in the queue.
pub struct Accepted {
    pub(super) request: Request,
    pub(super) candidates: Candidates,
    pub(super) lease: Option<Box<Lease>>,
    pub(super) spot: Option<Spot>,
    /// When the build was asked for.
    pub(super) asked: Instant,
}

/// A place in the queue, and whom it is for.
pub(super) struct Spot {
    pub place: Place,
    /// The only candidate that the build waits for there; `None`: any will do.
    pub only: Option<usize>,
}

impl Spot {
    /// Joins the queue for the candidates for which `eligible` holds. Returns `None` if the queue cannot be written.
    pub fn join(candidates: &Candidates, eligible: impl Fn(usize) -> bool, only: Option<usize>) -> Option<Self> {
        candidates.join_queue(eligible).ok().map(|place| Spot { place, only })
    }
}
