// SPDX-License-Identifier: GPL-3.0-or-later
//! The connection of a process to the keeper that does its jobs. Reading and writing never wait, not even for the
//! keeper's welcome: a timer shows on the descriptor of the host when that is overdue.

use std::io::{self, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::watch::Watch;
use crate::doors::keeper::message::{About, FromClient, FromKeeper};
use crate::doors::keeper::place;
use crate::doors::keeper::reach::{self, Greeting, Refusal};
use crate::doors::keeper::socket::{Socket, closed, encode, take};
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};

/// Space, in bytes, for each read from the keeper's socket.
const READ_AT_ONCE: usize = 64 << 10;

/// A connection to a keeper.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) stream: Arc<UnixStream>,
    pub(super) watch: Arc<Watch>,
    pub(super) received: Vec<u8>,
    pub(super) unsent: Vec<u8>,
    /// Whether the socket takes no more bytes now.
    pub(super) is_full: bool,
    /// Whether the keeper takes no more jobs.
    pub(super) retires: bool,
    /// `None` once the keeper has welcomed this process; else also the timer for that.
    greeting: Option<(Greeting, OwnedFd)>,
}

impl Connection {
    /// Connects to the keeper of `directories`, or starts `program` as the keeper, and says that this is a link.
    pub(super) fn new(number: u64, watch: &Arc<Watch>, directories: &Directories, program: &Path) -> Result<Self> {
        let doing = || "the keeper's socket";
        let hello = encode(&FromClient::Hello(place::identity(directories, program)?))?;
        let unsent = [hello, encode(&FromClient::Link)?].concat();
        let (stream, greeting) = reach::meet(directories, program, &Cancel::default())?;
        stream.set_nonblocking(true).io_context(ErrorKind::Unavailable, doing)?;
        let timer = watch.timer(greeting.until)?;
        epoll::add(&watch.all, &stream, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
            .io_context(ErrorKind::Exhausted, doing)?;
        Ok(Connection {
            number,
            stream: Arc::new(stream),
            watch: Arc::clone(watch),
            received: Vec::new(),
            unsent,
            is_full: false,
            retires: false,
            greeting: Some((greeting, timer)),
        })
    }

    /// Returns until when the keeper must have welcomed this process; `None`: it has.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.greeting.as_ref().map(|(greeting, _)| greeting.until)
    }

    /// Returns what it means that the connection failed with `error` before the keeper has welcomed this process;
    /// `None`: it has.
    pub(super) fn refusal(&self, error: &Error) -> Option<Refusal> {
        self.greeting.as_ref().map(|(greeting, _)| greeting.judge(error.clone(), &self.stream))
    }

    /// Sends what is possible without waiting.
    pub(super) fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == self.unsent.len() {
                break Ok(());
            }
            match Socket(&self.stream).write(&self.unsent[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.unsent.drain(..sent);
        result.io_context(ErrorKind::Unavailable, || "the keeper's socket")?;
        let is_full = !self.unsent.is_empty();
        if mem::replace(&mut self.is_full, is_full) != is_full {
            let out = if is_full { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let (flags, data) = (epoll::EventFlags::IN | out, epoll::EventData::new_u64(self.number));
            epoll::modify(&self.watch.all, &self.stream, data, flags)
                .io_context(ErrorKind::Exhausted, || "watching the keeper's socket")?;
        }
        Ok(())
    }

    /// Reads what is possible without waiting, and passes whole messages to `hear`.
    pub(super) fn receive(&mut self, mut hear: impl FnMut(About<FromKeeper>)) -> Result<()> {
        let ended = loop {
            self.received.reserve(READ_AT_ONCE);
            match recv(&self.stream, spare_capacity(&mut self.received), RecvFlags::DONTWAIT) {
                Ok((_, length)) => break length == 0,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break false,
                Err(Errno::CONNRESET) => break true,
                Err(error) => return Err(error).io_context(ErrorKind::Unavailable, || "the keeper's socket"),
            }
        };
        let mut taken = 0;
        if let Some((greeting, _)) = &self.greeting {
            match take(&self.received, &mut taken)? {
                Some(answer) => {
                    reach::expect_welcome(answer)?;
                    greeting.is_answered();
                    self.greeting = None;
                }
                None if ended || greeting.until <= Instant::now() => return Err(closed()),
                None => return Ok(()),
            }
        }
        while let Some(about) = take(&self.received, &mut taken)? {
            hear(about);
        }
        self.received.drain(..taken);
        if ended { Err(closed()) } else { Ok(()) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A thread that sleeps may have the socket open for a moment longer.
        let _ = epoll::delete(&self.watch.all, &self.stream);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
