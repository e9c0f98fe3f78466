// SPDX-License-Identifier: GPL-3.0-or-later
//! The queue of a job's events, from the side that does the job to the side that watches it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::doors::job::{JobEvent, Notification};
use crate::ground::error::{Error, ErrorKind, Result, line};
use crate::ground::event_fd::EventFd;
use crate::report::said::Said;
use crate::report::{Aside, Event, Observer, lines};

/// Size of a job's untaken log, in bytes, at which the build waits.
pub const MAX_LOG: usize = 1 << 20;

/// Size, in bytes, below which a queued piece of a log is extended by the next piece.
const LOG_PIECE: usize = 16 << 10;

/// The signal to the host process that a job has events.
pub trait Ready: Send + Sync {
    /// Signals that there is an event.
    fn raise(&self);

    /// Signals that there is no event now, or, if `is_over`, that none will follow.
    fn clear(&self, is_over: bool);
}

/// The descriptor of one job, which stays readable once the job is over.
impl Ready for EventFd {
    fn raise(&self) {
        EventFd::raise(self);
    }

    fn clear(&self, is_over: bool) {
        if !is_over {
            EventFd::clear(self);
        }
    }
}

/// The events of a job that nobody has taken yet, and its result. Any thread may use it.
pub struct EventQueue {
    state: Mutex<State>,
    changed: Condvar,
    ready: Arc<dyn Ready>,
}

#[derive(Default)]
struct State {
    events: VecDeque<Notification>,
    /// Bytes of log in `events`.
    log: usize,
    result: Option<Result<()>>,
    /// The machine that was chosen last.
    machine: Option<String>,
    cancelled: bool,
}

impl EventQueue {
    /// Makes an empty queue. `ready` shows whether it has events.
    pub fn new(ready: Arc<dyn Ready>) -> Self {
        EventQueue { state: Mutex::default(), changed: Condvar::new(), ready }
    }

    /// Takes the next event, if there is one.
    pub fn next_event(&self) -> Option<Notification> {
        let mut state = self.state.lock();
        let event = state.events.pop_front();
        if let Some(Notification { event: JobEvent::Log(text), .. }) = &event {
            state.log -= text.len();
            self.changed.notify_all();
        }
        if state.events.is_empty() {
            self.ready.clear(state.result.is_some());
        }
        event
    }

    /// Waits until the job is over, or until `until`. Returns `false` if the job is not over yet.
    pub fn wait(&self, until: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.result.is_none() {
            match until {
                Some(until) if self.changed.wait_until(&mut state, until).timed_out() => break,
                Some(_) => {}
                None => self.changed.wait(&mut state),
            }
        }
        state.result.is_some()
    }

    /// Wakes the thread that waits for its log to be taken, which then fails with [`ErrorKind::Cancelled`].
    pub fn cancel(&self) {
        self.state.lock().cancelled = true;
        self.changed.notify_all();
    }

    /// Returns the machine that was chosen last.
    pub fn machine(&self) -> Option<String> {
        self.state.lock().machine.clone()
    }

    /// Returns the outcome of the job, once it is over.
    pub fn result(&self) -> Option<Result<()>> {
        self.state.lock().result.clone()
    }
}

/// The observer that puts what happens to a build into the queue of its job.
pub struct EventSender {
    queue: Arc<EventQueue>,
    said: Said,
    /// The lines of [`Event::Done`]; they go out with the result.
    done: String,
    /// Whether waiting was reported: because machines are busy, and because none answers.
    queued: [bool; 2],
}

impl EventSender {
    /// Makes one for a job to which nothing has happened yet.
    pub fn new(queue: Arc<EventQueue>) -> Self {
        EventSender { queue, said: Said::default(), done: String::new(), queued: [false; 2] }
    }

    fn push(&self, state: &mut State, event: JobEvent, lines: String) {
        if let JobEvent::Chosen(machine) = &event {
            state.machine = Some(machine.clone());
        }
        match (state.events.back_mut().map(|last| &mut last.event), &event) {
            // Of progress, only the latest counts.
            (Some(last @ JobEvent::Transferred(_)), JobEvent::Transferred(_)) => *last = event,
            (Some(JobEvent::Log(last)), JobEvent::Log(text)) if last.len() < LOG_PIECE => last.extend_from_slice(text),
            _ => state.events.push_back(Notification { event, lines }),
        }
        self.queue.ready.raise();
    }

    /// Adds a piece of the log without waiting, however much of the log is untaken.
    pub fn add_log(&self, text: &[u8]) {
        let mut state = self.queue.state.lock();
        state.log += text.len();
        self.push(&mut state, JobEvent::Log(text.to_vec()), String::new());
    }

    /// Adds a line for the user to the log.
    pub fn add_line(&self, text: &str) {
        self.add_log(format!("{}\n", line(text.to_string())).as_bytes());
    }

    /// Publishes the result: the job is over.
    pub fn finish(&self, result: Result<()>) {
        let lines = match &result {
            Ok(()) => self.done.clone(),
            Err(error) => lines::text(&self.said.of_failure(error)),
        };
        let mut state = self.queue.state.lock();
        state.result = Some(result);
        self.push(&mut state, JobEvent::Done, lines);
        self.queue.changed.notify_all();
    }
}

impl Observer for EventSender {
    fn event(&mut self, event: &Event<'_>) {
        let said = || lines::text(&lines::of_event(event));
        let happened = match *event {
            Event::Queued { away } if std::mem::replace(&mut self.queued[usize::from(away)], true) => return,
            Event::Queued { .. } => JobEvent::Queued(None, lines::wait(event)),
            Event::AwaitsSlot { machine } => JobEvent::Queued(Some(machine.into()), lines::wait(event)),
            Event::PassedOver { machine, reason } if !self.said.is_due(machine, reason) => return,
            Event::PassedOver { machine, reason } => JobEvent::PassedOver(machine.into(), reason.into()),
            Event::Chosen { machine } => JobEvent::Chosen(machine.into()),
            Event::Sending { machine, items, bytes } => JobEvent::Sending(machine.into(), items, bytes),
            Event::Fetching { machine, items, bytes } => JobEvent::Fetching(machine.into(), items, bytes),
            Event::Transferred { bytes } => JobEvent::Transferred(bytes),
            Event::Building { machine, .. } => JobEvent::Building(machine.into()),
            Event::Retrieving { machine, items, bytes } => JobEvent::Retrieving(machine.into(), items, bytes),
            Event::Retrying { machine, reason } => JobEvent::Retrying(machine.into(), reason.into()),
            // `finish` reports it, together with the result.
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
        self.push(&mut self.queue.state.lock(), happened, lines);
    }

    /// Puts the line into the build's log.
    fn aside(&self) -> Option<Aside> {
        let sender = EventSender::new(Arc::clone(&self.queue));
        Some(Arc::new(move |text| sender.add_line(text)))
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        let mut state = self.queue.state.lock();
        while state.log >= MAX_LOG && !state.cancelled {
            self.queue.changed.wait(&mut state);
        }
        if state.cancelled {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        drop(state);
        self.add_log(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::doors::job::Reason;
    use crate::ground::store_path::StoreDir;
    use crate::report::console::Console;
    use crate::report::lines::tests::events;

    fn queue() -> Arc<EventQueue> {
        Arc::new(EventQueue::new(Arc::new(EventFd::new().unwrap())))
    }

    #[test]
    fn a_job_that_waits_for_hours_keeps_few_events() {
        let queue = queue();
        let mut reporter = EventSender::new(Arc::clone(&queue));
        for look in 0..100_000 {
            for (machine, text) in
                [("a", format!("load {look}")), ("b", "no route".into()), ("c", "x".repeat(look % 997))]
            {
                let reason = Error::new(ErrorKind::Unavailable, text);
                reporter.event(&Event::PassedOver { machine, reason: &reason });
            }
            reporter.event(&Event::Queued { away: false });
        }
        let events = &queue.state.lock().events;
        assert!(events.len() < 500, "{} events", events.len());
        let about = |machine: &str| {
            events.iter().filter(|e| matches!(&e.event, JobEvent::PassedOver(m, _) if m == machine)).count()
        };
        assert_eq!((about("a"), about("b")), (1, 1));
    }

    #[test]
    fn what_is_said_aside_is_one_line_of_the_log() {
        let queue = queue();
        let reporter = EventSender::new(Arc::clone(&queue));
        reporter.aside().unwrap()("m\n@ build-succeeded x\r");
        let told = queue.state.lock().events.pop_front().unwrap();
        assert_eq!(told.event, JobEvent::Log(b"m @ build-succeeded x \n".to_vec()));
        assert_eq!(told.lines, "");
    }

    #[test]
    fn why_a_machine_is_not_used_comes_with_what_to_do() {
        let queue = queue();
        let mut reporter = EventSender::new(Arc::clone(&queue));
        let plain = Error::new(ErrorKind::Unavailable, "no route");
        let hinted = plain.clone().hint("mend it");
        reporter.event(&Event::PassedOver { machine: "a", reason: &hinted });
        reporter.event(&Event::Retrying { machine: "a", reason: &hinted });
        reporter.event(&Event::Retrying { machine: "b", reason: &plain });
        let reason = |hint: Option<&str>| Reason { text: "no route".into(), hint: hint.map(str::to_string) };
        let events: Vec<_> = queue.state.lock().events.drain(..).map(|told| told.event).collect();
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
            let (queue, mut file) = (queue(), tempfile::tempfile().unwrap());
            let mut console = Console::new(file.try_clone().unwrap(), file.try_clone().unwrap(), 0);
            let mut sender = EventSender::new(Arc::clone(&queue));
            for event in events("m", &derivation, &reason) {
                sender.event(&event);
                // Details that help only a user who sees them at once.
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
            sender.finish(result);
            let lines: String = queue.state.lock().events.drain(..).map(|told| told.lines).collect();
            let mut shown = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut shown).unwrap();
            assert_eq!(lines, shown);
            assert!(lines.contains("\nhint: compare\n") && lines.lines().count() >= 8, "{lines}");
        }
    }
}
