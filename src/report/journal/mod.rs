// SPDX-License-Identifier: GPL-3.0-or-later
//! The journal of this host's builds: a line for each build that an engine was given, written when the build ends.
//!
//! - [`tally`]: follows a build from event to event, and makes its entry
//! - [`mod@file`]: the file in the state directory
//! - [`totals`]: what all builds add up to, machine by machine
//! - [`show`]: journal and totals for people and programs

pub mod file;
pub mod show;
pub mod tally;
pub mod totals;

use serde::{Deserialize, Serialize};

use crate::ground::error::{Blame, Error, ErrorKind};

/// A build that is over.
/// What an older version did not write has its default, so that each version reads what the other one wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Entry {
    /// When it ended, in seconds since the epoch.
    pub ended: u64,
    /// The file name of the derivation.
    pub derivation: String,
    /// The last machine that it was given to; `None`: it was given to none.
    pub machine: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it was not done.
    pub reason: Option<String>,
    /// The machines that failed before, so that another one was tried.
    pub failed_before: Vec<String>,
    /// The time that each phase took, in milliseconds.
    pub milliseconds: Phases,
    /// Bytes of the archives that were sent, before compression.
    pub sent: u64,
    /// Bytes of the archives that were received, before compression.
    pub received: u64,
}

/// What came of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its outputs are valid here.
    Done,
    /// The builder failed.
    BuildFailed,
    /// It ran or was silent for too long.
    TimedOut,
    /// Whoever asked for it cancelled it.
    Cancelled,
    /// The last machine failed, and no other one could be tried.
    MachineFailed,
    /// This host failed.
    HostFailed,
    /// A newer version of this library wrote what; this one does not know the word.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 7] = [
        Outcome::Done,
        Outcome::BuildFailed,
        Outcome::TimedOut,
        Outcome::Cancelled,
        Outcome::MachineFailed,
        Outcome::HostFailed,
        Outcome::Unknown,
    ];

    /// Returns the outcome of a build that failed with `error`.
    pub fn of(error: &Error) -> Self {
        match (error.kind(), error.kind().blame()) {
            (ErrorKind::TimedOut, _) => Outcome::TimedOut,
            (ErrorKind::Cancelled, _) => Outcome::Cancelled,
            (_, Blame::Build) => Outcome::BuildFailed,
            (_, Blame::Machine) => Outcome::MachineFailed,
            (_, Blame::Host | Blame::Caller) => Outcome::HostFailed,
        }
    }

    /// Returns the word for the outcome, as in the journal.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::BuildFailed => "build-failed",
            Outcome::TimedOut => "timed-out",
            Outcome::Cancelled => "cancelled",
            Outcome::MachineFailed => "machine-failed",
            Outcome::HostFailed => "host-failed",
            Outcome::Unknown => "unknown",
        }
    }
}

/// The time that each phase of a build took, in milliseconds. The phases are those of [`crate::report::phases`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // see there
pub struct Phases {
    pub choose: u64,
    pub query: u64,
    pub send: u64,
    pub build: u64,
    pub inspect: u64,
    pub retrieve: u64,
    pub register: u64,
}

impl Phases {
    /// Returns the phases with their names, in their order.
    pub fn named(&self) -> [(&'static str, u64); 7] {
        let Phases { choose, query, send, build, inspect, retrieve, register } = *self;
        [
            ("choose", choose),
            ("query", query),
            ("send", send),
            ("build", build),
            ("inspect", inspect),
            ("retrieve", retrieve),
            ("register", register),
        ]
    }

    /// Adds `milliseconds` to the phase of this name, if there is one.
    pub fn add(&mut self, phase: &str, milliseconds: u64) {
        let field = match phase {
            "choose" => &mut self.choose,
            "query" => &mut self.query,
            "send" => &mut self.send,
            "build" => &mut self.build,
            "inspect" => &mut self.inspect,
            "retrieve" => &mut self.retrieve,
            "register" => &mut self.register,
            _ => return,
        };
        *field = field.saturating_add(milliseconds);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A build of `machine` that ended at `ended` so.
    pub fn entry(ended: u64, machine: &str, outcome: Outcome) -> Entry {
        Entry {
            ended,
            derivation: format!("/gnu/store/{}-x.drv", "a".repeat(32)),
            machine: Some(machine.to_string()).filter(|name| !name.is_empty()),
            outcome,
            reason: (outcome != Outcome::Done).then(|| "it \"fails\"".to_string()),
            failed_before: Vec::new(),
            milliseconds: Phases { choose: 10, send: 250, build: 4000, ..Phases::default() },
            sent: 3 << 20,
            received: 1 << 10,
        }
    }

    #[test]
    fn each_outcome_has_one_word_in_all_places() {
        for outcome in Outcome::ALL {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), format!("\"{}\"", outcome.word()));
        }
    }

    #[test]
    fn each_error_is_somebodys() {
        for (kind, outcome) in [
            (ErrorKind::BuildFailed, Outcome::BuildFailed),
            (ErrorKind::TimedOut, Outcome::TimedOut),
            (ErrorKind::Cancelled, Outcome::Cancelled),
            (ErrorKind::Unavailable, Outcome::MachineFailed),
            (ErrorKind::Store, Outcome::HostFailed),
        ] {
            assert_eq!(Outcome::of(&Error::new(kind, "why")), outcome);
        }
    }

    #[test]
    fn phases_are_added_under_their_names() {
        let mut phases = Phases::default();
        for (at, (name, _)) in Phases::default().named().iter().enumerate() {
            phases.add(name, at as u64);
            phases.add(name, 1);
        }
        phases.add("done", 7);
        assert_eq!(phases.named().map(|(_, milliseconds)| milliseconds), [1, 2, 3, 4, 5, 6, 7]);
    }
}
