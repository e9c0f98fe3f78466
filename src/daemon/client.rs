// SPDX-License-Identifier: GPL-3.0-or-later
//! The requests of the worker protocol that offloading needs (Guix's `nix/nix-daemon/nix-daemon.cc`, `performOp`).
//!
//! One request at a time, but that small ones may travel with the next: see [`Client::protect`]. A request that fails
//! with [`ErrorKind::Daemon`] or [`ErrorKind::BuildFailed`] leaves the connection usable. One that breaks off half-way
//! does not, nor does one that travels with another and fails; every later request says so.

use std::collections::HashSet;
use std::io::{self, BufReader, Read};

use super::Stream;
use super::frame::{Frame, read_frame};
use super::request::{Addition, Operation, addition_of_nar, put_paths};
use super::wire::{
    broken, lost, put_integer, put_string, read_fully, read_integer, read_padding, read_text, read_texts,
};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::store::{Contents, StoreDir, StorePath};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const SERVER_MAGIC: u64 = 0x6478_696f;
/// The version that this client speaks: 1.0x63, that of Guix 1.2.0; nothing that came later is used.
const CLIENT_VERSION: u64 = 0x163;
/// The oldest that Guix's own client accepts: minor 0x61, of 2017.
const OLDEST_MINOR: u64 = 0x61;

/// What is read ahead from the stream, in bytes.
const READ_AHEAD: usize = 64 << 10;

/// How much of a nar is written at once, in bytes.
const WRITE_SIZE: usize = 256 << 10;

/// Most log that one request other than a build may have, in bytes: the daemon has next to none.
const MAX_IGNORED: usize = 1 << 20;

/// How much may be sent before the answer to its beginning, in bytes. The daemon reads 32 KiB at once, and takes what has
/// come beyond that, when it begins to work on a request, for a breach of the protocol; in SSH, a packet has 32,700.
pub(crate) const FLIGHT: usize = 32_000;

/// A connection to a daemon.
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    store: StoreDir,
    version: u64,
    /// The daemon's side of the greeting is still to be read.
    greeting: bool,
    /// The request being worked on. Stays set when one breaks off.
    unfinished: Option<Operation>,
    /// Requests that travel with the next one: their bytes, and what they are.
    later: Vec<u8>,
    owed: Vec<Operation>,
    /// Whether builds are done again and compared, as [`BuildOptions::check`] says.
    checks: bool,
    /// How many additions were begun that are to be finished.
    adding: usize,
    /// Of an export: bytes left in the current frame.
    left: u64,
    /// Of an export: length of the current frame, whose padding is still to be read; 0: none.
    padded: u64,
    /// Of the request being worked on: bytes of log that nobody was told of.
    ignored: usize,
}

/// Items that the daemon was asked to make, and did not answer yet.
#[must_use]
pub struct Additions {
    operation: Operation,
    count: usize,
    /// Those that are still to be sent, each after the answer to the one before it.
    requests: Option<Vec<Vec<u8>>>,
}

/// What the daemon knows about a valid store item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The derivation that built it, if known.
    pub deriver: Option<StorePath>,
    /// The items that it refers to, itself perhaps among them.
    pub references: Vec<StorePath>,
    /// Size of its nar, in bytes.
    pub nar_size: u64,
}

/// Modes of building.
const NORMAL: u64 = 0;
const CHECK: u64 = 2;

/// How the daemon is to build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Seconds without output after which a build is killed; 0: no limit.
    pub max_silent_time: u64,
    /// Seconds after which a build is killed; 0: no limit.
    pub timeout: u64,
    /// Whether lines for machines (`@ build-started …`) appear in the log.
    pub print_build_trace: bool,
    /// How many cores a build may use, 0: all; `None`: what that daemon is set to.
    pub cores: Option<u32>,
    /// How often each build is done, all with the same result; `None`: what that daemon is set to.
    pub rounds: Option<u32>,
    /// Whether outputs that are valid are built again, and compared with.
    pub check: bool,
    /// Whether the tree of a build that fails is kept.
    pub keep_failed: bool,
    /// How much the daemon says, besides what builders do; 0: errors only.
    pub verbosity: u32,
}

impl BuildOptions {
    /// Whether each build is done more than once.
    pub fn repeats(&self) -> bool {
        self.rounds.is_some_and(|rounds| rounds > 1)
    }

    /// Whether they go on to count for later builds of the connection, which cannot take them back.
    pub fn stay(&self) -> bool {
        self.cores.is_some() || self.rounds.is_some()
    }
}

impl Client {
    /// Greets the daemon at the other end of `stream`, whose store is `store`.
    pub fn handshake(stream: Box<dyn Stream>, store: &StoreDir) -> Result<Self> {
        let mut client = Self::new(stream, store);
        client.greet(&[]).context(|| "greeting the daemon")?;
        Ok(client)
    }

    /// As [`Client::handshake`], and has the daemon log errors only, whatever it was started with.
    pub fn quiet_handshake(stream: Box<dyn Stream>, store: &StoreDir) -> Result<Self> {
        let mut client = Self::new(stream, store);
        client.greet(&quiet()).and_then(|()| client.wait_quietly()).context(|| "greeting the daemon")?;
        Ok(client)
    }

    /// As [`Client::quiet_handshake`], with a daemon that is known from another connection: it is not waited for before
    /// the first request.
    pub fn later_handshake(stream: Box<dyn Stream>, store: &StoreDir) -> Result<Self> {
        let mut client = Self::new(stream, store);
        client.greet_blindly()?;
        Ok(client)
    }

    /// Connects to the daemon anew where there is a peer that does so, as [`Client::later_handshake`] greets it; `false`:
    /// there is none. What was protected is not any more.
    pub fn restart(&mut self) -> Result<bool> {
        self.check_idle()?;
        let Some(restarted) = self.stream.get_mut().restart() else { return Ok(false) };
        restarted.map_err(lost)?;
        self.later.clear();
        self.owed.clear();
        self.greet_blindly()?;
        Ok(true)
    }

    fn greet_blindly(&mut self) -> Result<()> {
        self.greeting = true;
        self.send(&[CLIENT_MAGIC.to_le_bytes().to_vec(), hello(), quiet()].concat()).context(|| "greeting the daemon")
    }

    /// Reads the daemon's side of the greeting.
    fn finish_greeting(&mut self) -> Result<()> {
        self.read_version()?;
        self.wait_quietly()?;
        self.wait_quietly() // for the answer to what travelled with the greeting
    }

    fn new(stream: Box<dyn Stream>, store: &StoreDir) -> Self {
        Client {
            stream: BufReader::with_capacity(READ_AHEAD, stream),
            store: store.clone(),
            version: 0,
            greeting: false,
            unfinished: None,
            later: Vec::new(),
            owed: Vec::new(),
            checks: false,
            adding: 0,
            left: 0,
            padded: 0,
            ignored: 0,
        }
    }

    /// Greets the daemon. The answer to `request`, which travels with the greeting, is still to be read.
    fn greet(&mut self, request: &[u8]) -> Result<()> {
        // The version could be sent at once, too; but a daemon reads it only after its own, and any server that is
        // not guix-daemon is better told apart by its first word.
        self.send(&CLIENT_MAGIC.to_le_bytes())?;
        self.read_version()?;
        self.send(&[hello(), request.to_vec()].concat())?;
        self.wait_quietly()
    }

    fn read_version(&mut self) -> Result<()> {
        let magic = read_integer(&mut self.stream)?;
        if magic != SERVER_MAGIC {
            return Err(broken(format!("what answers is not guix-daemon (it says {magic:#x})")));
        }
        self.version = read_integer(&mut self.stream)?;
        if self.version & 0xff00 != CLIENT_VERSION & 0xff00 || self.version & 0xff < OLDEST_MINOR {
            return Err(broken(format!("guix-daemon speaks version {:#x} of its protocol, not 1.x", self.version))
                .hint("use a guix-daemon of version 1.2.0 or later there"));
        }
        Ok(())
    }

    /// The version of the protocol that the daemon speaks, such as 0x164.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Those of `paths` that are valid in the daemon's store. One round trip, however many.
    pub fn valid_paths(&mut self, paths: &[StorePath]) -> Result<HashSet<StorePath>> {
        let mut arguments = Vec::new();
        put_paths(&mut arguments, paths);
        self.begin(Operation::QueryValidPaths, &arguments)?;
        self.wait_quietly()?;
        let valid = self.read_paths()?;
        self.finish();
        Ok(valid.into_iter().collect())
    }

    /// What the daemon knows about `path`, which must be valid.
    pub fn path_info(&mut self, path: &StorePath) -> Result<PathInfo> {
        let mut arguments = Vec::new();
        put_string(&mut arguments, path.as_str());
        self.begin(Operation::QueryPathInfo, &arguments)?;
        self.wait_quietly()?;
        let deriver = read_text(&mut self.stream, "a deriver")?;
        read_text(&mut self.stream, "a hash")?;
        let references = self.read_paths()?;
        read_integer(&mut self.stream)?; // time of registration
        let nar_size = read_integer(&mut self.stream)?;
        self.finish();
        let deriver = if deriver.is_empty() { None } else { Some(self.parse_path(&deriver)?) };
        Ok(PathInfo { deriver, references, nar_size })
    }

    /// Adds a text file that refers to nothing, as [`Client::begin_adding`] does, and returns its name.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        let contents = &Contents::Text(text.into());
        let begun = self.begin_adding(&[Addition { name, contents, references: &[] }])?;
        let mut names = begun.map_or(Ok(Vec::new()), |additions| self.finish_adding(additions))?;
        names.pop().ok_or_else(|| broken("the daemon named nothing"))
    }

    /// Begins to add `items`, in this order; `None`: there are none. They are protected from the garbage collector for as
    /// long as the connection is open. More may be begun before this is finished, which the daemon then has at hand, and
    /// must be finished in the same order.
    pub fn begin_adding(&mut self, items: &[Addition]) -> Result<Option<Additions>> {
        let Some(first) = items.first() else { return Ok(None) };
        let operation = first.operation();
        let begun = std::mem::take(&mut self.adding); // stays so if this breaks off
        if begun == 0 {
            self.start(operation)?;
            if self.stream.get_ref().has_peer() {
                self.dispatch(&[])?;
            }
        }
        let requests: Vec<Vec<u8>> = items.iter().map(Addition::request).collect();
        let submitted = self.stream.get_mut().submit(&requests);
        let one_by_one = submitted.is_none();
        submitted.unwrap_or(Ok(())).map_err(lost)?;
        self.adding = begun + 1;
        Ok(Some(Additions { operation, count: items.len(), requests: one_by_one.then_some(requests) }))
    }

    /// Finishes what was begun, and returns the items' names. The first one that fails is the error; those after it are
    /// tried all the same.
    pub fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>> {
        let begun = std::mem::take(&mut self.adding); // as above
        if begun == 0 {
            self.start(additions.operation)?; // fails: what was begun before it broke off
        }
        let others = begun.saturating_sub(1);
        let mut answers = Vec::with_capacity(additions.count);
        for index in 0..additions.count {
            if let Some(requests) = &additions.requests {
                self.dispatch(&requests[index])?;
            }
            let answer = self.wait_quietly().and_then(|()| read_text(&mut self.stream, "a store file name"));
            match answer {
                Err(error) if self.unfinished.is_some() => return Err(error),
                answer => answers.push(answer),
            }
            self.unfinished = Some(additions.operation);
        }
        self.adding = others;
        if others == 0 {
            self.finish();
        }
        answers.into_iter().map(|answer| answer.and_then(|name| self.parse_path(&name))).collect()
    }

    /// Adds the item called `name` that is made of the nar which `nar` reads, and returns its name. The daemon holds all
    /// of it in memory. Protected as what [`Client::begin_adding`] adds.
    pub fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<StorePath> {
        self.start(Operation::AddToStore)?;
        self.dispatch(&[])?;
        self.send(&addition_of_nar(name))?;
        let mut buffer = vec![0; WRITE_SIZE];
        loop {
            let read = read_fully(nar, &mut buffer);
            let length = read.map_err(|error| Error::io(ErrorKind::Store, format!("reading '{name}'"), error))?;
            self.send(&buffer[..length])?;
            if length < buffer.len() {
                break;
            }
        }
        self.wait_quietly()?;
        let name = read_text(&mut self.stream, "a store file name")?;
        self.finish();
        self.parse_path(&name)
    }

    /// Protects `path`, which need not exist yet, from the garbage collector for as long as the connection is open.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.protect(std::slice::from_ref(path))?;
        self.settle()
    }

    /// As [`Client::add_temp_root`] for all of `paths`, but travels with the next request, and fails with it, as far as
    /// what the daemon reads at once allows: of each 32,000 bytes, it is waited for the answer.
    pub fn protect(&mut self, paths: &[StorePath]) -> Result<()> {
        for path in paths {
            let mut arguments = Vec::new();
            put_string(&mut arguments, path.as_str());
            self.postpone(Operation::AddTempRoot, &arguments)?;
        }
        Ok(())
    }

    /// Sets how this connection's builds are done, and whether the daemon may hand them on to other machines. One that
    /// may starts its build hook for every build, which takes some 100 ms even if there are no such machines.
    pub fn set_options(&mut self, options: &BuildOptions, offload: bool) -> Result<()> {
        self.set_options_later(options, offload)?;
        self.settle()
    }

    /// As [`Client::set_options`], but travels with the next request, and fails with it.
    pub fn set_options_later(&mut self, options: &BuildOptions, offload: bool) -> Result<()> {
        self.checks = options.check;
        self.postpone(Operation::SetOptions, &options_arguments(options, offload))
    }

    /// Sends what was to travel with the next request, and waits for the answers.
    pub fn settle(&mut self) -> Result<()> {
        let Some(first) = self.owed.first() else { return Ok(()) };
        self.start(*first)?;
        self.dispatch(&[])?;
        self.finish();
        Ok(())
    }

    /// Begins to build `derivation`: the answers to what travelled with that are there, and [`Client::finish_build`] is
    /// to follow.
    pub fn begin_build(&mut self, derivation: &StorePath) -> Result<()> {
        let mut arguments = Vec::new();
        put_paths(&mut arguments, std::slice::from_ref(derivation));
        put_integer(&mut arguments, if self.checks { CHECK } else { NORMAL });
        self.begin(Operation::BuildPaths, &arguments)
    }

    /// Waits for the build that was begun, handing its log to `log` as it comes. An error of `log` breaks the
    /// connection.
    pub fn finish_build(&mut self, log: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.wait(log)?;
        self.acknowledge()
    }

    /// Begins to export the valid item `path`, signed: [`Client::read_export`] then reads it.
    pub fn export(&mut self, path: &StorePath) -> Result<()> {
        let mut arguments = Vec::new();
        put_string(&mut arguments, path.as_str());
        put_integer(&mut arguments, 1); // sign
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
                Frame::Gives(0) => {}
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
    /// Returns the items' names.
    pub fn import(&mut self, archive: &mut dyn Read) -> Result<Vec<StorePath>> {
        let request = self.prepare(Operation::ImportPaths, &[])?;
        self.dispatch(&[])?;
        match self.stream.get_mut().feed(&request, archive) {
            Some(result) => result.map_err(lost)?,
            None => self.send(&request)?,
        }
        let mut buffer = Vec::new();
        loop {
            match read_frame(&mut self.stream)? {
                Frame::Log(text) => self.ignore(&text)?,
                Frame::Wants(most) => {
                    buffer.resize(most, 0);
                    let length = read_fully(archive, &mut buffer).map_err(lost)?;
                    let mut answer = Vec::with_capacity(length + 16);
                    put_string(&mut answer, &buffer[..length]);
                    self.send(&answer)?;
                }
                Frame::Last => break,
                Frame::Gives(_) => return Err(broken("the daemon sent data during an import")),
                Frame::Failed { message, status } => return Err(self.refused(message, status)),
            }
        }
        let imported = self.read_paths()?;
        self.finish();
        Ok(imported)
    }

    /// Is it ready for a request? Not after one that broke off.
    pub fn is_idle(&self) -> bool {
        self.unfinished.is_none()
    }

    /// Sends a request, with those that were to travel with it, and waits for the answers to these.
    fn begin(&mut self, operation: Operation, arguments: &[u8]) -> Result<()> {
        let request = self.prepare(operation, arguments)?;
        self.dispatch(&request)
    }

    /// Has a request travel with the next one.
    fn postpone(&mut self, operation: Operation, arguments: &[u8]) -> Result<()> {
        self.check_idle()?;
        let request = request(operation, arguments);
        if self.later.len() + request.len() > FLIGHT {
            self.settle()?;
        }
        self.later.extend(request);
        self.owed.push(operation);
        Ok(())
    }

    /// Sends the bytes of a request that is under way, with those that were to travel with it, and waits for the answers
    /// to these.
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

    /// Reads the answers to what travelled with a request. One that fails breaks the connection.
    fn collect(&mut self) -> Result<()> {
        let request = self.unfinished;
        for operation in std::mem::take(&mut self.owed) {
            self.unfinished = Some(operation);
            let answer = self.wait_quietly();
            self.unfinished = Some(operation);
            answer?;
            if matches!(operation, Operation::AddTempRoot) {
                read_integer(&mut self.stream)?;
            }
        }
        self.unfinished = request;
        Ok(())
    }

    /// The bytes of a request, which is under way from now on.
    fn prepare(&mut self, operation: Operation, arguments: &[u8]) -> Result<Vec<u8>> {
        self.start(operation)?;
        Ok(request(operation, arguments))
    }

    /// Notes that a request is under way from now on.
    fn start(&mut self, operation: Operation) -> Result<()> {
        self.check_idle()?;
        (self.unfinished, self.ignored) = (Some(operation), 0);
        if std::mem::take(&mut self.greeting) {
            self.finish_greeting().context(|| "greeting the daemon")?;
            self.unfinished = Some(operation);
        }
        Ok(())
    }

    fn check_idle(&self) -> Result<()> {
        let Some(unfinished) = self.unfinished else { return Ok(()) };
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("the connection to the daemon is unusable since its {unfinished:?} request broke off"),
        ))
    }

    fn finish(&mut self) {
        self.unfinished = None;
    }

    /// Reads the 1 that some requests end with.
    fn acknowledge(&mut self) -> Result<()> {
        read_integer(&mut self.stream)?;
        self.finish();
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush()).map_err(lost)
    }

    /// Reads frames up to the last one, of a request that exchanges no data.
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

    /// As [`Client::wait`], for a request that has no log to speak of.
    fn wait_quietly(&mut self) -> Result<()> {
        let mut ignored = std::mem::take(&mut self.ignored);
        let result = self.wait(&mut |text| count_ignored(&mut ignored, text));
        self.ignored = ignored;
        result
    }

    fn ignore(&mut self, text: &[u8]) -> Result<()> {
        count_ignored(&mut self.ignored, text)
    }

    /// The daemon refused the request: it is ready for the next one.
    fn refused(&mut self, message: String, status: Option<u64>) -> Error {
        if status.is_none() && self.unfinished.is_some() {
            return lost(io::ErrorKind::UnexpectedEof.into());
        }
        let building = matches!(self.unfinished.take(), Some(Operation::BuildPaths));
        Error::new(if building { kind_of_failure(status) } else { ErrorKind::Daemon }, message)
    }

    fn read_paths(&mut self) -> Result<Vec<StorePath>> {
        let texts = read_texts(&mut self.stream, "a store file name")?;
        texts.iter().map(|text| self.parse_path(text)).collect()
    }

    /// What is no name of a store item is the daemon's fault.
    fn parse_path(&self, text: &str) -> Result<StorePath> {
        self.store.parse(text).map_err(|error| broken(error.to_string()))
    }
}

/// What a client says once it knows the daemon's version.
fn hello() -> Vec<u8> {
    let mut hello = Vec::new();
    put_integer(&mut hello, CLIENT_VERSION);
    put_integer(&mut hello, 0); // no processor affinity
    put_integer(&mut hello, 0); // no space reserved for the garbage collector
    hello
}

/// The bytes of a request.
fn request(operation: Operation, arguments: &[u8]) -> Vec<u8> {
    let mut request = Vec::with_capacity(8 + arguments.len());
    put_integer(&mut request, operation as u64);
    request.extend_from_slice(arguments);
    request
}

/// The request that has a daemon log errors only.
fn quiet() -> Vec<u8> {
    let options = BuildOptions::default();
    request(Operation::SetOptions, &options_arguments(&options, false))
}

fn options_arguments(options: &BuildOptions, offload: bool) -> Vec<u8> {
    let mut arguments = Vec::new();
    for value in [
        u64::from(options.keep_failed),
        0, // keep-going
        0, // fallback
        u64::from(options.verbosity),
        // Nobody that a build is handed on to would be told how often to do it.
        u64::from(offload && !options.repeats()),
        0, // verbosity of builds
        0, // type of log
        u64::from(options.print_build_trace),
        u64::from(!options.repeats()), // use substitutes, which nobody built here
    ] {
        put_integer(&mut arguments, value);
    }
    let mut settings = vec![("build-max-silent-time", options.max_silent_time), ("build-timeout", options.timeout)];
    settings.extend(options.cores.map(|cores| ("build-cores", cores.into())));
    settings.extend(options.rounds.map(|rounds| ("build-repeat", u64::from(rounds).saturating_sub(1))));
    put_integer(&mut arguments, settings.len() as u64);
    for (name, value) in settings {
        put_string(&mut arguments, name);
        put_string(&mut arguments, value.to_string());
    }
    arguments
}

/// What the failure of a build means. The daemon gives 100 only to what it would cache as failed. What else may be a build's fault, the message does not tell.
fn kind_of_failure(status: Option<u64>) -> ErrorKind {
    match status {
        Some(101) => ErrorKind::TimedOut,
        Some(100) => ErrorKind::BuildFailed,
        _ => ErrorKind::Daemon,
    }
}

/// Adds a piece of log to what was ignored. A daemon must not talk for ever.
fn count_ignored(ignored: &mut usize, text: &[u8]) -> Result<()> {
    *ignored += 8 + text.len();
    if *ignored > MAX_IGNORED {
        return Err(broken(format!("the daemon sent more than {} KiB of log that is of no build", MAX_IGNORED >> 10)));
    }
    Ok(())
}

/// The data of an export as a stream. Its errors carry an [`Error`].
pub struct Export<'a>(pub &'a mut Client);

impl Read for Export<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read_export(buffer)?)
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
