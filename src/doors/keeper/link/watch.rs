// SPDX-License-Identifier: GPL-3.0-or-later
//! The descriptor by which a process sees that one of its linked jobs has something to take.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::doors::job::events::Ready;
use crate::ground::error::{ErrorKind, IoContext, Result};
use crate::ground::event_fd::EventFd;

/// The descriptors that the host watches as one.
pub(super) struct Watch {
    /// The epoll descriptor, with the sockets, `ready` and timers in it.
    pub(super) all: OwnedFd,
    /// Raised while a job has something to take.
    pub(super) ready: EventFd,
    /// How many jobs have something to take.
    pub(super) count: Mutex<usize>,
    /// Raised when another thread has read what the one that sleeps may wait for.
    pub(super) news: EventFd,
}

impl Watch {
    pub(super) fn new() -> Result<Self> {
        let doing = || "watching the keeper";
        let all = epoll::create(epoll::CreateFlags::CLOEXEC).io_context(ErrorKind::Exhausted, doing)?;
        let (ready, news) = (EventFd::new()?, EventFd::new()?);
        epoll::add(&all, &ready, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .io_context(ErrorKind::Exhausted, doing)?;
        Ok(Watch { all, ready, count: Mutex::default(), news })
    }

    /// Makes a timer that makes `all` readable at `time`, and from then on.
    pub(super) fn timer(&self, time: Instant) -> Result<OwnedFd> {
        let doing = || "a timer for the keeper's answer";
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).io_context(ErrorKind::Exhausted, doing)?;
        let left = time.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)); // 0 would be never
        let it_value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once).io_context(ErrorKind::Exhausted, doing)?;
        epoll::add(&self.all, &timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .io_context(ErrorKind::Exhausted, doing)?;
        Ok(timer)
    }
}

/// Why a job needs a call from the host.
#[derive(Clone, Copy)]
pub(super) enum Reason {
    Events,
    Received,
}

/// Whether a job needs a call from the host, which the host's descriptor shows.
pub(super) struct Flag {
    pub(super) watch: Arc<Watch>,
    /// Indexed by [`Reason`].
    pub(super) reasons: Mutex<[bool; 2]>,
}

impl Flag {
    pub(super) fn set(&self, reason: Reason, is_so: bool) {
        let mut reasons = self.reasons.lock();
        let before = reasons.contains(&true);
        reasons[reason as usize] = is_so;
        let after = reasons.contains(&true);
        let mut count = self.watch.count.lock();
        match (before, after) {
            (false, true) => {
                *count += 1;
                self.watch.ready.raise();
            }
            (true, false) => {
                *count -= 1;
                if *count == 0 {
                    self.watch.ready.clear();
                }
            }
            _ => {}
        }
    }
}

impl Ready for Flag {
    fn raise(&self) {
        self.set(Reason::Events, true);
    }

    fn clear(&self, _is_over: bool) {
        self.set(Reason::Events, false);
    }
}
