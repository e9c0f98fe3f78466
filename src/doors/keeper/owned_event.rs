// SPDX-License-Identifier: GPL-3.0-or-later
//! Events that travel from the keeper to its clients.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ground::error::Error;
use crate::ground::store_path::StorePath;
use crate::report::{Event, Observer};

/// An [`Event`] that owns its data.
#[allow(missing_docs)] // see there
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum OwnedEvent {
    SlotTaken(PathBuf),
    Load(String, f64),
    ClockBehind(String, u64),
    PassedOver(String, Error),
    BuiltHere(StorePath),
    Queued(bool),
    AwaitsSlot(String),
    Chosen(String),
    Sending(String, usize, u64),
    Fetching(String, usize, u64),
    Building(String, StorePath),
    Built,
    Retrieving(String, usize, u64),
    Transferred(u64),
    Verified(StorePath),
    Received,
    Retrying(String, Error),
    Done(StorePath),
}

impl From<&Event<'_>> for OwnedEvent {
    fn from(event: &Event<'_>) -> Self {
        match *event {
            Event::SlotTaken { slot } => OwnedEvent::SlotTaken(slot.into()),
            Event::Load { machine, load } => OwnedEvent::Load(machine.into(), load),
            Event::ClockBehind { machine, seconds } => OwnedEvent::ClockBehind(machine.into(), seconds),
            Event::PassedOver { machine, reason } => OwnedEvent::PassedOver(machine.into(), reason.clone()),
            Event::BuiltHere { derivation } => OwnedEvent::BuiltHere(derivation.clone()),
            Event::Queued { away } => OwnedEvent::Queued(away),
            Event::AwaitsSlot { machine } => OwnedEvent::AwaitsSlot(machine.into()),
            Event::Chosen { machine } => OwnedEvent::Chosen(machine.into()),
            Event::Sending { machine, items, bytes } => OwnedEvent::Sending(machine.into(), items, bytes),
            Event::Fetching { machine, items, bytes } => OwnedEvent::Fetching(machine.into(), items, bytes),
            Event::Building { machine, derivation } => OwnedEvent::Building(machine.into(), derivation.clone()),
            Event::Built => OwnedEvent::Built,
            Event::Retrieving { machine, items, bytes } => OwnedEvent::Retrieving(machine.into(), items, bytes),
            Event::Transferred { bytes } => OwnedEvent::Transferred(bytes),
            Event::Verified { item } => OwnedEvent::Verified(item.clone()),
            Event::Received => OwnedEvent::Received,
            Event::Retrying { machine, reason } => OwnedEvent::Retrying(machine.into(), reason.clone()),
            Event::Done { derivation } => OwnedEvent::Done(derivation.clone()),
        }
    }
}

impl OwnedEvent {
    /// Passes the event to `observer`.
    pub fn to(&self, observer: &mut dyn Observer) {
        observer.event(&match self {
            OwnedEvent::SlotTaken(slot) => Event::SlotTaken { slot },
            OwnedEvent::Load(machine, load) => Event::Load { machine, load: *load },
            OwnedEvent::ClockBehind(machine, seconds) => Event::ClockBehind { machine, seconds: *seconds },
            OwnedEvent::PassedOver(machine, reason) => Event::PassedOver { machine, reason },
            OwnedEvent::BuiltHere(derivation) => Event::BuiltHere { derivation },
            OwnedEvent::Queued(away) => Event::Queued { away: *away },
            OwnedEvent::AwaitsSlot(machine) => Event::AwaitsSlot { machine },
            OwnedEvent::Chosen(machine) => Event::Chosen { machine },
            OwnedEvent::Sending(machine, items, bytes) => Event::Sending { machine, items: *items, bytes: *bytes },
            OwnedEvent::Fetching(machine, items, bytes) => Event::Fetching { machine, items: *items, bytes: *bytes },
            OwnedEvent::Building(machine, derivation) => Event::Building { machine, derivation },
            OwnedEvent::Built => Event::Built,
            OwnedEvent::Retrieving(machine, items, bytes) => {
                Event::Retrieving { machine, items: *items, bytes: *bytes }
            }
            OwnedEvent::Transferred(bytes) => Event::Transferred { bytes: *bytes },
            OwnedEvent::Verified(item) => Event::Verified { item },
            OwnedEvent::Received => Event::Received,
            OwnedEvent::Retrying(machine, reason) => Event::Retrying { machine, reason },
            OwnedEvent::Done(derivation) => Event::Done { derivation },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::keeper::socket::tests::{item, through};
    use crate::ground::error::{ErrorKind, Result};

    /// An observer that records what it is told.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Observer for Notes {
        fn event(&mut self, event: &Event<'_>) {
            self.0.push(format!("{event:?}"));
        }

        fn log(&mut self, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_event_is_told_as_it_was() {
        let (machine, item) = ("m", &item("x"));
        let reason = &Error::new(ErrorKind::HostKey, "why").context("where").on_machine("m").hint("what to do");
        let events = [
            Event::SlotTaken { slot: "/slot".as_ref() },
            Event::Load { machine, load: 0.25 },
            Event::ClockBehind { machine, seconds: 3 },
            Event::PassedOver { machine, reason },
            Event::BuiltHere { derivation: item },
            Event::Queued { away: true },
            Event::AwaitsSlot { machine },
            Event::Chosen { machine },
            Event::Sending { machine, items: 2, bytes: 5 },
            Event::Fetching { machine, items: 1, bytes: 4 },
            Event::Building { machine, derivation: item },
            Event::Built,
            Event::Retrieving { machine, items: 1, bytes: u64::MAX },
            Event::Transferred { bytes: 7 },
            Event::Verified { item },
            Event::Received,
            Event::Retrying { machine, reason },
            Event::Done { derivation: item },
        ];
        for event in &events {
            let mut notes = Notes::default();
            through(&OwnedEvent::from(event)).to(&mut notes);
            assert_eq!(notes.0, [format!("{event:?}")]);
        }
    }
}
