// SPDX-License-Identifier: GPL-3.0-or-later
//! Streams from and to a machine.

use std::io::{self, Read};

use super::{Limits, blame};
use crate::ground::error::Error;
use crate::ground::store_path::StoreDir;
use crate::ssh::Channel;

/// A stream from a machine. Its errors explain what is wrong with the machine's store.
pub struct ErrorExplainer<'a, R: Read> {
    pub inner: R,
    pub machine: &'a str,
    pub store: &'a StoreDir,
}

impl<R: Read> Read for ErrorExplainer<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => blame::explain(error, self.machine, self.store).into(),
            Err(error) => error,
        })
    }
}

/// A stream to a machine. No byte may take longer than [`Limits::idle`]. Once all bytes are on their way, the answer
/// may take the time of [`Limits::of_import`].
pub struct TimedReader<R: Read> {
    inner: R,
    channel: Channel,
    limits: Limits,
    bytes: u64,
}

impl<R: Read> TimedReader<R> {
    /// Sets the time limits of `channel` for sending `inner`.
    pub fn new(inner: R, channel: &Channel, limits: Limits) -> Self {
        channel.set_deadline(None);
        channel.set_stall_limit(Some(limits.idle));
        TimedReader { inner, channel: channel.clone(), limits, bytes: 0 }
    }
}

impl<R: Read> Read for TimedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes += length as u64;
        if length == 0 && !buffer.is_empty() {
            self.channel.set_answer_limit(Some(self.limits.of_import(self.bytes)));
        }
        Ok(length)
    }
}
