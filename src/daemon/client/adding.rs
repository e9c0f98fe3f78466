// SPDX-License-Identifier: GPL-3.0-or-later
//! Adding items. Many requests may be on their way before the first is answered: with a relay beside the daemon (see
//! [`Stream::submit`](crate::daemon::Stream::submit)), all of them; without one, as many as the daemon reads at once.

use std::io::Read;

use super::{Client, Expected, FLIGHT};
use crate::daemon::replies::{broken, lost, read_text};
use crate::daemon::request::{ContentAddressed, NewItem, Operation, addition_of_nar};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::ground::words::read_fully;

/// Size of the pieces in which a nar is written, in bytes.
pub(super) const WRITE_SIZE: usize = 256 << 10;

/// Part of a flight, in bytes, that additions leave to the request that they travel with.
const ROOM: usize = 2_000;

/// Additions that were begun, and are still to be finished.
#[must_use]
pub struct Additions {
    operation: Operation,
    count: usize,
    /// The requests that are still to be sent: flight by flight, each after the answers to the one before it. `None`:
    /// all were handed to a relay.
    requests: Option<Vec<Vec<u8>>>,
}

impl Additions {
    /// Returns the requests from index `first` on that may be sent together: as many as a flight holds, at least one.
    fn flight_from(&self, first: usize) -> &[Vec<u8>] {
        let requests = self.requests.as_deref().unwrap_or_default().get(first..).unwrap_or_default();
        let mut size = 0;
        let fits = |request: &&Vec<u8>| {
            size += request.len();
            size <= FLIGHT
        };
        let count = requests.iter().take_while(fits).count().max(1);
        &requests[..count.min(requests.len())]
    }
}

#[cfg(test)]
impl Additions {
    /// Returns `count` additions for a double, which does not ask a daemon.
    pub(crate) fn of(count: usize) -> Self {
        Additions { operation: Operation::AddTextToStore, count, requests: None }
    }
}

impl Client {
    /// Adds a text file that refers to nothing, as [`Client::begin_adding`] does, and returns its name.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        let contents = &ContentAddressed::Text(text.into());
        let begun = self.begin_adding(&[NewItem { name, contents, references: &[] }])?;
        let mut names = begun.map_or(Ok(Vec::new()), |additions| self.finish_adding(additions))?;
        names.pop().ok_or_else(|| broken("the daemon named nothing"))
    }

    /// Begins to add `items`, in this order; `None`: there are none. The daemon protects them from the garbage
    /// collector while the connection is open. Before these additions are finished, the caller may begin others, so
    /// that the daemon has them at hand. They must be finished in the same order.
    pub fn begin_adding(&mut self, items: &[NewItem]) -> Result<Option<Additions>> {
        let Some(first) = items.first() else { return Ok(None) };
        let operation = first.operation();
        let begun = std::mem::take(&mut self.adding); // 0 if this returns early
        if begun == 0 {
            self.start(operation)?;
            if self.stream.get_ref().has_relay() {
                self.dispatch(&[])?;
            }
        }
        let requests: Vec<Vec<u8>> = items.iter().map(NewItem::request).collect();
        let submitted = self.stream.get_mut().submit(&requests);
        let one_by_one = submitted.is_none();
        submitted.unwrap_or(Ok(())).map_err(lost)?;
        self.adding = begun + 1;
        Ok(Some(Additions { operation, count: items.len(), requests: one_by_one.then_some(requests) }))
    }

    /// Finishes `additions`, and returns the items' names. If an item fails, still tries the later ones, and returns
    /// the first error.
    pub fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>> {
        let begun = std::mem::take(&mut self.adding); // 0 if this returns early
        if begun == 0 {
            self.start(additions.operation)?; // an earlier addition broke off: reports that
        }
        let others = begun.saturating_sub(1);
        let mut answers = Vec::with_capacity(additions.count);
        let mut under_way = additions.requests.as_ref().map_or(additions.count, |_| 0);
        for index in 0..additions.count {
            if under_way == 0 {
                let flight = additions.flight_from(index);
                under_way = flight.len();
                self.dispatch(&flight.concat())?;
            }
            under_way -= 1;
            let answer = self.wait_quietly().and_then(|()| read_text(&mut self.stream, "a store file name"));
            match answer {
                Err(error) if self.unfinished.is_some() => return Err(error),
                answer => answers.push(answer),
            }
            self.unfinished = Some(additions.operation);
        }
        self.adding = others;
        if others == 0 {
            self.finish();
        }
        answers.into_iter().map(|answer| answer.and_then(|name| self.parse_path(&name))).collect()
    }

    /// Lets requests to add `items` travel with the next request; `false`: there is no room for them. If an item does
    /// not get its name of `names`, the next request fails. If the daemon refuses an item, the next request goes on
    /// without it, and [`Client::take_refusal`] returns the reason.
    pub fn add_later(&mut self, items: &[NewItem], names: &[StorePath]) -> Result<bool> {
        let requests: Vec<Vec<u8>> = items.iter().map(NewItem::request).collect();
        let size: usize = requests.iter().map(Vec::len).sum();
        if self.adding > 0 || self.later.len() + size + ROOM > FLIGHT {
            return Ok(false);
        }
        self.refused = None;
        for ((item, request), name) in items.iter().zip(requests).zip(names) {
            self.postpone_request(item.operation(), request, Expected::Name(name.clone()))?;
        }
        Ok(true)
    }

    /// Takes the reason why the daemon refused an addition that travelled with a request, if it did.
    pub fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// Reads the answer to an addition that travelled with a request.
    pub(super) fn collect_addition(&mut self, expected: &StorePath) -> Result<()> {
        match self.wait_quietly().and_then(|()| read_text(&mut self.stream, "a store file name")) {
            Ok(name) if name == expected.as_str() => Ok(()),
            Ok(name) => Err(broken(format!("the daemon made '{name}' of what is '{expected}' here"))),
            Err(error) if error.kind() == ErrorKind::Daemon => {
                self.refused.get_or_insert(error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Adds the item called `name`, whose nar `nar` reads, and returns its store file name. The daemon holds all of the
    /// nar in memory. The item is protected as those of [`Client::begin_adding`] are.
    pub fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<StorePath> {
        self.start(Operation::AddToStore)?;
        self.dispatch(&[])?;
        self.send(&addition_of_nar(name))?;
        let mut buffer = vec![0; WRITE_SIZE];
        loop {
            let read = read_fully(nar, &mut buffer);
            let length = read.map_err(|error| Error::io(ErrorKind::Store, format!("reading '{name}'"), error))?;
            self.send(&buffer[..length])?;
            if length < buffer.len() {
                break;
            }
        }
        self.wait_quietly()?;
        let name = read_text(&mut self.stream, "a store file name")?;
        self.finish();
        self.parse_path(&name)
    }
}
