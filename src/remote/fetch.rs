// SPDX-License-Identifier: GPL-3.0-or-later
//! Makes a machine's daemon fetch substitutes. A thread does it, over a connection of its own, so that other items are
//! sent meanwhile.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Remote;
use super::daemon_link::Opening;
use crate::daemon::{Client, Downloads, Substitute};
use crate::ground::error::Result;
use crate::ground::store_path::StorePath;
use crate::ground::thread;
use crate::ssh::Channel;

/// Chooses, from what a machine could fetch, what it is to fetch.
pub type Choose = Box<dyn FnOnce(Vec<Substitute>) -> Vec<Substitute> + Send>;

/// How far a machine is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Its daemon asks the servers.
    Asking,
    /// It fetches what is wanted.
    Fetching,
    /// It has done what it could, or can fetch nothing that is wanted. What it has fetched is protected from its
    /// collector as long as the fetch lives.
    Ended(Result<()>),
}

/// How a machine gets on.
#[derive(Clone, Debug)]
pub struct Progress {
    /// How far it is.
    pub stage: Stage,
    /// When it began with that.
    pub since: Instant,
    /// What it is to fetch; empty until that is chosen.
    pub wanted: Arc<[Substitute]>,
    /// How many bytes it has downloaded, as the servers send them, compressed or not.
    pub bytes: u64,
    /// When its daemon last said that bytes have come.
    pub moved: Instant,
}

/// A fetch of substitutes by a machine. Dropping it ends the fetch; items that are complete stay.
pub struct Fetch {
    shared: Arc<Shared>,
    _ending: Box<dyn Send>,
}

impl Fetch {
    /// Makes one that is told through `shared`. Dropping `ending` ends it.
    pub fn new(shared: Arc<Shared>, ending: impl Send + 'static) -> Self {
        Fetch { shared, _ending: Box::new(ending) }
    }

    /// Returns how the machine gets on.
    pub fn progress(&self) -> Progress {
        self.shared.progress.lock().clone()
    }

    /// Waits until the stage changes, for at most this time.
    pub fn wait(&self, at_most: Duration) {
        let mut progress = self.shared.progress.lock();
        let before = progress.since;
        let end = Instant::now() + at_most;
        while progress.since == before && !self.shared.changed.wait_until(&mut progress, end).timed_out() {}
    }
}

/// What a fetch and its thread share.
pub struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    /// Makes the state of a fetch that has just begun.
    pub fn new() -> Arc<Self> {
        let now = Instant::now();
        let progress = Progress { stage: Stage::Asking, since: now, wanted: Arc::new([]), bytes: 0, moved: now };
        Arc::new(Shared { progress: Mutex::new(progress), changed: Condvar::new() })
    }

    /// Notes that the machine begins to fetch these.
    pub fn begin(&self, wanted: &[Substitute]) {
        self.progress.lock().wanted = wanted.into();
        self.enter(Stage::Fetching);
    }

    /// Notes that it fetches no more.
    pub fn end(&self, result: Result<()>) {
        self.enter(Stage::Ended(result));
    }

    fn enter(&self, stage: Stage) {
        let mut progress = self.progress.lock();
        let now = Instant::now();
        (progress.stage, progress.since, progress.moved) = (stage, now, now);
        self.changed.notify_all();
    }

    /// Notes how many bytes were downloaded in all.
    pub fn note(&self, bytes: u64) {
        let mut progress = self.progress.lock();
        if bytes != progress.bytes {
            (progress.bytes, progress.moved) = (bytes, Instant::now());
        }
    }
}

/// Ends a fetch over SSH when it is dropped.
struct Ending {
    channel: Channel,
    /// Returns the connection, whose temporary roots protect what was fetched.
    thread: Option<JoinHandle<Option<Client>>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        // The thread sets no time limits, so this one lasts.
        self.channel.set_deadline(Some(Instant::now()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its failure was noted
        }
    }
}

impl Remote {
    /// Asks the machine's daemon which of `items` it can fetch, and has it fetch those that `choose` returns. Returns
    /// at once.
    pub fn fetch(&self, items: Vec<StorePath>, choose: Choose) -> Result<Fetch> {
        let (shared, opening) =
            (Shared::new(), Opening::start(&self.session, &self.socket, &self.store, !self.forwards));
        let channel = opening.channel.clone();
        let told = Arc::clone(&shared);
        let thread = thread::spawn("guix-fetch", move || {
            let fetched = opening.greet().and_then(|mut client| {
                fetch_chosen(&mut client, &items, choose, &told)?;
                Ok(client)
            });
            let (ended, client) = match fetched {
                Ok(client) => (Ok(()), Some(client)),
                Err(error) => (Err(error), None),
            };
            told.end(ended);
            client
        })?;
        Ok(Fetch::new(shared, Ending { channel, thread: Some(thread) }))
    }
}

/// Asks which of `items` the daemon can fetch, and makes it fetch those that are chosen.
fn fetch_chosen(client: &mut Client, items: &[StorePath], choose: Choose, shared: &Shared) -> Result<()> {
    client.set_substituting_later()?;
    let wanted = choose(client.substitutes(items)?);
    if wanted.is_empty() {
        return Ok(());
    }
    shared.begin(&wanted);
    let names: Vec<_> = wanted.into_iter().map(|one| one.path).collect();
    let mut downloads = Downloads::default();
    client.substitute(&names, &mut |text| {
        downloads.read(text);
        shared.note(downloads.bytes());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_when_the_stage_changes_and_when_its_time_is_over() {
        let shared = Shared::new();
        let fetch = Fetch::new(Arc::clone(&shared), ());
        let begun = Instant::now();
        fetch.wait(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                shared.end(Ok(()));
            });
            fetch.wait(Duration::from_secs(60));
        });
        assert!(begun.elapsed() < Duration::from_secs(30) && matches!(fetch.progress().stage, Stage::Ended(Ok(()))));
    }
}
