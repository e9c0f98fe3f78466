// SPDX-License-Identifier: GPL-3.0-or-later
//! What the layers above use of a machine: a [`Connector`] connects to it, and a [`Connection`] is a connected machine.
//! [`Ssh`] and [`Remote`] implement them; tests have doubles.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::{Choose, Fetch};
use super::{Held, Limits, Remote};
use crate::archive::Acl;
use crate::daemon::{Additions, BuildOptions, NewItem, PathInfo};
use crate::ground::error::{Error, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::BuildMachine;
use crate::machine::suitability::Probe;
use crate::report::Aside;
use crate::ssh::Session;

/// A way to connect to machines. Any thread may use it.
pub trait Connector: Send + Sync {
    /// Starts to connect to `machine`, whose store must be in the directory `store`. Tries the address `first` before
    /// others. Returns at once.
    fn start(&self, machine: &BuildMachine, store: &StoreDir, first: Option<IpAddr>) -> Result<Connecting>;
}

/// A machine that is being connected to.
pub struct Connecting {
    /// The line, through which any thread can end the attempt.
    pub line: Arc<dyn Line>,
    /// Waits until the machine is connected to and has said how it is doing.
    pub wait: Box<dyn FnOnce() -> Result<Box<dyn Connection>> + Send>,
}

/// The line to a machine, which any thread can cut.
pub trait Line: Send + Sync {
    /// Cuts the line. Everything that waits for the machine fails with `error`.
    fn abort(&self, error: Error);

    /// Ends the line in good order, because nobody needs it. What still waits for the machine fails with `error`.
    fn leave(&self, error: Error);
}

/// A machine that is connected to. One thread uses it at a time. The functions of [`Remote`] say more.
pub trait Connection: Send {
    /// Returns the machine.
    fn machine(&self) -> &BuildMachine;

    /// Returns its line, through which another thread can cut everything off.
    fn line(&self) -> Arc<dyn Line>;

    /// Returns the address that answered, unless it is the resolver's first.
    fn address(&self) -> Option<IpAddr>;

    /// Returns the machine's last probe.
    fn probe(&self) -> &Probe;

    /// Asks again how the machine is doing, unless its last answer is younger than `age`. Returns whether it asked.
    fn probe_again(&mut self, age: Duration) -> Result<bool>;

    /// Returns whether the daemon there answers `within` this time. One round trip.
    fn answers(&mut self, within: Duration) -> bool;

    /// Returns whether the connection can be used for another build, as far as is known.
    fn is_usable(&self) -> bool;

    /// Returns whether a wait for the daemon failed because no byte moved.
    fn has_stalled(&self) -> bool;

    /// Returns whether its daemon is the one that listens at `socket` on this host.
    fn is_daemon_at(&self, socket: &Path) -> bool;

    /// Fails with [`Untrusted`](crate::ground::error::ErrorKind::Untrusted) unless `acl` authorizes the machine's key.
    fn require_trust(&mut self, acl: &Arc<Acl>) -> Result<()>;

    /// Returns the rate of the link, in bytes a second, if the link is known to be very slow.
    fn slow_link(&self) -> Option<f64>;

    /// Sets the rate of the link, in bytes a second, if it is known from earlier to be very slow.
    fn set_slow_link(&mut self, rate: Option<f64>);

    /// Sets `aside`, in place of an earlier one. It is called with a line when no byte has moved for half a minute.
    fn tell_of_stalls(&self, aside: Option<Aside>);

    /// Drops the temporary roots of the builds so far.
    fn drop_temp_roots(&mut self) -> Result<()>;

    /// Returns the greatest age that a temporary root can have.
    fn temp_roots_age(&self) -> Duration;

    /// Adds temporary roots for `paths`, which last as long as the connection. The requests travel with the next one.
    fn add_temp_roots_later(&mut self, paths: &[StorePath]) -> Result<()>;

    /// Returns the items that the machine need not be asked about.
    fn held(&mut self) -> &mut Held;

    /// Returns those of `paths` that the machine lacks. One round trip.
    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>>;

    /// Prepares the connection for `items` store items, of some `bytes` bytes in all.
    fn prepare_to_receive(&mut self, items: usize, bytes: u64);

    /// Returns whether an item of `size` bytes is better added whole than imported.
    fn prefers_whole_items(&self, size: u64) -> bool;

    /// Adds the item called `name` whole, and returns its name there; `None`: it is better imported.
    fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<Option<StorePath>>;

    /// Lets requests to add `items`, which must get these `names`, travel with the next one; `false`: there is no room.
    fn add_later(&mut self, items: &[NewItem], names: &[StorePath]) -> Result<bool>;

    /// Sends the requests that were to travel with the next one, and waits for the answers.
    fn settle(&mut self) -> Result<()>;

    /// Begins to add `items`. No round trip.
    fn begin_adding(&mut self, items: &[NewItem]) -> Result<Option<Additions>>;

    /// Finishes `additions`, which were begun, and returns the items' names.
    fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>>;

    /// Imports the bundle that `archive` reads.
    fn import(&mut self, archive: &mut dyn Read) -> Result<()>;

    /// Returns whether the daemon there has imported something that this host has signed, over this connection.
    fn has_imported(&self) -> bool;

    /// Asks the daemon there which of `items` it can fetch, and has it fetch those that `choose` returns. Returns at
    /// once.
    fn fetch(&mut self, items: Vec<StorePath>, choose: Choose) -> Result<Fetch>;

    /// Builds `derivation`, and hands the log to `log` as it comes.
    fn build(
        &mut self,
        derivation: &StorePath,
        options: &BuildOptions,
        log: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;

    /// Asks for the records and the exports of `paths` at once. [`Connection::path_info`] for each and then
    /// [`Connection::export`] for each must follow.
    fn ask_for_all(&mut self, paths: &[StorePath]) -> Result<()>;

    /// Returns the record that the daemon there has of the valid item `path`.
    fn path_info(&mut self, path: &StorePath) -> Result<PathInfo>;

    /// Exports the valid item `path`, signed.
    fn export(&mut self, path: &StorePath) -> Result<Box<dyn Read + '_>>;
}

/// The connector over SSH.
pub struct Ssh {
    /// Time limits of the connections.
    pub limits: Limits,
}

impl Connector for Ssh {
    fn start(&self, machine: &BuildMachine, store: &StoreDir, first: Option<IpAddr>) -> Result<Connecting> {
        let session = Session::start_at(machine, first, self.limits.step)?;
        let (line, limits, machine, store) = (Arc::new(session.clone()), self.limits, machine.clone(), store.clone());
        let wait = move || -> Result<Box<dyn Connection>> {
            Ok(Box::new(Remote::establish_within(limits, session, &machine, &store)?))
        };
        Ok(Connecting { line, wait: Box::new(wait) })
    }
}

impl Line for Session {
    fn abort(&self, error: Error) {
        Session::abort(self, error);
    }

    fn leave(&self, error: Error) {
        Session::leave(self, error);
    }
}

impl Connection for Remote {
    fn machine(&self) -> &BuildMachine {
        Remote::machine(self)
    }

    fn line(&self) -> Arc<dyn Line> {
        Arc::new(self.session().clone())
    }

    fn address(&self) -> Option<IpAddr> {
        self.session().address()
    }

    fn probe(&self) -> &Probe {
        Remote::probe(self)
    }

    fn probe_again(&mut self, age: Duration) -> Result<bool> {
        Remote::probe_again(self, age)
    }

    fn answers(&mut self, within: Duration) -> bool {
        Remote::answers(self, within)
    }

    fn is_usable(&self) -> bool {
        Remote::is_usable(self)
    }

    fn has_stalled(&self) -> bool {
        Remote::has_stalled(self)
    }

    fn is_daemon_at(&self, socket: &Path) -> bool {
        Remote::is_daemon_at(self, socket)
    }

    fn require_trust(&mut self, acl: &Arc<Acl>) -> Result<()> {
        Remote::require_trust(self, acl)
    }

    fn slow_link(&self) -> Option<f64> {
        Remote::slow_link(self)
    }

    fn set_slow_link(&mut self, rate: Option<f64>) {
        Remote::set_slow_link(self, rate);
    }

    fn tell_of_stalls(&self, aside: Option<Aside>) {
        Remote::tell_of_stalls(self, aside);
    }

    fn drop_temp_roots(&mut self) -> Result<()> {
        Remote::drop_temp_roots(self)
    }

    fn temp_roots_age(&self) -> Duration {
        Remote::temp_roots_age(self)
    }

    fn add_temp_roots_later(&mut self, paths: &[StorePath]) -> Result<()> {
        Remote::add_temp_roots_later(self, paths)
    }

    fn held(&mut self) -> &mut Held {
        Remote::held(self)
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>> {
        Remote::missing(self, paths)
    }

    fn prepare_to_receive(&mut self, items: usize, bytes: u64) {
        Remote::prepare_to_receive(self, items, bytes);
    }

    fn prefers_whole_items(&self, size: u64) -> bool {
        Remote::prefers_whole_items(self, size)
    }

    fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<Option<StorePath>> {
        Remote::add_nar(self, name, nar)
    }

    fn add_later(&mut self, items: &[NewItem], names: &[StorePath]) -> Result<bool> {
        Remote::add_later(self, items, names)
    }

    fn settle(&mut self) -> Result<()> {
        Remote::settle(self)
    }

    fn begin_adding(&mut self, items: &[NewItem]) -> Result<Option<Additions>> {
        Remote::begin_adding(self, items)
    }

    fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>> {
        Remote::finish_adding(self, additions)
    }

    fn import(&mut self, archive: &mut dyn Read) -> Result<()> {
        Remote::import(self, archive)
    }

    fn has_imported(&self) -> bool {
        Remote::has_imported(self)
    }

    fn fetch(&mut self, items: Vec<StorePath>, choose: Choose) -> Result<Fetch> {
        Remote::fetch(self, items, choose)
    }

    fn build(
        &mut self,
        derivation: &StorePath,
        options: &BuildOptions,
        log: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        Remote::build(self, derivation, options, log)
    }

    fn ask_for_all(&mut self, paths: &[StorePath]) -> Result<()> {
        Remote::ask_for_all(self, paths)
    }

    fn path_info(&mut self, path: &StorePath) -> Result<PathInfo> {
        Remote::path_info(self, path)
    }

    fn export(&mut self, path: &StorePath) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(Remote::export(self, path)?))
    }
}
