// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that run beside a host process: a job is started, watched through a descriptor, and cancelled or freed at any
//! time.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::build::engine::{Engine, Request, Work};
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, Result, line};
use crate::ground::event_fd::EventFd;
use crate::ground::failpoint;
use crate::ground::thread;
use crate::machine::BuildMachine;
use crate::report::said::Said;
use crate::report::{Aside, Event, Observer, lines};
use crate::ssh;

/// How many jobs may run in one process at once; to start more is postponed.
pub const MAX_JOBS: usize = 256;

/// Most bytes of log that wait to be taken; then the build waits.
const MAX_LOG: usize = 1 << 20;

/// Pieces of log are put together up to this size, in bytes.
const LOG_PIECE: usize = 16 << 10;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// An event of a job: one of the [`Event`]s of its build, or a piece of its log.
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
    Running(Job),
}

/// A build that is under way, or over. Any thread. Dropping it cancels it.
pub struct Job(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Raised while there is an event, and for good once the job is over.
    ready: EventFd,
    cancel: Cancel,
}

#[derive(Default)]
struct State {
    events: VecDeque<Told>,
    /// Bytes of log in `events`.
    log: usize,
    result: Option<Result<()>>,
    cancelled: bool,
}

impl Job {
    /// Starts to build what `request` asks for, on one of `machines`. Returns at once.
    ///
    /// Fails with [`ErrorKind::Exhausted`] for want of a thread or descriptor.
    pub fn start(engine: &Arc<Engine>, machines: &[BuildMachine], request: Request, work: Work) -> Result<Started> {
        if !Engine::has_candidates(machines, &request.requirements) {
            return Ok(Started::Declined);
        }
        let Some(running) = Running::another() else {
            return Ok(Started::Postponed);
        };
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            ready: EventFd::new()?,
            cancel: Cancel::default(),
        });
        ssh::prepare();
        let (engine, machines) = (Arc::clone(engine), machines.to_vec());
        let mut reporter = EventQueue::new(Arc::clone(&shared));
        thread::spawn("guix-offload-job", move || {
            let result = catch_unwind(AssertUnwindSafe(|| {
                failpoint::hit("job");
                let cancel = reporter.shared.cancel.clone();
                match engine.accept(&machines, &request)? {
                    Some(accepted) => engine.run(accepted, work, &cancel, &mut reporter),
                    None => Err(Error::new(ErrorKind::Internal, "a machine that matched no longer does")),
                }
            }))
            .unwrap_or_else(|panic| Err(Error::panicked(&*panic)));
            // What the result tells to be over is over: connections, threads and the place among the running.
            drop((engine, running));
            reporter.finish(result);
        })?;
        Ok(Started::Running(Job(shared)))
    }

    /// Stops the job as soon as possible: its result will be [`ErrorKind::Cancelled`], unless it was over before.
    /// Returns at once.
    pub fn cancel(&self) {
        self.0.state.lock().cancelled = true;
        self.0.changed.notify_all();
        self.0.cancel.cancel();
    }

    /// Takes the next event, if there is one.
    pub fn next_event(&self) -> Option<Told> {
        let mut state = self.0.state.lock();
        let event = state.events.pop_front();
        if let Some(Told { event: JobEvent::Log(text), .. }) = &event {
            state.log -= text.len();
            self.0.changed.notify_all();
        }
        if state.events.is_empty() && state.result.is_none() {
            self.0.ready.clear();
        }
        event
    }

    /// Waits until the job is over, at most for `time`; `false`: it is not over yet. Takes no events: a job whose log
    /// nobody takes does not end.
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        let mut state = self.0.state.lock();
        while state.result.is_none() {
            match until {
                Some(until) if self.0.changed.wait_until(&mut state, until).timed_out() => break,
                Some(_) => {}
                None => self.0.changed.wait(&mut state),
            }
        }
        state.result.is_some()
    }

    /// Returns the outcome of the job, once it is over.
    pub fn result(&self) -> Option<Result<()>> {
        self.0.state.lock().result.clone()
    }
}

/// Readable while there is an event to take, and for good once the job is over. For poll(2) and select(2) only.
impl AsFd for Job {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.ready.as_fd()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// One of at most [`MAX_JOBS`].
struct Running;

impl Running {
    fn another() -> Option<Self> {
        let more = |count| (count < MAX_JOBS).then_some(count + 1);
        RUNNING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Puts events into a job's queue.
struct EventQueue {
    shared: Arc<Shared>,
    said: Said,
    /// The lines about a build that is done.
    done: String,
    /// Whether it was told that it waits: as machines are busy, and as none answers.
    queued: [bool; 2],
}

impl EventQueue {
    fn new(shared: Arc<Shared>) -> Self {
        EventQueue { shared, said: Said::default(), done: String::new(), queued: [false; 2] }
    }

    fn push(&self, state: &mut State, event: JobEvent, lines: String) {
        match (state.events.back_mut().map(|last| &mut last.event), &event) {
            // Of progress, only the latest counts.
            (Some(last @ JobEvent::Transferred(_)), JobEvent::Transferred(_)) => *last = event,
            (Some(JobEvent::Log(last)), JobEvent::Log(text)) if last.len() < LOG_PIECE => last.extend_from_slice(text),
            _ => state.events.push_back(Told { event, lines }),
        }
        self.shared.ready.raise();
    }

    fn finish(&self, result: Result<()>) {
        let lines = match &result {
            Ok(()) => self.done.clone(),
            Err(error) => lines::text(&self.said.of_failure(error)),
        };
        let mut state = self.shared.state.lock();
        state.result = Some(result);
        self.push(&mut state, JobEvent::Done, lines);
        self.shared.changed.notify_all();
    }
}

impl Observer for EventQueue {
    fn event(&mut self, event: &Event<'_>) {
        let said = || lines::text(&lines::of_event(event));
        let happened = match *event {
            Event::Queued { away } if std::mem::replace(&mut self.queued[usize::from(away)], true) => return,
            Event::Queued { .. } => JobEvent::Queued,
            Event::PassedOver { machine, reason } if !self.said.is_due(machine, reason) => return,
            Event::PassedOver { machine, reason } => JobEvent::PassedOver(machine.into(), reason.into()),
            Event::Chosen { machine } => JobEvent::Chosen(machine.into()),
            Event::Sending { machine, items, bytes } => JobEvent::Sending(machine.into(), items, bytes),
            Event::Transferred { bytes } => JobEvent::Transferred(bytes),
            Event::Building { machine, .. } => JobEvent::Building(machine.into()),
            Event::Retrieving { machine, items, bytes } => JobEvent::Retrieving(machine.into(), items, bytes),
            Event::Retrying { machine, reason } => JobEvent::Retrying(machine.into(), reason.into()),
            // The result tells more.
            Event::Done { .. } => {
                self.done = said();
                return;
            }
            Event::SlotTaken { .. } | Event::Load { .. } | Event::ClockBehind { .. } | Event::BuiltHere { .. } => {
                return;
            }
            Event::Built | Event::Verified { .. } | Event::Received => return,
        };
        let lines = if matches!(happened, JobEvent::Transferred(_)) { String::new() } else { said() };
        self.push(&mut self.shared.state.lock(), happened, lines);
    }

    /// Puts the line into the build's log.
    fn aside(&self) -> Option<Aside> {
        let reporter = EventQueue::new(Arc::clone(&self.shared));
        Some(Arc::new(move |text| {
            let text = format!("{}\n", line(text.to_string())).into_bytes();
            let mut state = reporter.shared.state.lock();
            state.log += text.len();
            reporter.push(&mut state, JobEvent::Log(text), String::new());
        }))
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        let mut state = self.shared.state.lock();
        while state.log >= MAX_LOG && !state.cancelled {
            self.shared.changed.wait(&mut state);
        }
        if state.cancelled {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        state.log += text.len();
        self.push(&mut state, JobEvent::Log(text.to_vec()), String::new());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::ground::store_path::StoreDir;
    use crate::report::console::Console;
    use crate::report::lines::tests::events;

    fn shared() -> Arc<Shared> {
        let (state, changed, cancel) = (Mutex::default(), Condvar::new(), Cancel::default());
        Arc::new(Shared { state, changed, ready: EventFd::new().unwrap(), cancel })
    }

    #[test]
    fn a_job_that_waits_for_hours_keeps_few_events() {
        let shared = shared();
        let mut reporter = EventQueue::new(Arc::clone(&shared));
        for look in 0..100_000 {
            for (machine, text) in
                [("a", format!("load {look}")), ("b", "no route".into()), ("c", "x".repeat(look % 997))]
            {
                let reason = Error::new(ErrorKind::Unavailable, text);
                reporter.event(&Event::PassedOver { machine, reason: &reason });
            }
            reporter.event(&Event::Queued { away: false });
        }
        let events = &shared.state.lock().events;
        assert!(events.len() < 500, "{} events", events.len());
        let about = |machine: &str| {
            events.iter().filter(|e| matches!(&e.event, JobEvent::PassedOver(m, _) if m == machine)).count()
        };
        assert_eq!((about("a"), about("b")), (1, 1));
    }

    #[test]
    fn what_is_said_aside_is_one_line_of_the_log() {
        let shared = shared();
        let reporter = EventQueue::new(Arc::clone(&shared));
        reporter.aside().unwrap()("m\n@ build-succeeded x\r");
        let told = shared.state.lock().events.pop_front().unwrap();
        assert_eq!(told.event, JobEvent::Log(b"m @ build-succeeded x \n".to_vec()));
        assert_eq!(told.lines, "");
    }

    #[test]
    fn why_a_machine_is_not_used_comes_with_what_to_do() {
        let shared = shared();
        let mut reporter = EventQueue::new(Arc::clone(&shared));
        let plain = Error::new(ErrorKind::Unavailable, "no route");
        let hinted = plain.clone().hint("mend it");
        reporter.event(&Event::PassedOver { machine: "a", reason: &hinted });
        reporter.event(&Event::Retrying { machine: "a", reason: &hinted });
        reporter.event(&Event::Retrying { machine: "b", reason: &plain });
        let reason = |hint: Option<&str>| Reason { text: "no route".into(), hint: hint.map(str::to_string) };
        let events: Vec<_> = shared.state.lock().events.drain(..).map(|told| told.event).collect();
        let expected = [
            JobEvent::PassedOver("a".into(), reason(Some("mend it"))),
            JobEvent::Retrying("a".into(), reason(Some("mend it"))),
            JobEvent::Retrying("b".into(), reason(None)),
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_job_says_what_a_hook_says() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let derivation = store.parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv").unwrap();
        let reason = Error::new(ErrorKind::HostKey, "it has another host key").on_machine("m").hint("compare");
        for result in [Ok(()), Err(reason.clone()), Err(Error::new(ErrorKind::BuildFailed, "it failed"))] {
            let (shared, mut file) = (shared(), tempfile::tempfile().unwrap());
            let mut console = Console::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 0);
            let mut queue = EventQueue::new(Arc::clone(&shared));
            for event in events("m", &derivation, &reason) {
                queue.event(&event);
                // What is only of use to who sees it at once.
                let details = matches!(
                    event,
                    Event::SlotTaken { .. }
                        | Event::Load { .. }
                        | Event::ClockBehind { .. }
                        | Event::BuiltHere { .. }
                        | Event::Verified { .. }
                );
                let done = matches!(event, Event::Done { .. }) && result.is_err();
                if !details && !done {
                    console.event(&event);
                }
            }
            if let Err(error) = &result {
                console.error(error);
            }
            queue.finish(result);
            let lines: String = shared.state.lock().events.drain(..).map(|told| told.lines).collect();
            let mut shown = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut shown).unwrap();
            assert_eq!(lines, shown);
            assert!(lines.contains("\nhint: compare\n") && lines.lines().count() >= 8, "{lines}");
        }
    }
}
