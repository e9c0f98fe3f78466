// SPDX-License-Identifier: GPL-3.0-or-later
//! The requests of the worker protocol that offloading needs (Guix's `nix/nix-daemon/nix-daemon.cc`, `performOp`).
//!
//! This file has connections and questions. `greeting`, `adding`, `building`, `substituting` and `archives` have the
//! other requests.
//!
//! There is one request at a time, but small ones may travel with the next one: see [`Client::add_temp_roots_later`]. A
//! request that fails with [`ErrorKind::Daemon`] or [`ErrorKind::BuildFailed`] leaves the connection usable. A request
//! that breaks off half-way makes it unusable, and every later request says so. As a rule, so does a request that
//! travels with another one and fails. These are the calls for one request:
//!
//! ```text
//! postpone        earlier: queues a small request for the next flight; if that is full, calls settle first
//! begin           sends a request; if it has data, its function calls these itself:
//!   prepare         returns the bytes of the request
//!     start           fails unless the connection is idle; marks the request as under way
//!       catch_up        reads the answers to the greeting and to what travelled with it, unless they were read
//!   dispatch        sends the queue and the request
//!     collect         reads the answers to the queue
//! wait            reads the frames of the answer; then the function of the request reads the results
//! finish          marks the connection as idle
//! settle          instead of a request: start, dispatch the queue alone, finish
//! ```

mod adding;
mod archives;
mod building;
mod greeting;
mod substituting;

use std::collections::{HashSet, VecDeque};
use std::io::{self, BufReader};

pub use self::adding::Additions;
pub use self::archives::ExportReader;
pub use self::building::BuildOptions;
pub use self::substituting::Substitute;
use super::Stream;
use super::frame::{Frame, read_frame};
use super::replies::{broken, lost, read_number, read_text, read_texts};
use super::request::{Operation, put_paths};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::{MAX_REFERENCES, StoreDir, StorePath};
use crate::ground::words::{put_number, put_string};

/// Size of the buffer for reading ahead, in bytes.
const READ_AHEAD: usize = 64 << 10;

/// Most log and empty frames of one request other than a build, in bytes. A daemon sends next to none.
const MAX_IGNORED: usize = 1 << 20;

/// Largest flight, in bytes: requests that are sent together, before the first one is answered. The daemon reads 32 KiB
/// at once. If unread bytes remain when it begins to work on a request, it reports a protocol error. An SSH packet has
/// 32,700 bytes.
pub(crate) const FLIGHT: usize = 32_000;

/// A connection to a daemon.
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    store: StoreDir,
    version: u64,
    /// Whether the daemon's side of the greeting is still to be read.
    greeting: bool,
    /// The request that is under way. It stays set if it breaks off.
    unfinished: Option<Operation>,
    /// The bytes of the requests that travel with the next one.
    later: Vec<u8>,
    /// The requests in `later`, and their expected answers.
    owed: Vec<(Operation, Expected)>,
    /// Requests that travelled with the greeting, and whose answers are still to be read.
    greeted_with: Vec<(Operation, Expected)>,
    /// Why an addition that travelled with a request was refused.
    refused: Option<Error>,
    /// Requests that were sent, and whose answers nobody has begun to read.
    asked: VecDeque<(Operation, StorePath)>,
    /// The answer to an export that travelled with a request, until it is taken.
    exported: Option<Result<Vec<u8>>>,
    /// Whether builds are done again and compared, as [`BuildOptions::check`] says.
    checks: bool,
    /// How many additions were begun and not finished yet.
    adding: usize,
    /// Of an export: bytes left in the current frame.
    left: u64,
    /// Of an export: length of the current frame, whose padding is still to be read; 0: none.
    padded: u64,
    /// Of the request under way: bytes of log that were dropped.
    ignored: usize,
}

/// The expected answer to a request that travelled with another one.
enum Expected {
    /// Any answer. A refusal makes the connection unusable.
    Usual,
    /// The answer to a request of [`Client::export_text_later`]. A refusal is kept for [`Client::take_exported`].
    OfText,
    /// The name of the added item. A refusal is kept for [`Client::take_refusal`].
    Name(StorePath),
}

/// The daemon's record of a valid store item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The derivation that built it, if known.
    pub deriver: Option<StorePath>,
    /// The items that it refers to, itself perhaps among them.
    pub references: Vec<StorePath>,
    /// Size of its nar, in bytes.
    pub nar_size: u64,
}

impl Client {
    fn new(stream: Box<dyn Stream>, store: &StoreDir) -> Self {
        Client {
            stream: BufReader::with_capacity(READ_AHEAD, stream),
            store: store.clone(),
            version: 0,
            greeting: false,
            unfinished: None,
            later: Vec::new(),
            owed: Vec::new(),
            greeted_with: Vec::new(),
            refused: None,
            asked: VecDeque::new(),
            exported: None,
            checks: false,
            adding: 0,
            left: 0,
            padded: 0,
            ignored: 0,
        }
    }

    /// Returns the version of the protocol that the daemon speaks, such as 0x164.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns those of `paths` that are valid in the daemon's store. One round trip, however many.
    pub fn valid_paths(&mut self, paths: &[StorePath]) -> Result<HashSet<StorePath>> {
        let mut arguments = Vec::new();
        put_paths(&mut arguments, paths);
        self.begin(Operation::QueryValidPaths, &arguments)?;
        self.wait_quietly()?;
        let valid = self.read_paths(paths.len() as u64)?;
        self.finish();
        Ok(valid.into_iter().collect())
    }

    /// Returns the daemon's record of `path`, which must be valid.
    pub fn path_info(&mut self, path: &StorePath) -> Result<PathInfo> {
        self.begin_about(Operation::QueryPathInfo, path)?;
        self.wait_quietly()?;
        let deriver = read_text(&mut self.stream, "a deriver")?;
        read_text(&mut self.stream, "a hash")?;
        let references = self.read_paths(MAX_REFERENCES)?;
        read_number(&mut self.stream)?; // time of registration
        let nar_size = read_number(&mut self.stream)?;
        self.finish();
        let deriver = if deriver.is_empty() { None } else { Some(self.parse_path(&deriver)?) };
        Ok(PathInfo { deriver, references, nar_size })
    }

    /// Adds a temporary root: protects `path`, which need not exist yet, from the garbage collector as long as the
    /// connection is open.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.add_temp_roots_later(std::slice::from_ref(path))?;
        self.settle()
    }

    /// Does the same as [`Client::add_temp_root`] for all of `paths`, but the requests travel with the next one, which
    /// fails if they fail. Each full flight of 32,000 bytes is sent at once, and its answers are awaited.
    pub fn add_temp_roots_later(&mut self, paths: &[StorePath]) -> Result<()> {
        for path in paths {
            let mut arguments = Vec::new();
            put_string(&mut arguments, path.as_str());
            self.postpone(Operation::AddTempRoot, &arguments)?;
        }
        Ok(())
    }

    /// Sends the requests that were to travel with the next one, and waits for the answers.
    pub fn settle(&mut self) -> Result<()> {
        let Some((first, _)) = self.greeted_with.first().or(self.owed.first()) else { return Ok(()) };
        self.start(*first)?;
        self.dispatch(&[])?;
        self.finish();
        Ok(())
    }

    /// Returns whether it is ready for a request: none has broken off, and no answers are left to read.
    pub fn is_idle(&self) -> bool {
        self.unfinished.is_none() && self.asked.is_empty()
    }

    /// Sends a request about `path`, unless [`Client::ask_for_all`] has sent it.
    fn begin_about(&mut self, operation: Operation, path: &StorePath) -> Result<()> {
        if self.asked.front() == Some(&(operation, path.clone())) {
            self.asked.pop_front();
            self.unfinished = Some(operation);
            return Ok(());
        }
        self.begin(operation, &arguments_about(operation, path))
    }

    /// Sends a request together with the queued ones, and reads the answers to the queued ones.
    fn begin(&mut self, operation: Operation, arguments: &[u8]) -> Result<()> {
        let request = self.prepare(operation, arguments)?;
        self.dispatch(&request)
    }

    /// Queues a request to travel with the next one.
    fn postpone(&mut self, operation: Operation, arguments: &[u8]) -> Result<()> {
        self.postpone_request(operation, request(operation, arguments), Expected::Usual)
    }

    /// Does the same as [`Client::postpone`], given the bytes of the request and its expected answer.
    fn postpone_request(&mut self, operation: Operation, request: Vec<u8>, answer: Expected) -> Result<()> {
        self.check_idle()?;
        if self.later.len() + request.len() > FLIGHT {
            self.settle()?;
        }
        self.later.extend(request);
        self.owed.push((operation, answer));
        Ok(())
    }

    /// Sends `request`, the bytes of the request under way, together with the queued requests, and reads the answers to
    /// the queued ones.
    fn dispatch(&mut self, request: &[u8]) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.later);
        if bytes.len() + request.len() > FLIGHT && !bytes.is_empty() {
            self.send(&bytes)?;
            self.collect()?;
            bytes.clear();
        }
        bytes.extend_from_slice(request);
        if !bytes.is_empty() {
            self.send(&bytes)?;
        }
        self.collect()
    }

    /// Reads the answers to the queued requests, which were sent.
    fn collect(&mut self) -> Result<()> {
        let owed = std::mem::take(&mut self.owed);
        self.collect_answers(owed)
    }

    fn collect_answers(&mut self, owed: Vec<(Operation, Expected)>) -> Result<()> {
        let request = self.unfinished;
        for (operation, answer) in owed {
            self.unfinished = Some(operation);
            let answer = match answer {
                Expected::Usual => self.wait_quietly(),
                Expected::OfText => self.collect_text(operation),
                Expected::Name(path) => self.collect_addition(&path),
            };
            self.unfinished = Some(operation);
            answer?;
            if matches!(operation, Operation::AddTempRoot) {
                read_number(&mut self.stream)?;
            }
        }
        self.unfinished = request;
        Ok(())
    }

    /// Marks a request as under way, and returns its bytes.
    fn prepare(&mut self, operation: Operation, arguments: &[u8]) -> Result<Vec<u8>> {
        self.start(operation)?;
        Ok(request(operation, arguments))
    }

    /// Marks a request as under way. Fails unless the connection is idle. Then calls [`Client::catch_up`].
    fn start(&mut self, operation: Operation) -> Result<()> {
        self.check_idle()?;
        (self.unfinished, self.ignored) = (Some(operation), 0);
        self.catch_up()
    }

    /// Reads the answers to the greeting and to the requests that travelled with it, unless they were read.
    pub fn catch_up(&mut self) -> Result<()> {
        self.finish_greeting()?;
        let owed = std::mem::take(&mut self.greeted_with);
        self.collect_answers(owed)
    }

    fn check_idle(&self) -> Result<()> {
        let waiting = self.asked.front().map(|(operation, _)| *operation);
        let Some(unfinished) = self.unfinished.or(waiting) else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("the connection to the daemon is unusable since its {unfinished:?} request broke off"),
        ))
    }

    fn finish(&mut self) {
        self.unfinished = None;
    }

    /// Reads the 1 that ends the answer to some requests, and finishes the request.
    fn acknowledge(&mut self) -> Result<()> {
        read_number(&mut self.stream)?;
        self.finish();
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush()).map_err(lost)
    }

    /// Reads the frames of the answer to a request that exchanges no data, up to the last one.
    fn wait(&mut self, log: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            match read_frame(&mut self.stream)? {
                Frame::Log(text) => log(&text)?,
                Frame::Last => return Ok(()),
                Frame::Failed { message, status } => return Err(self.refused(message, status)),
                Frame::Wants(_) | Frame::Gives(_) => return Err(broken("the daemon sent a frame out of turn")),
            }
        }
    }

    /// Does the same as [`Client::wait`], for a request that has next to no log.
    fn wait_quietly(&mut self) -> Result<()> {
        let mut ignored = std::mem::take(&mut self.ignored);
        let result = self.wait(&mut |text| count_ignored(&mut ignored, text));
        self.ignored = ignored;
        result
    }

    fn ignore(&mut self, text: &[u8]) -> Result<()> {
        count_ignored(&mut self.ignored, text)
    }

    /// Returns the error for a request that the daemon refused. The connection is ready for the next request, unless
    /// `status` is `None`: then it has ended.
    fn refused(&mut self, message: String, status: Option<u64>) -> Error {
        if status.is_none() && self.unfinished.is_some() {
            return lost(io::ErrorKind::UnexpectedEof.into());
        }
        let building = matches!(self.unfinished.take(), Some(Operation::BuildPaths));
        Error::new(if building { kind_of_failure(status) } else { ErrorKind::Daemon }, message)
    }

    fn read_paths(&mut self, most: u64) -> Result<Vec<StorePath>> {
        let mut paths = Vec::new();
        self.each_path(most, &mut |path| paths.push(path))?;
        Ok(paths)
    }

    /// Reads a list of at most `most` items, hands each to `take`, and returns how many there are.
    fn each_path(&mut self, most: u64, take: &mut dyn FnMut(StorePath)) -> Result<u64> {
        let store = &self.store;
        let mut parsed = |text: String| parse_path(store, &text).map(&mut *take);
        read_texts(&mut self.stream, most, "a store file name", &mut parsed)
    }

    fn parse_path(&self, text: &str) -> Result<StorePath> {
        parse_path(&self.store, text)
    }
}

/// Parses a store file name that the daemon sent. A wrong one is the daemon's fault.
fn parse_path(store: &StoreDir, text: &str) -> Result<StorePath> {
    store.parse(text).map_err(|error| broken(error.to_string()))
}

/// Returns the kind of error for a failed build. The daemon gives the status 100 only to failures that it would cache.
/// For others, the status does not tell whether they are the build's fault.
fn kind_of_failure(status: Option<u64>) -> ErrorKind {
    match status {
        Some(101) => ErrorKind::TimedOut,
        Some(100) => ErrorKind::BuildFailed,
        _ => ErrorKind::Daemon,
    }
}

/// Returns the arguments of a request about one item.
fn arguments_about(operation: Operation, path: &StorePath) -> Vec<u8> {
    let mut arguments = Vec::new();
    put_string(&mut arguments, path.as_str());
    if matches!(operation, Operation::ExportPath) {
        put_number(&mut arguments, 1); // sign
    }
    arguments
}

/// Returns the bytes of a request.
fn request(operation: Operation, arguments: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(8 + arguments.len());
    put_number(&mut request, operation as u64);
    request.extend_from_slice(arguments);
    request
}

/// Counts a piece of log, or an empty frame, that is dropped. Fails once they are too many: a daemon must not talk for
/// ever.
fn count_ignored(ignored: &mut usize, text: &[u8]) -> Result<()> {
    *ignored += 8 + text.len();
    if *ignored > MAX_IGNORED {
        let most = MAX_IGNORED >> 10;
        return Err(broken(format!("the daemon sent more than {most} KiB of log and of empty frames, and no build")));
    }
    Ok(())
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
