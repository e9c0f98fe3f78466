// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that run only while there is work for them. If a build finds no machine, and NAME cannot be reached, the
//! program `CONFIGURATION/offload/NAME.start` starts it. If NAME was started so and has had no build for a while,
//! `NAME.stop` stops it.
//!
//! Nobody waits for these programs: a thread does that, and holds the lock `.demand/NAME.lock` in the state directory,
//! so that it is the only one on this host. Until it is done, the machine is left alone. `.demand/NAME` says that the
//! machine was started, and is to be stopped. A machine is known by its name here, whatever the ports of its servers.

use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::history::{self, Histories, SetbackKind};
use super::slot;
use super::slot::lock::{Held, Range, is_locked};
use crate::ground::cancel::Cancel;
use crate::ground::child::{self, Finished, Stopped};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::state_dir::StateDir;
use crate::ground::thread;
use crate::machine::BuildMachine;

/// Time limit of a program that starts or stops a machine.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(180);

/// How long a machine may take to accept connections once the program that starts it has ended.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// Pause between two looks whether a machine that was started accepts connections, and the time limit of each.
const BOOT_PAUSE: Duration = Duration::from_secs(1);

/// How long a machine that was started has no build before it is stopped.
const STOP_AFTER: Duration = Duration::from_secs(5 * 60);

/// Most that a program may print on its standard output, in bytes: that is where its exit status is told.
const MAX_OUTPUT: usize = 1 << 10;

/// Runs the program `$1` for the machine `$2`. A host process may reap all its children, so the status is printed.
const RUN: &str = r#""$1" "$2" >&2; echo $?"#;

/// The directory of locks and marks, in that of the state of offloading.
const DIRECTORY: &str = ".demand";

/// Starts and stops machines. Any thread.
#[derive(Clone)]
pub struct OnDemand {
    programs: PathBuf,
    state: PathBuf,
    histories: Histories,
    /// How many programs this process runs.
    running: Arc<AtomicUsize>,
}

/// A function that is told what failed, in any thread.
pub type Tell = Arc<dyn Fn(&Error) + Send + Sync>;

impl OnDemand {
    /// Returns what starts and stops the machines of the host with these `directories`.
    pub fn new(directories: &Directories, histories: &Histories) -> Self {
        let programs = directories.configuration.join("offload");
        let (state, histories, running) = (directories.offload_state(), histories.clone(), Arc::default());
        OnDemand { programs, state, histories, running }
    }

    /// Returns why builds leave `machine` alone, if it is being started or stopped.
    pub fn is_under_way(&self, machine: &BuildMachine) -> Option<Error> {
        let program = ["start", "stop"].into_iter().find_map(|action| self.program(&machine.name, action))?;
        let lock = self.directory().open().and_then(|open| open.open(&lock_of(&machine.name), OFlags::RDONLY)).ok()?;
        let is_locked = is_locked(&lock, Range::Whole).unwrap_or(false);
        is_locked.then(|| under_way(machine, &program))
    }

    /// Returns whether this process runs a program.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst) > 0
    }

    /// Begins to start `machine`, which cannot be reached, if there is a program for that and it is not running.
    /// Returns what builds are told; `None`: there is no program.
    pub fn start(&self, machine: &BuildMachine) -> Option<Result<Error>> {
        let program = self.program(&machine.name, "start")?;
        let told = under_way(machine, &program);
        let (this, starts) = (self.clone(), machine.clone());
        let begun = self.begin(&machine.name, move || {
            // Otherwise something else is wrong with it; and it is nobody's to stop.
            if accepts_connections(&starts) {
                return;
            }
            match this.run_start(&program, &starts) {
                Ok(()) => this.histories.note_started(&starts),
                Err(error) => this.histories.note_setback(&starts, SetbackKind::Away, &error),
            }
        });
        Some(begun.map(|()| told))
    }

    fn run_start(&self, program: &Path, machine: &BuildMachine) -> Result<()> {
        // Before it runs: what it has begun is to be stopped, even if it fails.
        self.mark(&machine.name, true);
        run(program, &machine.name)?;
        await_connections(program, machine)
    }

    /// Begins to stop the machines that were started and have had no build for a while. Returns whether one is to be
    /// stopped, now or later. `tell` is told, in any thread, what fails.
    pub fn stop_idle(&self, tell: &Tell) -> bool {
        let Ok(marks) = std::fs::read_dir(self.directory().path("")) else { return false };
        let names = marks.filter_map(|mark| mark.ok()?.file_name().into_string().ok());
        let mut any = false;
        for name in names.filter(|name| !name.ends_with(LOCK_SUFFIX)) {
            let Some(program) = self.program(&name, "stop") else { continue };
            any = true;
            if self.idle_time(&name) < STOP_AFTER {
                continue;
            }
            let (this, stops, tells) = (self.clone(), name.clone(), Arc::clone(tell));
            let begun = self.begin(&name, move || {
                // A build may have begun since.
                if this.idle_time(&stops) < STOP_AFTER {
                    return;
                }
                let stopped = run(&program, &stops);
                // If it failed, it is tried again as late.
                this.mark(&stops, stopped.is_err());
                stopped.err().iter().for_each(|error| tells(error));
            });
            begun.err().iter().for_each(|error| tell(error));
        }
        any
    }

    /// Returns how long a machine has had no build of this host; 0: it has one, or was not started.
    fn idle_time(&self, name: &str) -> Duration {
        let modified = |path: PathBuf| std::fs::symlink_metadata(path).and_then(|it| it.modified()).ok();
        let Some(mut last) = modified(self.directory().path(name)) else { return Duration::ZERO };
        let Ok(directories) = std::fs::read_dir(&self.state) else { return Duration::ZERO };
        let of_it = |label: &String| label.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        for label in directories.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(of_it) {
            if slot::is_any_taken(&self.state, &label) {
                return Duration::ZERO;
            }
            last = last.max(modified(self.state.join(&label).join(history::NAME)).unwrap_or(last));
        }
        last.elapsed().unwrap_or_default()
    }

    /// Does `act` in a thread, unless another thread or process starts or stops the machine.
    fn begin(&self, name: &str, act: impl FnOnce() + Send + 'static) -> Result<()> {
        let directory = self.directory();
        let doing = || format!("locking '{}'", directory.path(&lock_of(name)).display());
        directory.create().io_context(ErrorKind::Store, doing)?;
        let file = directory.open().and_then(|open| open.open(&lock_of(name), OFlags::RDWR | OFlags::CREATE));
        let file = file.io_context(ErrorKind::Store, doing)?;
        let Ok(lock) = Held::try_new(file).io_context(ErrorKind::Store, doing)? else { return Ok(()) };
        let running = Running::new(&self.running);
        thread::spawn("guix-offload-demand", move || {
            act();
            drop((lock, running));
        })
        .map(|_| ())
    }

    /// Notes whether the machine was started, and is to be stopped. Renews the time of that.
    fn mark(&self, name: &str, is_started: bool) {
        // If this fails, the machine runs on, or is stopped once more.
        let _ = self.directory().open().and_then(|open| match is_started {
            true => open.replace(name, b""),
            false => open.remove(name),
        });
    }

    fn directory(&self) -> StateDir {
        StateDir::named(&self.state, DIRECTORY)
    }

    /// Returns the program NAME.start or NAME.stop, if there is one that can be executed.
    fn program(&self, name: &str, action: &str) -> Option<PathBuf> {
        let file = self.programs.join(format!("{name}.{action}"));
        let metadata = std::fs::metadata(&file).ok()?;
        (metadata.is_file() && metadata.mode() & 0o111 != 0).then_some(file)
    }

    /// Returns whether there is a program that starts `machine`.
    pub fn can_start(&self, machine: &BuildMachine) -> bool {
        self.program(&machine.name, "start").is_some()
    }
}

/// A program that this process runs, until dropped.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

const LOCK_SUFFIX: &str = ".lock";

fn lock_of(name: &str) -> String {
    format!("{name}{LOCK_SUFFIX}")
}

fn under_way(machine: &BuildMachine, program: &Path) -> Error {
    let message = format!("'{}' starts or stops it", program.display());
    Error::new(ErrorKind::Unavailable, message).on_machine(&machine.name)
}

/// Runs `program` to its end. What it says last is part of the error.
fn run(program: &Path, name: &str) -> Result<()> {
    #[allow(clippy::disallowed_methods)] // ground::spawn starts it
    let mut command = Command::new("/bin/sh");
    command.args(["-c", RUN, "sh"]).arg(program).arg(name).env_clear().envs(child::environment());
    let deadline = Instant::now() + PROGRAM_TIMEOUT;
    let Finished { stdout, stderr, stopped } = child::run(&command, b"", deadline, MAX_OUTPUT, &Cancel::default())
        .io_context(ErrorKind::Exhausted, || format!("running '{}'", program.display()))?;
    let status = String::from_utf8_lossy(&stdout).trim().to_string();
    let what = match stopped {
        None if status == "0" => return Ok(()),
        Some(Stopped::TookTooLong) => format!("was killed after {} s", PROGRAM_TIMEOUT.as_secs()),
        _ if status.is_empty() => "was killed".into(),
        _ => format!("failed with exit status {status}"),
    };
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(Error::new(ErrorKind::Unavailable, format!("'{}' {what}: {last}", program.display())).on_machine(name))
}

/// Waits until a machine that `program` has started accepts connections.
fn await_connections(program: &Path, machine: &BuildMachine) -> Result<()> {
    let until = Instant::now() + BOOT_TIMEOUT;
    while !accepts_connections(machine) {
        if Instant::now() >= until {
            let seconds = BOOT_TIMEOUT.as_secs();
            let message = format!("it does not accept connections {seconds} s after '{}' has ended", program.display());
            return Err(Error::new(ErrorKind::Unavailable, message).on_machine(&machine.name));
        }
        std::thread::sleep(BOOT_PAUSE);
    }
    Ok(())
}

fn accepts_connections(machine: &BuildMachine) -> bool {
    let addresses = (machine.name.as_str(), machine.port).to_socket_addrs();
    let answers = |address| TcpStream::connect_timeout(&address, BOOT_PAUSE).is_ok();
    addresses.is_ok_and(|mut addresses| addresses.any(answers))
}

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
