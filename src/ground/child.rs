// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs a program to its end, within a time limit, and collects what it prints, within a size limit.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open, waitid,
};

use crate::ground::cancel::Cancel;
use crate::ground::spawn::spawn;

/// Longest end of a program's standard error that is kept, in bytes.
const STDERR_KEPT: usize = 8 << 10;

/// Default capacity of a pipe, in bytes.
const PIPE_CAPACITY: usize = 64 << 10;

/// Longest time for which a cancellation is not noticed.
const CANCEL_DELAY: Duration = Duration::from_millis(50);

/// Makes a pipe. Returns the end to read from and the end to write to.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((reader.into(), writer))
}

/// Variables that a program gets of this process's environment, besides those whose names begin with one of
/// [`PREFIXES`].
const VARIABLES: [&str; 8] = ["PATH", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE"];
const PREFIXES: [&str; 5] = ["GUIX_", "GUILE_", "NIX_", "LC_", "XDG_"];

/// Returns the variables of this process that Guix and Guile, and so a machine file, may want to know. The others are
/// not for a child: they are meant for the host process, such as LD_PRELOAD, or are nobody else's business, such as
/// SSH_AUTH_SOCK.
pub(crate) fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        name.to_str()
            .is_some_and(|name| VARIABLES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
    })
}

/// The outcome of a program.
#[derive(Debug)]
pub(crate) struct Finished {
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: String,
    /// Why it was killed, if it was.
    pub stopped: Option<Stopped>,
}

/// Why a program was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    TookTooLong,
    PrintedTooMuch,
    Cancelled,
}

/// Runs `command`, as [`spawn`] does, with `input` as its standard input, until it closes its standard output. Stops
/// earlier at `deadline`, once cancelled, or when that output gets longer than `max_output` bytes. Then kills the
/// program, with its process group. If it is not stopped, processes that it leaves behind run on.
///
/// The exit status is not used: a host process may reap all its children in a SIGCHLD handler, as guix-daemon does, or
/// ignore the signal. So the output has to say by itself that it is complete. Fails if the program cannot be started.
pub(crate) fn run(
    command: &Command,
    input: &[u8],
    deadline: Instant,
    max_output: usize,
    cancel: &Cancel,
) -> io::Result<Finished> {
    let (mut stdout, stdout_writer) = pipe()?;
    let (mut stderr, stderr_writer) = pipe()?;
    let number = spawn(command, [file_in_memory(input)?.into(), stdout_writer, stderr_writer])?;
    let mut program = Group::led_by(number)?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let mut stderr_is_open = true;
    let stopped = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break Some(Stopped::TookTooLong);
        }
        if cancel.check().is_err() {
            break Some(Stopped::Cancelled);
        }
        let left = left.min(CANCEL_DELAY);
        let (has_output, has_errors) = wait(&stdout, stderr_is_open.then_some(&stderr), left)?;
        if has_errors {
            stderr_is_open = read_some(&mut stderr, &mut errors)?;
            errors.drain(..errors.len().saturating_sub(STDERR_KEPT));
        }
        if has_output && !read_some(&mut stdout, &mut output)? {
            break None;
        }
        if output.len() > max_output {
            break Some(Stopped::PrintedTooMuch);
        }
    };
    program.runs_on = stopped.is_none();
    drop(program);
    // Reads what the program said before it ended, which fills a pipe at most. A process that it left behind may go on
    // to write; that is not waited for.
    while stderr_is_open
        && errors.len() <= STDERR_KEPT + PIPE_CAPACITY
        && wait(&stderr, None::<&File>, Duration::ZERO)?.0
    {
        stderr_is_open = read_some(&mut stderr, &mut errors)?;
    }
    errors.drain(..errors.len().saturating_sub(STDERR_KEPT));
    Ok(Finished { stdout: output, stderr: String::from_utf8_lossy(&errors).into_owned(), stopped })
}

/// A child process and the group that it leads: both end when this is dropped, unless the group is to run on.
///
/// The process ID alone does not do: as soon as the host process has reaped the child, another process may have that
/// ID.
struct Group {
    number: Pid,
    /// `None`: the child had ended, and was reaped, before it could be opened.
    leader: Option<OwnedFd>,
    /// Whether only the leader is to end. A process that it has started may be about to leave the group.
    runs_on: bool,
}

impl Group {
    fn led_by(number: i32) -> io::Result<Self> {
        let number = Pid::from_raw(number).ok_or_else(|| io::Error::other("it has no process number"))?;
        let leader = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(leader) => Some(leader),
            Err(Errno::SRCH) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Group { number, leader, runs_on: false })
    }

    /// Returns whether the leader still runs, or is not reaped yet. Then no other process has its ID.
    fn has_its_number(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.leader.as_ref().is_some_and(|leader| waitid(WaitId::PidFd(leader.as_fd()), look).is_ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.has_its_number() {
            let kill = if self.runs_on { kill_process } else { kill_process_group };
            let _ = kill(self.number, Signal::KILL); // Fails only if nobody is left.
        }
        if let Some(leader) = &self.leader {
            let _ = waitid(WaitId::PidFd(leader.as_fd()), WaitIdOptions::EXITED); // Fails if it was reaped.
        }
    }
}

/// Makes a file without a name that holds `bytes`. Unlike a pipe, it needs nobody to write while the child reads.
fn file_in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Waits until one of two streams has something to read, or ends, but no longer than `limit`. Returns which of them
/// did.
fn wait(one: &impl AsFd, other: Option<&impl AsFd>, limit: Duration) -> io::Result<(bool, bool)> {
    let mut polled = vec![PollFd::new(one, PollFlags::IN)];
    polled.extend(other.map(|other| PollFd::new(other, PollFlags::IN)));
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = |i: usize| polled.get(i).is_some_and(|stream| !stream.revents().is_empty());
    Ok((ready(0), ready(1)))
}

/// Appends what `stream` has to `bytes`. Returns `false` at its end. A read after `wait` does not block.
fn read_some(stream: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    let length = stream.read(&mut buffer)?;
    bytes.extend_from_slice(&buffer[..length]);
    Ok(length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, seconds: f64, max_output: usize) -> Finished {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("PATH", "/usr/bin:/bin");
        run(&command, b"input", after(seconds), max_output, &Cancel::default()).unwrap()
    }

    fn after(seconds: f64) -> Instant {
        Instant::now() + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_program_is_stopped_when_that_is_asked_for() {
        let (begun, cancel) = (Instant::now(), Cancel::default());
        let mut command = Command::new("sleep");
        command.arg("60").env("PATH", "/usr/bin:/bin");
        std::thread::scope(|scope| {
            let finished = scope.spawn(|| run(&command, b"", after(60.0), 100, &cancel).unwrap());
            std::thread::sleep(CANCEL_DELAY);
            cancel.cancel();
            assert_eq!(finished.join().unwrap().stopped, Some(Stopped::Cancelled));
        });
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn streams_are_collected() {
        let finished = shell("cat; echo warning >&2", 20.0, 100);
        assert_eq!(finished.stdout, b"input");
        assert_eq!(finished.stderr, "warning\n");
        assert_eq!(finished.stopped, None);
    }

    #[test]
    fn the_whole_group_is_killed_when_the_time_is_up() {
        let started = Instant::now();
        let finished = shell("sleep 60 & echo $!; wait", 0.3, 100);
        assert_eq!(finished.stopped, Some(Stopped::TookTooLong));
        assert!(started.elapsed() < Duration::from_secs(20));
        let sleeper = String::from_utf8(finished.stdout).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", sleeper.trim())).unwrap_or_default();
        // The signal has been sent. The process may take a moment to end, and init another one to reap it.
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(started.elapsed() < Duration::from_secs(20), "{}", state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn output_is_limited_and_errors_keep_their_end() {
        let finished = shell("yes", 20.0, 100_000);
        assert_eq!(finished.stopped, Some(Stopped::PrintedTooMuch));
        assert!(finished.stdout.len() < 200_000);
        let finished = shell("yes | head -c 1000000 >&2; echo end >&2", 20.0, 100);
        assert_eq!(finished.stopped, None);
        assert!(finished.stderr.ends_with("y\nend\n") && finished.stderr.len() == STDERR_KEPT);
    }

    #[test]
    fn a_process_left_behind_does_not_hold_us_and_runs_on() {
        let started = Instant::now();
        let finished = shell("sleep 60 >&- & echo $!", 30.0, 100);
        assert!(started.elapsed() < Duration::from_secs(20));
        let sleeper = String::from_utf8(finished.stdout).unwrap().trim().parse().unwrap();
        // Had it been killed, it would soon be gone, or a zombie that nobody has reaped.
        std::thread::sleep(Duration::from_millis(300));
        let state = std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap();
        assert!(!state.contains(") Z "), "{state}");
        kill_process(Pid::from_raw(sleeper).unwrap(), Signal::KILL).unwrap();
    }

    /// This test must not reap the children of other tests, so it starts itself in another process.
    #[test]
    fn a_host_that_reaps_all_its_children_does_no_harm() {
        const INSIDE: &str = "GUIX_OFFLOAD_TEST_REAPS";
        if std::env::var_os(INSIDE).is_none() {
            let name = std::thread::current().name().unwrap().to_string();
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &name, "--nocapture"])
                .env(INSIDE, "1")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        std::thread::spawn(|| {
            loop {
                // As `waitpid(-1, ...)` in a handler of SIGCHLD, but sooner.
                if rustix::process::wait(rustix::process::WaitOptions::empty()).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..50 {
            assert_eq!(shell("cat", 20.0, 100).stdout, b"input");
        }
        assert_eq!(shell("sleep 60", 0.1, 100).stopped, Some(Stopped::TookTooLong));
        let missing = run(
            &Command::new("/nowhere/guile"),
            b"",
            Instant::now() + Duration::from_secs(20),
            100,
            &Cancel::default(),
        );
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);

        let mut child = Command::new("sleep").arg("0.05").spawn().unwrap();
        let group = Group::led_by(child.id() as i32).unwrap();
        assert!(group.has_its_number());
        let started = Instant::now();
        while std::fs::exists(format!("/proc/{}", child.id())).unwrap() {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert!(!group.has_its_number(), "its number may be somebody else's by now");
        assert!(child.wait().is_err());
    }
}
