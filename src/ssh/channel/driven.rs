// SPDX-License-Identifier: GPL-3.0-or-later
//! The driver's side of a channel: it fills and drains the queues.

use std::collections::VecDeque;

use super::{ChannelEnd, STDERR_LIMIT, State, WRITE_LIMIT};
use crate::ground::error::{Error, ErrorKind};

impl ChannelEnd {
    pub(in crate::ssh) fn is_dropped(&self) -> bool {
        self.state.lock().dropped
    }

    pub(in crate::ssh) fn set_open(&self) {
        self.change(|state| state.open = true);
    }

    /// Marks the channel as failed. Only the first reason counts.
    pub(in crate::ssh) fn fail(&self, error: &Error) {
        self.change(|state| {
            state.failure.get_or_insert_with(|| error.clone().on_machine(&self.machine));
        });
    }

    /// Marks the channel as refused by the server, because of `why`.
    pub(in crate::ssh) fn refuse(&self, why: &str, hint: &str) {
        let message = format!("'{}' refuses {}: {why}", self.machine, self.target);
        self.fail(&Error::new(ErrorKind::Unavailable, message).hint(hint));
    }

    /// Fails the channel like [`ChannelEnd::fail`], and discards what could still be read.
    pub(in crate::ssh) fn abort(&self, error: &Error) {
        self.change(|state| {
            state.received = VecDeque::new();
            state.ended = false;
            state.closed = false;
        });
        self.fail(error);
    }

    /// Returns how much is queued for the reader.
    pub(in crate::ssh) fn queued(&self) -> usize {
        self.state.lock().received.len()
    }

    pub(in crate::ssh) fn deliver(&self, data: &[u8]) {
        self.change(|state| {
            state.received.extend(data);
            state.note_movement();
        });
    }

    pub(in crate::ssh) fn deliver_stderr(&self, data: &[u8]) {
        self.change(|state| {
            state.stderr.extend(&data[data.len().saturating_sub(STDERR_LIMIT)..]);
            let excess = state.stderr.len().saturating_sub(STDERR_LIMIT);
            state.stderr.drain(..excess);
        });
    }

    pub(in crate::ssh) fn set_ended(&self) {
        self.change(|state| state.ended = true);
    }

    pub(in crate::ssh) fn set_closed(&self, exit_status: Option<i32>) {
        self.change(|state| {
            state.closed = true;
            state.exit_status = exit_status;
        });
    }

    /// Copies the start of what is to be sent into `buffer`, and returns how much.
    pub(in crate::ssh) fn peek_to_send(&self, buffer: &mut [u8]) -> usize {
        let state = self.state.lock();
        let (front, back) = state.to_send.as_slices();
        let from_front = front.len().min(buffer.len());
        let from_back = back.len().min(buffer.len() - from_front);
        buffer[..from_front].copy_from_slice(&front[..from_front]);
        buffer[from_front..from_front + from_back].copy_from_slice(&back[..from_back]);
        from_front + from_back
    }

    /// Removes `count` bytes, which were sent, from what is to be sent.
    pub(in crate::ssh) fn sent(&self, count: usize) {
        let mut state = self.state.lock();
        state.to_send.drain(..count);
        state.note_movement();
        // Writers wait for room; waking them for each packet would cost more than it brings.
        if state.to_send.len() <= WRITE_LIMIT / 2 {
            self.changed.notify_all();
        }
    }

    /// Returns whether everything was sent and nothing more will be written.
    pub(in crate::ssh) fn is_finished(&self) -> bool {
        let state = self.state.lock();
        state.write_closed && state.to_send.is_empty()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}
