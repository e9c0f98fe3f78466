// SPDX-License-Identifier: GPL-3.0-or-later
//! Doubles of machines. They do what a test says.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::fetch::{Choose, Fetch, Shared};
use super::{Connecting, Connection, Connector, Held, Line};
use crate::archive::{self, Acl, NullVisitor};
use crate::daemon::{Additions, BuildOptions, NewItem, PathInfo};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::BuildMachine;
use crate::machine::suitability::{Pressure, Probe};
use crate::report::Aside;

/// An operation on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Start,
    Connect,
    Probe,
    Answer,
    Trust,
    DropTempRoots,
    AddTempRoots,
    Missing,
    PrepareToReceive,
    AddNar,
    BeginAdding,
    FinishAdding,
    Import,
    Fetch,
    Build,
    Info,
    Export,
}

impl Step {
    /// Returns whether it waits for an answer.
    pub fn is_round_trip(self) -> bool {
        use Step::*;
        !matches!(self, Start | DropTempRoots | AddTempRoots | PrepareToReceive | BeginAdding | Fetch)
    }
}

/// The behaviour of a machine at a step: it fails, waits for its line to be cut, or goes on.
pub type Act = Arc<dyn Fn(&str, Step, &Cut) -> Result<()> + Send + Sync>;

/// What machines fetch: is called with the machine's name, what it is asked for, what chooses, and where to note how it
/// gets on. Returns at once.
pub type Servers = Arc<dyn Fn(&str, Vec<StorePath>, Choose, Arc<Shared>) + Send + Sync>;

/// A machine with much room and nothing to do.
pub const IDLE: Probe = Probe {
    load: 0.0,
    free_space: 100 << 30,
    memory: 16 << 30,
    total_memory: 32 << 30,
    pressure: Pressure { cpu: None, memory: None, io: None },
    clock_offset: Some(0),
};

/// The state of a machine. Without a probe of its own, it is [`IDLE`].
#[derive(Clone, Default)]
struct Known {
    probe: Option<Probe>,
    /// The items that it has.
    items: HashSet<StorePath>,
    address: Option<IpAddr>,
}

/// A world of doubles: any machine is one.
pub struct Doubles {
    act: Mutex<Act>,
    /// `None`: no machine can fetch anything.
    servers: Mutex<Option<Servers>>,
    steps: Mutex<Vec<(String, Step)>>,
    machines: Mutex<HashMap<String, Known>>,
    names: Mutex<HashMap<String, StorePath>>,
    archives: Mutex<HashMap<StorePath, Vec<u8>>>,
    /// The number of items in each batch that a machine received.
    batches: Mutex<Vec<usize>>,
    open: AtomicUsize,
    left: Mutex<Vec<String>>,
    /// The addresses to be tried first, one for each connection.
    first: Mutex<Vec<Option<IpAddr>>>,
}

impl Doubles {
    pub fn new() -> Arc<Self> {
        Arc::new(Doubles {
            act: Mutex::new(Arc::new(|_, _, _| Ok(()))),
            servers: Mutex::default(),
            steps: Mutex::default(),
            machines: Mutex::default(),
            names: Mutex::default(),
            archives: Mutex::default(),
            batches: Mutex::default(),
            open: AtomicUsize::new(0),
            left: Mutex::default(),
            first: Mutex::default(),
        })
    }

    pub fn act(&self, act: impl Fn(&str, Step, &Cut) -> Result<()> + Send + Sync + 'static) {
        *self.act.lock() = Arc::new(act);
    }

    pub fn set_servers(&self, servers: impl Fn(&str, Vec<StorePath>, Choose, Arc<Shared>) + Send + Sync + 'static) {
        *self.servers.lock() = Some(Arc::new(servers));
    }

    pub fn set_probe(&self, machine: &str, probe: Probe) {
        self.machines.lock().entry(machine.into()).or_default().probe = Some(probe);
    }

    pub fn set_address(&self, machine: &str, address: &str) {
        self.machines.lock().entry(machine.into()).or_default().address = Some(address.parse().unwrap());
    }

    /// Gives `items` to `machine`.
    pub fn give(&self, machine: &str, items: &[StorePath]) {
        self.machines.lock().entry(machine.into()).or_default().items.extend(items.iter().cloned());
    }

    pub fn take(&self, machine: &str, item: &StorePath) {
        self.machines.lock().entry(machine.into()).or_default().items.remove(item);
    }

    pub fn has(&self, machine: &str, item: &StorePath) -> bool {
        self.machines.lock().get(machine).is_some_and(|known| known.items.contains(item))
    }

    /// Sets what additions become: an addition with the name of one of `items` becomes that item.
    pub fn name(&self, items: &[StorePath]) {
        self.names.lock().extend(items.iter().map(|item| (item.name().to_string(), item.clone())));
    }

    /// Makes every machine export `item` as `archive`.
    pub fn set_archive(&self, item: &StorePath, archive: Vec<u8>) {
        self.archives.lock().insert(item.clone(), archive);
    }

    /// Takes all steps since the last call, and returns those for which `of` holds.
    pub fn take_steps(&self, of: impl Fn(Step) -> bool) -> Vec<(String, Step)> {
        let steps = std::mem::take(&mut *self.steps.lock());
        steps.into_iter().filter(|(_, step)| of(*step)).collect()
    }

    /// Takes all steps since the last call, and returns the machines of those that are `of`.
    pub fn take_machines(&self, of: Step) -> Vec<String> {
        self.take_steps(|step| step == of).into_iter().map(|(machine, _)| machine).collect()
    }

    pub fn take_batches(&self) -> Vec<usize> {
        std::mem::take(&mut self.batches.lock())
    }

    /// Returns how many connections are open.
    pub fn count_open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Returns the machines whose lines were ended in good order.
    pub fn left(&self) -> Vec<String> {
        self.left.lock().clone()
    }

    /// Returns the address that the last connection was to try first.
    pub fn first_address(&self) -> Option<IpAddr> {
        *self.first.lock().last()?
    }

    fn step(&self, machine: &str, step: Step, cut: &Cut) -> Result<()> {
        self.steps.lock().push((machine.into(), step));
        cut.check()?;
        let act = Arc::clone(&*self.act.lock());
        act(machine, step, cut)?;
        cut.check()
    }
}

impl Connector for Arc<Doubles> {
    fn start(&self, machine: &BuildMachine, store: &StoreDir, first: Option<IpAddr>) -> Result<Connecting> {
        let cut = Arc::new(Cut { machine: machine.name.clone(), world: Arc::downgrade(self), ..Cut::default() });
        self.step(&machine.name, Step::Start, &cut)?;
        self.first.lock().push(first);
        let (world, machine, store, line) = (Arc::clone(self), machine.clone(), store.clone(), Arc::clone(&cut));
        let wait = move || -> Result<Box<dyn Connection>> {
            world.step(&machine.name, Step::Connect, &cut).map_err(|error| error.on_machine(&machine.name))?;
            let probe = world.probe(&machine.name);
            world.open.fetch_add(1, Ordering::SeqCst);
            let (usable, stalled, imported, slow, adding) = (true, false, false, None, VecDeque::new());
            let held = Held::default();
            Ok(Box::new(Double { world, machine, cut, probe, usable, stalled, imported, held, slow, store, adding }))
        };
        Ok(Connecting { line, wait: Box::new(wait) })
    }
}

impl Doubles {
    fn probe(&self, machine: &str) -> Probe {
        self.machines.lock().get(machine).and_then(|known| known.probe).unwrap_or(IDLE)
    }
}

/// A line, with the error that cut it, if it was cut.
#[derive(Default)]
pub struct Cut {
    machine: String,
    world: std::sync::Weak<Doubles>,
    error: Mutex<Option<Error>>,
    changed: Condvar,
}

impl Cut {
    fn check(&self) -> Result<()> {
        self.error.lock().clone().map_or(Ok(()), Err)
    }

    /// Waits until the line is cut.
    pub fn wait(&self) -> Result<()> {
        let mut error = self.error.lock();
        while error.is_none() {
            self.changed.wait(&mut error);
        }
        drop(error);
        self.check()
    }
}

impl Line for Cut {
    fn abort(&self, error: Error) {
        self.error.lock().get_or_insert(error);
        self.changed.notify_all();
    }

    fn leave(&self, error: Error) {
        if let Some(world) = self.world.upgrade() {
            world.left.lock().push(self.machine.clone());
        }
        self.abort(error);
    }
}

/// A connection to a double.
struct Double {
    world: Arc<Doubles>,
    machine: BuildMachine,
    cut: Arc<Cut>,
    probe: Probe,
    usable: bool,
    stalled: bool,
    imported: bool,
    held: Held,
    slow: Option<f64>,
    store: StoreDir,
    /// Batches that were begun.
    adding: VecDeque<Vec<StorePath>>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.world.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Double {
    fn step(&mut self, step: Step) -> Result<()> {
        let result = self.world.step(&self.machine.name, step, &self.cut);
        result.map_err(|error| {
            use ErrorKind::*;
            // Other errors are answers of the daemon, and leave the connection usable.
            self.usable &= !matches!(error.kind(), Unavailable | Protocol | Cancelled);
            self.stalled |= error.to_string().contains("no byte has moved");
            error.on_machine(&self.machine.name)
        })
    }

    fn receive(&self, items: impl IntoIterator<Item = StorePath>) {
        let items: Vec<_> = items.into_iter().collect();
        self.world.batches.lock().push(items.len());
        self.world.give(&self.machine.name, &items);
    }
}

impl Connection for Double {
    fn machine(&self) -> &BuildMachine {
        &self.machine
    }

    fn line(&self) -> Arc<dyn Line> {
        Arc::clone(&self.cut) as Arc<dyn Line>
    }

    fn address(&self) -> Option<IpAddr> {
        self.world.machines.lock().get(&self.machine.name).and_then(|known| known.address)
    }

    fn probe(&self) -> &Probe {
        &self.probe
    }

    fn probe_again(&mut self, _: Duration) -> Result<bool> {
        self.step(Step::Probe)?;
        self.probe = self.world.probe(&self.machine.name);
        Ok(true)
    }

    fn answers(&mut self, _: Duration) -> bool {
        self.step(Step::Answer).is_ok()
    }

    fn is_usable(&self) -> bool {
        self.usable && self.cut.check().is_ok()
    }

    fn has_stalled(&self) -> bool {
        self.stalled
    }

    fn is_daemon_at(&self, _: &Path) -> bool {
        self.machine.name == "localhost"
    }

    fn require_trust(&mut self, _: &Arc<Acl>) -> Result<()> {
        self.step(Step::Trust)
    }

    fn slow_link(&self) -> Option<f64> {
        self.slow
    }

    fn set_slow_link(&mut self, rate: Option<f64>) {
        self.slow = rate;
    }

    fn tell_of_stalls(&self, _: Option<Aside>) {}

    fn drop_temp_roots(&mut self) -> Result<()> {
        self.held.clear();
        self.step(Step::DropTempRoots)
    }

    fn temp_roots_age(&self) -> Duration {
        Duration::ZERO
    }

    fn add_temp_roots_later(&mut self, _: &[StorePath]) -> Result<()> {
        self.step(Step::AddTempRoots)
    }

    fn held(&mut self) -> &mut Held {
        &mut self.held
    }

    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>> {
        self.step(Step::Missing)?;
        let lacks = |path: &&StorePath| !self.world.has(&self.machine.name, path);
        Ok(paths.iter().filter(lacks).cloned().collect())
    }

    fn prepare_to_receive(&mut self, _: usize, _: u64) {
        let _ = self.step(Step::PrepareToReceive);
    }

    /// Looks at the machine's name: one that begins with `small` lacks the memory.
    fn prefers_whole_items(&self, _: u64) -> bool {
        !self.machine.name.starts_with("small")
    }

    /// Looks at the machine's name: the link of one that begins with `slow` is slow.
    fn add_nar(&mut self, name: &str, nar: &mut dyn Read) -> Result<Option<StorePath>> {
        self.step(Step::AddNar)?;
        if self.machine.name.starts_with("slow") && self.slow.is_none() {
            self.slow = Some(1e6);
            self.held.clear();
            return Ok(None);
        }
        io::copy(nar, &mut io::sink()).map_err(|error| Error::io(ErrorKind::Store, "reading it", error))?;
        let made = self.world.names.lock()[name].clone();
        self.receive([made.clone()]);
        Ok(Some(made))
    }

    /// Returns `false`: there is never room.
    fn add_later(&mut self, _: &[NewItem], _: &[StorePath]) -> Result<bool> {
        Ok(false)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    fn begin_adding(&mut self, items: &[NewItem]) -> Result<Option<Additions>> {
        if items.is_empty() {
            return Ok(None);
        }
        self.step(Step::BeginAdding)?;
        let names = self.world.names.lock();
        self.adding.push_back(items.iter().map(|item| names[item.name].clone()).collect());
        Ok(Some(Additions::of(items.len())))
    }

    fn finish_adding(&mut self, _: Additions) -> Result<Vec<StorePath>> {
        self.step(Step::FinishAdding)?;
        let made: Vec<_> = self.adding.pop_front().expect("something was begun");
        self.receive(made.clone());
        Ok(made)
    }

    fn import(&mut self, mut archive: &mut dyn Read) -> Result<()> {
        let mut items = Vec::new();
        let mut more = [0; 8];
        let failed = |error| Error::io(ErrorKind::Store, "reading what is sent", error);
        loop {
            archive.read_exact(&mut more).map_err(failed)?;
            if u64::from_le_bytes(more) == 0 {
                break;
            }
            items.push(archive::read_item(&mut archive, &self.store, &mut NullVisitor)?.path);
        }
        self.step(Step::Import)?;
        self.receive(items);
        self.imported = true;
        Ok(())
    }

    fn has_imported(&self) -> bool {
        self.imported
    }

    fn fetch(&mut self, items: Vec<StorePath>, choose: Choose) -> Result<Fetch> {
        self.step(Step::Fetch)?;
        let (shared, servers) = (Shared::new(), self.world.servers.lock().clone());
        match servers {
            Some(servers) => servers(&self.machine.name, items, choose, Arc::clone(&shared)),
            None => shared.end(Ok(())),
        }
        Ok(Fetch::new(shared, ()))
    }

    fn build(&mut self, _: &StorePath, _: &BuildOptions, log: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.step(Step::Build)?;
        log(b"built\n")
    }

    fn ask_for_all(&mut self, _: &[StorePath]) -> Result<()> {
        Ok(())
    }

    fn path_info(&mut self, path: &StorePath) -> Result<PathInfo> {
        self.step(Step::Info)?;
        let nar_size = self.world.archives.lock()[path].len() as u64;
        Ok(PathInfo { deriver: None, references: Vec::new(), nar_size })
    }

    fn export(&mut self, path: &StorePath) -> Result<Box<dyn Read + '_>> {
        self.step(Step::Export)?;
        Ok(Box::new(io::Cursor::new(self.world.archives.lock()[path].clone())))
    }
}
