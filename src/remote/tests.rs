// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines behind a real sshd whose daemon does not do what it should.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Limits, Remote};
use crate::error::{Error, ErrorKind};
use crate::machine::BuildMachine;
use crate::ssh::Session;
use crate::ssh::tests::machine;
use crate::ssh::tests::sshd::Sshd;
use crate::store::StoreDir;

/// Short enough for a test, long enough for a busy machine to start `sh` and to log in.
const STEP: Duration = Duration::from_secs(4);

/// More than any wait here may take, less than the limits that the product has.
const BOUND: Duration = Duration::from_secs(14);

/// A daemon at `socket`, of which each connection is handed to `serve` in a thread of its own.
fn daemon(socket: &Path, serve: fn(UnixStream) -> std::io::Result<()>) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// Says what a daemon says to begin with, and to the options that come with the greeting; and nothing ever after.
fn greet(mut stream: UnixStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 8])?;
    stream.write_all(&[0x6478_696f_u64.to_le_bytes(), 0x164_u64.to_le_bytes()].concat())?;
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&[0x616c_7473_u64.to_le_bytes(); 2].concat())?;
    say_nothing(stream)
}

/// Listens as long as anybody speaks.
fn say_nothing(mut stream: UnixStream) -> std::io::Result<()> {
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}

fn limits() -> Limits {
    Limits { step: STEP }
}

fn establish(machine: &BuildMachine) -> Result<Remote, Error> {
    let session = Session::start(machine, STEP).unwrap();
    Remote::establish_within(limits(), session, machine, &StoreDir::new("/tmp").unwrap())
}

/// The socket of `sshd`'s machine with this name.
fn socket(sshd: &Sshd, name: &str) -> String {
    sshd.directory().join(name).to_str().unwrap().to_string()
}

#[test]
fn a_socket_that_the_environment_names_and_that_does_not_answer_is_not_waited_for() {
    let scratch = tempfile::tempdir().unwrap();
    let stuck = scratch.path().join("stuck");
    daemon(&stuck, say_nothing);
    let sshd = Sshd::start(&[&format!("SetEnv GUIX_DAEMON_SOCKET={}", stuck.display())]);
    let machine = BuildMachine { daemon_socket: socket(&sshd, "greets"), ..machine(&sshd) };
    daemon(Path::new(&machine.daemon_socket), greet);
    let begun = Instant::now();
    let error = establish(&machine).err().expect("no daemon answers");
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&*stuck.to_string_lossy()), "{error}");
}

#[test]
fn an_account_that_runs_no_commands_is_named_with_its_answer() {
    for (command, words) in [
        ("/bin/sh -c 'echo This account is currently not available.; exit 1'", "This account is currently"),
        ("/bin/false", "ends with status 1"),
        ("/bin/cat", "answers"),
        ("/bin/sh -c 'echo only backups >&2'", "only backups"),
    ] {
        let sshd = Sshd::start(&[&format!("ForceCommand {command}")]);
        let machine = BuildMachine { daemon_socket: socket(&sshd, "greets"), ..machine(&sshd) };
        daemon(Path::new(&machine.daemon_socket), greet);
        let error = establish(&machine).err().expect("no sh runs");
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.to_string().contains("user root") && error.to_string().contains(words), "{error}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("chsh")), "{error:?}");
    }
}
