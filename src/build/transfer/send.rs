// SPDX-License-Identifier: GPL-3.0-or-later
//! Sending the inputs of a build to a machine that lacks them.
//!
//! Items whose names follow from their contents, such as derivations, need no signature. The daemon there adds them:
//! small ones in batches, large sources one by one if the machine has the memory. All others are exported, signed, and
//! imported there as one bundle: `1` and an item, again and again, then `0`.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::CountingReader;
use super::ask::{self, collected};
use super::import_check::{self, explain_refused};
use super::in_flight::InFlight;
use super::substitutes::{Fetching, Next, Substitutes};
use super::throttle::ThrottledObserver;
use crate::archive::bundle::Bundle;
use crate::build::local_guix::LocalGuix;
use crate::daemon::{Additions, ContentAddressed, NewItem};
use crate::ground::cancel::Cancel;
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::remote::Connection;
use crate::report::{Event, Observer};
use crate::store::{self, ValidPath};

/// Largest item of a batch, as a nar, in bytes.
const SMALL_ITEM: u64 = 512 << 10;

/// Size of a batch, as nars, in bytes. At most two batches are in memory at once.
const BATCH: u64 = 512 << 10;

/// Most times that a build waits for what others send. Each time, one may have failed.
const MOST_WAITS: usize = 3;

/// Size, as nars, in bytes, from which items are sent only after a check that the machine accepts our signatures.
const IMPORT_CHECK_SIZE: u64 = 8 << 20;

/// What was sent.
#[derive(Default)]
pub struct Sent {
    /// The items, in the order sent.
    pub items: Vec<StorePath>,
    /// Their size, as nars and what goes with them, in bytes.
    pub bytes: u64,
    /// How long sending took, without questions and without waiting for other builds.
    pub time: Duration,
}

/// What sending depends on, besides what is to be sent.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    /// What other builds are sending.
    pub in_flight: &'a InFlight,
    /// What is known of substitutes; `None`: the machine fetches nothing.
    pub substitutes: Option<&'a Substitutes>,
    /// Whether the machine lacks an item, in all likelihood.
    pub is_new: &'a dyn Fn(&StorePath) -> bool,
    /// Bytes of nars a second that the link moves, if that was measured.
    pub rate: Option<f64>,
    /// What ends it.
    pub cancel: &'a Cancel,
}

/// Sends the `items`, a closure, that `remote` lacks, or lets them travel with the next question. Returns what was
/// sent. All `items`, and the `outputs`, which may not exist yet, are protected from the collector
/// there until the connection to its daemon ends.
///
/// If another build is sending much of that to the machine, waits for it first. If sending would take long, the machine
/// fetches what it can.
///
/// If the machine has lost an item in the meantime, asks again and resends at once. If that happens twice, fails with
/// [`ErrorKind::Collected`].
pub fn send_files(
    local: &mut LocalGuix,
    remote: &mut dyn Connection,
    items: &[StorePath],
    outputs: &[StorePath],
    circumstances: &Circumstances,
    observer: &mut dyn Observer,
) -> Result<Sent> {
    let Circumstances { in_flight, substitutes, is_new, rate, cancel } = *circumstances;
    let machine = remote.machine().clone();
    let context = || format!("sending files to '{}'", machine.name);
    let (mut sent, mut again) = (Sent::default(), false);
    let mut was_asked = false;
    // Lives until the machine is asked again; till then it protects what the machine has fetched.
    let mut _fetched = None;
    let mut missing = ask::missing(local, remote, items, outputs, is_new, again).context(asking)?;
    let mut waits = 0;
    loop {
        let Some(_claim) = in_flight.claim(&machine, &missing, remote.slow_link(), waits < MOST_WAITS, cancel)? else {
            observer.detail(format_args!("has waited for what another build was sending to {}", machine.name));
            waits += 1;
            missing = ask::missing(local, remote, items, outputs, is_new, again).context(asking)?;
            continue;
        };
        let order = announce(missing, remote, observer);
        if order.is_empty() {
            return Ok(sent);
        }
        let rate = remote.slow_link().or(rate);
        let mut fetching = substitutes.filter(|_| !was_asked).and_then(|all| all.begin(remote, &order, rate, observer));
        was_asked |= fetching.is_some();
        let observer = &mut ThrottledObserver::new(observer);
        let mut sending = Sending { local, remote, observer, sent: 0, time: Duration::ZERO };
        let result = match &mut fetching {
            Some(fetching) => sending.send_beside(fetching, &order, cancel, &mut sent.items),
            None => sending.send(&order.iter().collect::<Vec<_>>(), &mut sent.items),
        };
        sent.bytes += sending.sent;
        sent.time += sending.time;
        // A fetch that goes on would hold a lock on what is sent next.
        _fetched = fetching.filter(Fetching::is_complete);
        match result {
            Ok(true) => return Ok(sent),
            Ok(false) => missing = ask::missing(local, remote, items, outputs, is_new, again).context(asking)?,
            Err(error) if error.kind() == ErrorKind::Daemon && remote.is_usable() => {
                missing = ask::missing(local, remote, items, outputs, is_new, true).context(asking)?;
                let known: HashSet<_> = order.iter().map(|item| &item.path).collect();
                if missing.iter().all(|item| known.contains(&item.path)) {
                    return Err(error).context(context);
                }
                if again {
                    return Err(collected(remote.machine(), error)).context(context);
                }
                again = true;
            }
            Err(error) => return Err(error).context(context),
        }
    }
}

/// Returns whether `remote` has lost any of `items`, all of which it had or was sent.
pub fn have_gone(remote: &mut dyn Connection, items: &[StorePath]) -> bool {
    remote.held().clear();
    remote.is_usable() && remote.missing(items).is_ok_and(|missing| !missing.is_empty())
}

/// Does the same as [`send_files`], but imports everything with a signature, to see that the machine accepts ours.
pub fn import_files(
    local: &mut LocalGuix,
    remote: &mut dyn Connection,
    items: &[StorePath],
    observer: &mut dyn Observer,
) -> Result<()> {
    let missing = ask::missing(local, remote, items, &[], &|_| false, false).context(asking)?;
    let order = announce(missing, remote, observer);
    let machine = remote.machine().name.clone();
    let order: Vec<_> = order.iter().collect();
    let observer = &mut ThrottledObserver::new(observer);
    let mut sending = Sending { local, remote, observer, sent: 0, time: Duration::ZERO };
    sending.prepare_to_receive(&order);
    sending.import(&order).context(|| format!("sending files to '{machine}'"))
}

fn asking() -> &'static str {
    "asking what is missing"
}

/// Sorts `missing`, each item after what it refers to, and reports [`Event::Sending`].
fn announce(missing: Vec<ValidPath>, remote: &dyn Connection, observer: &mut dyn Observer) -> Vec<ValidPath> {
    let order = references_first(missing);
    if !order.is_empty() {
        let bytes = order.iter().map(|item| item.nar_size).sum();
        observer.event(&Event::Sending { machine: &remote.machine().name, items: order.len(), bytes });
    }
    order
}

/// Sorts `items`, each after those that it refers to.
fn references_first(items: Vec<ValidPath>) -> Vec<ValidPath> {
    let mut order = Vec::with_capacity(items.len());
    let names: Vec<_> = items.iter().map(|item| item.path.clone()).collect();
    let mut left: HashMap<StorePath, ValidPath> = items.into_iter().map(|item| (item.path.clone(), item)).collect();
    // Depth first, with a stack of our own. It holds items, each with the number of its references that were looked at.
    // An item moves from there to `order` after all that it refers to.
    let mut stack: Vec<(ValidPath, usize)> = Vec::new();
    for name in names {
        stack.extend(left.remove(&name).map(|item| (item, 0)));
        while let Some((item, seen)) = stack.last_mut() {
            match item.references.get(*seen) {
                Some(next) => {
                    *seen += 1;
                    let next = left.remove(next);
                    stack.extend(next.map(|item| (item, 0)));
                }
                None => order.extend(stack.pop().map(|(item, _)| item)),
            }
        }
    }
    order
}

struct Sending<'a> {
    local: &'a LocalGuix,
    remote: &'a mut dyn Connection,
    observer: &'a mut dyn Observer,
    /// Bytes sent so far: nars and what goes with them.
    sent: u64,
    /// How long that took.
    time: Duration,
}

/// The items that the daemon there has added, those that remain, and whether all were tried.
struct Added<'i> {
    added: Vec<&'i ValidPath>,
    remaining: Vec<&'i ValidPath>,
    all: bool,
}

/// A batch on its way.
type Batch<'i> = (Option<Additions>, Vec<&'i ValidPath>);

impl Sending<'_> {
    /// Sends `items`, each of which comes after what it refers to, and appends them to `sent` in the order sent.
    /// Returns `false` if a new connection to the daemon there has replaced the one that held the temporary roots: then
    /// the caller must ask again what is missing.
    fn send(&mut self, items: &[&ValidPath], sent: &mut Vec<StorePath>) -> Result<bool> {
        let begun = Instant::now();
        let result = self.send_all(items, sent);
        self.time += begun.elapsed();
        result
    }

    /// Does the same while the machine fetches others of `items`. Returns `false` also once the machine fetches no
    /// more: the caller asks what is still missing.
    fn send_beside(
        &mut self,
        fetching: &mut Fetching,
        items: &[ValidPath],
        cancel: &Cancel,
        sent: &mut Vec<StorePath>,
    ) -> Result<bool> {
        let mut left: Vec<&ValidPath> = items.iter().collect();
        while !left.is_empty() {
            cancel.check()?;
            match fetching.next(&left, self.observer) {
                Next::Wait(at_most) => fetching.wait(at_most),
                Next::Over => return Ok(false),
                Next::Send(now) => {
                    if !self.send(&now, sent)? {
                        return Ok(false);
                    }
                    let now: HashSet<_> = now.iter().map(|item| &item.path).collect();
                    left.retain(|item| !now.contains(&item.path));
                }
            }
        }
        fetching.end_unused(self.observer);
        Ok(true)
    }

    fn send_all(&mut self, items: &[&ValidPath], sent: &mut Vec<StorePath>) -> Result<bool> {
        self.check_import_authorized(items)?;
        let mut note = |items: &[&ValidPath]| sent.extend(items.iter().map(|item| item.path.clone()));
        let Added { added, remaining, all } = self.add_large_sources(items)?;
        note(&added);
        if all {
            self.prepare_to_receive(&remaining);
            let Added { added, remaining, .. } = self.add_small_items(remaining)?;
            note(&added);
            self.import(&remaining)?;
            note(&remaining);
        }
        Ok(all)
    }

    /// If much is to be sent, and some of it signed, checks first that the machine accepts our signatures.
    fn check_import_authorized(&mut self, items: &[&ValidPath]) -> Result<()> {
        if items.iter().map(|item| item.nar_size).sum::<u64>() < IMPORT_CHECK_SIZE {
            return Ok(());
        }
        for item in items {
            let large = item.nar_size > SMALL_ITEM;
            if item.deriver.is_some() || large && !store::is_source(item, &self.local.directories().store)? {
                return import_check::check_import_authorized(self.local, self.remote);
            }
        }
        Ok(())
    }

    /// Tells the connection how much is coming.
    fn prepare_to_receive(&mut self, items: &[&ValidPath]) {
        self.remote.prepare_to_receive(items.len(), items.iter().map(|item| item.nar_size).sum());
    }

    /// Makes the daemon there add the large sources of `items` whole, until the link proves slow.
    fn add_large_sources<'i>(&mut self, items: &[&'i ValidPath]) -> Result<Added<'i>> {
        let (mut added, mut remaining) = (Vec::new(), Vec::new());
        for &item in items {
            let large = item.nar_size > SMALL_ITEM && self.remote.prefers_whole_items(item.nar_size);
            if !large || !store::is_source(item, &self.local.directories().store)? {
                remaining.push(item);
                continue;
            }
            let dump = self.local.dump(item)?;
            let mut nar = CountingReader { inner: dump, bytes: &mut self.sent, observer: self.observer };
            let Some(name) = self.remote.add_nar(item.path.name(), &mut nar)? else {
                return Ok(Added { added, remaining, all: false });
            };
            self.check(item, &name)?;
            added.push(item);
        }
        Ok(Added { added, remaining, all: true })
    }

    /// Makes the daemon there add the small `items` whose names follow from their contents. Leaves out those that refer
    /// to one of `items` that is not added so.
    fn add_small_items<'i>(&mut self, items: Vec<&'i ValidPath>) -> Result<Added<'i>> {
        let (mut added, mut remaining) = (Vec::new(), Vec::new());
        let mut others = HashSet::new();
        let (mut batch, mut size, mut before) = (Vec::new(), 0, Batch::default());
        for item in items {
            let small = (1..=SMALL_ITEM).contains(&item.nar_size);
            if small && item.deriver.is_none() && !item.references.iter().any(|reference| others.contains(reference)) {
                let nar = self.local.nar(item)?;
                if let Some(contents) = store::contents(item, nar, &self.local.directories().store)? {
                    batch.push((item, contents));
                    added.push(item);
                    size += item.nar_size;
                    if size >= BATCH {
                        let next = self.begin(std::mem::take(&mut batch))?;
                        self.finish(std::mem::replace(&mut before, next))?;
                        size = 0;
                    }
                    continue;
                }
            }
            others.insert(&item.path);
            remaining.push(item);
        }
        // If little is to be added, and nothing else is to be sent, it travels with the build.
        if before.0.is_none() && remaining.is_empty() && self.add_later(&batch)? {
            return Ok(Added { added, remaining, all: true });
        }
        let last = self.begin(batch)?;
        self.finish(before)?;
        self.finish(last)?;
        Ok(Added { added, remaining, all: true })
    }

    /// Lets a batch travel with the next question. Returns `false` if the batch is too large for that.
    fn add_later(&mut self, batch: &[(&ValidPath, ContentAddressed)]) -> Result<bool> {
        let additions: Vec<_> = batch.iter().map(addition).collect();
        let names: Vec<_> = batch.iter().map(|(item, _)| item.path.clone()).collect();
        let later = self.remote.add_later(&additions, &names)?;
        if later {
            self.sent += batch.iter().map(|(item, _)| item.nar_size).sum::<u64>();
            self.observer.event(&Event::Transferred { bytes: self.sent });
        }
        Ok(later)
    }

    /// Sends a batch without waiting for the answer, so that the next one is read meanwhile.
    fn begin<'i>(&mut self, batch: Vec<(&'i ValidPath, ContentAddressed)>) -> Result<Batch<'i>> {
        let additions: Vec<_> = batch.iter().map(addition).collect();
        Ok((self.remote.begin_adding(&additions)?, batch.into_iter().map(|(item, _)| item).collect()))
    }

    fn finish(&mut self, (additions, items): Batch) -> Result<()> {
        let Some(additions) = additions else { return Ok(()) };
        for (made, item) in self.remote.finish_adding(additions)?.iter().zip(items) {
            self.check(item, made)?;
            self.sent += item.nar_size;
            self.observer.event(&Event::Transferred { bytes: self.sent });
        }
        Ok(())
    }

    /// Fails unless the daemon there gave `item` the same name.
    fn check(&self, item: &ValidPath, made: &StorePath) -> Result<()> {
        if *made == item.path {
            return Ok(());
        }
        self.local.verify(item)?; // it may be our fault
        let machine = &self.remote.machine().name;
        let message = format!("the daemon of '{machine}' made '{made}' of what is '{}' here", item.path);
        Err(Error::new(ErrorKind::Protocol, message).on_machine(machine))
    }

    /// Imports `items` there, as one bundle.
    fn import(&mut self, items: &[&ValidPath]) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let local = self.local;
        let exports = Bundle::new(items.iter().map(|item| Ok(local.export(item)?)));
        let mut exports = ErrorKeeper { inner: exports, failure: None };
        let mut bundle = CountingReader { inner: &mut exports, bytes: &mut self.sent, observer: self.observer };
        let imported = self.remote.import(&mut bundle);
        let imported = imported.map_err(|error| explain_refused(error, self.local, self.remote.machine()));
        // A failure of this host shows up during the import, but is not the machine's fault.
        match exports.failure {
            Some(failure) => Err(failure),
            None => imported,
        }
    }
}

fn addition<'a>((item, contents): &'a (&ValidPath, ContentAddressed)) -> NewItem<'a> {
    NewItem { name: item.path.name(), contents, references: &item.references }
}

/// Reads the local store, and keeps the error of the read that failed.
struct ErrorKeeper<R> {
    inner: R,
    failure: Option<Error>,
}

impl<R: Read> Read for ErrorKeeper<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let error = Error::io(ErrorKind::Store, "reading the store", error);
            self.failure = Some(error.clone());
            error.into()
        })
    }
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
