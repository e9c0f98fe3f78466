// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that run beside a host process: a job is started, watched through a descriptor, and cancelled or freed at any
//! time. [`in_process`] does one in a thread of the process; [`crate::doors::keeper::link`] has the keeper do it.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::ground::error::{Error, Result};

pub mod in_process;
pub mod queue;

/// How many jobs may run in threads of one process at once; to start more is postponed.
pub const MAX_JOBS: usize = 256;

/// How many jobs of a process the keeper may do at once; to start more is postponed. In the keeper, each has a thread.
pub const MAX_LINKED_JOBS: usize = 512;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// A build that is under way, or over. Any thread. Dropping it cancels it.
pub trait Job: Send + Sync {
    /// Takes the next event, if there is one. Does not block.
    fn next_event(&self) -> Option<Told>;

    /// Waits until the job is over, at most for `time`; `false`: it is not over yet. Takes no events: a job whose log
    /// nobody takes does not end.
    fn wait(&self, time: Duration) -> bool;

    /// Stops the job as soon as possible: its result will be [`crate::ground::error::ErrorKind::Cancelled`], unless it
    /// was over before. Returns at once.
    fn cancel(&self);

    /// Returns the outcome of the job, once it is over.
    fn result(&self) -> Option<Result<()>>;

    /// Readable while there is an event to take. For poll(2) and select(2) only.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

/// An event of a job: one of the [`crate::report::Event`]s of its build, or a piece of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// No machine is free; the job waits.
    Queued,
    /// A machine cannot take the job, and why. Each reason comes once, whatever the numbers in it.
    PassedOver(String, Reason),
    /// This machine does the job.
    Chosen(String),
    /// So many items, of so many bytes, are about to be sent to the machine.
    Sending(String, usize, u64),
    /// So many bytes have moved since sending or retrieving began.
    Transferred(u64),
    /// The machine builds.
    Building(String),
    /// A piece of the build's log.
    Log(Vec<u8>),
    /// So many items, of so many bytes, are about to be retrieved from the machine.
    Retrieving(String, usize, u64),
    /// The machine failed, and how; another one is tried.
    Retrying(String, Reason),
    /// The job is over; its result is there.
    Done,
}

/// An event of a job, with the lines that are shown of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The event.
    pub event: JobEvent,
    /// The lines that a build hook shows of it; none of a log's and of progress.
    pub lines: String,
}

/// The words of an [`Error`] about a machine that the job does without.
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
    /// It runs.
    Running(Box<dyn Job>),
}

/// One of at most so many jobs of this process.
pub struct Running;

impl Running {
    /// One more, unless there are `most` by now.
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
