// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines behind a real sshd. Their daemons do not do what they should.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Limits, Remote};
use crate::daemon::ContentAddressed;
use crate::daemon::{BuildOptions, NewItem};
use crate::ground::error::{Error, ErrorKind};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::BuildMachine;
use crate::ssh::Session;
use crate::ssh::tests::machine;
use crate::ssh::tests::sshd::Sshd;

/// Short enough for a test, long enough for a busy machine to start `sh` and to log in.
const STEP: Duration = Duration::from_secs(4);

/// Longest wait for a byte in these tests.
const SHORT: Duration = Duration::from_secs(2);

/// More than any wait here may take, and less than the limits outside tests.
const BOUND: Duration = Duration::from_secs(14);

/// Starts a daemon at `socket`. Each of its connections is handed to `serve` in a thread of its own.
fn daemon(socket: &Path, serve: fn(UnixStream) -> std::io::Result<()>) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// Greets as a daemon does, and answers the requests in the flight of the greeting: accepts the options, and refuses to
/// add and to export the text that shows whether the machine is trusted.
fn begin(stream: &mut UnixStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 8])?;
    stream.write_all(&words(&[0x6478_696f, 0x164]))?;
    // Version and two flags; the request and nine numbers.
    stream.read_exact(&mut [0; 8 * (3 + 10)])?;
    for _ in 0..2 * read_number(stream)? {
        skip_string(stream)?;
    }
    stream.write_all(&words(&[LAST, LAST]))?;
    stream.read_exact(&mut [0; 8])?; // to add a text: its name, itself, and no references
    skip_string(stream)?;
    skip_string(stream)?;
    stream.read_exact(&mut [0; 16])?; // to export it, signed
    skip_string(stream)?;
    stream.read_exact(&mut [0; 8])?;
    stream.write_all(&words(&[FAILED, 0, 1, FAILED, 0, 1]))
}

fn skip_string(stream: &mut UnixStream) -> std::io::Result<()> {
    let length = read_number(stream)?;
    std::io::copy(&mut stream.take(length.next_multiple_of(8)), &mut std::io::sink()).map(drop)
}

fn read_number(stream: &mut UnixStream) -> std::io::Result<u64> {
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}

/// Greets as a daemon does, and then says nothing.
fn greet(mut stream: UnixStream) -> std::io::Result<()> {
    begin(&mut stream)?;
    say_nothing(stream)
}

/// Frames of a daemon in the worker protocol: the last frame, an error, a request for data, and data.
const LAST: u64 = 0x616c_7473;
const FAILED: u64 = 0x6378_7470;
const READ: u64 = 0x6461_7461;
const GIVES: u64 = 0x6461_7416;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Reads all of an import, and answers a while later.
fn import_slowly(mut stream: UnixStream) -> std::io::Result<()> {
    begin(&mut stream)?;
    stream.read_exact(&mut [0; 8])?;
    loop {
        stream.write_all(&words(&[READ, 32 << 10]))?;
        let length = read_number(&mut stream)?;
        if length == 0 {
            break;
        }
        std::io::copy(&mut (&mut stream).take(length.next_multiple_of(8)), &mut std::io::sink())?;
    }
    std::thread::sleep(SHORT * 2);
    stream.write_all(&words(&[LAST, 0]))?;
    say_nothing(stream)
}

/// Answers a question byte by byte, as over a very slow link.
fn drip(mut stream: UnixStream) -> std::io::Result<()> {
    begin(&mut stream)?;
    stream.read_exact(&mut [0; 16])?;
    for byte in words(&[LAST, 0]) {
        std::thread::sleep(SHORT / 6);
        stream.write_all(&[byte])?;
    }
    say_nothing(stream)
}

/// Accepts options, a temporary root and a build. The build says nothing for a while, and succeeds.
fn build_silently(mut stream: UnixStream) -> std::io::Result<()> {
    begin(&mut stream)?;
    stream.read_exact(&mut [0; 8])?; // less than all of it is there, or more
    stream.write_all(&words(&[LAST, LAST, 1]))?;
    std::thread::sleep(SHORT * 2);
    stream.write_all(&words(&[LAST, 1]))?;
    say_nothing(stream)
}

/// Greets as a daemon does, and then does not even read.
fn freeze(mut stream: UnixStream) -> std::io::Result<()> {
    begin(&mut stream)?;
    std::thread::sleep(BOUND * 4);
    Ok(())
}

/// Begins an export, and does not go on.
fn export_a_little(mut stream: UnixStream) -> std::io::Result<()> {
    begin(&mut stream)?;
    stream.read_exact(&mut [0; 8])?;
    stream.write_all(&words(&[GIVES, 1 << 20, 1, 2, 3]))?;
    say_nothing(stream)
}

/// Reads until the other side closes the connection.
fn say_nothing(mut stream: UnixStream) -> std::io::Result<()> {
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}

fn limits() -> Limits {
    Limits { step: STEP, answer: SHORT, idle: SHORT, import: SHORT, import_rate: 1 << 20 }
}

fn establish(machine: &BuildMachine) -> Result<Remote, Error> {
    let session = Session::start(machine, STEP).unwrap();
    Remote::establish_within(limits(), session, machine, &StoreDir::new("/tmp").unwrap())
}

/// Returns the file name of the socket `name` on the machine of `sshd`.
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
        ("/bin/cat", "ends with status 0"),
        ("/bin/echo it is closed", "answers"),
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

/// Returns a connection to a machine whose daemon is `serve`, and the machine's SSH server.
fn machine_with(serve: fn(UnixStream) -> std::io::Result<()>) -> (Sshd, Remote) {
    machine_within(limits(), serve)
}

fn machine_within(limits: Limits, serve: fn(UnixStream) -> std::io::Result<()>) -> (Sshd, Remote) {
    let sshd = Sshd::start(&[]);
    let machine = BuildMachine { daemon_socket: socket(&sshd, "daemon"), ..machine(&sshd) };
    daemon(Path::new(&machine.daemon_socket), serve);
    let session = Session::start(&machine, STEP).unwrap();
    let remote = Remote::establish_within(limits, session, &machine, &StoreDir::new("/tmp").unwrap()).unwrap();
    (sshd, remote)
}

/// An operation that waits for a machine.
type Wait = fn(&mut Remote, &StorePath) -> Result<(), Error>;

fn item() -> StorePath {
    StoreDir::new("/tmp").unwrap().parse(&format!("/tmp/{}-x", "0".repeat(32))).unwrap()
}

/// Adds a file of `bytes` bytes.
fn add_file(remote: &mut Remote, bytes: u64) -> Result<(), Error> {
    remote.add_nar("x", &mut std::io::repeat(0).take(bytes)).map(drop)
}

fn add_text(remote: &mut Remote) -> Result<(), Error> {
    let addition = NewItem { name: "x", contents: &ContentAddressed::Text(b"x".to_vec()), references: &[] };
    let begun = remote.begin_adding(&[addition])?.expect("it is not empty");
    remote.finish_adding(begun).map(drop)
}

/// Puts the relay in between, as a large import over a long way does.
fn relay(remote: &mut Remote) {
    remote.prepare_to_receive(1_000_000, 1 << 40);
    assert!(remote.is_relayed(), "Guile runs on this host");
}

#[test]
fn a_daemon_that_does_not_move_is_given_up_whatever_is_waited_for() {
    let item = item();
    let waits: [(&str, Wait); 12] = [
        ("a question", |remote, item| remote.missing(std::slice::from_ref(item)).map(drop)),
        ("a root", |remote, item| remote.add_temp_root(item)),
        ("an export", |remote, item| {
            let read = remote.export(item)?.read(&mut [0]);
            read.map(drop).map_err(|error| Error::io(ErrorKind::Internal, "reading", error).on_machine("m"))
        }),
        ("an import", |remote, _| remote.import(&mut std::io::repeat(0).take(64 << 20))),
        ("an import that is empty", |remote, _| remote.import(&mut std::io::empty())),
        ("a text", |remote, _| add_text(remote)),
        ("a file", |remote, _| add_file(remote, 64 << 10)),
        ("a text through the relay", |remote, _| {
            relay(remote);
            add_text(remote)
        }),
        ("a file through the relay", |remote, _| {
            relay(remote);
            add_file(remote, 64 << 10)
        }),
        ("an import through the relay", |remote, _| {
            relay(remote);
            remote.import(&mut std::io::repeat(0).take(64 << 20))
        }),
        ("a question through the relay", |remote, item| {
            relay(remote);
            remote.missing(std::slice::from_ref(item)).map(drop)
        }),
        // The time limit of the build only makes the test end.
        ("what goes before a build", |remote, item| {
            let options = BuildOptions { timeout: 1, ..BuildOptions::default() };
            remote.build(item, &options, &mut |_| Ok(()))
        }),
    ];
    for (what, wait) in waits {
        let (_sshd, mut remote) = machine_with(greet);
        let begun = Instant::now();
        let error = wait(&mut remote, &item).expect_err(what);
        assert!((SHORT..BOUND).contains(&begun.elapsed()), "{what}: {:?}, {error}", begun.elapsed());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
        assert!(error.to_string().contains("no byte has moved for 2 s"), "{what}: {error}");
        assert!(remote.has_stalled(), "{what}");
        assert!(error.hint_text().is_some() && error.machine().is_some(), "{what}: {error:?}");
    }
}

#[test]
fn a_daemon_that_stops_listening_is_given_up() {
    for relayed in [false, true] {
        let (_sshd, mut remote) = machine_with(freeze);
        if relayed {
            relay(&mut remote);
        }
        let begun = Instant::now();
        let error = add_file(&mut remote, 64 << 20).unwrap_err();
        assert!((SHORT..BOUND).contains(&begun.elapsed()), "{relayed}: {:?}, {error}", begun.elapsed());
        assert!(error.to_string().contains("no byte has moved for 2 s"), "{relayed}: {error}");
    }
}

#[test]
fn what_is_still_to_be_sent_is_not_waited_for_as_an_answer() {
    // The machine's SSH server accepts some 2 MiB that nobody reads. The rest waits here.
    let (_sshd, mut remote) = machine_within(Limits { import: BOUND, ..limits() }, freeze);
    let begun = Instant::now();
    let error = add_file(&mut remote, 11 << 18).unwrap_err();
    assert!((SHORT..BOUND).contains(&begun.elapsed()), "{:?}, {error}", begun.elapsed());
}

#[test]
fn an_export_that_does_not_go_on_is_given_up() {
    let (_sshd, mut remote) = machine_with(export_a_little);
    let mut export = remote.export(&item()).unwrap();
    let error = std::io::copy(&mut export, &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("no byte has moved for 2 s"), "{error}");
}

#[test]
fn a_build_may_be_silent() {
    let (_sshd, mut remote) = machine_with(build_silently);
    let begun = Instant::now();
    remote.build(&item(), &BuildOptions::default(), &mut |_| Ok(())).unwrap();
    assert!(begun.elapsed() > SHORT);
}

#[test]
fn a_link_that_moves_a_byte_now_and_then_is_waited_for() {
    let (_sshd, mut remote) = machine_with(drip);
    remote.proof = Some(Err(Error::new(ErrorKind::Internal, "it is not asked for here")));
    let begun = Instant::now();
    assert_eq!(remote.missing(&[]).unwrap(), []);
    assert!(begun.elapsed() > SHORT * 2);
}

#[test]
fn a_daemon_that_has_all_of_a_large_import_is_given_more_time() {
    let (_sshd, mut remote) = machine_with(import_slowly);
    remote.import(&mut std::io::repeat(0).take(8 << 20)).unwrap();
}

#[test]
fn who_waits_is_told_once_that_nothing_moves() {
    let (_sshd, mut remote) = machine_with(greet);
    let said = Arc::new(Mutex::new(Vec::new()));
    let ours = Arc::clone(&said);
    remote.tell_of_stalls(Some(Arc::new(move |text: &str| ours.lock().push(text.to_string()))));
    remote.missing(&[]).unwrap_err();
    let said = said.lock();
    assert!(said.len() == 1 && said[0].contains("no byte has moved for 1 s"), "{said:?}");
}
