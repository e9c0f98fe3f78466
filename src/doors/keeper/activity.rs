// SPDX-License-Identifier: GPL-3.0-or-later
//! What a keeper is doing: its builds, followed from event to event, and the machines that it leaves alone.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ground::error::Error;
use crate::ground::store_path::StorePath;
use crate::report::Event;

/// The phase of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The keeper looks for a machine.
    Choosing,
    /// No machine can take the build now.
    Waiting,
    /// The keeper asks the machine what it lacks.
    Querying,
    /// The keeper sends what the machine lacks.
    Sending,
    /// The machine builds.
    Building,
    /// The keeper asks the machine what the outputs are.
    Inspecting,
    /// The outputs are retrieved.
    Retrieving,
    /// The outputs are made valid on this host.
    Registering,
}

impl Phase {
    /// Returns the word for the phase; [`crate::report::phases`] has it as a verb.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Choosing => "choosing",
            Phase::Waiting => "waiting",
            Phase::Querying => "querying",
            Phase::Sending => "sending",
            Phase::Building => "building",
            Phase::Inspecting => "inspecting",
            Phase::Retrieving => "retrieving",
            Phase::Registering => "registering",
        }
    }
}

/// A build, followed from event to event.
#[derive(Clone, Debug)]
pub struct Activity {
    derivation: StorePath,
    candidates: Vec<String>,
    /// The one of them whose slot the build waits for, though others may be free.
    awaited: Option<String>,
    machine: Option<String>,
    phase: Phase,
    begun: Instant,
    phase_begun: Instant,
    bytes: Option<(u64, u64)>,
}

impl Activity {
    /// Begins to follow a build of `derivation` on one of `candidates`.
    pub fn new(derivation: StorePath, candidates: Vec<String>) -> Self {
        let (machine, phase, begun) = (None, Phase::Choosing, Instant::now());
        Activity { derivation, candidates, awaited: None, machine, phase, begun, phase_begun: begun, bytes: None }
    }

    /// Updates the activity after `event`.
    pub fn note(&mut self, event: &Event<'_>) {
        match *event {
            Event::Queued { .. } => {
                self.awaited = None;
                self.enter(Phase::Waiting);
            }
            Event::AwaitsSlot { machine } => {
                self.awaited = Some(machine.into());
                self.enter(Phase::Waiting);
            }
            Event::Chosen { machine } => {
                self.machine = Some(machine.into());
                self.enter(Phase::Querying);
            }
            Event::Sending { bytes, .. } => {
                self.enter(Phase::Sending);
                self.bytes = Some((0, bytes));
            }
            Event::Fetching { bytes, .. } => {
                self.bytes = self.bytes.map(|(sent, all)| (sent, all.saturating_sub(bytes)))
            }
            Event::Building { .. } => self.enter(Phase::Building),
            Event::Built => self.enter(Phase::Inspecting),
            Event::Retrieving { bytes, .. } => {
                self.enter(Phase::Retrieving);
                self.bytes = Some((0, bytes));
            }
            Event::Transferred { bytes } => self.bytes = self.bytes.map(|(_, all)| (bytes, all)),
            Event::Received => self.enter(Phase::Registering),
            Event::Retrying { .. } => {
                (self.machine, self.awaited) = (None, None);
                self.enter(Phase::Choosing);
            }
            _ => {}
        }
    }

    fn enter(&mut self, phase: Phase) {
        if phase != self.phase {
            (self.phase, self.phase_begun, self.bytes) = (phase, Instant::now(), None);
        }
    }

    /// Returns the present state of the build.
    pub fn report(&self) -> BuildReport {
        BuildReport {
            derivation: self.derivation.clone(),
            candidates: self.awaited.clone().map_or_else(|| self.candidates.clone(), |awaited| vec![awaited]),
            machine: self.machine.clone(),
            phase: self.phase,
            age: self.begun.elapsed(),
            phase_age: self.phase_begun.elapsed(),
            bytes: self.bytes,
        }
    }
}

/// The state of a build at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuildReport {
    /// What is built.
    pub derivation: StorePath,
    /// The machines that could do it, or the one that it waits for.
    pub candidates: Vec<String>,
    /// The machine that does it; `None`: none yet.
    pub machine: Option<String>,
    /// The phase that it is in.
    pub phase: Phase,
    /// How long the keeper has known of it.
    pub age: Duration,
    /// How long it has been in this phase.
    pub phase_age: Duration,
    /// Bytes that were sent or retrieved so far, and the bytes in all; `None` in other phases.
    pub bytes: Option<(u64, u64)>,
}

/// A machine that gets no builds for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeftAlone {
    /// Its name.
    pub machine: String,
    /// The error for which it gets none.
    pub reason: Error,
    /// How much longer it gets none; `None`: it is drained, and gets none until it is resumed.
    pub time: Option<Duration>,
}

/// The state of a keeper at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeeperReport {
    /// Its process ID.
    pub process: u32,
    /// The version of its library.
    pub version: String,
    /// How long it has run.
    pub age: Duration,
    /// The builds that it decides about or does, in the order in which they came.
    pub builds: Vec<BuildReport>,
    /// The machines that it knows of and that get no builds now.
    pub left_alone: Vec<LeftAlone>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ground::error::ErrorKind;
    use crate::ground::store_path::StoreDir;

    pub fn derivation() -> StorePath {
        StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{}-x.drv", "a".repeat(32))).unwrap()
    }

    #[test]
    fn a_build_is_followed_from_phase_to_phase() {
        let (machine, derivation) = ("w1", &derivation());
        let reason = &Error::new(ErrorKind::Unavailable, "gone");
        let mut activity = Activity::new(derivation.clone(), vec!["w1".into(), "w2".into()]);
        let mut after = |event: Event| {
            activity.note(&event);
            let report = activity.report();
            (report.phase.word(), report.machine.is_some(), report.bytes)
        };
        assert_eq!(after(Event::Load { machine, load: 0.5 }), ("choosing", false, None));
        assert_eq!(after(Event::Queued { away: false }), ("waiting", false, None));
        assert_eq!(after(Event::AwaitsSlot { machine }), ("waiting", false, None));
        assert_eq!(after(Event::Chosen { machine }), ("querying", true, None));
        assert_eq!(after(Event::Sending { machine, items: 1, bytes: 9 }), ("sending", true, Some((0, 9))));
        assert_eq!(after(Event::Transferred { bytes: 5 }), ("sending", true, Some((5, 9))));
        assert_eq!(after(Event::Building { machine, derivation }), ("building", true, None));
        assert_eq!(after(Event::Built), ("inspecting", true, None));
        assert_eq!(after(Event::Retrieving { machine, items: 1, bytes: 7 }), ("retrieving", true, Some((0, 7))));
        assert_eq!(after(Event::Received), ("registering", true, None));
        assert_eq!(after(Event::Retrying { machine, reason }), ("choosing", false, None));
    }
}
