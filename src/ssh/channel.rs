// SPDX-License-Identifier: GPL-3.0-or-later
//! Channels as callers see them: blocking streams, backed by two bounded queues that the driver fills and drains.

mod driven;
mod waiting;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::event_fd::EventFd;

/// Most bytes that the other side may send ahead of the reader, wherever they are queued. One round trip moves at most
/// this much: 400 MB/s at 20 ms.
pub(super) const RECEIVE_WINDOW: usize = 8 << 20;
/// Smallest step, in bytes, in which the window is widened.
pub(super) const WINDOW_STEP: usize = RECEIVE_WINDOW / 4;
/// Most bytes that a writer may be ahead of the network.
const WRITE_LIMIT: usize = 1 << 20;
/// Longest end of standard error that is kept, in bytes.
const STDERR_LIMIT: usize = 4 << 10;

/// A stream to a socket or a command on the other machine, from [`Session::open_socket`](super::Session::open_socket)
/// or [`Session::exec`](super::Session::exec).
///
/// Clones are handles on the same channel. All methods may be called from any thread, also at once: one thread may read
/// while another writes. Dropping the last handle closes the channel and discards what was written but not yet sent. To
/// be sure that it arrived, call [`Channel::close_write`] and read to the end.
///
/// Reads and writes fail with an [`io::Error`] that carries an [`Error`] of ours, which [`Error::io`] finds. It says
/// that the machine did not answer before the deadline, why the channel was refused, or why the session failed. What
/// was received before a session was lost can still be read.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
}

/// Exists once for all clones of a [`Channel`].
struct Handle {
    end: Arc<ChannelEnd>,
}

/// The state that the handles of one channel share with the driver.
pub(super) struct ChannelEnd {
    /// The channel's target, for messages: `the socket /x`.
    target: String,
    machine: String,
    wake: Arc<EventFd>,
    stalls: Arc<Stalls>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The listener for stalled channels of a session.
#[derive(Default)]
pub(super) struct Stalls(pub(super) Mutex<Option<StallListener>>);

/// Called with the time for which no byte has moved, by the thread that waits for one.
pub type StallListener = Arc<dyn Fn(Duration) + Send + Sync>;

#[derive(Default)]
struct State {
    open: bool,
    received: VecDeque<u8>,
    /// Bytes that were read since the driver was last told.
    unreported: usize,
    /// No more data comes after what is in `received`.
    ended: bool,
    to_send: VecDeque<u8>,
    write_closed: bool,
    /// The other side has closed the channel.
    closed: bool,
    exit_status: Option<i32>,
    stderr: VecDeque<u8>,
    failure: Option<Error>,
    deadline: Option<Instant>,
    /// Longest wait in which no byte moves.
    stall_limit: Option<Duration>,
    /// The same limit, once all that was written is on its way.
    answer_limit: Option<Duration>,
    /// Whether a wait was given up because of one of these limits.
    stalled: bool,
    /// When a byte last moved: one that came, or one that the network took.
    moved: Option<Instant>,
    /// Time spent since then in waits that are over, such as that of a writer who got room in the queue.
    waited: Duration,
    /// Whether the listener was told that nothing has moved since then.
    told: bool,
    /// No handle is left.
    dropped: bool,
}

impl State {
    fn note_movement(&mut self) {
        (self.moved, self.waited, self.told) = (Some(Instant::now()), Duration::ZERO, false);
    }
}

impl Channel {
    pub(super) fn new(
        target: String,
        machine: &str,
        wake: &Arc<EventFd>,
        stalls: &Arc<Stalls>,
    ) -> (Self, Arc<ChannelEnd>) {
        let end = Arc::new(ChannelEnd {
            target,
            machine: machine.to_string(),
            wake: Arc::clone(wake),
            stalls: Arc::clone(stalls),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        (Channel { handle: Arc::new(Handle { end: Arc::clone(&end) }) }, end)
    }

    /// Waits until the channel is open: for a command, until the server has started it.
    ///
    /// If the server refuses, fails with [`ErrorKind::Unavailable`] and says what was refused. The session lives on.
    pub fn wait_open(&self) -> Result<()> {
        self.end().wait(|state| match &state.failure {
            Some(failure) => Some(Err(failure.clone())),
            None => state.open.then_some(Ok(())),
        })
    }

    /// Lets the other side read an end of file after all that was written. Returns at once. Later writes fail.
    pub fn close_write(&self) -> Result<()> {
        let mut state = self.end().state.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.write_closed = true;
        drop(state);
        self.end().wake.raise();
        Ok(())
    }

    /// Sets the time after which every read, write and wait fails, even if it could be served at once; `None`: never.
    /// It takes effect for other threads that are blocked already.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.end().state.lock().deadline = deadline;
        self.end().changed.notify_all();
    }

    /// Sets how long a read, a write or another wait may last while no byte moves, either way; `None`: no limit. The
    /// wait then fails with [`ErrorKind::Unavailable`]. Time in which nobody waits does not count.
    pub fn set_stall_limit(&self, limit: Option<Duration>) {
        let mut state = self.end().state.lock();
        (state.stall_limit, state.answer_limit) = (limit, limit);
        (state.waited, state.told) = (Duration::ZERO, false);
        drop(state);
        self.end().changed.notify_all();
    }

    /// Sets another limit for waits after all that was written is on its way. Until then the limit of
    /// [`Channel::set_stall_limit`], which sets both, still counts.
    pub fn set_answer_limit(&self, limit: Option<Duration>) {
        self.end().state.lock().answer_limit = limit;
        self.end().changed.notify_all();
    }

    /// Returns whether a wait failed because no byte moved for the time of its limit.
    pub fn has_stalled(&self) -> bool {
        self.end().state.lock().stalled
    }

    /// Waits until the other side has closed the channel. Returns the exit status that it reported; `None` if it
    /// reported none, as when a signal has killed the command.
    ///
    /// Read to the end first: a command with more output than fits the queue does not finish.
    pub fn exit_status(&self) -> Result<Option<i32>> {
        self.end().wait(|state| match &state.failure {
            _ if state.closed => Some(Ok(state.exit_status)),
            Some(failure) => Some(Err(failure.clone())),
            None => None,
        })
    }

    /// Returns the last 4 KiB of what a command has written to its standard error so far.
    pub fn stderr(&self) -> Vec<u8> {
        self.end().state.lock().stderr.iter().copied().collect()
    }

    /// Returns whether the next read returns at once.
    pub fn is_readable(&self) -> bool {
        let state = self.end().state.lock();
        !state.received.is_empty() || state.ended || state.failure.is_some()
    }

    fn end(&self) -> &ChannelEnd {
        &self.handle.end
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end.state.lock().dropped = true;
        self.end.wake.raise();
    }
}

impl Read for &Channel {
    /// Blocks until there is at least one byte. Returns 0 at the end of the other side's data, or if `buffer` is empty.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let (count, report) = self
            .end()
            .wait(|state| {
                if !state.received.is_empty() {
                    let count = state.received.read(buffer).expect("a queue in memory can be read");
                    state.unreported += count;
                    let report = state.unreported >= WINDOW_STEP;
                    if report {
                        state.unreported = 0;
                    }
                    return Some(Ok((count, report)));
                }
                match &state.failure {
                    _ if state.ended => Some(Ok((0, false))),
                    Some(failure) => Some(Err(failure.clone())),
                    None => None,
                }
            })
            .map_err(io::Error::from)?;
        if report {
            self.end().wake.raise();
        }
        Ok(count)
    }
}

impl Write for &Channel {
    /// Blocks until at least one byte is queued. Data may be written before the channel is open.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let end = self.end();
        let count = end.wait(|state| {
            if let Some(failure) = &state.failure {
                return Some(Err(failure.clone()));
            }
            if state.write_closed {
                let message = format!("{} was written to after its end of file", end.target);
                return Some(Err(Error::new(ErrorKind::Internal, message)));
            }
            if state.closed {
                let message = format!("'{}' has closed {}", end.machine, end.target);
                return Some(Err(Error::new(ErrorKind::Unavailable, message).on_machine(&end.machine)));
            }
            let count = data.len().min(WRITE_LIMIT.saturating_sub(state.to_send.len()));
            state.to_send.extend(&data[..count]);
            (count > 0 || data.is_empty()).then_some(Ok(count))
        });
        end.wake.raise();
        count.map_err(io::Error::from)
    }

    /// Does nothing: data is sent as soon as the network takes it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Channel {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&*self).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_queued_here_has_not_moved() {
        let limit = Duration::from_secs(4);
        let (channel, end) = Channel::new("it".into(), "m", &Arc::new(EventFd::new().unwrap()), &Arc::default());
        channel.set_stall_limit(Some(limit));
        (&channel).write_all(&vec![0; WRITE_LIMIT]).unwrap();
        // This frees too little to wake the writer, which only finds the room when it looks.
        let writer = channel.clone();
        let writer = std::thread::spawn(move || (&writer).write_all(&vec![0; WRITE_LIMIT]).unwrap_err());
        std::thread::sleep(limit / 16);
        end.sent(WRITE_LIMIT / 4);
        let begun = Instant::now();
        let error = writer.join().unwrap();
        assert!(begun.elapsed() >= limit);
        let told = format!("no byte has moved for {} s", begun.elapsed().as_secs());
        assert!(error.to_string().contains(&told), "{error} {:?}", begun.elapsed());
        assert!(channel.has_stalled());
    }
}
