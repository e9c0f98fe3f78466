// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds in the background of a host process: a job is started, watched through a descriptor, and cancelled or freed
//! at any time. [`in_process`] runs a job in a thread of the process; [`crate::doors::keeper::link`] hands it to the
//! keeper.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::ground::error::{Error, Result};

pub mod events;
pub mod in_process;

/// Most jobs that run in threads of one process at once. Starting one more is answered with [`Started::Postponed`].
pub const MAX_JOBS: usize = 256;

/// Most jobs of one process that the keeper runs at once, each in a thread. Starting one more is answered with
/// [`Started::Postponed`].
pub const MAX_LINKED_JOBS: usize = 512;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// A build that is under way or over. Any thread may use it. Dropping it cancels it.
pub trait Job: Send + Sync {
    /// Takes the next event, if there is one. Does not block.
    fn next_event(&self) -> Option<Notification>;

    /// Waits until the job is over, for at most `time`. Returns `false` if it is not over yet. Takes no events: a job
    /// whose log nobody takes may never end.
    fn wait(&self, time: Duration) -> bool;

    /// Stops the job as soon as possible: its result will be [`crate::ground::error::ErrorKind::Cancelled`], unless it
    /// was over before. Returns at once.
    fn cancel(&self);

    /// Returns the outcome of the job, once it is over.
    fn result(&self) -> Option<Result<()>>;

    /// Returns the machine that does the job, or was the last to do so.
    fn machine(&self) -> Option<String>;

    /// Returns a descriptor that is readable while there is an event to take. For poll(2) and select(2) only.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

/// An event of a job: one of the [`crate::report::Event`]s of its build, or a piece of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// No machine is free, or not the one that has the inputs, which is named; the job waits, and for what.
    Queued(Option<String>, String),
    /// A machine cannot take the job, and why. The same reason, digits aside, comes again after 10 minutes at the
    /// earliest.
    PassedOver(String, Reason),
    /// This machine does the job.
    Chosen(String),
    /// Items are about to be sent to a machine: its name, their number, and their size in bytes.
    Sending(String, usize, u64),
    /// The machine fetches items by itself: its name, their number, and their size in bytes.
    Fetching(String, usize, u64),
    /// Bytes that have moved since sending or retrieving began.
    Transferred(u64),
    /// The machine builds.
    Building(String),
    /// A piece of the build's log.
    Log(Vec<u8>),
    /// Items are about to be retrieved from a machine: its name, their number, and their size in bytes.
    Retrieving(String, usize, u64),
    /// The machine failed, and why; another one is tried.
    Retrying(String, Reason),
    /// The job is over; its result can be read.
    Done,
}

/// An event of a job, and the lines about it for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The event.
    pub event: JobEvent,
    /// The lines that a build hook shows; empty for a piece of the log and for progress.
    pub lines: String,
}

/// The text of an [`Error`] about a machine that was passed over or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is wrong.
    pub text: String,
    /// What to do about it, if that is known.
    pub hint: Option<String>,
}

impl From<&Error> for Reason {
    fn from(error: &Error) -> Self {
        Reason { text: error.to_string(), hint: error.hint_text().map(str::to_string) }
    }
}

/// The outcome of starting a job.
pub enum Started {
    /// No machine can ever do this build.
    Declined,
    /// Too many jobs are running.
    Postponed,
    /// The job runs.
    Running(Box<dyn Job>),
}

/// A place among the running jobs of this process. Dropping it frees the place.
pub struct Running;

impl Running {
    /// Takes a place, unless `most` are taken already.
    pub fn another(most: usize) -> Option<Self> {
        let more = |count| (count < most).then_some(count + 1);
        RUNNING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}
