// SPDX-License-Identifier: GPL-3.0-or-later
//! A build machine that we are connected to: one SSH session, one connection to the daemon there.
//!
//! The daemon's socket is forwarded by the SSH server, so that no process of ours runs there, unless the server
//! refuses, or an import is large: then a [`relay`] stands in between.

mod blame;
mod build;
mod compression;
mod connection;
mod daemon_link;
#[cfg(test)]
pub(crate) mod double;
mod held;
mod import_reply;
mod limits;
mod probe;
mod relay;
mod rounds;
mod route;
mod shell;
mod streams;
mod survey;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::daemon::{Addition, Additions, Export, PathInfo};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::BuildMachine;
use crate::machine::suitability::Probe;
use crate::report::{Aside, lines};
use crate::ssh::{STEPS, Session, StallListener};
use daemon_link::DaemonLink;
use streams::{ErrorExplainer, TimedReader};
use trust::Proof;

pub use connection::{Connecting, Connection, Connector, Line, Ssh};
pub use held::Held;
pub use limits::Limits;
pub use probe::Answer;
pub use rounds::build_all_rounds;
pub use survey::Survey;
pub use trust::{TEXT as TRUST_TEXT, explain_untrusted};

/// How long a daemon may take for a question in all, even if a byte moves now and then.
const RPC_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A connected build machine. Used by one thread at a time.
pub struct Remote {
    machine: BuildMachine,
    store: StoreDir,
    session: Session,
    /// The socket of the daemon there.
    socket: String,
    link: DaemonLink,
    /// Since when there has been a connection to the daemon that protects what is asked for and added.
    linked: Instant,
    /// The connection that `link` has replaced, if any: what was added over it is protected while it lives.
    former: Option<DaemonLink>,
    /// What it has, protected by `link` or `former`.
    held: Held,
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
    /// What the machine has exported, to be seen whether it is trusted; `None`: it was not asked for that.
    proof: Option<Result<Proof>>,
    /// Whether the daemon there has imported something that this host has signed.
    imported: bool,
}

impl Remote {
    /// Starts to connect to `machine`; returns at once.
    pub fn start(machine: &BuildMachine) -> Result<Session> {
        Session::start(machine, Limits::DEFAULT.step)
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
            let mut probe = probe::ask(&session, machine, store);
            if !session.wait_ready(limits.step * (STEPS + 1))? {
                let (name, port, seconds) = (&machine.name, machine.port, (limits.step * (STEPS + 1)).as_secs());
                let message = format!("cannot connect to '{name}', port {port}: no SSH session after {seconds} s");
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .hint(format!("check that '{name}' is up and that its SSH server listens on port {port}")));
            }
            forwarded.set_deadline(Some(Instant::now() + limits.step));
            let mut socket = machine.daemon_socket.clone();
            let (mut link, answer) = if forwarded.wait_open().is_err() && session.failure().is_none() {
                let answer = probe::answer(&mut probe, machine, store, limits.step)?;
                probe.exit_status()?;
                (DaemonLink::after_refusal(&session, &socket, store, limits.step)?, answer)
            } else {
                (
                    DaemonLink::open(&session, forwarded, &socket, store, limits.step)?,
                    probe::answer(&mut probe, machine, store, limits.step)?,
                )
            };
            // The relay looks at the variable by itself.
            if let Some(name) = answer.daemon_socket.filter(|name| *name != socket && !link.relayed) {
                socket = daemon_link::socket_file(&name)?.to_string();
                link = DaemonLink::open(&session, session.open_socket(&socket), &socket, store, limits.step)?;
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
            held: Held::default(),
            offloads,
            probe,
            probed: Instant::now(),
            kills,
            daemon,
            slow_link: None,
            limits,
            proof: None,
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

    /// Protects `paths`, valid there or not, from the garbage collector there for as long as the connection to the
    /// daemon lives. They travel with what is asked next; many are sent in several flights.
    pub fn add_temp_roots_later(&mut self, paths: &[StorePath]) -> Result<()> {
        self.be_patient();
        self.link.client.add_temp_roots_later(paths).map_err(|e| self.on_this_machine(e))
    }

    /// Returns those of `paths` that the machine lacks. One round trip. The first time, the machine shows besides what
    /// [`Remote::require_trust`] judges.
    pub fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>> {
        self.be_patient();
        self.ask_for_proof().and_then(|()| self.link.client.catch_up()).map_err(|e| self.on_this_machine(e))?;
        let begun = Instant::now();
        let valid: HashSet<StorePath> = self.link.client.valid_paths(paths).map_err(|e| self.on_this_machine(e))?;
        self.note_proof();
        // To greet, the daemon starts a process; so this is closer to one round trip.
        self.link.round_trip = self.link.round_trip.min(begun.elapsed());
        Ok(paths.iter().filter(|path| !valid.contains(path)).cloned().collect())
    }

    /// Has `items` added along with what is asked next, if there is room for them; `false`: there is none. They are to
    /// get these `names`. What follows is a build, which fails for the reason that one of them is refused for, or
    /// [`Remote::settle`].
    pub fn add_later(&mut self, items: &[Addition], names: &[StorePath]) -> Result<bool> {
        self.be_patient();
        self.link.client.add_later(items, names).map_err(|e| self.on_this_machine(e))
    }

    /// Sends what was to travel with the next question, and waits for the answers.
    pub fn settle(&mut self) -> Result<()> {
        self.be_patient();
        let settled = self.link.client.settle();
        let settled = settled.and_then(|()| self.link.client.take_refusal().map_or(Ok(()), Err));
        settled.map_err(|e| self.on_this_machine(e))
    }

    /// Begins to add `items`, the names of which follow from what they are made of: see [`Client::begin_adding`]. They
    /// are protected from the garbage collector there while the connection lives.
    ///
    /// [`Client::begin_adding`]: crate::daemon::Client::begin_adding
    pub fn begin_adding(&mut self, items: &[Addition]) -> Result<Option<Additions>> {
        self.wait_at_most(self.limits.idle);
        self.link.client.begin_adding(items).map_err(|e| self.on_this_machine(e))
    }

    /// Finishes what was begun, and returns the items' names.
    pub fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>> {
        self.wait_at_most(self.limits.import);
        self.link.client.finish_adding(additions).map_err(|e| self.on_this_machine(e))
    }

    /// Adds a text file to the store there, protected as what [`Remote::begin_adding`] adds.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        self.be_patient();
        self.link.client.add_text(name, text).map_err(|e| self.on_this_machine(e))
    }

    /// Imports the bundle that `archive` reads.
    pub fn import(&mut self, archive: &mut dyn Read) -> Result<()> {
        let mut archive = TimedReader::new(archive, &self.link.channel, self.limits);
        self.link.client.import(&mut archive).map_err(|e| self.on_this_machine(e))?;
        self.imported = true;
        Ok(())
    }

    /// What the machine needs not be asked about.
    pub fn held(&mut self) -> &mut Held {
        &mut self.held
    }

    /// Returns whether the daemon there has imported something that this host has signed, over this connection.
    pub fn has_imported(&self) -> bool {
        self.imported
    }

    /// Protects `path`, which need not exist yet, from the garbage collector there while the connection lives.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.be_patient();
        self.link.client.add_temp_root(path).map_err(|e| self.on_this_machine(e))
    }

    /// Asks for the records of `paths` and for their exports at once: one round trip. [`Remote::path_info`] of each and
    /// then [`Remote::export`] of each, in this order, are to follow.
    pub fn ask_for_all(&mut self, paths: &[StorePath]) -> Result<()> {
        self.be_patient();
        self.link.client.ask_for_all(paths).map_err(|e| self.on_this_machine(e))
    }

    /// Returns the record that the daemon there has of the valid item `path`.
    pub fn path_info(&mut self, path: &StorePath) -> Result<PathInfo> {
        self.be_patient();
        self.link.client.path_info(path).map_err(|e| self.on_this_machine(e))
    }

    /// Exports the valid item `path`, signed: the stream of one item of a bundle, which must be read to its end.
    pub fn export(&mut self, path: &StorePath) -> Result<impl Read + '_> {
        self.be_patient();
        self.link.client.export(path).map_err(|e| self.on_this_machine(e))?;
        self.wait_at_most(self.limits.idle);
        let (machine, store) = (&self.machine.name, &self.store);
        Ok(ErrorExplainer { inner: Export(&mut self.link.client), machine, store })
    }

    /// Calls `aside`, instead of another one, with a line when the machine answers but does not move for half a minute.
    pub fn tell_of_stalls(&self, aside: Option<Aside>) {
        let name = self.machine.name.clone();
        self.session.tell_of_stalls(aside.map(|aside| -> StallListener {
            Arc::new(move |time| {
                aside(&lines::of_stall(&name, time.as_secs()));
            })
        }));
    }

    /// Returns the machine's last probe.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Asks again how the machine is doing, unless its last answer is younger than `age`.
    pub fn probe_again(&mut self, age: Duration) -> Result<&Probe> {
        if self.probed.elapsed() >= age {
            let mut channel = probe::ask(&self.session, &self.machine, &self.store);
            let answer = probe::answer(&mut channel, &self.machine, &self.store, self.limits.step)
                .map_err(|e| self.on_this_machine(e))?;
            (self.probe, self.kills) = (answer.probe, answer.kills);
            self.probed = Instant::now();
        }
        Ok(&self.probe)
    }

    /// Asks what kind of machine it is: more than a build needs to know.
    pub fn survey(&self) -> Result<Survey> {
        survey::survey(&self.session, self.limits.step).map_err(|e| self.on_this_machine(e))
    }

    /// Does the daemon there answer `within` that time, or the time of a few round trips? One round trip.
    pub fn answers(&mut self, within: Duration) -> bool {
        let within = within.max(self.link.round_trip * 4);
        self.wait_at_most(within);
        self.link.channel.set_deadline(Some(Instant::now() + within));
        self.link.client.valid_paths(&[]).is_ok()
    }

    /// Whether the relay is between us and the daemon there.
    pub fn is_relayed(&self) -> bool {
        self.link.relayed
    }

    /// Lets the collector there have what builds so far needed or made: the connection to the daemon, which protected
    /// it, is replaced by a new one. Waits for nothing; a new one that cannot be had fails when it is used.
    pub fn drop_temp_roots(&mut self) -> Result<()> {
        self.be_patient();
        (self.former, self.linked) = (None, Instant::now());
        self.held.clear();
        if self.forwards {
            let channel = self.session.open_socket(&self.socket);
            self.link = DaemonLink::open_later(channel, &self.store, self.link.round_trip)?;
        } else if !self.link.client.restart()? {
            return Err(Error::new(ErrorKind::Internal, "nobody connects to the daemon anew"));
        } else {
            self.link.proves = false; // what was not answered yet never will be
        }
        Ok(())
    }

    /// For how long what was asked for and added has been protected, at most: see [`Remote::drop_temp_roots`].
    pub fn temp_roots_age(&self) -> Duration {
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
        self.link.channel.set_deadline(Some(Instant::now() + RPC_TIMEOUT));
    }

    /// Gets ready to wait for bytes: for each of them at most so long.
    fn wait_at_most(&self, limit: Duration) {
        self.link.channel.set_deadline(None);
        self.link.channel.set_stall_limit(Some(limit));
    }

    fn on_this_machine(&self, error: Error) -> Error {
        blame::explain(error, &self.machine.name, &self.store).on_machine(&self.machine.name)
    }
}
