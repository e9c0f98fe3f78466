// SPDX-License-Identifier: GPL-3.0-or-later
//! A process on the build machine that stands between us and the daemon there: it relays where the SSH server forwards
//! no sockets, and feeds large imports to the daemon without a network round trip for every 32 KiB.
//!
//! It is a Guile program, `helper.scm`, run by `guile` or else `guix repl`, both of which read it from standard input.
//! What it reads then (integers as in [`crate::daemon`]):
//!
//! ```text
//! integer 0 or 1, integer LENGTH, LENGTH bytes   once: whether there may be something to decompress, and the socket's
//!                                          name; the answer is a line, MARK and "ready", or "ready zstd" if it can
//! integer 0, integer LENGTH, LENGTH bytes  bytes for the daemon
//! integer 1, integer LENGTH, LENGTH bytes,
//!   CHUNK*, integer 0                      a request to import, and what: CHUNK is integer LENGTH, LENGTH bytes, at most
//!                                          32768, and zero bytes up to a multiple of 8, as the daemon wants it; or
//!                                          integer 2^64-1, integer LENGTH, LENGTH bytes: a zstd frame of several CHUNKs
//! integer 2, integer LENGTH, LENGTH bytes  a request that the daemon answers with one string; others may follow at once
//! ```
//!
//! What it writes is what the daemon writes, less the READ frames of imports. These begin as soon as the daemon has the
//! request: so the helper gets it with the announcement that an import follows, not before.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Instant;

use zstd::bulk::Compressor;

use super::pace::Pace;
use crate::daemon::{Stream, padding, read_fully};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ssh::Channel;

const PROGRAM: &str = include_str!("helper.scm");

/// What the program's own lines begin with; `guix repl` says things of its own before.
const MARK: &str = "guix-offload-relay: ";
/// Most that may come before its line, in bytes.
const MAX_PREAMBLE: u64 = 64 << 10;

/// Size of the pieces of an import, in bytes: what the daemon asks for at once.
const CHUNK: usize = 32 << 10;

/// So many of them are handed to the connection at once, compressed or not.
const GROUP: usize = 16;

/// Comes before a group that is compressed.
const COMPRESSED: u64 = u64::MAX;

/// What is read ahead, in bytes.
const READ_AHEAD: usize = 128 << 10;

const BYTES: u64 = 0;
const IMPORT: u64 = 1;
const REQUEST: u64 = 2;

macro_rules! guile {
    () => {
        "exec guile --no-auto-compile -q -c \"(primitive-eval (read))\""
    };
}

macro_rules! guix {
    () => {
        "exec guix repl -t machine"
    };
}

/// A connection to the daemon through the helper.
pub struct Relay {
    channel: BufReader<Channel>,
    /// How an import begins.
    pace: Pace,
}

impl Relay {
    /// Starts whichever Guile there is, in a way that is the same to every login shell. Guix's own takes longer to
    /// start; it comes first if imports may be `compressed`, which the other may not be able to undo.
    pub fn command(compressed: bool) -> &'static str {
        match compressed {
            false => {
                concat!("sh -c 'if command -v guile >/dev/null 2>&1; then ", guile!(), "; else ", guix!(), "; fi'")
            }
            true => concat!(
                "sh -c 'if guile -c \"(use-modules (zstd))\" >/dev/null 2>&1; then ",
                guile!(),
                "; elif command -v guix >/dev/null 2>&1; then ",
                guix!(),
                "; else ",
                guile!(),
                "; fi'"
            ),
        }
    }

    /// Has the helper, which [`Relay::command`] starts on the fresh `channel`, connect to the socket named `socket`.
    /// `pace` is how imports begin.
    pub fn start(channel: Channel, socket: &str, pace: Pace) -> Result<Self> {
        let mut relay = Relay { channel: BufReader::with_capacity(READ_AHEAD, channel), pace };
        relay.introduce(socket).map_err(|error| match relay.complaint() {
            Some(complaint) => error.context(complaint),
            None => error,
        })?;
        Ok(relay)
    }

    /// Whether imports may be compressed: that is wanted, and the helper can undo it.
    pub fn compresses(&self) -> bool {
        self.pace.may_compress()
    }

    fn introduce(&mut self, socket: &str) -> Result<()> {
        let mut hello: Vec<u8> =
            PROGRAM.lines().skip_while(|l| l.starts_with(';')).collect::<Vec<_>>().join("\n").into();
        hello.extend_from_slice(&u64::from(self.compresses()).to_le_bytes());
        hello.extend_from_slice(&(socket.len() as u64).to_le_bytes());
        hello.extend_from_slice(socket.as_bytes());
        let channel = self.channel.get_mut();
        channel.write_all(&hello).io_context(ErrorKind::Unavailable, || "starting the helper")?;
        let mut preamble = (&mut self.channel).take(MAX_PREAMBLE);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length =
                preamble.read_until(b'\n', &mut line).io_context(ErrorKind::Unavailable, || "starting the helper")?;
            if length == 0 {
                return Err(Error::new(ErrorKind::Unavailable, "neither 'guile' nor 'guix repl' could be run there")
                    .hint("make sure that 'guix' is in the PATH of non-interactive SSH sessions of that user"));
            }
            let text = String::from_utf8_lossy(&line);
            match text.trim_end().split_once(MARK) {
                Some((_, "ready zstd")) => return Ok(()),
                Some((_, "ready")) => {
                    self.pace = Pace::new(None);
                    return Ok(());
                }
                Some((_, problem)) => {
                    return Err(Error::new(ErrorKind::Unavailable, format!("the helper {problem}"))
                        .hint("make sure that guix-daemon runs there, and that 'daemon-socket' names its socket"));
                }
                None => {}
            }
        }
    }

    /// The last line that the helper said on its standard error.
    fn complaint(&self) -> Option<String> {
        let said = self.channel.get_ref().stderr();
        let text = String::from_utf8_lossy(&said);
        text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!("the helper says '{}'", line.trim()))
    }
}

impl Read for Relay {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.channel.read(buffer)
    }
}

/// Each write is one message: callers write whole requests.
impl Write for Relay {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(BYTES, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.channel.get_mut().flush()
    }
}

impl Stream for Relay {
    fn feed(&mut self, request: &[u8], archive: &mut dyn Read) -> Option<io::Result<()>> {
        Some(self.send(IMPORT, request).and_then(|()| self.feed_chunks(archive)))
    }

    fn submit(&mut self, requests: &[Vec<u8>]) -> Option<io::Result<()>> {
        Some(requests.iter().try_for_each(|request| self.send(REQUEST, request)))
    }
}

impl Relay {
    fn send(&mut self, kind: u64, bytes: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(16 + bytes.len());
        message.extend_from_slice(&kind.to_le_bytes());
        message.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        message.extend_from_slice(bytes);
        self.channel.get_mut().write_all(&message)
    }

    fn feed_chunks(&mut self, archive: &mut dyn Read) -> io::Result<()> {
        let (mut pace, mut compressor) = (self.pace.clone(), Compressor::default());
        let mut group = Vec::with_capacity(GROUP * (8 + CHUNK));
        let mut length = CHUNK;
        while length == CHUNK {
            group.clear();
            while length == CHUNK && group.len() < GROUP * (8 + CHUNK) {
                length = put_chunk(archive, &mut group)?;
            }
            self.put_group(&group, &mut pace, &mut compressor)?;
        }
        if length > 0 {
            self.put_group(&0u64.to_le_bytes(), &mut pace, &mut compressor)?;
        }
        self.channel.get_mut().flush()
    }

    fn put_group(&mut self, group: &[u8], pace: &mut Pace, compressor: &mut Compressor) -> io::Result<()> {
        let channel = self.channel.get_mut();
        match pace.level() {
            None => channel.write_all(group)?,
            Some(level) => {
                compressor.set_compression_level(level)?;
                let frame = compressor.compress(group)?;
                channel.write_all(&COMPRESSED.to_le_bytes())?;
                channel.write_all(&(frame.len() as u64).to_le_bytes())?;
                channel.write_all(&frame)?;
            }
        }
        pace.note(group.len(), Instant::now());
        Ok(())
    }
}

/// Appends the next chunk of `archive` to `group`; returns its length. 0: it was the last one.
fn put_chunk(archive: &mut dyn Read, group: &mut Vec<u8>) -> io::Result<usize> {
    let start = group.len();
    group.resize(start + 8 + CHUNK, 0);
    let length = read_fully(archive, &mut group[start + 8..])?;
    group[start..start + 8].copy_from_slice(&(length as u64).to_le_bytes());
    group.truncate(start + 8 + length);
    group.resize(start + 8 + length + padding(length as u64), 0);
    Ok(length)
}
