// SPDX-License-Identifier: GPL-3.0-or-later
//! How sessions end.

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::sshd::Sshd;
use super::{LONG, machine, machine_at, session};
use crate::ground::error::{Error, ErrorKind};
use crate::ssh::driver::Keepalive;
use crate::ssh::{Channel, Session};

const SHORT: Duration = Duration::from_millis(300);

/// Returns the error of the next read of `channel`.
fn read_error(mut channel: &Channel) -> Error {
    Error::io(ErrorKind::Internal, "reading", channel.read(&mut [0]).unwrap_err())
}

#[test]
fn a_killed_server_is_noticed() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channel = session.exec("echo said; exec cat >/dev/null");
    channel.wait_open().unwrap();
    (&channel).read_exact(&mut [0; 2]).unwrap();
    let start = Instant::now();
    sshd.signal_connections(Signal::KILL);
    // What came before can still be read.
    let mut rest = [0; 3];
    (&channel).read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"id\n");
    let error = read_error(&channel);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("connection to '127.0.0.1' lost: "), "{error}");
    assert_eq!(error.machine(), Some("127.0.0.1"));
    assert_eq!(channel.exit_status().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(session.failure().is_some());
}

#[test]
fn a_silent_server_is_given_up() {
    let sshd = Sshd::start(&[]);
    let keepalive = Keepalive { idle: SHORT, patience: SHORT, ..Keepalive::DEFAULT };
    let session = Session::start_with(&machine(&sshd), None, LONG, keepalive).unwrap();
    let channel = session.exec("exec cat >/dev/null");
    channel.wait_open().unwrap();
    // As long as the server answers, the session is not lost, whether there is a channel or not.
    thread::sleep(4 * SHORT);
    assert_eq!(session.failure().map(|e| e.to_string()), None);
    drop(channel);
    thread::sleep(4 * SHORT);
    assert_eq!(session.failure().map(|e| e.to_string()), None);
    let channel = session.exec("exec cat >/dev/null");
    channel.wait_open().unwrap();

    sshd.signal_connections(Signal::STOP);
    let start = Instant::now();
    let error = read_error(&channel);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("lost: no answer for"), "{error}");
}

#[test]
fn a_server_that_asks_for_signs_of_life_gets_them() {
    let sshd = Sshd::start(&["ClientAliveInterval 1", "ClientAliveCountMax 2"]);
    let session = session(&machine(&sshd));
    // There is no channel to read from. sshd would give up after some 6 s.
    thread::sleep(Duration::from_secs(9));
    assert_eq!(session.failure().map(|e| e.to_string()), None);
}

#[test]
fn a_pause_ends_with_the_session() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    session.rest(Duration::from_millis(1)).unwrap();
    thread::scope(|scope| {
        let begun = Instant::now();
        let pause = scope.spawn(|| session.rest(LONG));
        session.abort(Error::new(ErrorKind::Cancelled, "not wanted"));
        assert_eq!(pause.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(begun.elapsed() < LONG / 2);
    });
}

#[test]
fn abort_wakes_everybody_at_once() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channel = session.exec("echo said; exec cat >/dev/null");
    (&channel).read_exact(&mut [0; 5]).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| (read_error(&channel), Instant::now()));
        let waiter = scope.spawn(|| (channel.exit_status().unwrap_err(), Instant::now()));
        thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        session.abort(Error::new(ErrorKind::Cancelled, "the user changed his mind"));
        for thread in [reader, waiter] {
            let (error, end) = thread.join().unwrap();
            assert!(end - start < Duration::from_millis(100), "{:?}", end - start);
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            assert!(error.to_string().contains("the user changed his mind"), "{error}");
        }
    });
    let deadline = Instant::now() + LONG;
    while !sshd.connections().is_empty() {
        assert!(Instant::now() < deadline, "the socket is still open");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn abort_ends_a_connection_that_is_being_made() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sshd = Sshd::start(&[]);
    let machine = machine_at(listener.local_addr().unwrap().port(), &sshd.host_key(), sshd.user_key());
    let session = Session::start(&machine, LONG).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    session.abort(Error::new(ErrorKind::Cancelled, "cancelled"));
    assert_eq!(session.wait_ready(LONG).unwrap_err().kind(), ErrorKind::Cancelled);
    server.set_read_timeout(Some(LONG)).unwrap();
    server.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn channels_end_with_their_session() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channel = session.exec("exec cat >/dev/null");
    channel.wait_open().unwrap();
    drop(session.clone());
    assert_eq!(session.failure().map(|e| e.to_string()), None);
    drop(session);
    assert_eq!(read_error(&channel).kind(), ErrorKind::Cancelled);
    assert_eq!(channel.close_write().unwrap_err().kind(), ErrorKind::Cancelled);
}
