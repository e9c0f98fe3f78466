// SPDX-License-Identifier: GPL-3.0-or-later
//! What the floors above need of a machine: a [`Connector`] connects to it, a [`Connection`] is one that is connected.
//! [`Ssh`] and [`Remote`] are what there is; tests have doubles of them.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Held, Limits, Remote};
use crate::archive::Acl;
use crate::daemon::{Addition, Additions, BuildOptions, PathInfo};
use crate::ground::error::{Error, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::BuildMachine;
use crate::machine::suitability::Probe;
use crate::report::Aside;
use crate::ssh::Session;

/// Connects to machines. Any thread.
pub trait Connector: Send + Sync {
    /// Starts to connect to `machine`, whose store must be in the directory `store`, trying the address `first` before
    /// others. Returns at once.
    fn start(&self, machine: &BuildMachine, store: &StoreDir, first: Option<IpAddr>) -> Result<Connecting>;
}

/// A machine that is being connected to.
pub struct Connecting {
    /// Ends it, whoever waits for it.
    pub line: Arc<dyn Line>,
    /// Waits until the machine is connected to and has said how it is doing.
    pub wait: Box<dyn FnOnce() -> Result<Box<dyn Connection>> + Send>,
}

/// The line to a machine, which any thread can cut.
pub trait Line: Send + Sync {
    /// Cuts it: all that waits for the machine fails with `error`.
    fn abort(&self, error: Error);

    /// Ends it in good order, as nobody needs it; what still waits for the machine fails with `error`.
    fn leave(&self, error: Error);
}

/// A machine that is connected to. Used by one thread at a time. See the functions of [`Remote`].
pub trait Connection: Send {
    /// The machine.
    fn machine(&self) -> &BuildMachine;

    /// Its line, with which to cut everything off from another thread.
    fn line(&self) -> Arc<dyn Line>;

    /// Which of its addresses answered, unless it is the one that the resolver has first.
    fn address(&self) -> Option<IpAddr>;

    /// What it last said of itself.
    fn probe(&self) -> &Probe;

    /// Asks again how it is doing, unless its last answer is younger than `age`.
    fn probe_again(&mut self, age: Duration) -> Result<()>;

    /// Does it answer within that time?
    fn answers(&mut self, within: Duration) -> bool;

    /// Can it be used for another build, as far as is known?
    fn is_usable(&self) -> bool;

    /// Was it given up because no byte moved?
    fn has_stalled(&self) -> bool;

    /// Is its daemon the one that listens at `socket` on this host?
    fn is_daemon_at(&self, socket: &Path) -> bool;

    /// Fails with [`Untrusted`](crate::ground::error::ErrorKind::Untrusted) unless `acl` lets in what it signs.
    fn require_trust(&mut self, acl: &Arc<Acl>) -> Result<()>;

    /// The rate of its link, in bytes a second, if that is known to be very slow.
    fn slow_link(&self) -> Option<f64>;

    /// Tells what is known of that from before.
    fn set_slow_link(&mut self, rate: Option<f64>);

    /// Has `aside` say when it answers but does not move.
    fn tell_of_stalls(&self, aside: Option<Aside>);

    /// Lets the collector there have what builds so far needed or made.
    fn drop_temp_roots(&mut self) -> Result<()>;

    /// For how long that has been protected, at most.
    fn temp_roots_age(&self) -> Duration;

    /// Protects `paths` from the collector there for as long as the connection lives. No round trip of its own.
    fn add_temp_roots_later(&mut self, paths: &[StorePath]) -> Result<()>;

    /// What it needs not be asked about.
    fn held(&mut self) -> &mut Held;

    /// Those of `paths` that it lacks. One round trip.
    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>>;

    /// Gets ready to receive `items` store items, of some `bytes` bytes in all.
    fn prepare_to_receive(&mut self, items: usize, bytes: u64);

    /// Is an item of `size` bytes better handed to the daemon there whole than imported?
    fn prefers_whole_items(&self, size: u64) -> bool;

    /// Adds the item called `name` whole and returns its name there; `None`: it is better imported.
    fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<Option<StorePath>>;

    /// Has `items`, which are to get these `names`, added along with what is asked next, if there is room for them.
    fn add_later(&mut self, items: &[Addition], names: &[StorePath]) -> Result<bool>;

    /// Sends what was to travel with the next question, and waits for the answers.
    fn settle(&mut self) -> Result<()>;

    /// Begins to add `items`. No round trip.
    fn begin_adding(&mut self, items: &[Addition]) -> Result<Option<Additions>>;

    /// Finishes what was begun, and returns the items' names.
    fn finish_adding(&mut self, additions: Additions) -> Result<Vec<StorePath>>;

    /// Imports the bundle that `archive` reads.
    fn import(&mut self, archive: &mut dyn Read) -> Result<()>;

    /// Has it imported something that this host has signed?
    fn has_imported(&self) -> bool;

    /// Builds `derivation`, handing the log to `log` as it comes.
    fn build(
        &mut self,
        derivation: &StorePath,
        options: &BuildOptions,
        log: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;

    /// Asks for the records of `paths` and their exports at once, both of which are to follow, in this order.
    fn ask_for_all(&mut self, paths: &[StorePath]) -> Result<()>;

    /// What its daemon knows about the valid item `path`.
    fn path_info(&mut self, path: &StorePath) -> Result<PathInfo>;

    /// Exports the valid item `path`, signed.
    fn export(&mut self, path: &StorePath) -> Result<Box<dyn Read + '_>>;
}

/// Connects over SSH.
pub struct Ssh {
    /// How long machines are waited for.
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

    fn probe_again(&mut self, age: Duration) -> Result<()> {
        Remote::probe_again(self, age).map(drop)
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

    fn add_later(&mut self, items: &[Addition], names: &[StorePath]) -> Result<bool> {
        Remote::add_later(self, items, names)
    }

    fn settle(&mut self) -> Result<()> {
        Remote::settle(self)
    }

    fn begin_adding(&mut self, items: &[Addition]) -> Result<Option<Additions>> {
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
