// SPDX-License-Identifier: GPL-3.0-or-later
//! Exporting and importing.

use std::io::{self, Read};

use super::Client;
use crate::daemon::frame::{Frame, read_frame};
use crate::daemon::request::Operation;
use crate::daemon::wire::{MAX_LIST, broken, lost, read_padding};
use crate::ground::error::Result;
use crate::ground::store_path::StorePath;
use crate::ground::words::{put_number, put_string, read_fully};

impl Client {
    /// Begins to export the valid item `path`, signed: [`Client::read_export`] then reads it.
    pub fn export(&mut self, path: &StorePath) -> Result<()> {
        let mut arguments = Vec::new();
        put_string(&mut arguments, path.as_str());
        put_number(&mut arguments, 1); // sign
        self.begin(Operation::ExportPath, &arguments)
    }

    /// Reads on in the export that was begun: one item of a bundle, as [`crate::archive`] takes it apart. 0: the item
    /// is complete, and the connection free for the next request.
    pub fn read_export(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if !matches!(self.unfinished, Some(Operation::ExportPath)) || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 && !self.next_data()? {
            return Ok(0);
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let length = self.stream.read(&mut buffer[..most]).map_err(lost)?;
        if length == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= length as u64;
        Ok(length)
    }

    /// Goes on to the next frame of an export that has data; `false` at the end.
    fn next_data(&mut self) -> Result<bool> {
        read_padding(&mut self.stream, std::mem::take(&mut self.padded))?;
        loop {
            match read_frame(&mut self.stream)? {
                Frame::Log(text) => self.ignore(&text)?,
                Frame::Gives(0) => self.ignore(&[])?, // no progress, so not for ever
                Frame::Gives(length) => {
                    (self.left, self.padded) = (length, length);
                    return Ok(true);
                }
                Frame::Last => {
                    self.acknowledge()?;
                    return Ok(false);
                }
                Frame::Wants(_) => return Err(broken("the daemon asked for data during an export")),
                Frame::Failed { message, status } => return Err(self.refused(message, status)),
            }
        }
    }

    /// Imports the bundle that `archive` reads, all items of which must be signed by a key that the daemon trusts.
    /// Returns how many items it says it has imported.
    pub fn import(&mut self, archive: &mut dyn Read) -> Result<u64> {
        let request = self.prepare(Operation::ImportPaths, &[])?;
        self.dispatch(&[])?;
        match self.stream.get_mut().feed(&request, archive) {
            Some(result) => result.map_err(lost)?,
            None => self.send(&request)?,
        }
        let (mut buffer, mut ended) = (Vec::new(), false);
        loop {
            match read_frame(&mut self.stream)? {
                Frame::Log(text) => self.ignore(&text)?,
                Frame::Wants(_) if ended => return Err(broken("the daemon asked for more than there is")),
                Frame::Wants(most) => {
                    buffer.resize(most, 0);
                    let length = read_fully(archive, &mut buffer).map_err(lost)?;
                    ended = length == 0; // of which it is told once
                    let mut answer = Vec::with_capacity(length + 16);
                    put_string(&mut answer, &buffer[..length]);
                    self.send(&answer)?;
                }
                Frame::Last => break,
                Frame::Gives(_) => return Err(broken("the daemon sent data during an import")),
                Frame::Failed { message, status } => return Err(self.refused(message, status)),
            }
        }
        let imported = self.each_path(MAX_LIST, &mut |_| {})?;
        self.finish();
        Ok(imported)
    }
}

/// The data of an export as a stream. Its errors carry an [`Error`](crate::ground::error::Error).
pub struct Export<'a>(pub &'a mut Client);

impl Read for Export<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read_export(buffer)?)
    }
}
