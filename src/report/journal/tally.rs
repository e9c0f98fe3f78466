// SPDX-License-Identifier: GPL-3.0-or-later
//! A build, followed from event to event until it ends.

use std::fmt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Entry, Outcome, Phases};
use crate::ground::error::{Error, Result};
use crate::ground::store_path::StorePath;
use crate::report::phases::phase_after;
use crate::report::{Aside, Event, Observer};

/// Most machines that an entry names as having failed a build before.
const MAX_FAILED: usize = 5;

/// What is known so far of a build.
pub struct Tally {
    derivation: StorePath,
    machine: Option<String>,
    failed_before: Vec<String>,
    milliseconds: Phases,
    phase: &'static str,
    begun: Instant,
    /// Bytes that moved in this phase.
    moved: u64,
    sent: u64,
    received: u64,
}

impl Tally {
    /// Begins to follow a build, which has been in `phase` since `begun`.
    pub fn new(derivation: &StorePath, phase: &'static str, begun: Instant) -> Self {
        Tally {
            derivation: derivation.clone(),
            machine: None,
            failed_before: Vec::new(),
            milliseconds: Phases::default(),
            phase,
            begun,
            moved: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Returns whether this follows a build of `derivation`.
    pub fn is_of(&self, derivation: &StorePath) -> bool {
        self.derivation == *derivation
    }

    /// Notes that `machine` does the build, which is in `phase` from now on.
    pub fn resume(&mut self, machine: &str, phase: &'static str) {
        self.machine = Some(machine.to_string());
        self.enter(phase);
    }

    /// Ends the current phase. What follows belongs to none.
    pub fn pause(&mut self) {
        self.enter("");
    }

    /// Ends the build, which is done, or has this `failure`.
    pub fn end(mut self, failure: Option<&Error>) -> Entry {
        self.enter("");
        Entry {
            ended: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            derivation: self.derivation.to_string(),
            machine: self.machine,
            outcome: failure.map_or(Outcome::Done, Outcome::of),
            reason: failure.map(Error::to_string),
            failed_before: self.failed_before,
            milliseconds: self.milliseconds,
            sent: self.sent,
            received: self.received,
        }
    }

    fn enter(&mut self, next: &'static str) {
        let now = Instant::now();
        self.milliseconds.add(self.phase, (now - self.begun).as_millis() as u64);
        match self.phase {
            "send" => self.sent += self.moved,
            "retrieve" => self.received += self.moved,
            _ => {}
        }
        (self.phase, self.begun, self.moved) = (next, now, 0);
    }

    fn note(&mut self, event: &Event<'_>) {
        match *event {
            Event::Chosen { machine } => self.machine = Some(machine.to_string()),
            Event::Transferred { bytes } => self.moved = bytes,
            Event::Retrying { machine, .. } => {
                self.machine = None;
                if self.failed_before.len() < MAX_FAILED {
                    self.failed_before.push(machine.to_string());
                }
            }
            _ => {}
        }
        if let Some(next) = phase_after(event) {
            self.enter(next);
        }
    }
}

/// An observer that notes in a tally what it passes on to another observer.
pub struct Tallied<'a> {
    inner: &'a mut dyn Observer,
    tally: &'a mut Tally,
}

impl<'a> Tallied<'a> {
    /// Passes events on to `inner`.
    pub fn new(inner: &'a mut dyn Observer, tally: &'a mut Tally) -> Self {
        Tallied { inner, tally }
    }
}

impl Observer for Tallied<'_> {
    fn event(&mut self, event: &Event<'_>) {
        self.tally.note(event);
        self.inner.event(event);
    }

    fn detail(&mut self, text: fmt::Arguments<'_>) {
        self.inner.detail(text);
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.inner.log(text)
    }

    fn aside(&self) -> Option<Aside> {
        self.inner.aside()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ground::error::ErrorKind;
    use crate::ground::store_path::StoreDir;
    use crate::report::NullObserver;

    fn derivation() -> StorePath {
        StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{}-x.drv", "a".repeat(32))).unwrap()
    }

    #[test]
    fn a_build_is_followed_from_machine_to_machine() {
        let (derivation, reason) = (derivation(), Error::new(ErrorKind::Unavailable, "gone"));
        let mut tally = Tally::new(&derivation, "choose", Instant::now() - Duration::from_secs(2));
        let mut null = NullObserver;
        let mut observer = Tallied::new(&mut null, &mut tally);
        let mut happen = |event: Event<'_>| observer.event(&event);
        happen(Event::Chosen { machine: "w1" });
        happen(Event::Sending { machine: "w1", items: 2, bytes: 9 });
        happen(Event::Transferred { bytes: 5 });
        happen(Event::Retrying { machine: "w1", reason: &reason });
        happen(Event::Chosen { machine: "w2" });
        happen(Event::Sending { machine: "w2", items: 2, bytes: 9 });
        happen(Event::Transferred { bytes: 4 });
        happen(Event::Transferred { bytes: 9 });
        happen(Event::Building { machine: "w2", derivation: &derivation });
        happen(Event::Built);
        happen(Event::Retrieving { machine: "w2", items: 1, bytes: 7 });
        happen(Event::Transferred { bytes: 7 });
        happen(Event::Received);
        happen(Event::Done { derivation: &derivation });
        let entry = tally.end(None);
        assert_eq!((entry.machine.as_deref(), entry.outcome, entry.reason), (Some("w2"), Outcome::Done, None));
        assert_eq!((entry.sent, entry.received, entry.failed_before), (14, 7, vec!["w1".to_string()]));
        assert!(entry.milliseconds.choose >= 2000, "{:?}", entry.milliseconds);
        assert_eq!(entry.derivation, derivation.to_string());
    }

    #[test]
    fn what_lies_between_two_verbs_belongs_to_no_phase() {
        let mut tally = Tally::new(&derivation(), "", Instant::now() - Duration::from_secs(2));
        tally.resume("w1", "build");
        tally.begun -= Duration::from_secs(3);
        tally.pause();
        tally.begun -= Duration::from_secs(4);
        let entry = tally.end(Some(&Error::new(ErrorKind::BuildFailed, "why")));
        let milliseconds = entry.milliseconds.named().iter().map(|(_, milliseconds)| milliseconds).sum::<u64>();
        assert!((3000..3900).contains(&milliseconds) && entry.milliseconds.build == milliseconds, "{milliseconds}");
        assert_eq!((entry.outcome, entry.reason.as_deref()), (Outcome::BuildFailed, Some("why")));
    }
}
