// SPDX-License-Identifier: GPL-3.0-or-later
//! A build machine that we are connected to: one SSH session, one connection to the daemon there.
//!
//! The daemon's socket is forwarded by the SSH server, so that no process of ours runs there, unless the server
//! refuses, or an import is large: then a [`helper`] stands in between.

mod blame;
mod build;
mod early;
mod helper;
mod limits;
mod link;
mod pace;
mod probe;
mod rounds;
mod survey;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::HashSet;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::archive::Acl;
use crate::daemon::{Addition, Additions, Export, PathInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::BuildMachine;
use crate::observer::Aside;
use crate::schedule::Probe;
use crate::ssh::{Channel, STEPS, Session, StallListener};
use crate::store::{StoreDir, StorePath};
use link::Link;
use pace::{Pace, Watch};

pub use limits::Limits;
pub use probe::Answer;
pub use survey::Survey;
pub use trust::explain_untrusted;

/// How long a daemon may take for a question in all, even if a byte moves now and then.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What the helper costs: starting Guile, and another connection to the daemon.
const HELPER_COST: Duration = Duration::from_millis(150);

/// How much, in bytes, has to be sent to make compressing worth the while.
const MIN_COMPRESSED: u64 = 16 << 20;

/// The daemon there is given an item whole, to hold in memory, if so many times its size is available: it holds it in a
/// string that grows by doubling, and other builds may send such items at the same time.
const MEMORY_SHARE: u64 = 16;

/// What the daemon asks for at once during an import, in bytes. Without the helper, that costs a round trip.
const IMPORT_STEP: u64 = 32 << 10;

/// A connected build machine. Used by one thread at a time.
pub struct Remote {
    machine: BuildMachine,
    store: StoreDir,
    session: Session,
    /// The socket of the daemon there.
    socket: String,
    link: Link,
    /// Since when there has been a connection to the daemon that protects what is asked for and added.
    linked: Instant,
    /// The connection that `link` has replaced, if any: what was added over it is protected while it lives.
    former: Option<Link>,
    /// Whether its SSH server forwards sockets.
    forwards: bool,
    /// Whether its daemon may hand builds on to other machines.
    offloads: bool,
    probe: Probe,
    probed: Instant,
    /// Which daemon it is: see [`probe::identity`].
    daemon: Option<String>,
    /// How many processes its kernel had killed for want of memory then, if it says so.
    kills: Option<u64>,
    /// The rate of the link, in bytes a second, if that is very slow.
    slow_link: Option<f64>,
    limits: Limits,
    /// The list of authorized keys by which something that the machine signed was verified.
    vouched: Option<Arc<Acl>>,
    /// Whether the daemon there has imported something that this host has signed.
    imported: bool,
}

impl Remote {
    /// Starts to connect to `machine`; returns at once.
    pub fn start(machine: &BuildMachine) -> Result<Session> {
        Session::start(machine, Limits::DEFAULT.step)
    }

    /// As [`Remote::start`]; the address that is `remembered`, see [`Session::address`], is tried first.
    pub fn start_at(machine: &BuildMachine, remembered: Option<IpAddr>) -> Result<Session> {
        Session::start_at(machine, remembered, Limits::DEFAULT.step)
    }

    /// Waits for `session`, which was started for `machine`, connects to the daemon there, whose store must be in the
    /// same directory as ours, and asks how the machine is doing.
    pub fn establish(session: Session, machine: &BuildMachine, store: &StoreDir) -> Result<Remote> {
        Self::establish_within(Limits::DEFAULT, session, machine, store)
    }

    /// As [`Remote::establish`]; it is waited for as long as `limits` say, now and later.
    pub fn establish_within(
        limits: Limits,
        session: Session,
        machine: &BuildMachine,
        store: &StoreDir,
    ) -> Result<Remote> {
        let established = || -> Result<_> {
            // All of this is sent as soon as the session is up; the answers are waited for afterwards.
            let forwarded = session.open_socket(&machine.daemon_socket);
            let mut probe = session.exec(probe::COMMAND);
            if !session.wait_ready(limits.step * (STEPS + 1))? {
                let (name, port, seconds) = (&machine.name, machine.port, (limits.step * (STEPS + 1)).as_secs());
                let message = format!("cannot connect to '{name}', port {port}: no SSH session after {seconds} s");
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .hint(format!("check that '{name}' is up and that its SSH server listens on port {port}")));
            }
            for channel in [&forwarded, &probe] {
                channel.set_deadline(Some(Instant::now() + limits.step));
            }
            probe::ask(&mut probe, machine, store)?;
            let mut socket = machine.daemon_socket.clone();
            let (mut link, answer) = if forwarded.wait_open().is_err() && session.failure().is_none() {
                let answer = probe::answer(&mut probe, machine, store)?;
                probe.exit_status()?;
                (Link::after_refusal(&session, &socket, store, limits.step)?, answer)
            } else {
                (
                    Link::open(&session, forwarded, &socket, store, limits.step)?,
                    probe::answer(&mut probe, machine, store)?,
                )
            };
            // The helper looks at the variable by itself.
            if let Some(name) = answer.daemon_socket.filter(|name| *name != socket && !link.relayed) {
                socket = link::socket_file(&name)?.to_string();
                link = Link::open(&session, session.open_socket(&socket), &socket, store, limits.step)?;
            }
            Ok((socket, link, answer.offloads, answer.probe, answer.kills, answer.daemon))
        };
        let (socket, link, offloads, probe, kills, daemon) =
            established().map_err(|error| error.on_machine(&machine.name))?;
        Ok(Remote {
            machine: machine.clone(),
            store: store.clone(),
            session,
            socket,
            forwards: !link.relayed,
            link,
            linked: Instant::now(),
            former: None,
            offloads,
            probe,
            probed: Instant::now(),
            kills,
            daemon,
            slow_link: None,
            limits,
            vouched: None,
            imported: false,
        })
    }

    /// Is its daemon the one that listens at `socket` on this host?
    pub fn is_daemon_at(&self, socket: &Path) -> bool {
        self.daemon.is_some() && self.daemon == probe::identity(socket)
    }

    /// The machine.
    pub fn machine(&self) -> &BuildMachine {
        &self.machine
    }

    /// The session, with which to cut everything off from another thread.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Protects `paths`, valid there or not, from the garbage collector there for as long as the connection to the daemon
    /// lives. They travel with what is asked next; many are sent in several flights.
    pub fn protect(&mut self, paths: &[StorePath]) -> Result<()> {
        self.be_patient();
        self.link.client.protect(paths).map_err(|e| self.name(e))
    }

    /// Those of `paths` that the machine lacks, in one round trip.
    pub fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>> {
        self.be_patient();
        let begun = Instant::now();
        let valid: HashSet<StorePath> = self.link.client.valid_paths(paths).map_err(|e| self.name(e))?;
        // A better estimate than the greeting's, for which the daemon starts a process.
        self.link.round_trip = self.link.round_trip.min(begun.elapsed());
        Ok(paths.iter().filter(|path| !valid.contains(path)).cloned().collect())
    }

    /// Gets ready to receive `items` store items, of some `bytes` bytes in all.
    ///
    /// Where that would take many round trips, the helper comes in between, with a connection to the daemon that is used
    /// instead of the one there was.
    pub fn expect(&mut self, items: usize, bytes: u64) {
        let steps = u32::try_from(items as u64 + bytes / IMPORT_STEP).unwrap_or(u32::MAX);
        if !self.link.relayed && self.link.round_trip.saturating_mul(steps) > HELPER_COST {
            // A machine where no Guile can be started still receives, if slowly.
            let level = self.machine.compresses_at().filter(|_| bytes >= MIN_COMPRESSED);
            let pace = match (level, self.slow_link) {
                (Some(level), Some(rate)) => Pace::for_slow_link(level, rate),
                _ => Pace::new(level),
            };
            let link = Link::through_helper(&self.session, &self.socket, &self.store, self.limits.step, pace);
            if let Ok(link) = link {
                self.former = Some(std::mem::replace(&mut self.link, link));
            }
        }
    }

    /// Tells what is known of the link from before: its rate, in bytes a second, if that is very slow.
    pub fn set_slow_link(&mut self, rate: Option<f64>) {
        self.slow_link = rate;
    }

    /// The rate of the link, in bytes a second, if it is known to be very slow.
    pub fn slow_link(&self) -> Option<f64> {
        self.slow_link
    }

    /// Is an item of `size` bytes better handed to the daemon there whole than imported? Only if that can hold it in
    /// memory, and if it would not be compressed otherwise.
    pub fn takes_whole(&self, size: u64) -> bool {
        let slow = self.slow_link.is_some() && self.machine.compresses_at().is_some();
        let compressed = size >= MIN_COMPRESSED && (slow || self.link.compresses);
        !compressed && size <= self.probe.memory / MEMORY_SHARE
    }

    /// Adds the item called `name`, whose name follows from its nar, which `nar` reads, and returns its name there. The
    /// daemon holds it in memory: see [`Remote::takes_whole`]. Protected as what [`Remote::begin_adding`] adds.
    ///
    /// `None`: the link is so slow that it is better imported, which compresses it. The helper, with another connection
    /// to the daemon, is in between from then on; what was added before is not protected any more.
    pub fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<Option<StorePath>> {
        let Remote { machine, store, session, socket, link, slow_link, limits, .. } = self;
        let mut level = machine.compresses_at().filter(|_| !link.relayed);
        let (mut watch, mut replacement) = (Watch::default(), None);
        let mut watched = Watched {
            inner: Patient::new(nar, &link.channel, *limits),
            go_on: |bytes| {
                if let Some(rate) = watch.note(bytes, Instant::now())
                    && let Some(level) = level.take()
                {
                    *slow_link = Some(rate);
                    let pace = Pace::for_slow_link(level, rate);
                    let link = Link::through_helper(session, socket, store, limits.step, pace);
                    replacement = link.ok().filter(|link| link.compresses);
                }
                replacement.is_none()
            },
        };
        let added = link.client.add_nar(name, &mut watched);
        match replacement {
            Some(link) => self.link = link,
            None if added.as_ref().is_err_and(|error| error.kind() == ErrorKind::Store) => return added.map(Some),
            None => return added.map(Some).map_err(|e| self.name(e)),
        }
        Ok(None)
    }

    /// Begins to add `items`, the names of which follow from what they are made of: see [`Client::begin_adding`]. They
    /// are protected from the garbage collector there while the connection lives.
    ///
    /// [`Client::begin_adding`]: crate::daemon::Client::begin_adding
    pub fn begin_adding(&mut self, items: &[Addition]) -> Result<Option<Additions>> {
        self.wait_at_most(self.limits.idle);
        self.link.client.begin_adding(items).map_err(|e| self.name(e))
    }

    /// Finishes what was begun, and returns the items' names.
    pub fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>> {
        self.wait_at_most(self.limits.import);
        self.link.client.finish_adding(additions).map_err(|e| self.name(e))
    }

    /// Adds a text file to the store there, protected as what [`Remote::begin_adding`] adds.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        self.be_patient();
        self.link.client.add_text(name, text).map_err(|e| self.name(e))
    }

    /// Imports the bundle that `archive` reads.
    pub fn import(&mut self, archive: &mut dyn Read) -> Result<()> {
        let mut archive = Patient::new(archive, &self.link.channel, self.limits);
        self.link.client.import(&mut archive).map_err(|e| self.name(e))?;
        self.imported = true;
        Ok(())
    }

    /// Has the daemon there imported something that this host has signed, over this connection?
    pub fn has_imported(&self) -> bool {
        self.imported
    }

    /// Protects `path`, which need not exist yet, from the garbage collector there while the connection lives.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.be_patient();
        self.link.client.add_temp_root(path).map_err(|e| self.name(e))
    }

    /// What the daemon there knows about the valid item `path`.
    pub fn path_info(&mut self, path: &StorePath) -> Result<PathInfo> {
        self.be_patient();
        self.link.client.path_info(path).map_err(|e| self.name(e))
    }

    /// Exports the valid item `path`, signed: the stream of one item of a bundle, which must be read to its end.
    pub fn export(&mut self, path: &StorePath) -> Result<impl Read + '_> {
        self.be_patient();
        self.link.client.export(path).map_err(|e| self.name(e))?;
        self.wait_at_most(self.limits.idle);
        let (machine, store) = (&self.machine.name, &self.store);
        Ok(Explained { inner: Export(&mut self.link.client), machine, store })
    }

    /// Has `aside` say, instead of another one, when the machine answers but does not move for half a minute.
    pub fn tell_of_stalls(&self, aside: Option<Aside>) {
        let name = self.machine.name.clone();
        self.session.tell_of_stalls(aside.map(|aside| -> StallListener {
            Arc::new(move |time| {
                let seconds = time.as_secs();
                aside(&format!("guix offload: '{name}' answers, but no byte has moved for {seconds} s; waiting"));
            })
        }));
    }

    /// What the machine last said of itself.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Asks again how the machine is doing, unless its last answer is younger than `age`.
    pub fn probe_again(&mut self, age: Duration) -> Result<&Probe> {
        if self.probed.elapsed() >= age {
            let mut channel = self.session.exec(probe::COMMAND);
            channel.set_deadline(Some(Instant::now() + self.limits.step));
            probe::ask(&mut channel, &self.machine, &self.store).map_err(|e| self.name(e))?;
            let answer = probe::answer(&mut channel, &self.machine, &self.store).map_err(|e| self.name(e))?;
            (self.probe, self.kills) = (answer.probe, answer.kills);
            self.probed = Instant::now();
        }
        Ok(&self.probe)
    }

    /// Asks what kind of machine it is: more than a build needs to know.
    pub fn survey(&self) -> Result<Survey> {
        let mut channel = self.session.exec(probe::COMMAND);
        channel.set_deadline(Some(Instant::now() + self.limits.step));
        survey::survey(&mut channel).map_err(|e| self.name(e))
    }

    /// Does the daemon there answer `within` that time, or the time of a few round trips? One round trip.
    pub fn answers(&mut self, within: Duration) -> bool {
        let within = within.max(self.link.round_trip * 4);
        self.wait_at_most(within);
        self.link.channel.set_deadline(Some(Instant::now() + within));
        self.link.client.valid_paths(&[]).is_ok()
    }

    /// Whether the helper is between us and the daemon there.
    pub fn is_relayed(&self) -> bool {
        self.link.relayed
    }

    /// Lets the collector there have what builds so far needed or made: the connection to the daemon, which protected it,
    /// is replaced by a new one. Waits for nothing; a new one that cannot be had fails when it is used.
    pub fn let_go(&mut self) -> Result<()> {
        self.be_patient();
        (self.former, self.linked) = (None, Instant::now());
        if self.forwards {
            let channel = self.session.open_socket(&self.socket);
            self.link = Link::open_later(channel, &self.store, self.link.round_trip)?;
        } else if !self.link.client.restart()? {
            return Err(Error::new(ErrorKind::Internal, "nobody connects to the daemon anew"));
        }
        Ok(())
    }

    /// For how long what was asked for and added has been protected, at most: see [`Remote::let_go`].
    pub fn protects_for(&self) -> Duration {
        self.linked.elapsed()
    }

    /// Can it be used for another build, as far as is known?
    pub fn is_usable(&self) -> bool {
        self.session.failure().is_none() && self.link.client.is_idle()
    }

    /// Was it given up because no byte moved, although its SSH server may answer?
    pub fn has_stalled(&self) -> bool {
        self.link.channel.has_stalled()
    }

    /// Gets ready to wait for an answer.
    fn be_patient(&self) {
        self.wait_at_most(self.limits.answer);
        self.link.channel.set_deadline(Some(Instant::now() + PATIENCE));
    }

    /// Gets ready to wait for bytes: for each of them at most so long.
    fn wait_at_most(&self, limit: Duration) {
        self.link.channel.set_deadline(None);
        self.link.channel.set_stall_limit(Some(limit));
    }

    fn name(&self, error: Error) -> Error {
        blame::explain(error, &self.machine.name, &self.store).on_machine(&self.machine.name)
    }
}

/// A stream of a machine, the errors of which say what is wrong with its store.
struct Explained<'a, R: Read> {
    inner: R,
    machine: &'a str,
    store: &'a StoreDir,
}

impl<R: Read> Read for Explained<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => blame::explain(error, self.machine, self.store).into(),
            Err(error) => error,
        })
    }
}

/// A stream that is being sent: for each byte of it the machine has the time of [`Limits::idle`], for the answer, once
/// all of them are on their way, more.
struct Patient<R: Read> {
    inner: R,
    channel: Channel,
    limits: Limits,
    bytes: u64,
}

impl<R: Read> Patient<R> {
    fn new(inner: R, channel: &Channel, limits: Limits) -> Self {
        channel.set_deadline(None);
        channel.set_stall_limit(Some(limits.idle));
        Patient { inner, channel: channel.clone(), limits, bytes: 0 }
    }
}

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes += length as u64;
        if length == 0 && !buffer.is_empty() {
            self.channel.set_answer_limit(Some(self.limits.of_import(self.bytes)));
        }
        Ok(length)
    }
}

/// A stream that breaks off once `go_on`, which is told how much was read, says so.
struct Watched<R: Read, F: FnMut(usize) -> bool> {
    inner: R,
    go_on: F,
}

impl<R: Read, F: FnMut(usize) -> bool> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if (self.go_on)(length) { Ok(length) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }
}
