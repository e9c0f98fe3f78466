// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that run only while there is work for them. If a build finds no machine, and NAME cannot be reached, the
//! program `CONFIGURATION/offload/NAME.start` starts it. If NAME was started so and has had no build for a while,
//! `NAME.stop` stops it.
//!
//! Nobody waits for these programs: a thread does that, and holds the lock `demand.lock` in the machine's directory, so
//! that it is the only one on this host. Until it is done, the machine is left alone. `demand` in that directory says
//! that the machine was started, and is to be stopped.

use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use super::history::{self, Histories, SetbackKind};
use super::slot::LockDirectory;
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

const LOCK: &str = "demand.lock";
const MARK: &str = "demand";

/// Starts and stops machines. Any thread.
#[derive(Clone)]
pub struct OnDemand {
    programs: PathBuf,
    state: PathBuf,
    histories: Histories,
}

/// A function that is told what failed, in any thread.
pub type Tell = Arc<dyn Fn(&Error) + Send + Sync>;

/// Whether a machine is started or stopped.
#[derive(Clone, Copy, PartialEq)]
enum Action {
    Start,
    Stop,
}

impl OnDemand {
    /// Returns what starts and stops the machines of the host with these `directories`.
    pub fn new(directories: &Directories, histories: &Histories) -> Self {
        let programs = directories.configuration.join("offload");
        OnDemand { programs, state: directories.offload_state(), histories: histories.clone() }
    }

    /// Returns why builds leave `machine` alone, if it is being started or stopped.
    pub fn is_under_way(&self, machine: &BuildMachine) -> Option<Error> {
        let program = [Action::Start, Action::Stop].into_iter().find_map(|action| self.program(machine, action))?;
        let lock = self.directory(machine).open().and_then(|open| open.open(LOCK, OFlags::RDONLY)).ok()?;
        let is_locked = is_locked(&lock, Range::Whole).unwrap_or(false);
        is_locked.then(|| under_way(machine, &program))
    }

    /// Begins to start `machine`, which cannot be reached, if there is a program for that and it is not running.
    /// Returns what builds are told; `None`: there is no program.
    pub fn start(&self, machine: &BuildMachine) -> Option<Result<Error>> {
        let program = self.program(machine, Action::Start)?;
        let told = under_way(machine, &program);
        Some(self.begin(machine, Action::Start, program, Arc::new(|_| {})).map(|_| told))
    }

    /// Begins to stop those of `machines` that were started and have had no build for a while. Returns whether one of
    /// them is to be stopped, now or later. `tell` is told, in any thread, what fails.
    pub fn stop_idle(&self, machines: &[BuildMachine], tell: &Tell) -> bool {
        let mut any = false;
        for machine in machines {
            let Some(program) = self.program(machine, Action::Stop) else { continue };
            let Some(idle) = self.idle_time(machine) else { continue };
            any = true;
            if idle >= STOP_AFTER {
                let begun = self.begin(machine, Action::Stop, program, Arc::clone(tell));
                begun.err().iter().for_each(|error| tell(error));
            }
        }
        any
    }

    /// Returns how long a machine that was started has had no build; `None`: it was not started.
    fn idle_time(&self, machine: &BuildMachine) -> Option<Duration> {
        let directory = self.directory(machine);
        let since = |name: &str| std::fs::symlink_metadata(directory.path(name)).and_then(|it| it.modified()).ok();
        let last = since(MARK)?.max(since(history::NAME).unwrap_or(SystemTime::UNIX_EPOCH));
        let is_busy = LockDirectory::count_taken(&self.state, machine).map_or(true, |taken| taken > 0);
        Some(if is_busy { Duration::ZERO } else { last.elapsed().unwrap_or_default() })
    }

    /// Runs `program` in a thread, unless another thread or process runs one for this machine.
    fn begin(&self, machine: &BuildMachine, action: Action, program: PathBuf, tell: Tell) -> Result<()> {
        let directory = self.directory(machine);
        let doing = || format!("locking '{}'", directory.path(LOCK).display());
        directory.create().io_context(ErrorKind::Store, doing)?;
        let file = directory.open().and_then(|open| open.open(LOCK, OFlags::RDWR | OFlags::CREATE));
        let file = file.io_context(ErrorKind::Store, doing)?;
        let Ok(lock) = Held::try_new(file).io_context(ErrorKind::Store, doing)? else { return Ok(()) };
        let (this, machine) = (self.clone(), machine.clone());
        thread::spawn("guix-offload-demand", move || {
            if let Err(error) = this.act(&machine, action, &program) {
                tell(&error);
            }
            drop(lock);
        })
        .map(|_| ())
    }

    fn act(&self, machine: &BuildMachine, action: Action, program: &Path) -> Result<()> {
        let directory = self.directory(machine);
        let marked = directory.open().io_context(ErrorKind::Store, || directory.path(MARK).display().to_string())?;
        match action {
            Action::Start => {
                // Before it runs: what it has begun is to be stopped, even if it fails.
                let _ = marked.replace(MARK, b"");
                let started = run(program, machine).and_then(|()| await_answer(program, machine));
                match &started {
                    Ok(()) => self.histories.note_started(machine),
                    Err(error) => self.histories.note_setback(machine, SetbackKind::Away, error),
                }
                started
            }
            // A build may have begun since.
            Action::Stop if self.idle_time(machine).is_none_or(|idle| idle < STOP_AFTER) => Ok(()),
            Action::Stop => {
                let stopped = run(program, machine);
                // If it failed, it is tried again as late.
                let _ = if stopped.is_ok() { marked.remove(MARK) } else { marked.replace(MARK, b"") };
                stopped
            }
        }
    }

    fn directory(&self, machine: &BuildMachine) -> StateDir {
        StateDir::named(&self.state, machine.label())
    }

    /// Returns the program for `action`, if there is one that can be executed.
    fn program(&self, machine: &BuildMachine, action: Action) -> Option<PathBuf> {
        let suffix = if action == Action::Start { "start" } else { "stop" };
        let file = self.programs.join(format!("{}.{suffix}", machine.name));
        let metadata = std::fs::metadata(&file).ok()?;
        (metadata.is_file() && metadata.mode() & 0o111 != 0).then_some(file)
    }

    /// Returns whether there is a program that starts `machine`.
    pub fn can_start(&self, machine: &BuildMachine) -> bool {
        self.program(machine, Action::Start).is_some()
    }
}

fn under_way(machine: &BuildMachine, program: &Path) -> Error {
    let message = format!("'{}' starts or stops it", program.display());
    Error::new(ErrorKind::Unavailable, message).on_machine(&machine.name)
}

/// Runs `program` to its end. What it says last is part of the error.
fn run(program: &Path, machine: &BuildMachine) -> Result<()> {
    #[allow(clippy::disallowed_methods)] // ground::spawn starts it
    let mut command = Command::new("/bin/sh");
    command.args(["-c", RUN, "sh"]).arg(program).arg(&machine.name).env_clear().envs(child::environment());
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
    Err(Error::new(ErrorKind::Unavailable, format!("'{}' {what}: {last}", program.display())).on_machine(&machine.name))
}

/// Waits until a machine that `program` has started accepts connections.
fn await_answer(program: &Path, machine: &BuildMachine) -> Result<()> {
    let until = Instant::now() + BOOT_TIMEOUT;
    loop {
        let addresses = (machine.name.as_str(), machine.port).to_socket_addrs();
        let answers = |address| TcpStream::connect_timeout(&address, BOOT_PAUSE).is_ok();
        if addresses.is_ok_and(|mut addresses| addresses.any(answers)) {
            return Ok(());
        }
        if Instant::now() >= until {
            let seconds = BOOT_TIMEOUT.as_secs();
            let message = format!("it does not accept connections {seconds} s after '{}' has ended", program.display());
            return Err(Error::new(ErrorKind::Unavailable, message).on_machine(&machine.name));
        }
        std::thread::sleep(BOOT_PAUSE);
    }
}

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
