// SPDX-License-Identifier: GPL-3.0-or-later
//! The relay: a process on the build machine that stands between us and the daemon there. It is used where the SSH
//! server forwards no sockets. It also feeds large imports to the daemon without a network round trip for each 32 KiB.
//!
//! It is a Guile program, `relay.scm`. Either `guile` or `guix repl` runs it, and reads it from standard input. Then
//! the relay reads these messages (integers as in [`crate::daemon`]):
//!
//! ```text
//! integer 0 or 1, integer LENGTH, LENGTH bytes   once: whether imports may be compressed, and the socket's name; the
//!                                          answer is a line: MARK and "ready", or "ready zstd" if it can decompress
//! integer 0, integer LENGTH, LENGTH bytes  bytes for the daemon
//! integer 1, integer LENGTH, LENGTH bytes,
//!   CHUNK*, integer 0                      a request to import, and what: CHUNK is integer LENGTH, LENGTH bytes (at
//!                                          most 32768), and zero bytes up to a multiple of 8, as the daemon wants it;
//!                                          or integer 2^64-1, FRAGMENT*, integer 0: CHUNKs, as a zstd frame in pieces,
//!                                          each of which is integer LENGTH, LENGTH bytes
//! integer 2, integer LENGTH, LENGTH bytes  a request that the daemon answers with one string; more may follow at once
//! integer 3, integer 0                     a request to the relay: connect to the daemon anew
//! ```
//!
//! The relay writes what the daemon writes, except for the READ frames of imports. If the daemon answers before the end
//! of an import, it refuses the import: the relay then discards the rest. The daemon sends READ frames as soon as it
//! has the request. So the relay gets the request in the message that announces the import, not before.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use zstd::stream::write::Encoder;

use super::compressed_forms::CompressedForms;
use super::compression::CompressionPolicy;
use super::import_chunks::{ImportChunks, Next};
use super::import_reply::ImportReply;
use crate::daemon::Stream;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::words::put_number;
use crate::ssh::Channel;

const PROGRAM: &str = include_str!("relay.scm");

/// Beginning of the relay's own lines. `guix repl` prints other lines before them.
const MARK: &str = "guix-offload-relay: ";
/// Most output before the relay's first own line, in bytes.
const MAX_PREAMBLE: u64 = 64 << 10;

/// Amount that is handed to the connection or the compressor at once, in bytes.
const GROUP: usize = 512 << 10;

/// The integer that comes before compressed chunks, instead of a length.
const COMPRESSED: u64 = u64::MAX;

/// Size of the buffer for reading ahead, in bytes.
const READ_AHEAD: usize = 128 << 10;

const BYTES: u64 = 0;
const IMPORT: u64 = 1;
const REQUEST: u64 = 2;
const RECONNECT: u64 = 3;

/// The program that Guile runs first if imports may be compressed. If that Guile has no module to decompress them, it
/// is replaced by `guix repl`, which takes longer to start. Stands in double quotes of the shell.
const FOR_COMPRESSED: &str = concat!(
    "(or (false-if-exception (resolve-interface (quote (zstd)))) ",
    r#"(false-if-exception (execlp \"guix\" \"guix\" \"repl\" \"-t\" \"machine\")))"#,
);

/// A connection to the daemon through the relay.
pub struct Relay {
    channel: BufReader<Channel>,
    /// The compression policy with which an import begins.
    policy: CompressionPolicy,
    /// Bytes that came during an import.
    import_reply: ImportReply,
}

impl Relay {
    /// Returns the command that starts a Guile of the machine. It means the same to every login shell. `compressed`:
    /// imports may be compressed.
    pub fn command(compressed: bool) -> String {
        let first = if compressed { FOR_COMPRESSED } else { "" };
        format!(
            "sh -c 'if command -v guile >/dev/null 2>&1; \
             then exec guile --no-auto-compile -q -c \"{first}(primitive-eval (read))\"; \
             else exec guix repl -t machine; fi'"
        )
    }

    /// Makes the relay, which [`Relay::command`] starts on the fresh `channel`, connect to the socket named `socket`.
    /// Imports begin with `policy`.
    pub fn start(channel: Channel, socket: &str, policy: CompressionPolicy) -> Result<Self> {
        let mut relay = Relay {
            channel: BufReader::with_capacity(READ_AHEAD, channel),
            policy,
            import_reply: ImportReply::default(),
        };
        relay.introduce(socket).map_err(|error| match relay.complaint() {
            Some(complaint) => error.context(complaint),
            None => error,
        })?;
        Ok(relay)
    }

    /// Returns whether imports may be compressed: the policy allows it, and the relay can decompress them.
    pub fn compresses(&self) -> bool {
        self.policy.may_compress()
    }

    fn introduce(&mut self, socket: &str) -> Result<()> {
        let mut hello: Vec<u8> =
            PROGRAM.lines().skip_while(|l| l.starts_with(';')).collect::<Vec<_>>().join("\n").into();
        put_number(&mut hello, u64::from(self.compresses()));
        put_number(&mut hello, socket.len() as u64);
        hello.extend_from_slice(socket.as_bytes());
        let channel = self.channel.get_mut();
        channel.write_all(&hello).io_context(ErrorKind::Unavailable, || "starting the relay")?;
        let mut preamble = (&mut self.channel).take(MAX_PREAMBLE);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length =
                preamble.read_until(b'\n', &mut line).io_context(ErrorKind::Unavailable, || "starting the relay")?;
            if length == 0 {
                return Err(Error::new(ErrorKind::NoGuix, "neither 'guile' nor 'guix repl' could be run there")
                    .hint("make sure that 'guix' is in the PATH of non-interactive SSH sessions of that user"));
            }
            let text = String::from_utf8_lossy(&line);
            match text.trim_end().split_once(MARK) {
                Some((_, "ready zstd")) => return Ok(()),
                Some((_, "ready")) => {
                    self.policy = CompressionPolicy::new(None);
                    return Ok(());
                }
                Some((_, problem)) => {
                    return Err(Error::new(ErrorKind::Unavailable, format!("the relay {problem}"))
                        .hint("make sure that guix-daemon runs there, and that 'daemon-socket' names its socket"));
                }
                None => {}
            }
        }
    }

    /// Returns the last line that the relay wrote to its standard error.
    fn complaint(&self) -> Option<String> {
        let said = self.channel.get_ref().stderr();
        let text = String::from_utf8_lossy(&said);
        text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!("the relay says '{}'", line.trim()))
    }
}

impl Read for Relay {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.import_reply.read(buffer) {
            0 => self.channel.read(buffer),
            length => Ok(length),
        }
    }
}

/// Sends each write as one message: callers write whole requests.
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

    fn restart(&mut self) -> Option<io::Result<()>> {
        Some(self.send(RECONNECT, &[]))
    }

    fn has_relay(&self) -> bool {
        true
    }
}

impl Relay {
    fn send(&mut self, kind: u64, bytes: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(16 + bytes.len());
        put_number(&mut message, kind);
        put_number(&mut message, bytes.len() as u64);
        message.extend_from_slice(bytes);
        self.channel.get_mut().write_all(&message)
    }

    /// Takes the bytes that came meanwhile, without waiting. Returns whether the import is answered.
    fn is_answered(&mut self) -> io::Result<bool> {
        while !self.channel.buffer().is_empty() || self.channel.get_ref().is_readable() {
            let bytes = self.channel.fill_buf()?;
            let length = bytes.len();
            self.import_reply.push(bytes);
            self.channel.consume(length);
            if length == 0 || self.import_reply.is_answered() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Feeds an import, until `archive` ends or the import is answered.
    fn feed_chunks(&mut self, archive: &mut dyn Read) -> io::Result<()> {
        let mut channel = self.channel.get_ref().clone();
        let mut policy = self.policy.clone();
        let forms = CompressedForms::shared();
        let mut chunks = ImportChunks::new(archive);
        let mut group = Vec::with_capacity(GROUP);
        let mut next = Next::Segment;
        while next != Next::End && !self.is_answered()? {
            group.clear();
            let sent;
            (next, sent) = match policy.level() {
                Some(level) => send_compressed(&mut channel, &forms, &mut chunks, &mut group, level)?,
                None => {
                    let next = chunks.take(&mut group, GROUP)?;
                    channel.write_all(&group)?;
                    (next, group.len())
                }
            };
            policy.note(sent, Instant::now());
        }
        channel.write_all(&0u64.to_le_bytes())
    }
}

/// Sends what remains of a segment of `chunks`, compressed at `level`. Takes the form that another import has made of
/// it, if there is one. Returns what comes after it, and its length before it was compressed. `group` is an empty
/// buffer.
fn send_compressed(
    channel: &mut Channel,
    forms: &Arc<CompressedForms>,
    chunks: &mut ImportChunks,
    group: &mut Vec<u8>,
    level: i32,
) -> io::Result<(Next, usize)> {
    channel.write_all(&COMPRESSED.to_le_bytes())?;
    let mut fragments = Fragments(channel);
    let result = if forms.are_shared() {
        let mut segment = Vec::new();
        let next = chunks.take(&mut segment, usize::MAX)?;
        fragments.write_all(&forms.compress(&segment, level)?)?;
        (next, segment.len())
    } else {
        let mut encoder = Encoder::new(&mut fragments, level)?;
        let mut length = 0;
        let next = loop {
            group.clear();
            let next = chunks.take(group, GROUP)?;
            encoder.write_all(group)?;
            length += group.len();
            if next != Next::Chunk {
                break next;
            }
        };
        encoder.finish()?;
        (next, length)
    };
    channel.write_all(&0u64.to_le_bytes())?;
    Ok(result)
}

/// A writer of FRAGMENTs: one for each write.
struct Fragments<'a>(&'a mut Channel);

impl Write for Fragments<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            self.0.write_all(&(bytes.len() as u64).to_le_bytes())?;
            self.0.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
