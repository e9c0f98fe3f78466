// SPDX-License-Identifier: GPL-3.0-or-later
//! Decides what a machine fetches by itself instead of being sent it: substitutes, from the servers that its daemon is
//! configured for and whose signatures it accepts.
//!
//! Asking these servers takes a moment, or never ends. Meanwhile, items are sent that are sent as fast as an answer
//! comes. Then the machine fetches while the rest is sent. What it has not fetched in the end is sent, too.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::daemon::Substitute;
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;
use crate::remote::Connection;
use crate::remote::fetch::{Fetch, Progress, Stage};
use crate::report::{Event, Observer};
use crate::store::ValidPath;

/// Time that sending must take, at the measured rate of the link, for a machine to be asked what it can fetch. Asking
/// takes a tenth of a second to a second.
const WORTH_ASKING: Duration = Duration::from_secs(3);

/// Rate of a link that was not measured, in bytes of nars a second. Most links are faster: asking costs little.
const UNMEASURED: f64 = 5e6;

/// How long large items, which take longer to send than an answer should take, are held back.
const ASKING_PAUSE: Duration = Duration::from_secs(1);

/// How long sending goes on at a time while the answer is late.
const SLICE: Duration = Duration::from_secs(2);

/// How long the answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long a machine may fetch without a byte.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// How long a fetch goes on before its rate counts.
const RATE_SAMPLE: Duration = Duration::from_secs(3);

/// How many times as long as sending a fetch may take. If it takes longer, the rest is sent instead.
const SLOWNESS: f64 = 2.0;

/// How often a fetch is looked at while there is nothing to send.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long a machine that did not answer, fetched nothing or fetched too slowly is not asked again.
const REST: Duration = Duration::from_secs(10 * 60);

/// Until when machines are not asked what they can fetch, by their labels. Any thread.
#[derive(Default)]
pub struct Substitutes(Mutex<HashMap<String, Instant>>);

impl Substitutes {
    /// Starts to make the machine fetch what it can of `items`. Returns `None` if that is not worth while, and all are
    /// to be sent. `rate`: bytes of nars a second that the link to it moves.
    pub fn begin<'a>(
        &'a self,
        remote: &mut dyn Connection,
        items: &[ValidPath],
        rate: Option<f64>,
        observer: &mut dyn Observer,
    ) -> Option<Fetching<'a>> {
        let rate = rate.unwrap_or(UNMEASURED).max(1.0);
        let candidates: Vec<_> = items.iter().filter(|item| !item.path.is_derivation()).collect();
        if time(candidates.iter().map(|item| item.nar_size).sum(), rate) < WORTH_ASKING {
            return None;
        }
        let machine = remote.machine().clone();
        if self.0.lock().get(&machine.label()).is_some_and(|end| Instant::now() < *end) {
            return None;
        }
        let names = candidates.iter().map(|item| item.path.clone()).collect();
        let items = items.to_vec();
        match remote.fetch(names, Box::new(move |offered| choose(&items, &offered))) {
            Ok(fetch) => {
                observer.detail(format_args!("{}: is asked what it can fetch", machine.name));
                Some(Fetching { all: self, machine, rate, begun: Instant::now(), fetch, announced: false })
            }
            Err(error) => {
                observer.detail(format_args!("{}: cannot be asked what it can fetch: {error}", machine.name));
                None
            }
        }
    }
}

/// Returns how many bytes are downloaded for `one`.
fn bytes_of(one: &Substitute) -> u64 {
    if one.download_size == 0 { one.nar_size } else { one.download_size }
}

/// Returns how long sending `bytes` takes at this `rate`.
fn time(bytes: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(Duration::MAX)
}

/// Returns those of `offered` that equal what this host would send, and whose references the machine has or will fetch.
/// An item that is not among `missing` is there already. `missing` has each item after those that it refers to.
fn choose(missing: &[ValidPath], offered: &[Substitute]) -> Vec<Substitute> {
    let offered: HashMap<_, _> = offered.iter().map(|one| (&one.path, one)).collect();
    let (mut chosen, mut sent) = (Vec::new(), HashSet::new());
    for item in missing {
        let wanted = offered.get(&item.path).filter(|one| {
            let same = one.nar_size == item.nar_size && is_same_set(&one.references, &item.references);
            same && !item.references.iter().any(|reference| sent.contains(reference))
        });
        match wanted {
            Some(one) => chosen.push((*one).clone()),
            None => drop(sent.insert(&item.path)),
        }
    }
    chosen
}

fn is_same_set(one: &[StorePath], other: &[StorePath]) -> bool {
    one.iter().collect::<HashSet<_>>() == other.iter().collect()
}

/// A machine that fetches while it is sent other items.
pub struct Fetching<'a> {
    all: &'a Substitutes,
    machine: BuildMachine,
    rate: f64,
    begun: Instant,
    fetch: Fetch,
    announced: bool,
}

/// What to do next.
pub enum Next<'i> {
    /// These items are to be sent.
    Send(Vec<&'i ValidPath>),
    /// Nothing, for at most this time: [`Fetching::wait`].
    Wait(Duration),
    /// The machine fetches no more. What is left is either there or to be sent.
    Over,
}

impl Fetching<'_> {
    /// Returns what to do about the items that are `left` to be sent, each after those that it refers to.
    pub fn next<'i>(&mut self, left: &[&'i ValidPath], observer: &mut dyn Observer) -> Next<'i> {
        self.decide(self.fetch.progress(), Instant::now(), left, observer)
    }

    /// Returns the same, given how the machine gets on.
    fn decide<'i>(
        &mut self,
        progress: Progress,
        now: Instant,
        left: &[&'i ValidPath],
        observer: &mut dyn Observer,
    ) -> Next<'i> {
        let passed = now - progress.since;
        match progress.stage {
            Stage::Asking if passed >= ANSWER_LIMIT => {
                self.give_up("its daemon does not say what it can fetch", observer);
                Next::Over
            }
            Stage::Asking => {
                let slice = (if passed < ASKING_PAUSE { ASKING_PAUSE } else { SLICE }).as_secs_f64() * self.rate;
                let too_large = |item: &ValidPath| passed < ASKING_PAUSE && item.nar_size as f64 > slice;
                match slice_of(left, too_large, slice) {
                    now if now.is_empty() => Next::Wait(ASKING_PAUSE.saturating_sub(passed)),
                    now => Next::Send(now),
                }
            }
            Stage::Fetching => {
                let items: HashSet<_> = progress.wanted.iter().map(|one| &one.path).collect();
                self.announce(left, &items, observer);
                let others = slice_of(left, |item| items.contains(&item.path), f64::INFINITY);
                if !others.is_empty() {
                    return Next::Send(others);
                }
                if now - progress.moved >= SILENCE_LIMIT {
                    self.give_up("nothing comes from its substitute servers", observer);
                    return Next::Over;
                }
                if passed >= RATE_SAMPLE && self.is_too_slow(&progress, passed) {
                    let rate = progress.bytes as f64 / passed.as_secs_f64();
                    self.give_up(&format!("it fetches {rate:.0} bytes a second"), observer);
                    return Next::Over;
                }
                Next::Wait(INTERVAL)
            }
            Stage::Ended(Ok(())) if progress.wanted.is_empty() => {
                if progress.since - self.begun >= ASKING_PAUSE {
                    self.give_up("its daemon took long to say that it can fetch nothing", observer);
                }
                Next::Send(left.to_vec())
            }
            Stage::Ended(Ok(())) => Next::Over,
            Stage::Ended(Err(error)) if progress.bytes == 0 => {
                self.give_up(&error.to_string(), observer);
                Next::Over
            }
            Stage::Ended(Err(error)) => {
                observer.detail(format_args!("{}: could not fetch all: {error}", self.machine.name));
                Next::Over
            }
        }
    }

    /// Called when everything was sent, and the fetch brought nothing.
    pub fn end_unused(&self, observer: &mut dyn Observer) {
        let progress = self.fetch.progress();
        let answered = if matches!(progress.stage, Stage::Asking) { Instant::now() } else { progress.since };
        if progress.wanted.is_empty() && answered - self.begun >= ASKING_PAUSE {
            self.give_up("its daemon did not say in time what it can fetch", observer);
        }
    }

    /// Waits for at most this time, or until it is the time for another look.
    pub fn wait(&self, at_most: Duration) {
        self.fetch.wait(at_most);
    }

    /// Reports, once, what the machine fetches.
    fn announce(&mut self, left: &[&ValidPath], items: &HashSet<&StorePath>, observer: &mut dyn Observer) {
        if !std::mem::replace(&mut self.announced, true) {
            let bytes = left.iter().filter(|item| items.contains(&item.path)).map(|item| item.nar_size).sum();
            observer.event(&Event::Fetching { machine: &self.machine.name, items: items.len(), bytes });
        }
    }

    /// Returns whether the machine has fetched all that it was to fetch.
    pub fn is_complete(&self) -> bool {
        matches!(self.fetch.progress().stage, Stage::Ended(Ok(())))
    }

    /// Returns whether sending the rest would be done sooner. The machine has fetched for the time `passed`.
    fn is_too_slow(&self, progress: &Progress, passed: Duration) -> bool {
        let all: u64 = progress.wanted.iter().map(bytes_of).sum();
        let (left, rate) = (all.saturating_sub(progress.bytes) as f64, progress.bytes as f64 / passed.as_secs_f64());
        left / rate.max(1.0) > SLOWNESS * (left / self.rate) + ASKING_PAUSE.as_secs_f64()
    }

    fn give_up(&self, why: &str, observer: &mut dyn Observer) {
        observer.detail(format_args!("{}: fetches nothing for {} s: {why}", self.machine.name, REST.as_secs()));
        self.all.0.lock().insert(self.machine.label(), Instant::now() + REST);
    }
}

/// Returns those of `items` that can be sent now: none of which `is_later` holds, none that refers to one of these, and
/// together no more than `most` bytes, unless the first is larger.
fn slice_of<'i>(items: &[&'i ValidPath], is_later: impl Fn(&ValidPath) -> bool, most: f64) -> Vec<&'i ValidPath> {
    let (mut now, mut later, mut bytes) = (Vec::new(), HashSet::new(), 0.0);
    for item in items {
        if is_later(item) || item.references.iter().any(|reference| later.contains(reference)) {
            later.insert(&item.path);
            continue;
        }
        bytes += item.nar_size as f64;
        if bytes > most && !now.is_empty() {
            break;
        }
        now.push(*item);
    }
    now
}

#[cfg(test)]
#[path = "substitutes_tests.rs"]
mod tests;
