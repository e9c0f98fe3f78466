// SPDX-License-Identifier: GPL-3.0-or-later
//! A job that a thread of this process does.

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::build::engine::Engine;
use crate::build::output_locks::OutputLocks;
use crate::build::request::{Request, Work};
use crate::doors::job::events::{EventQueue, EventSender};
use crate::doors::job::{Job, MAX_JOBS, Notification, Running, Started};
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, Result};
use crate::ground::event_fd::EventFd;
use crate::ground::{failpoint, thread};
use crate::machine::BuildMachine;
use crate::ssh;

/// A job of this process, under way or over.
struct InProcess {
    queue: Arc<EventQueue>,
    cancel: Cancel,
    /// Raised while there is an event to take, and permanently once the job is over.
    ready: Arc<EventFd>,
}

/// Starts to build what `request` asks for, on one of `machines`. Returns at once. Holds
/// `locks`, those on the outputs, until the job is over.
///
/// Fails with [`Exhausted`](crate::ground::error::ErrorKind::Exhausted) for lack of a thread or descriptor.
pub fn start(
    engine: &Arc<Engine>,
    machines: &[BuildMachine],
    request: Request,
    work: Work,
    locks: Option<Arc<OutputLocks>>,
) -> Result<Started> {
    if !Engine::has_candidates(machines, &request.requirements) {
        return Ok(Started::Declined);
    }
    let Some(running) = Running::another(MAX_JOBS) else {
        return Ok(Started::Postponed);
    };
    let ready = Arc::new(EventFd::new()?);
    let (queue, cancel) = (Arc::new(EventQueue::new(Arc::clone(&ready) as _)), Cancel::default());
    let job = InProcess { queue: Arc::clone(&queue), cancel: cancel.clone(), ready };
    ssh::prepare();
    let (engine, machines) = (Arc::clone(engine), machines.to_vec());
    let mut sender = EventSender::new(queue);
    thread::spawn("guix-offload-job", move || {
        let result = catch_unwind(AssertUnwindSafe(|| {
            failpoint::hit("job");
            engine.run_job(&machines, &request, work, None, &cancel, &mut sender)
        }))
        .unwrap_or_else(|panic| Err(Error::panicked(&*panic)));
        // Release the locks, connections, threads and the place among the running jobs before the result is published.
        drop((locks, engine, running));
        sender.finish(result);
    })?;
    Ok(Started::Running(Box::new(job)))
}

impl Job for InProcess {
    fn next_event(&self) -> Option<Notification> {
        self.queue.next_event()
    }

    fn wait(&self, time: Duration) -> bool {
        self.queue.wait(Instant::now().checked_add(time))
    }

    fn cancel(&self) {
        self.queue.cancel();
        self.cancel.cancel();
    }

    fn result(&self) -> Option<Result<()>> {
        self.queue.result()
    }

    fn machine(&self) -> Option<String> {
        self.queue.machine()
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.cancel();
    }
}
