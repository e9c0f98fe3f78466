// SPDX-License-Identifier: GPL-3.0-or-later
//! Waiting for a channel: until something happens, until the deadline, or until nothing has moved for too long.

use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::{ChannelEnd, State};
use crate::ground::error::{Error, ErrorKind, Result};

/// Time without a byte after which the listener is told, if there is a stall limit; half the limit, if that is shorter.
const STALL_NOTICE: Duration = Duration::from_secs(30);

impl ChannelEnd {
    /// Waits until `ready` returns something. Fails at the deadline, or when nothing has moved for too long.
    pub(super) fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<Result<T>>) -> Result<T> {
        let mut state = self.state.lock();
        let begun = Instant::now();
        let mut blocked = false;
        loop {
            if state.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                let message = format!("'{}' did not answer in time, on {}", self.machine, self.target);
                return Err(Error::new(ErrorKind::Unavailable, message).on_machine(&self.machine));
            }
            let since = state.moved.map_or(begun, |moved| moved.max(begun));
            if let Some(result) = ready(&mut state) {
                if blocked {
                    state.waited += since.elapsed();
                }
                return result;
            }
            blocked = true;
            let limit = if state.to_send.is_empty() { state.answer_limit } else { state.stall_limit };
            let waited = state.waited;
            let stalled = limit.and_then(|limit| since.checked_add(limit.saturating_sub(waited)));
            if stalled.is_some_and(|end| end <= Instant::now()) {
                state.stalled = true;
                return Err(self.stalled(waited + since.elapsed()));
            }
            // Tells once per stall. A wait without a limit, such as that for a build, may be long, and tells nobody.
            let notice = limit
                .filter(|_| !state.told)
                .and_then(|limit| since.checked_add(STALL_NOTICE.min(limit / 2).saturating_sub(waited)));
            if notice.is_some_and(|at| at <= Instant::now()) {
                state.told = true;
                let listener = self.stalls.0.lock().clone();
                let time = waited + since.elapsed();
                MutexGuard::unlocked(&mut state, || listener.iter().for_each(|tell| tell(time)));
                continue;
            }
            match [state.deadline, stalled, notice].into_iter().flatten().min() {
                Some(end) => drop(self.changed.wait_until(&mut state, end)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    fn stalled(&self, time: Duration) -> Error {
        let (machine, seconds) = (&self.machine, time.as_secs());
        let message = format!("no byte has moved for {seconds} s between here and '{machine}' on {}", self.target);
        Error::new(ErrorKind::Unavailable, message).on_machine(machine).hint(format!(
            "if the network is not cut, guix-daemon or a disk of '{machine}' may be stuck, or a garbage collection be \
             under way: see 'ps' and 'dmesg' there"
        ))
    }
}
