// SPDX-License-Identifier: GPL-3.0-or-later
//! Exporting and importing.

use std::io::{self, Read};

use super::{Client, Expected, FLIGHT, arguments_about, request};
use crate::daemon::frame::{Frame, read_frame};
use crate::daemon::replies::{MAX_LIST, broken, lost, read_padding, read_text};
use crate::daemon::request::{ContentAddressed, NewItem, Operation};
use crate::ground::error::{ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::ground::words::{put_string, read_fully};

/// Largest export that may travel with a request, in bytes: that of a text of one line.
pub(super) const MAX_TEXT: usize = 64 << 10;

impl Client {
    /// Lets two requests travel with the next one: to add a short text, and to export the item that it becomes, `path`,
    /// signed. If they fail, the next request goes on. After that, [`Client::take_exported`] returns the answer.
    pub fn export_text_later(&mut self, name: &str, text: &str, path: &StorePath) -> Result<()> {
        let contents = &ContentAddressed::Text(text.into());
        let addition = NewItem { name, contents, references: &[] }.request();
        self.postpone_request(Operation::AddTextToStore, addition, Expected::OfText)?;
        self.export_later(path)
    }

    /// Does the same as [`Client::export_text_later`], but does not add the text, which may be there already. So the
    /// text is not protected from the collector.
    pub fn export_later(&mut self, path: &StorePath) -> Result<()> {
        let export = request(Operation::ExportPath, &arguments_about(Operation::ExportPath, path));
        self.postpone_request(Operation::ExportPath, export, Expected::OfText)?;
        self.exported = None;
        Ok(())
    }

    /// Takes the export: one item of a bundle, or why the export failed. `None`: none has come, or it was taken.
    pub fn take_exported(&mut self) -> Option<Result<Vec<u8>>> {
        self.exported.take()
    }

    /// Reads the answer to one of the two requests of [`Client::export_text_later`].
    pub(super) fn collect_text(&mut self, operation: Operation) -> Result<()> {
        let answer = match operation {
            Operation::ExportPath => self.read_short_export(),
            _ => {
                self.wait_quietly().and_then(|()| read_text(&mut self.stream, "a store file name")).map(|_| Vec::new())
            }
        };
        match answer {
            // The daemon has refused the request, and goes on with the next one. The first refusal says why.
            Err(error) if error.kind() == ErrorKind::Daemon => {
                if !matches!(self.exported, Some(Err(_))) {
                    self.exported = Some(Err(error));
                }
            }
            Ok(bytes) if matches!(operation, Operation::ExportPath) => self.exported = Some(Ok(bytes)),
            answer => drop(answer?),
        }
        Ok(())
    }

    fn read_short_export(&mut self) -> Result<Vec<u8>> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4 << 10]);
        loop {
            match self.read_export(&mut buffer)? {
                0 => return Ok(bytes),
                length => bytes.extend_from_slice(&buffer[..length]),
            }
            if bytes.len() > MAX_TEXT {
                return Err(broken(format!("the daemon exported more than {} KiB of a short text", MAX_TEXT >> 10)));
            }
        }
    }

    /// Begins to export the valid item `path`, signed: [`Client::read_export`] then reads it.
    pub fn export(&mut self, path: &StorePath) -> Result<()> {
        self.begin_about(Operation::ExportPath, path)
    }

    /// Asks for the records and the exports of `paths`, all at once. The caller must then call [`Client::path_info`]
    /// for each and after that [`Client::export`] for each, in the same order, and nothing else. If the requests are
    /// larger than a flight, sends none of them now: those calls send them one by one.
    pub fn ask_for_all(&mut self, paths: &[StorePath]) -> Result<()> {
        let about = |operation| paths.iter().map(move |path| (operation, path.clone()));
        let asked: Vec<_> = about(Operation::QueryPathInfo).chain(about(Operation::ExportPath)).collect();
        let bytes: Vec<u8> = asked
            .iter()
            .flat_map(|(operation, path)| request(*operation, &arguments_about(*operation, path)))
            .collect();
        let Some((first, _)) = asked.first().filter(|_| bytes.len() <= FLIGHT) else { return Ok(()) };
        self.start(*first)?;
        self.dispatch(&[])?;
        self.send(&bytes)?;
        self.finish();
        self.asked = asked.into();
        Ok(())
    }

    /// Reads more of the export that was begun: one item of a bundle, which [`crate::archive`] parses. Returns 0 when
    /// the item is complete, and the connection ready for the next request.
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

    /// Reads on to the next frame of an export that has data; `false`: the export is complete.
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
    /// Returns how many items the daemon says that it has imported.
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
pub struct ExportReader<'a>(pub &'a mut Client);

impl Read for ExportReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read_export(buffer)?)
    }
}
