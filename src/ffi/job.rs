// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that run beside an event loop.

use std::ffi::{CString, c_char, c_int};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::connection::guix_offload_reply;
use super::engine::guix_offload_engine;
use super::error::guix_offload_error;
use super::export;
use super::handle::{self, Out};
use super::machines::guix_offload_machines;
use super::request::guix_offload_request;
use super::string::for_c;
use crate::error::{Error, ErrorKind};
use crate::job::{Job, JobEvent, Started};

/// A build that is under way, or over. Any number of threads may use it at once; one frees it, when no other uses it any
/// more.
pub struct guix_offload_job {
    job: Job,
}

/// What happened to a job.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum guix_offload_event_type {
    /// No machine is free; the job waits.
    GUIX_OFFLOAD_EVENT_QUEUED = 0,
    /// A machine cannot take the job: machine, text. Each reason comes once, whatever the numbers in it.
    GUIX_OFFLOAD_EVENT_PASSED_OVER = 1,
    /// A machine does the job: machine.
    GUIX_OFFLOAD_EVENT_CHOSEN = 2,
    /// Items are about to be sent: machine, items, bytes.
    GUIX_OFFLOAD_EVENT_SENDING = 3,
    /// Bytes that have moved since sending or retrieving began: bytes.
    GUIX_OFFLOAD_EVENT_TRANSFERRED = 4,
    /// The machine builds: machine.
    GUIX_OFFLOAD_EVENT_BUILDING = 5,
    /// A piece of the build's log: text.
    GUIX_OFFLOAD_EVENT_LOG = 6,
    /// Outputs are about to be retrieved: machine, items, bytes.
    GUIX_OFFLOAD_EVENT_RETRIEVING = 7,
    /// The machine failed, not the build; another one is tried: machine, text.
    GUIX_OFFLOAD_EVENT_RETRYING = 8,
    /// The job is over; ask for its result. The last event.
    GUIX_OFFLOAD_EVENT_DONE = 9,
}

/// Something that happened to a job. It does not change.
pub struct guix_offload_event {
    kind: guix_offload_event_type,
    machine: Option<CString>,
    items: usize,
    bytes: u64,
    /// Ends with a NUL byte that does not count.
    text: Vec<u8>,
}

impl From<JobEvent> for guix_offload_event {
    fn from(event: JobEvent) -> Self {
        use guix_offload_event_type::*;
        let make = |kind, machine: Option<String>, items, bytes, mut text: Vec<u8>| {
            text.push(0);
            guix_offload_event { kind, machine: machine.as_deref().map(for_c), items, bytes, text }
        };
        match event {
            JobEvent::Queued => make(GUIX_OFFLOAD_EVENT_QUEUED, None, 0, 0, vec![]),
            JobEvent::PassedOver(m, why) => make(GUIX_OFFLOAD_EVENT_PASSED_OVER, Some(m), 0, 0, why.into_bytes()),
            JobEvent::Chosen(m) => make(GUIX_OFFLOAD_EVENT_CHOSEN, Some(m), 0, 0, vec![]),
            JobEvent::Sending(m, items, bytes) => make(GUIX_OFFLOAD_EVENT_SENDING, Some(m), items, bytes, vec![]),
            JobEvent::Transferred(bytes) => make(GUIX_OFFLOAD_EVENT_TRANSFERRED, None, 0, bytes, vec![]),
            JobEvent::Building(m) => make(GUIX_OFFLOAD_EVENT_BUILDING, Some(m), 0, 0, vec![]),
            JobEvent::Log(text) => make(GUIX_OFFLOAD_EVENT_LOG, None, 0, 0, text),
            JobEvent::Retrieving(m, items, bytes) => make(GUIX_OFFLOAD_EVENT_RETRIEVING, Some(m), items, bytes, vec![]),
            JobEvent::Retrying(m, why) => make(GUIX_OFFLOAD_EVENT_RETRYING, Some(m), 0, 0, why.into_bytes()),
            JobEvent::Done => make(GUIX_OFFLOAD_EVENT_DONE, None, 0, 0, vec![]),
        }
    }
}

export! {
    /// Starts to build what `request` asks for on one of `machines`, and returns at once. `*reply` is a
    /// `guix_offload_reply`: if that is `GUIX_OFFLOAD_ACCEPT`, `*job` is the job, which the caller frees with
    /// `guix_offload_job_free`; else there is no job, because no machine can ever do it or because 256 jobs are
    /// running. A job waits as long as need be for a free machine. `request` and `machines` are copied.
    ///
    /// The job runs in threads of its own, which block all signals. Its log waits in memory until it is taken with
    /// `guix_offload_job_next_event`; when 1 MiB of it waits, the build does.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if a pointer is NULL or the request names something that is no store
    /// item, and with `GUIX_OFFLOAD_EXHAUSTED` for want of a descriptor or thread.
    pub fn guix_offload_job_start(
        job: *mut *mut guix_offload_job,
        reply: *mut i32,
        engine: *const guix_offload_engine,
        machines: *const guix_offload_machines,
        request: *const guix_offload_request,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let (job, reply) = (Out::new(job, "job")?, Out::new(reply, "reply")?);
        let engine = handle::borrow(engine, "engine")?.share();
        let machines = handle::borrow(machines, "machines")?.to_vec();
        let (request, work) = handle::borrow(request, "request")?.resolve(&engine.directories().store)?;
        let answer = match Job::start(engine, &machines, request, work)? {
            Started::Declined => guix_offload_reply::GUIX_OFFLOAD_DECLINE,
            Started::Postponed => guix_offload_reply::GUIX_OFFLOAD_POSTPONE,
            Started::Running(running) => {
                job.give(guix_offload_job { job: running });
                guix_offload_reply::GUIX_OFFLOAD_ACCEPT
            }
        };
        reply.set(answer as i32);
        Ok(())
    }
}

export! {
    /// Cancels a job unless it is over, and frees it. Returns at once: the machine's build, its slot and the job's
    /// threads end within a second. NULL is fine.
    pub fn guix_offload_job_free(job: *mut guix_offload_job) {
        handle::free(job);
    }
}

export! {
    /// A descriptor that is readable while there is an event to take, and for good once the job is over. For select and
    /// poll only. It belongs to the job. -1 if `job` is NULL.
    pub fn guix_offload_job_descriptor(job: *const guix_offload_job) -> i32 {
        handle::borrow(job, "job").map_or(-1, |job| job.job.as_fd().as_raw_fd())
    }
}

export! {
    /// Takes the next event; NULL: there is none now, or `job` is NULL. Does not block. The caller frees it with
    /// `guix_offload_event_free`.
    pub fn guix_offload_job_next_event(job: *const guix_offload_job) -> *mut guix_offload_event {
        let event = handle::borrow(job, "job").ok().and_then(|job| job.job.next_event());
        event.map_or(std::ptr::null_mut(), |event| Box::into_raw(Box::new(event.into())))
    }
}

export! {
    /// Waits until the job is over, for at most `milliseconds`, or for good if that is negative. 1: it is over; 0: not
    /// yet, or `job` is NULL. Takes no events, and a job whose log is not taken may never end.
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
    /// What came of the job: `GUIX_OFFLOAD_OK`, all outputs are valid; or why it failed, as often as it is asked.
    /// `guix_offload_error_exit_status` says how a hook would report that.
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

/// Reads an event, if there is one.
fn look<'a, T>(event: *const guix_offload_event, if_null: T, at: impl FnOnce(&'a guix_offload_event) -> T) -> T {
    handle::borrow(event, "event").map_or(if_null, at)
}

export! {
    /// Frees an event. NULL is fine.
    pub fn guix_offload_event_free(event: *mut guix_offload_event) {
        handle::free(event);
    }
}

export! {
    /// What happened, a `guix_offload_event_type`; -1 if `event` is NULL.
    pub fn guix_offload_event_kind(event: *const guix_offload_event) -> i32 {
        look(event, -1, |event| event.kind as i32)
    }
}

export! {
    /// Name of the machine, or NULL. Lives as long as the event.
    pub fn guix_offload_event_machine(event: *const guix_offload_event) -> *const c_char {
        look(event, std::ptr::null(), |event| event.machine.as_ref().map_or(std::ptr::null(), |name| name.as_ptr()))
    }
}

export! {
    /// How many store items; 0 if that is not said with this kind of event, or `event` is NULL.
    pub fn guix_offload_event_items(event: *const guix_offload_event) -> usize {
        look(event, 0, |event| event.items)
    }
}

export! {
    /// How many bytes; 0 if that is not said with this kind of event, or `event` is NULL.
    pub fn guix_offload_event_bytes(event: *const guix_offload_event) -> u64 {
        look(event, 0, |event| event.bytes)
    }
}

export! {
    /// The text, whose length goes to `*length` unless that is NULL: a log may contain any byte. A NUL byte follows,
    /// which does not count. Lives as long as the event; NULL only if `event` is.
    pub fn guix_offload_event_text(event: *const guix_offload_event, length: *mut usize) -> *const c_char {
        look(event, std::ptr::null(), |event| {
            if let Ok(length) = Out::new(length, "length") {
                length.set(event.text.len() - 1);
            }
            event.text.as_ptr().cast()
        })
    }
}
