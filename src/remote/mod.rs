// SPDX-License-Identifier: GPL-3.0-or-later
//! A build machine that we are connected to: one SSH session, and one connection to the daemon there.
//!
//! As a rule, the SSH server forwards the daemon's socket, and no process of ours runs there. If the server refuses to
//! forward it, or sending would take many round trips, a [`relay`] stands in between.

mod blame;
mod build;
mod compressed_forms;
mod compression;
mod connection;
mod daemon_link;
#[cfg(test)]
pub(crate) mod double;
pub mod fetch;
mod held;
mod import_chunks;
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

use crate::daemon::{Additions, ExportReader, NewItem, PathInfo};
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
pub use shell::quoted;
pub use survey::Survey;
pub use trust::{TEXT as TRUST_TEXT, explain_untrusted};

/// Time limit for a daemon's answer to a question in all, even if a byte moves now and then.
const RPC_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A connected build machine. Used by one thread at a time.
pub struct Remote {
    machine: BuildMachine,
    store: StoreDir,
    session: Session,
    /// File name of the socket of the daemon there.
    socket: String,
    link: DaemonLink,
    /// When temporary roots were last dropped, or the machine was connected to.
    linked: Instant,
    /// The connection that `link` has replaced, if any. It stays open to keep its temporary roots.
    former: Option<DaemonLink>,
    /// Items that the machine has, protected by temporary roots of `link` or `former`.
    held: Held,
    /// Whether its SSH server forwards sockets.
    forwards: bool,
    /// Whether its daemon may hand builds on to other machines.
    offloads: bool,
    probe: Probe,
    probed: Instant,
    /// Identity of its daemon: see [`probe::identity`].
    daemon: Option<String>,
    /// How many processes its kernel had killed for lack of memory at the time of `probed`, if it says so.
    kills: Option<u64>,
    /// The rate of the link, in bytes a second, if the link is very slow.
    slow_link: Option<f64>,
    limits: Limits,
    /// The export that shows whether the machine is trusted, or why there is none; `None`: not received yet.
    proof: Option<Result<Proof>>,
    /// Whether the daemon there has imported something that this host has signed.
    imported: bool,
}

impl Remote {
    /// Starts to connect to `machine`. Returns at once.
    pub fn start(machine: &BuildMachine) -> Result<Session> {
        Session::start(machine, Limits::DEFAULT.step)
    }

    /// Waits for `session`, which was started for `machine`, connects to the daemon there, and asks how the machine is
    /// doing. The daemon's store must be in the same directory as ours, which is `store`.
    pub fn establish(session: Session, machine: &BuildMachine, store: &StoreDir) -> Result<Remote> {
        Self::establish_within(Limits::DEFAULT, session, machine, store)
    }

    /// Does the same as [`Remote::establish`]. `limits` are those of this wait and of all later ones.
    pub fn establish_within(
        limits: Limits,
        session: Session,
        machine: &BuildMachine,
        store: &StoreDir,
    ) -> Result<Remote> {
        let established = || -> Result<_> {
            // These requests are sent as soon as the session is up. We wait for the answers afterwards.
            // Channels are opened one after the other; the probe takes a round trip more than the socket.
            let mut probe = probe::ask(&session, machine, store);
            let forwarded = session.open_socket(&machine.daemon_socket);
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
            // The relay reads the variable itself.
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

    /// Returns whether its daemon is the one that listens at `socket` on this host.
    pub fn is_daemon_at(&self, socket: &Path) -> bool {
        self.daemon.is_some() && self.daemon == probe::identity(socket)
    }

    /// Returns the machine.
    pub fn machine(&self) -> &BuildMachine {
        &self.machine
    }

    /// Returns the session, through which another thread can cut everything off.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Adds a temporary root there for each of `paths`, valid or not: the garbage collector spares them as long as the
    /// connection to the daemon is open. The requests travel with the next one; many are sent in several flights.
    pub fn add_temp_roots_later(&mut self, paths: &[StorePath]) -> Result<()> {
        self.be_patient();
        self.link.client.add_temp_roots_later(paths).map_err(|e| self.on_this_machine(e))
    }

    /// Returns those of `paths` that the machine lacks. One round trip. If the export that [`Remote::require_trust`]
    /// judges has not been asked for yet, that request travels along.
    pub fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>> {
        self.be_patient();
        self.ask_for_proof().and_then(|()| self.link.client.catch_up()).map_err(|e| self.on_this_machine(e))?;
        let begun = Instant::now();
        let valid: HashSet<StorePath> = self.link.client.valid_paths(paths).map_err(|e| self.on_this_machine(e))?;
        self.note_proof();
        // For the greeting, the daemon starts a process. This question takes closer to one round trip.
        self.link.round_trip = self.link.round_trip.min(begun.elapsed());
        Ok(paths.iter().filter(|path| !valid.contains(path)).cloned().collect())
    }

    /// Lets requests to add `items`, which must get these `names`, travel with the next request; `false`: there is no
    /// room for them. A build or [`Remote::settle`] must follow. If the daemon refuses an item, `settle` fails for that
    /// reason, and so does a build that fails.
    pub fn add_later(&mut self, items: &[NewItem], names: &[StorePath]) -> Result<bool> {
        self.be_patient();
        self.link.client.add_later(items, names).map_err(|e| self.on_this_machine(e))
    }

    /// Sends the requests that were to travel with the next one, and waits for the answers.
    pub fn settle(&mut self) -> Result<()> {
        self.be_patient();
        let settled = self.link.client.settle();
        let settled = settled.and_then(|()| self.link.client.take_refusal().map_or(Ok(()), Err));
        settled.map_err(|e| self.on_this_machine(e))
    }

    /// Begins to add `items`, whose names follow from their contents: see [`Client::begin_adding`]. The daemon protects
    /// them from the garbage collector there while the connection is open.
    ///
    /// [`Client::begin_adding`]: crate::daemon::Client::begin_adding
    pub fn begin_adding(&mut self, items: &[NewItem]) -> Result<Option<Additions>> {
        self.wait_at_most(self.limits.idle);
        self.link.client.begin_adding(items).map_err(|e| self.on_this_machine(e))
    }

    /// Finishes `additions`, which were begun, and returns the items' names.
    pub fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>> {
        self.wait_at_most(self.limits.import);
        self.link.client.finish_adding(additions).map_err(|e| self.on_this_machine(e))
    }

    /// Adds a text file to the store there. It is protected as items of [`Remote::begin_adding`] are.
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

    /// Returns the items that the machine need not be asked about.
    pub fn held(&mut self) -> &mut Held {
        &mut self.held
    }

    /// Returns whether the daemon there has imported something that this host has signed, over this connection.
    pub fn has_imported(&self) -> bool {
        self.imported
    }

    /// Adds a temporary root there for `path`, which need not exist yet. It lasts while the connection is open.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.be_patient();
        self.link.client.add_temp_root(path).map_err(|e| self.on_this_machine(e))
    }

    /// Asks for the records and the exports of `paths` in one round trip. The caller must then call
    /// [`Remote::path_info`] for each of them, and after that [`Remote::export`] for each, in the order of `paths`.
    pub fn ask_for_all(&mut self, paths: &[StorePath]) -> Result<()> {
        self.be_patient();
        self.link.client.ask_for_all(paths).map_err(|e| self.on_this_machine(e))
    }

    /// Returns the record that the daemon there has of the valid item `path`.
    pub fn path_info(&mut self, path: &StorePath) -> Result<PathInfo> {
        self.be_patient();
        self.link.client.path_info(path).map_err(|e| self.on_this_machine(e))
    }

    /// Exports the valid item `path`, signed. The stream has one item of a bundle, and must be read to its end.
    pub fn export(&mut self, path: &StorePath) -> Result<impl Read + '_> {
        self.be_patient();
        self.link.client.export(path).map_err(|e| self.on_this_machine(e))?;
        self.wait_at_most(self.limits.idle);
        let (machine, store) = (&self.machine.name, &self.store);
        Ok(ErrorExplainer { inner: ExportReader(&mut self.link.client), machine, store })
    }

    /// Sets `aside`, in place of an earlier one. It is called with a line if no byte has moved for half a minute while
    /// somebody waits for one.
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

    /// Asks again how the machine is doing, unless its last answer is younger than `age`. Returns whether it asked.
    pub fn probe_again(&mut self, age: Duration) -> Result<bool> {
        if self.probed.elapsed() < age {
            return Ok(false);
        }
        let mut channel = probe::ask(&self.session, &self.machine, &self.store);
        let answer = probe::answer(&mut channel, &self.machine, &self.store, self.limits.step)
            .map_err(|e| self.on_this_machine(e))?;
        (self.probe, self.kills) = (answer.probe, answer.kills);
        self.probed = Instant::now();
        Ok(true)
    }

    /// Runs `program` with the machine's `sh`, without input, and returns the beginning of what it prints. It has
    /// `limit` for that.
    pub fn run(&self, program: &str, limit: Duration) -> Result<String> {
        let mut channel = shell::start(&self.session, program);
        shell::answer(&mut channel, limit, "running a command").map_err(|e| self.on_this_machine(e))
    }

    /// Asks what kind of machine it is, in more detail than a build needs.
    pub fn survey(&self) -> Result<Survey> {
        survey::survey(&self.session, self.limits.step).map_err(|e| self.on_this_machine(e))
    }

    /// Returns whether the daemon there answers `within` this time, or within four round trips if they take longer. One
    /// round trip.
    pub fn answers(&mut self, within: Duration) -> bool {
        let within = within.max(self.link.round_trip * 4);
        self.wait_at_most(within);
        self.link.channel.set_deadline(Some(Instant::now() + within));
        self.link.client.valid_paths(&[]).is_ok()
    }

    /// Returns whether the relay is between us and the daemon there.
    pub fn is_relayed(&self) -> bool {
        self.link.relayed
    }

    /// Drops the temporary roots of the builds so far, by replacing the connection to the daemon that keeps them. Waits
    /// for nothing: if the new connection cannot be made, its first use fails.
    pub fn drop_temp_roots(&mut self) -> Result<()> {
        self.be_patient();
        (self.former, self.linked) = (None, Instant::now());
        self.held.clear();
        if self.forwards {
            let channel = self.session.open_socket(&self.socket);
            self.link = DaemonLink::open_later(channel, &self.store, self.link.round_trip)?;
        } else if !self.link.client.restart()? {
            return Err(Error::new(ErrorKind::Internal, "no relay connects to the daemon anew"));
        } else {
            self.link.proves = false; // what was not answered yet never will be
        }
        Ok(())
    }

    /// Returns the greatest age that a temporary root can have: the time since [`Remote::drop_temp_roots`], or since
    /// the machine was connected to.
    pub fn temp_roots_age(&self) -> Duration {
        self.linked.elapsed()
    }

    /// Returns whether the connection can be used for another build, as far as is known.
    pub fn is_usable(&self) -> bool {
        self.session.failure().is_none() && self.link.client.is_idle()
    }

    /// Returns whether a wait for the daemon failed because no byte moved. The SSH server may still answer.
    pub fn has_stalled(&self) -> bool {
        self.link.channel.has_stalled()
    }

    /// Sets the time limits of the next question.
    fn be_patient(&self) {
        self.wait_at_most(self.limits.answer);
        self.link.channel.set_deadline(Some(Instant::now() + RPC_TIMEOUT));
    }

    /// Removes the deadline, and limits the wait for the next byte to `limit`.
    fn wait_at_most(&self, limit: Duration) {
        self.link.channel.set_deadline(None);
        self.link.channel.set_stall_limit(Some(limit));
    }

    fn on_this_machine(&self, error: Error) -> Error {
        blame::explain(error, &self.machine.name, &self.store).on_machine(&self.machine.name)
    }
}
