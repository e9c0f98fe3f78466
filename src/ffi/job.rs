// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that run beside an event loop.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::fd::AsRawFd;
use std::time::Duration;

use parking_lot::Mutex;

use super::connection::guix_offload_reply;
use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::handle::{self, Out};
use super::machines::guix_offload_machines;
use super::request::guix_offload_request;
use super::string::{for_c, or_null};
use super::{export, named};
use crate::doors::job::{Job, JobEvent, Notification, Reason, Started};
use crate::ground::error::{Error, ErrorKind};

/// A build that is under way, or over. Any number of threads may use it at once. One of them frees it, when no other
/// uses it any more.
pub struct guix_offload_job {
    job: Box<dyn Job>,
    /// The names of machines that were given out, of which no two are equal.
    machines: Mutex<Vec<Box<CStr>>>,
}

/// What happened to a job.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum guix_offload_event_type {
    /// The job waits: text. No machine can take it now, or the one that has its inputs cannot: machine. Why the others
    /// cannot, `GUIX_OFFLOAD_EVENT_PASSED_OVER` has said of each, unless its build slots are taken.
    GUIX_OFFLOAD_EVENT_QUEUED = 0,
    /// A machine cannot take the job: machine, text, hint. The same reason, whatever the numbers in it, comes again
    /// after 10 minutes at the earliest.
    GUIX_OFFLOAD_EVENT_PASSED_OVER = 1,
    /// A machine does the job: machine.
    GUIX_OFFLOAD_EVENT_CHOSEN = 2,
    /// Items are about to be sent: machine, items, bytes.
    GUIX_OFFLOAD_EVENT_SENDING = 3,
    /// Bytes that have moved since sending or retrieving began: bytes. Those that the machine fetches do not count.
    GUIX_OFFLOAD_EVENT_TRANSFERRED = 4,
    /// The machine builds: machine.
    GUIX_OFFLOAD_EVENT_BUILDING = 5,
    /// A piece of the build's log: text.
    GUIX_OFFLOAD_EVENT_LOG = 6,
    /// Outputs are about to be retrieved: machine, items, bytes.
    GUIX_OFFLOAD_EVENT_RETRIEVING = 7,
    /// The machine failed, not the build; another one is tried: machine, text, hint.
    GUIX_OFFLOAD_EVENT_RETRYING = 8,
    /// The job is over; ask for its result. The last event.
    GUIX_OFFLOAD_EVENT_DONE = 9,
    /// The machine fetches some of the items from its substitute servers, which are sent only if that fails: machine,
    /// items, bytes.
    GUIX_OFFLOAD_EVENT_FETCHING = 10,
}

export! {
    /// Returns the name of a `guix_offload_event_type`, such as "passed-over", as `guix_offload_status_name` does.
    pub fn guix_offload_event_type_name(kind: i32) -> *const c_char {
        named!(
            kind,
            guix_offload_event_type,
            GUIX_OFFLOAD_EVENT_QUEUED = c"queued",
            GUIX_OFFLOAD_EVENT_PASSED_OVER = c"passed-over",
            GUIX_OFFLOAD_EVENT_CHOSEN = c"chosen",
            GUIX_OFFLOAD_EVENT_SENDING = c"sending",
            GUIX_OFFLOAD_EVENT_TRANSFERRED = c"transferred",
            GUIX_OFFLOAD_EVENT_BUILDING = c"building",
            GUIX_OFFLOAD_EVENT_LOG = c"log",
            GUIX_OFFLOAD_EVENT_RETRIEVING = c"retrieving",
            GUIX_OFFLOAD_EVENT_RETRYING = c"retrying",
            GUIX_OFFLOAD_EVENT_DONE = c"done",
            GUIX_OFFLOAD_EVENT_FETCHING = c"fetching",
        )
    }
}

/// Something that happened to a job. It does not change.
pub struct guix_offload_event {
    kind: guix_offload_event_type,
    machine: Option<CString>,
    items: usize,
    bytes: u64,
    /// Ends with a NUL byte that does not count.
    text: Vec<u8>,
    hint: Option<CString>,
    lines: CString,
}

impl From<Notification> for guix_offload_event {
    fn from(Notification { event, lines }: Notification) -> Self {
        use guix_offload_event_type::*;
        let make = |kind, machine: Option<String>, items, bytes, mut text: Vec<u8>| {
            text.push(0);
            let (machine, lines) = (machine.as_deref().map(for_c), for_c(&lines));
            guix_offload_event { kind, machine, items, bytes, text, hint: None, lines }
        };
        let explain = |kind, machine, Reason { text, hint }| guix_offload_event {
            hint: hint.as_deref().map(for_c),
            ..make(kind, Some(machine), 0, 0, text.into_bytes())
        };
        match event {
            JobEvent::Queued(m, text) => make(GUIX_OFFLOAD_EVENT_QUEUED, m, 0, 0, text.into_bytes()),
            JobEvent::PassedOver(m, why) => explain(GUIX_OFFLOAD_EVENT_PASSED_OVER, m, why),
            JobEvent::Chosen(m) => make(GUIX_OFFLOAD_EVENT_CHOSEN, Some(m), 0, 0, vec![]),
            JobEvent::Sending(m, items, bytes) => make(GUIX_OFFLOAD_EVENT_SENDING, Some(m), items, bytes, vec![]),
            JobEvent::Fetching(m, items, bytes) => make(GUIX_OFFLOAD_EVENT_FETCHING, Some(m), items, bytes, vec![]),
            JobEvent::Transferred(bytes) => make(GUIX_OFFLOAD_EVENT_TRANSFERRED, None, 0, bytes, vec![]),
            JobEvent::Building(m) => make(GUIX_OFFLOAD_EVENT_BUILDING, Some(m), 0, 0, vec![]),
            JobEvent::Log(text) => make(GUIX_OFFLOAD_EVENT_LOG, None, 0, 0, text),
            JobEvent::Retrieving(m, items, bytes) => make(GUIX_OFFLOAD_EVENT_RETRIEVING, Some(m), items, bytes, vec![]),
            JobEvent::Retrying(m, why) => explain(GUIX_OFFLOAD_EVENT_RETRYING, m, why),
            JobEvent::Done => make(GUIX_OFFLOAD_EVENT_DONE, None, 0, 0, vec![]),
        }
    }
}

export! {
    /// Starts to build what `request` asks for on one of `machines`, and returns at once. Sets `*reply` to a
    /// `guix_offload_reply`. If that is `GUIX_OFFLOAD_ACCEPT`, sets `*job` to the job, which the caller frees with
    /// `guix_offload_job_free`. Otherwise there is no job: `GUIX_OFFLOAD_DECLINE` says that no machine can ever do the
    /// build, `GUIX_OFFLOAD_POSTPONE` that 256 jobs of this process run (512 if the keeper does them). A job waits for
    /// a free machine as long as it takes. `request` and `machines` are copied.
    ///
    /// The job runs in threads of its own, which block all signals. With an engine of `guix_offload_engine_connect` it
    /// runs in the keeper. This call starts the keeper if there is none, which takes milliseconds, or a few seconds.
    /// The job's log waits in memory until `guix_offload_job_next_event` takes it; when 1 MiB of it waits, the build
    /// waits too.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or the request names something that is no store
    /// item, with `GUIX_OFFLOAD_EXHAUSTED` for lack of a descriptor or thread, and with `GUIX_OFFLOAD_UNAVAILABLE` if
    /// there is no keeper and none can be started.
    pub fn guix_offload_job_start(
        job: *mut *mut guix_offload_job,
        reply: *mut i32,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        request: *const guix_offload_request,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let (job, reply) = (Out::new(job, "job")?, Out::new(reply, "reply")?);
        let engine = handle::borrow(engine, "engine")?;
        let machines = handle::borrow(machines, "machines")?.to_vec();
        let answer = match engine.start(&machines, handle::borrow(request, "request")?)? {
            Started::Declined => guix_offload_reply::GUIX_OFFLOAD_DECLINE,
            Started::Postponed => guix_offload_reply::GUIX_OFFLOAD_POSTPONE,
            Started::Running(running) => {
                job.give(guix_offload_job { job: running, machines: Mutex::default() });
                guix_offload_reply::GUIX_OFFLOAD_ACCEPT
            }
        };
        reply.set(answer as i32);
        Ok(())
    }
}

export! {
    /// Cancels a job unless it is over, and frees it. Returns at once: the build on the machine, the machine's slot and
    /// the job's threads end within a second. From the call on, a job of the keeper touches no output. NULL is
    /// fine.
    pub fn guix_offload_job_free(job: *mut guix_offload_job) {
        handle::free(job);
    }
}

export! {
    /// Returns a descriptor that is readable while there is an event to take, and permanently once the job is over. Use
    /// it with select and poll only. It belongs to the job. -1 if `job` is NULL.
    ///
    /// All jobs of an engine of `guix_offload_engine_connect` have the same descriptor. It is readable while one of
    /// them needs a call of `guix_offload_job_next_event`: make one for each of them then. A job that is over, and
    /// whose events were taken, needs none.
    pub fn guix_offload_job_descriptor(job: *const guix_offload_job) -> i32 {
        handle::borrow(job, "job").map_or(-1, |job| job.job.descriptor().as_raw_fd())
    }
}

export! {
    /// Takes the next event; returns NULL if there is none now, or if `job` is NULL. Does not block, with two
    /// exceptions for a job of the keeper: this call makes outputs valid, which writes to the store's database, and it
    /// connects to another keeper if one ends before it has begun with the job. The caller frees the event with
    /// `guix_offload_event_free`.
    pub fn guix_offload_job_next_event(job: *const guix_offload_job) -> *mut guix_offload_event {
        let event = handle::borrow(job, "job").ok().and_then(|job| job.job.next_event());
        event.map_or(std::ptr::null_mut(), |event| Box::into_raw(Box::new(event.into())))
    }
}

export! {
    /// Waits until the job is over, for at most `milliseconds`, or without a limit if that is negative. Returns 1 if
    /// the job is over, 0 if it is not or if `job` is NULL. Takes no events: a job whose log nobody takes may never
    /// end.
    pub fn guix_offload_job_wait(job: *const guix_offload_job, milliseconds: i64) -> i32 {
        let time = u64::try_from(milliseconds).map_or(Duration::MAX, Duration::from_millis);
        handle::borrow(job, "job").map_or(0, |job| c_int::from(job.job.wait(time)))
    }
}

export! {
    /// Cancels the job unless it is over. Returns at once; the result will be `GUIX_OFFLOAD_CANCELLED`. NULL is fine.
    pub fn guix_offload_job_cancel(job: *const guix_offload_job) {
        if let Ok(job) = handle::borrow(job, "job") {
            job.job.cancel();
        }
    }
}

export! {
    /// Returns the outcome of the job: `GUIX_OFFLOAD_OK` if all outputs are valid, else why it failed. This function
    /// may be called again. `guix_offload_error_exit_status` says how a hook would report a failure.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `job` is NULL or not over.
    pub fn guix_offload_job_result(
        job: *const guix_offload_job,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let not_over = || Err(Error::new(ErrorKind::InvalidArgument, "the job is not over"));
        handle::borrow(job, "job")?.job.result().unwrap_or_else(not_over)
    }
}

export! {
    /// Returns the name of the machine that does the job, or did it, or was the last to try; NULL if none was chosen
    /// yet, or if `job` is NULL. The name lives as long as the job. For a job of the keeper, the answer is as of the
    /// last call that took an event of it or waited for it.
    pub fn guix_offload_job_machine(job: *const guix_offload_job) -> *const c_char {
        let Ok(job) = handle::borrow(job, "job") else { return std::ptr::null() };
        let Some(name) = job.job.machine().as_deref().map(for_c) else { return std::ptr::null() };
        let mut given = job.machines.lock();
        let known = given.iter().position(|known| **known == *name);
        let index = known.unwrap_or_else(|| {
            given.push(name.into_boxed_c_str());
            given.len() - 1
        });
        given[index].as_ptr()
    }
}

export! {
    /// Frees an event. NULL is fine.
    pub fn guix_offload_event_free(event: *mut guix_offload_event) {
        handle::free(event);
    }
}

export! {
    /// Returns what happened, a `guix_offload_event_type`; -1 if `event` is NULL.
    pub fn guix_offload_event_kind(event: *const guix_offload_event) -> i32 {
        handle::look(event, -1, |event| event.kind as i32)
    }
}

export! {
    /// Returns the name of the machine, or NULL if the event is about none. It lives as long as the event.
    pub fn guix_offload_event_machine(event: *const guix_offload_event) -> *const c_char {
        handle::look(event, std::ptr::null(), |event| or_null(event.machine.as_ref()))
    }
}

export! {
    /// Returns the number of store items; 0 if this kind of event has none, or if `event` is NULL.
    pub fn guix_offload_event_items(event: *const guix_offload_event) -> usize {
        handle::look(event, 0, |event| event.items)
    }
}

export! {
    /// Returns the number of bytes; 0 if this kind of event has none, or if `event` is NULL.
    pub fn guix_offload_event_bytes(event: *const guix_offload_event) -> u64 {
        handle::look(event, 0, |event| event.bytes)
    }
}

export! {
    /// Returns the text, and unless `length` is NULL sets `*length` to its length: a log may contain any byte. A NUL
    /// byte follows the text and is not counted. The text lives as long as the event. NULL only if `event` is.
    pub fn guix_offload_event_text(event: *const guix_offload_event, length: *mut usize) -> *const c_char {
        handle::look(event, std::ptr::null(), |event| {
            if let Ok(length) = Out::new(length, "length") {
                length.set(event.text.len() - 1);
            }
            event.text.as_ptr().cast()
        })
    }
}

export! {
    /// Returns what the user can do about what happened, or NULL if that is not known. The text lives as long as the
    /// event.
    pub fn guix_offload_event_hint(event: *const guix_offload_event) -> *const c_char {
        handle::look(event, std::ptr::null(), |event| or_null(event.hint.as_ref()))
    }
}

export! {
    /// Returns the lines that a build hook shows its user of this event, each with a newline at its end. Empty for
    /// progress and for pieces of the log. The lines of `GUIX_OFFLOAD_EVENT_DONE` say how the job ended. The lines live
    /// as long as the event. NULL only if `event` is.
    pub fn guix_offload_event_lines(event: *const guix_offload_event) -> *const c_char {
        handle::look(event, std::ptr::null(), |event| event.lines.as_ptr())
    }
}
