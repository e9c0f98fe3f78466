// SPDX-License-Identifier: GPL-3.0-or-later
//! The side of a process whose jobs the keeper does: one connection for all of them, and no thread.
//!
//! A call that asks for an event of a job, or waits for one, reads the socket. The host watches one descriptor, which
//! is readable while the socket has unread messages, or a job has untaken events.

mod connection;
mod watch;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use connection::Connection;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags};
use watch::{Flag, Reason, Watch};

use crate::build::engine::Engine;
use crate::build::output_locks::OutputLocks;
use crate::build::request::{Request, Work};
use crate::doors::job::events::{EventQueue, EventSender, MAX_LOG, Ready};
use crate::doors::job::{Job, JobEvent, MAX_LINKED_JOBS, Notification, Running, Started};
use crate::doors::keeper::client::make_valid;
use crate::doors::keeper::message::{About, FromKeeper, FromLink};
use crate::doors::keeper::reach::{CHANGE_OVER, PAUSE, Refusal, unexpected};
use crate::doors::keeper::socket::{closed, encode};
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;
use crate::store::ValidPath;

/// Most keepers that a job is handed to, one after the other, if each ends before it has begun with the job.
const MOST_KEEPERS: u32 = 5;

/// Amount of a job's log, in bytes, after which the keeper is told that it was taken.
const TELL_TAKEN: usize = MAX_LOG / 16;

/// The keeper of some directories, for the jobs of this process. Any thread may use it.
pub struct Link {
    program: PathBuf,
    directories: Directories,
    state: Mutex<State>,
    /// Notified when messages were read, or when no thread sleeps on the sockets any more.
    read: Condvar,
}

#[derive(Default)]
struct State {
    /// Made by the first job.
    watch: Option<Arc<Watch>>,
    /// The present connection, and earlier ones whose keepers still have jobs of ours.
    connections: Vec<Connection>,
    jobs: BTreeMap<u64, Entry>,
    /// The last number that a job or a connection got.
    numbers: u64,
    /// Whether a thread sleeps on the sockets, for all threads that wait.
    sleeps: bool,
    /// Since when keepers hang up without a welcome.
    refused_since: Option<Instant>,
}

/// A job that is not over.
struct Entry {
    /// The number of its connection.
    connection: u64,
    sender: EventSender,
    flag: Arc<Flag>,
    cancel: Cancel,
    _running: Running,
    /// The locks on its outputs, unless the host has them.
    _locks: Option<Arc<OutputLocks>>,
    /// The message that starts it; `None` once a keeper has begun with it.
    start: Option<Vec<u8>>,
    /// How many keepers had it, and ended.
    keepers: u32,
    /// Outputs that are to be made valid.
    received: Option<(StorePath, Vec<ValidPath>)>,
    /// Whether its outputs were made valid: then the job has succeeded, whatever becomes of the keeper.
    made: bool,
}

impl Link {
    /// Makes a link, without starting anything yet. If there is no keeper, the first job starts `program`.
    pub fn new(program: PathBuf, directories: Directories) -> Self {
        Link { program, directories, state: Mutex::default(), read: Condvar::new() }
    }

    /// Returns the program that is started as the keeper.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks the keeper to build what `request` names, on one of `machines`. Waits for no answer of the keeper; to start
    /// one takes milliseconds. Holds `locks`, those on the outputs, until the job is over.
    ///
    /// Fails with [`ErrorKind::Unavailable`] if there is no keeper and none can be started, and with
    /// [`ErrorKind::Exhausted`] for lack of a descriptor.
    pub fn start(
        self: &Arc<Self>,
        machines: &[BuildMachine],
        request: Request,
        work: Work,
        locks: Option<Arc<OutputLocks>>,
    ) -> Result<Started> {
        if !Engine::has_candidates(machines, &request.requirements) {
            return Ok(Started::Declined);
        }
        let Some(running) = Running::another(MAX_LINKED_JOBS) else {
            return Ok(Started::Postponed);
        };
        let mut state = self.state.lock();
        let watch = match &state.watch {
            Some(watch) => Arc::clone(watch),
            None => Arc::clone(state.watch.insert(Arc::new(Watch::new()?))),
        };
        self.attend(&mut state); // a keeper that is gone is seen before it is told
        let number = state.number();
        let Request { requirements, derivation, is_patient } = request;
        let Work { inputs, outputs, options } = work;
        let machines = machines.to_vec();
        let start = FromLink::Start { machines, requirements, derivation, is_patient, inputs, outputs, options };
        let flag = Arc::new(Flag { watch: Arc::clone(&watch), reasons: Mutex::default() });
        let queue = Arc::new(EventQueue::new(Arc::clone(&flag) as Arc<dyn Ready>));
        let mut entry = Entry {
            connection: 0,
            sender: EventSender::new(Arc::clone(&queue)),
            flag: Arc::clone(&flag),
            cancel: Cancel::default(),
            _running: running,
            _locks: locks,
            start: Some(encode(&About(number, start))?),
            keepers: 0,
            received: None,
            made: false,
        };
        self.hand_over(&mut state, &mut entry)?;
        state.jobs.insert(number, entry);
        drop(state);
        let link = Arc::clone(self);
        Ok(Started::Running(Box::new(LinkedJob { link, number, queue, flag, watch, untold: AtomicUsize::new(0) })))
    }

    /// Sends the start of a job to a keeper that takes new jobs.
    fn hand_over(&self, state: &mut State, entry: &mut Entry) -> Result<()> {
        let at = match state.connections.iter().position(|connection| !connection.retires) {
            Some(at) => at,
            None => {
                let connection = self.connect(state)?;
                state.connections.push(connection);
                state.connections.len() - 1
            }
        };
        let connection = &mut state.connections[at];
        entry.connection = connection.number;
        connection.unsent.extend_from_slice(entry.start.as_deref().unwrap_or_default());
        // If the keeper is gone, the next read from its socket shows that.
        let _ = connection.flush();
        Ok(())
    }

    fn connect(&self, state: &mut State) -> Result<Connection> {
        let watch = state.watch.clone().ok_or_else(|| Error::new(ErrorKind::Internal, "nobody watches the keeper"))?;
        Connection::new(state.number(), &watch, &self.directories, &self.program)
    }

    /// Reads and sends what is possible without waiting, and handles the messages that were read.
    fn attend(&self, state: &mut State) {
        let (mut said, mut gone) = (Vec::new(), Vec::new());
        for connection in &mut state.connections {
            let number = connection.number;
            let was_welcome = connection.overdue_at().is_none();
            // What a keeper says before it hangs up is read, although nothing can be sent any more.
            let result = connection.receive(|about| said.push((number, about))).and_then(|()| connection.flush());
            gone.extend(result.err().map(|error| (number, error)));
            if !was_welcome && connection.overdue_at().is_none() {
                state.refused_since = None;
            }
        }
        let is_news = !said.is_empty() || !gone.is_empty();
        for (connection, About(job, message)) in said {
            if let Err(error) = self.hear(state, connection, job, message) {
                gone.push((connection, error));
            }
        }
        for (number, error) in gone {
            self.lose(state, number, &error);
        }
        let State { connections, jobs, .. } = state;
        connections.retain(|connection| {
            !connection.retires || jobs.values().any(|entry| entry.connection == connection.number)
        });
        if is_news {
            self.read.notify_all();
            if let Some(watch) = state.watch.as_ref().filter(|_| state.sleeps) {
                watch.news.raise();
            }
        }
    }

    /// Handles a message from a keeper about a job.
    fn hear(&self, state: &mut State, connection: u64, job: u64, message: FromKeeper) -> Result<()> {
        let Some(entry) = state.jobs.get_mut(&job) else {
            // The job was cancelled. Its outputs are not ours any more.
            if matches!(message, FromKeeper::MakeValid { .. }) {
                let refused = Err(Error::new(ErrorKind::Cancelled, "cancelled"));
                state.say(connection, &About(job, FromLink::MadeValid(refused)))?;
            }
            return Ok(());
        };
        match message {
            FromKeeper::Accepted => entry.start = None,
            FromKeeper::Retires => {
                if let Some(retired) = state.connections.iter_mut().find(|other| other.number == connection) {
                    retired.retires = true;
                }
                self.hand_on(state, job, &closed(), true);
            }
            FromKeeper::Event(event) => event.to(&mut entry.sender),
            FromKeeper::Log(text) => entry.sender.add_log(&text),
            FromKeeper::Aside(line) => entry.sender.add_line(&line),
            FromKeeper::MakeValid { directory, items } => {
                entry.received = Some((directory, items));
                entry.flag.set(Reason::Received, true);
            }
            FromKeeper::Done => state.finish(job, Ok(())),
            FromKeeper::Failed(error) => state.finish(job, Err(error)),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    /// Removes a connection that is over, and hands on its jobs, unless that makes no sense.
    fn lose(&self, state: &mut State, number: u64, error: &Error) {
        let Some(at) = state.connections.iter().position(|connection| connection.number == number) else {
            return;
        };
        let refusal = state.connections.remove(at).refusal(error);
        let of_it: Vec<_> = state.jobs.iter().filter(|(_, entry)| entry.connection == number).map(|it| *it.0).collect();
        match &refusal {
            None => of_it.into_iter().for_each(|job| self.hand_on(state, job, error, true)),
            Some(Refusal::HungUp(_))
                if state.refused_since.get_or_insert_with(Instant::now).elapsed() < CHANGE_OVER =>
            {
                std::thread::sleep(PAUSE);
                of_it.into_iter().for_each(|job| self.hand_on(state, job, error, false));
            }
            Some(Refusal::HungUp(error) | Refusal::Final(error)) => {
                of_it.into_iter().for_each(|job| state.finish(job, Err(error.clone())));
            }
        }
    }

    /// Hands a job on to another keeper, because the first failed with `error`, or to the same one if that has not
    /// `had` the job. If the first had begun with the job, ends the job.
    fn hand_on(&self, state: &mut State, job: u64, error: &Error, had: bool) {
        let Some(mut entry) = state.jobs.remove(&job) else { return };
        entry.keepers += u32::from(had);
        let ended = || error.clone().context("the keeper ended").hint("run the same command again");
        let result = match (&entry.start, entry.made) {
            (_, true) => Ok(()),
            (Some(_), _) if entry.keepers < MOST_KEEPERS => match self.hand_over(state, &mut entry) {
                Ok(()) => {
                    state.jobs.insert(job, entry);
                    return;
                }
                Err(error) => Err(error),
            },
            _ => Err(ended()),
        };
        entry.sender.finish(result);
    }

    /// Sleeps until there is something to read, or until `until`. One of the threads that wait sleeps on the sockets
    /// for all.
    fn sleep(&self, state: &mut MutexGuard<'_, State>, watch: &Watch, until: Option<Instant>) {
        if state.sleeps {
            match until {
                Some(until) => drop(self.read.wait_until(state, until)),
                None => self.read.wait(state),
            }
            return;
        }
        state.sleeps = true;
        let until = state.connections.iter().filter_map(Connection::overdue_at).chain(until).min();
        let streams: Vec<_> = state.connections.iter().map(|it| (Arc::clone(&it.stream), it.is_full)).collect();
        MutexGuard::unlocked(state, || {
            let flags = |is_full| if is_full { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let mut watched: Vec<_> =
                streams.iter().map(|(stream, is_full)| PollFd::new(&**stream, flags(*is_full))).collect();
            // This fails only for lack of memory; then the caller looks again.
            let _ = watch.news.sleep_beside(&mut watched, until);
        });
        watch.news.clear();
        state.sleeps = false;
        self.read.notify_all();
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn say(&mut self, connection: u64, message: &About<FromLink>) -> Result<()> {
        let Some(connection) = self.connections.iter_mut().find(|other| other.number == connection) else {
            return Ok(()); // its end is known
        };
        connection.unsent.extend(encode(message)?);
        connection.flush()
    }

    fn finish(&mut self, job: u64, result: Result<()>) {
        if let Some(entry) = self.jobs.remove(&job) {
            entry.flag.set(Reason::Received, false);
            entry.sender.finish(result);
        }
    }
}

/// A job that the keeper does.
struct LinkedJob {
    link: Arc<Link>,
    number: u64,
    queue: Arc<EventQueue>,
    flag: Arc<Flag>,
    watch: Arc<Watch>,
    /// Bytes of log that were taken, and of which the keeper was not told yet.
    untold: AtomicUsize,
}

impl LinkedJob {
    /// Takes the next event of those that were read.
    fn take(&self) -> Option<Notification> {
        let told = self.queue.next_event()?;
        if let JobEvent::Log(text) = &told.event {
            let untold = self.untold.fetch_add(text.len(), Ordering::SeqCst) + text.len();
            if untold >= TELL_TAKEN {
                self.untold.fetch_sub(untold, Ordering::SeqCst);
                self.say(&mut self.link.state.lock(), FromLink::Taken(untold));
            }
        }
        Some(told)
    }

    fn say(&self, state: &mut State, message: FromLink) {
        if let Some(connection) = state.jobs.get(&self.number).map(|entry| entry.connection) {
            // If the keeper is gone, the next read from its socket shows that.
            let _ = state.say(connection, &About(self.number, message));
        }
    }

    /// Handles messages from the keeper, and makes the outputs of this job valid if the keeper asks for that.
    fn attend(&self, state: &mut MutexGuard<'_, State>) {
        self.link.attend(state);
        let Some(entry) = state.jobs.get_mut(&self.number) else { return };
        let Some((directory, items)) = entry.received.take() else { return };
        entry.flag.set(Reason::Received, false);
        let cancel = entry.cancel.clone();
        let made = MutexGuard::unlocked(state, || make_valid(&self.link.directories, &directory, &items, &cancel));
        if let Some(entry) = state.jobs.get_mut(&self.number) {
            entry.made = made.is_ok();
        }
        self.say(state, FromLink::MadeValid(made));
    }
}

impl Job for LinkedJob {
    fn next_event(&self) -> Option<Notification> {
        self.take().or_else(|| {
            self.attend(&mut self.link.state.lock());
            self.take()
        })
    }

    fn wait(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        let mut state = self.link.state.lock();
        loop {
            self.attend(&mut state);
            if self.queue.result().is_some() {
                return true;
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                return false;
            }
            self.link.sleep(&mut state, &self.watch, until);
        }
    }

    fn cancel(&self) {
        let mut state = self.link.state.lock();
        self.say(&mut state, FromLink::Cancel);
        if let Some(entry) = state.jobs.get(&self.number) {
            entry.cancel.cancel();
        }
        state.finish(self.number, Err(Error::new(ErrorKind::Cancelled, "cancelled")));
        self.link.read.notify_all();
        self.watch.news.raise();
    }

    fn result(&self) -> Option<Result<()>> {
        self.queue.result()
    }

    fn machine(&self) -> Option<String> {
        self.queue.machine()
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.watch.all.as_fd()
    }
}

impl Drop for LinkedJob {
    fn drop(&mut self) {
        self.cancel();
        self.flag.set(Reason::Events, false);
    }
}

#[cfg(test)]
mod tests;
