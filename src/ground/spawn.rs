// SPDX-License-Identifier: GPL-3.0-or-later
//! Starts a program that gets nothing of this process but the arguments, variables and descriptors that it is given.
//!
//! [`Command::spawn`] is not used. A host process may have descriptors that are not close-on-exec, such as the one for
//! the build log that guix-daemon gives its hook. Closing them in the child takes a `pre_exec`. With one,
//! `Command::spawn` panics if a program cannot be started and the host reaps all its children, as guix-daemon does.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

/// Starts the program of `command` with its arguments, and returns the process ID. The variables of `command` are the
/// whole environment of the program; `standard` are its standard input, output and error. The process leads a process
/// group of its own, blocks no signal and does not ignore SIGPIPE.
///
/// A descriptor that another thread opens at this moment without close-on-exec may still get through.
pub fn spawn(command: &Command, standard: [OwnedFd; 3]) -> io::Result<i32> {
    let [input, output, error] = standard;
    let standard = [above_standard(input)?, above_standard(output)?, above_standard(error)?];

    let mut actions = PosixSpawnFileActions::init()?;
    for (number, descriptor) in (0..).zip(&standard) {
        actions.add_dup2(descriptor.as_raw_fd(), number)?;
    }
    for number in open_descriptors()?.into_iter().filter(|number| *number > 2) {
        actions.add_close(number)?;
    }

    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::from_iter([Signal::SIGPIPE]))?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;

    let program = text(command.get_program().as_bytes())?;
    let arguments = std::iter::once(command.get_program()).chain(command.get_args());
    let arguments = arguments.map(|argument| text(argument.as_bytes())).collect::<io::Result<Vec<_>>>()?;
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let variables = variables.map(|(name, value)| variable(name, value)).collect::<io::Result<Vec<_>>>()?;
    Ok(posix_spawnp(&program, &actions, &attributes, &arguments, &variables)?.as_raw())
}

/// Duplicates `file` to a descriptor above the standard ones, which a host process may have closed.
fn above_standard(file: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(file, 3)?)
}

/// Returns the numbers of this process's descriptors. Some may be closed meanwhile, which does no harm.
fn open_descriptors() -> io::Result<Vec<RawFd>> {
    let entries = fs::read_dir("/proc/self/fd")?;
    entries.map(|entry| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(-1))).collect()
}

fn variable(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    text(&[name.as_bytes(), b"=", value.as_bytes()].concat())
}

fn text(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    fn null() -> OwnedFd {
        File::options().read(true).write(true).open("/dev/null").unwrap().into()
    }

    fn said(script: &str, variables: &[(&str, &str)]) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", script]).envs(variables.iter().copied());
        let (mut output, writer) = io::pipe().unwrap();
        let number = spawn(&command, [null(), writer.into(), null()]).unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        nix::sys::wait::waitpid(Pid::from_raw(number), None).unwrap();
        text
    }

    #[test]
    fn descriptors_of_the_host_stay_with_the_host() {
        // Like guix-daemon's descriptor for the build log, none of these is close-on-exec.
        let file = File::open("/dev/null").unwrap();
        let kept: Vec<OwnedFd> = (0..3).map(|_| rustix::io::dup(&file).unwrap()).collect();
        let numbers: Vec<String> = kept.iter().map(|kept| kept.as_raw_fd().to_string()).collect();
        let script = format!("for n in {}; do [ ! -e /proc/$$/fd/$n ] || echo $n; done; echo end", numbers.join(" "));
        assert_eq!(said(&script, &[]), "end\n");
        // A child that is started otherwise sees them.
        let seen = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(seen.stdout).unwrap(), numbers.join("\n") + "\nend\n");
    }

    #[test]
    fn variables_are_those_that_are_given() {
        let text = said("/usr/bin/env", &[("ONE", "1 '$'"), ("PATH", "/bin")]);
        let known = ["ONE=1 '$'", "PATH=/bin"];
        // The shell sets a few of its own.
        let own = |line: &&str| ["PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|name| line.starts_with(name));
        let mut lines: Vec<&str> = text.lines().filter(|line| !own(line)).collect();
        lines.sort();
        assert_eq!(lines, known);
    }

    #[test]
    fn signals_are_those_of_a_fresh_process() {
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK).unwrap();
        let text = said("grep -E 'SigBlk|SigIgn' /proc/self/status", &[("PATH", "/bin:/usr/bin")]);
        before.thread_set_mask().unwrap();
        let masks: Vec<u64> =
            text.lines().map(|line| u64::from_str_radix(line.split_once(":\t").unwrap().1, 16).unwrap()).collect();
        assert_eq!((masks.len(), masks[0], masks[1] & 1 << (libc::SIGPIPE - 1)), (2, 0, 0), "{text}");
    }

    #[test]
    fn what_cannot_be_started_is_an_error() {
        let missing = spawn(&Command::new("/nowhere/guile"), [null(), null(), null()]);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        let directory = spawn(&Command::new("/"), [null(), null(), null()]);
        assert_eq!(directory.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
