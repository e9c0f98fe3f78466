// SPDX-License-Identifier: GPL-3.0-or-later
//! A user of a head's guix-daemon: asks it for one build, and sees what any client of the daemon sees. A client of its
//! own, because the library's is part of what is tested, and `guix build` takes a second to start.

use std::io::{BufReader, Error, Read, Result, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::lab::Host;

/// The longest that a build here takes, and the longest that a dead network goes unnoticed.
const PATIENCE: Duration = Duration::from_secs(400);

/// Of a long log, this much of the end is kept, in bytes.
const KEPT: usize = 1 << 20;

/// How many pieces of log wait to be looked at.
const QUEUED: usize = 1024;

/// What came of a build, in the words of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Succeeded,
    /// 100: permanently, 101: for lack of time, anything else: it may be tried again.
    Failed {
        status: u64,
        message: String,
    },
    /// The daemon itself has gone.
    Gone,
}

/// A build that is under way.
pub struct Build {
    stream: UnixStream,
    news: Receiver<News>,
    log: String,
    logged: u64,
    outcome: Option<(Outcome, Instant)>,
    retried: Option<Instant>,
}

enum News {
    Log(Vec<u8>),
    Over(Outcome),
}

/// A build that is over.
pub struct Ending {
    pub outcome: Outcome,
    pub at: Instant,
    /// When the hook said that it goes on with another machine.
    pub retried: Option<Instant>,
    /// The end of the log, messages of the hook among it.
    pub log: String,
    /// Length of the whole log, in bytes.
    pub logged: u64,
}

impl Build {
    /// Asks `head` to build `derivation`, by its hook and not by itself.
    pub fn start(head: Host, derivation: &str) -> Build {
        let stream = UnixStream::connect(head.file("/var/guix/daemon-socket/socket")).expect("the head's daemon");
        let (sender, news) = mpsc::sync_channel(QUEUED);
        let (ours, derivation) = (stream.try_clone().unwrap(), derivation.to_string());
        std::thread::spawn(move || {
            let outcome = build(&ours, &derivation, &mut |text| drop(sender.send(News::Log(text))));
            let _ = sender.send(News::Over(outcome.unwrap_or(Outcome::Gone)));
        });
        Build { stream, news, log: String::new(), logged: 0, outcome: None, retried: None }
    }

    /// Waits until the log says `what`; `false`: the build was over before.
    pub fn wait_for(&mut self, what: &str) -> bool {
        let end = Instant::now() + PATIENCE;
        while !self.log.contains(what) && self.outcome.is_none() {
            self.hear(end);
        }
        self.log.contains(what)
    }

    pub fn finish(mut self) -> Ending {
        let end = Instant::now() + PATIENCE;
        while self.outcome.is_none() {
            self.hear(end);
        }
        let (outcome, at) = self.outcome.take().unwrap();
        let log = std::mem::take(&mut self.log);
        Ending { outcome, at, retried: self.retried, log, logged: self.logged }
    }

    fn hear(&mut self, until: Instant) {
        match self.news.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(News::Log(text)) => {
                self.logged += text.len() as u64;
                // What is looked for comes in one piece.
                let text = String::from_utf8_lossy(&text);
                if text.contains("failed, trying another one") {
                    self.retried.get_or_insert_with(Instant::now);
                }
                self.log += &text;
                if self.log.len() > 2 * KEPT {
                    self.log = String::from_utf8_lossy(&self.log.as_bytes()[self.log.len() - KEPT..]).into_owned();
                }
            }
            Ok(News::Over(outcome)) => self.outcome = Some((outcome, Instant::now())),
            Err(RecvTimeoutError::Timeout) => panic!("a build hangs:\n{}", self.log),
            Err(RecvTimeoutError::Disconnected) => panic!("a build vanished:\n{}", self.log),
        }
    }
}

/// Whoever asked goes away.
impl Drop for Build {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Has the daemon of `host` delete all garbage, as `guix gc` does.
pub fn collect_garbage(host: Host) {
    let stream = UnixStream::connect(host.file("/var/guix/daemon-socket/socket")).expect("a daemon");
    let collected = Daemon::greet(&stream, &mut drop).and_then(|mut daemon| {
        // Delete what is dead; no items in particular; never what is live; as much as there is.
        daemon.send(&[20, 2, 0, 0, u64::MAX, 0, 0, 0].map(Word))?;
        daemon.wait(&mut drop)
    });
    assert_eq!(collected.expect("an answer"), Outcome::Succeeded, "collecting garbage on {}", host.0);
}

fn build(stream: &UnixStream, derivation: &str, log: &mut dyn FnMut(Vec<u8>)) -> Result<Outcome> {
    let mut daemon = Daemon::greet(stream, log)?;
    // Keep nothing, go on or fall back: no; verbosity; with the hook; verbosity and type of log; with the lines for
    // programs; without substitutes; one setting.
    let flags = [0, 0, 0, 0, 1, 0, 0, 1, 0, 1].map(Word);
    daemon.send(&[&[Word(19)], &flags[..], &[Text("build-max-jobs"), Text("0")]].concat())?;
    daemon.wait(log)?;
    daemon.send(&[Word(9), Word(1), Text(derivation), Word(0)])?;
    daemon.wait(log)
}

#[derive(Clone, Copy)]
enum Item<'a> {
    Word(u64),
    Text(&'a str),
}
use Item::{Text, Word};

struct Daemon<'a> {
    stream: &'a UnixStream,
    input: BufReader<&'a UnixStream>,
}

/// The worker protocol, as far as it is needed here (Guix's `nix/nix-daemon/nix-daemon.cc`).
impl<'a> Daemon<'a> {
    fn greet(stream: &'a UnixStream, log: &mut dyn FnMut(Vec<u8>)) -> Result<Self> {
        let mut daemon = Daemon { stream, input: BufReader::with_capacity(64 << 10, stream) };
        daemon.send(&[Word(0x6e69_7863)])?;
        daemon.integer()?; // its greeting
        daemon.integer()?; // its version
        daemon.send(&[Word(0x163), Word(0), Word(0)])?;
        daemon.wait(log)?;
        Ok(daemon)
    }

    fn send(&mut self, items: &[Item]) -> Result<()> {
        let mut bytes = Vec::new();
        for item in items {
            match item {
                Word(number) => bytes.extend_from_slice(&number.to_le_bytes()),
                Text(text) => {
                    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                    bytes.resize(bytes.len().next_multiple_of(8), 0);
                }
            }
        }
        (&mut &*self.stream).write_all(&bytes)
    }

    fn integer(&mut self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Result<Vec<u8>> {
        let length = self.integer()? as usize;
        let mut bytes = vec![0; length.next_multiple_of(8)];
        self.input.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Reads frames up to the last one.
    fn wait(&mut self, log: &mut dyn FnMut(Vec<u8>)) -> Result<Outcome> {
        loop {
            match self.integer()? {
                0x6f6c_6d67 => log(self.text()?),
                0x616c_7473 => return Ok(Outcome::Succeeded),
                0x6378_7470 => {
                    let message = String::from_utf8_lossy(&self.text()?).into_owned();
                    return Ok(Outcome::Failed { status: self.integer()?, message });
                }
                other => return Err(Error::other(format!("a frame of type {other:#x}"))),
            }
        }
    }
}
