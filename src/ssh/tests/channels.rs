// SPDX-License-Identifier: GPL-3.0-or-later
//! What channels carry.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::sshd::Sshd;
use super::{LONG, machine, session};
use crate::ground::error::{Error, ErrorKind};
use crate::ground::gcrypt::{Sha256, sha256};
use crate::ssh::Channel;

/// Serves one connection at `path` by sending back what comes.
fn echo_server(path: &Path) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut reader, _) = listener.accept().unwrap();
        let mut writer = reader.try_clone().unwrap();
        io::copy(&mut reader, &mut writer).unwrap();
    })
}

fn read_all(mut channel: &Channel) -> Vec<u8> {
    let mut all = Vec::new();
    channel.read_to_end(&mut all).unwrap();
    all
}

fn pass_deadline(channel: &Channel) {
    channel.set_deadline(Some(Instant::now() + LONG));
}

/// Sends `size` bytes through `channel`, which echoes them, and checks that the same come back.
fn check_echo(channel: &Channel, size: usize) {
    let block: Vec<u8> = (0..65_521u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut sum, mut left) = (Sha256::new().unwrap(), size);
            while left > 0 {
                let part = &block[..block.len().min(left)];
                let mut channel = channel;
                channel.write_all(part).unwrap();
                sum.update(part);
                left -= part.len();
            }
            channel.close_write().unwrap();
            sum.finish()
        });
        let received = read_all(channel);
        assert_eq!(received.len(), size);
        assert_eq!(sha256(&received).unwrap(), writer.join().unwrap());
    });
}

#[test]
fn a_command_has_output_stderr_and_a_status() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channel = session.exec("echo out; echo err >&2; exit 7");
    pass_deadline(&channel);
    channel.wait_open().unwrap();
    assert_eq!(read_all(&channel), b"out\n");
    assert_eq!(channel.exit_status().unwrap(), Some(7));
    assert_eq!(channel.stderr(), b"err\n");
    // A status of zero differs from no status.
    let channel = session.exec("true");
    pass_deadline(&channel);
    assert_eq!(channel.exit_status().unwrap(), Some(0));
    let channel = session.exec("kill -9 $$");
    pass_deadline(&channel);
    assert_eq!(channel.exit_status().unwrap(), None);
}

#[test]
fn only_the_end_of_stderr_is_kept() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channel = session.exec("head -c 20000000 /dev/zero >&2; echo end >&2");
    pass_deadline(&channel);
    assert_eq!(channel.exit_status().unwrap(), Some(0));
    assert_eq!(channel.stderr().len(), 4096);
    assert!(channel.stderr().ends_with(b"\0end\n"));
}

#[test]
fn data_goes_both_ways_at_once() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channel = session.exec("cat");
    pass_deadline(&channel);
    check_echo(&channel, 64 << 20);
    assert_eq!(channel.exit_status().unwrap(), Some(0));
}

#[test]
fn keys_are_exchanged_anew_while_data_flows() {
    let sshd = Sshd::start(&["RekeyLimit 1M", "LogLevel DEBUG1"]);
    let session = session(&machine(&sshd));
    let channels = [session.exec("cat"), session.exec("cat")];
    thread::scope(|scope| {
        for channel in &channels {
            pass_deadline(channel);
            scope.spawn(|| check_echo(channel, 8 << 20));
        }
    });
    let exchanges = sshd.log().matches("SSH2_MSG_NEWKEYS received").count();
    assert!(exchanges > 10, "only {exchanges} times");
}

#[test]
fn a_socket_is_forwarded() {
    let sshd = Sshd::start(&[]);
    let path = sshd.directory().join("socket");
    let server = echo_server(&path);
    let session = session(&machine(&sshd));
    let mut channel = session.open_socket(path.to_str().unwrap());
    pass_deadline(&channel);
    // This is written before the channel is open.
    channel.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    channel.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    channel.wait_open().unwrap();
    check_echo(&channel, 3 << 20);
    server.join().unwrap();
    // The socket's server has ended, and with it the remote end of the channel.
    assert_eq!(channel.exit_status().unwrap(), None);
    let error = Error::io(ErrorKind::Internal, "writing", channel.write(b"x").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}: after close_write it is our own mistake");
}

#[test]
fn answers_in_two_parts_come_quickly() {
    let sshd = Sshd::start(&[]);
    let path = sshd.directory().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    // Like guix-daemon, the server answers in two parts. sshd holds back the second part until the first one is
    // acknowledged; by itself the kernel takes 40 ms for that.
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut parts = [0];
        while stream.read_exact(&mut parts).is_ok() {
            stream.write_all(&[0; 8]).unwrap();
            if parts == [2] {
                thread::sleep(Duration::from_millis(1));
                stream.write_all(&[0; 8]).unwrap();
            }
        }
    });
    let session = session(&machine(&sshd));
    let mut channel = session.open_socket(path.to_str().unwrap());
    pass_deadline(&channel);
    let mut ask = |parts: u8| {
        let start = Instant::now();
        channel.write_all(&[parts]).unwrap();
        channel.read_exact(&mut [0; 16][..usize::from(parts) * 8]).unwrap();
        start.elapsed()
    };
    // Compared with answers in one part, which are as slow as everything else on a machine that is busy.
    let (mut one, mut two): (Vec<_>, Vec<_>) = (0..51).map(|_| (ask(1), ask(2))).unzip();
    one.sort();
    two.sort();
    assert!(two[25] < one[25] + Duration::from_millis(20), "medians {:?} and {:?}", one[25], two[25]);
    channel.close_write().unwrap();
    server.join().unwrap();
}

#[test]
fn writing_to_a_closed_channel_fails() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let mut channel = session.exec("exit 3");
    pass_deadline(&channel);
    assert_eq!(channel.exit_status().unwrap(), Some(3));
    let error = Error::io(ErrorKind::Internal, "writing", channel.write(b"x").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("'127.0.0.1' has closed the command \"exit 3\""), "{error}");
    assert_eq!(error.machine(), Some("127.0.0.1"));
}

#[test]
fn a_missing_socket_is_refused_and_the_session_lives() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channel = session.open_socket("/nonexistent/socket");
    pass_deadline(&channel);
    let error = channel.wait_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("/nonexistent/socket"), "{error}");
    assert_eq!(session.failure().map(|e| e.to_string()), None);
    assert_eq!(read_all(&session.exec("echo alive")), b"alive\n");
}

#[test]
fn forwarding_may_be_switched_off() {
    let sshd = Sshd::start(&["AllowStreamLocalForwarding no"]);
    let path = sshd.directory().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let session = session(&machine(&sshd));
    let mut channel = session.open_socket(path.to_str().unwrap());
    pass_deadline(&channel);
    let error = Error::io(ErrorKind::Internal, "reading", channel.read(&mut [0]).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.hint_text().unwrap().contains("forwarding"), "{error:?}");
    assert_eq!(read_all(&session.exec("echo alive")), b"alive\n");
}

#[test]
fn a_slow_reader_does_not_stall_others() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    // It fills its window and the queues behind it, and nobody reads.
    let mut slow = session.exec("head -c 40000000 /dev/zero");
    pass_deadline(&slow);
    slow.wait_open().unwrap();
    thread::sleep(Duration::from_millis(300));
    let quick = session.exec("cat");
    pass_deadline(&quick);
    check_echo(&quick, 16 << 20);
    // No data of the slow channel was lost.
    slow.read_exact(&mut [0]).unwrap();
    assert_eq!(read_all(&slow).len(), 40_000_000 - 1);
    assert_eq!(slow.exit_status().unwrap(), Some(0));
}

#[test]
fn a_writer_that_is_not_read_does_not_stall_others() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    // The command reads nothing, and ends with its session.
    let stuck = session.exec("while kill -0 $PPID; do sleep 1; done");
    pass_deadline(&stuck);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut stuck = &stuck;
            // More than all queues between here and the command hold.
            stuck.write_all(&vec![0; 32 << 20]).unwrap_err()
        });
        let quick = session.exec("cat");
        pass_deadline(&quick);
        check_echo(&quick, 8 << 20);
        assert!(!writer.is_finished());
        stuck.set_deadline(Some(Instant::now()));
        assert_late(writer.join().unwrap());
    });
}

#[test]
fn twenty_channels_at_once() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let channels: Vec<Channel> = (0..20).map(|_| session.exec("cat")).collect();
    thread::scope(|scope| {
        for channel in &channels {
            pass_deadline(channel);
            scope.spawn(|| check_echo(channel, 500_000));
        }
    });
}

#[test]
fn a_dropped_channel_is_closed() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let path = sshd.directory().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let channel = session.open_socket(path.to_str().unwrap());
    let clone = channel.clone();
    let (mut server, _) = listener.accept().unwrap();
    drop(channel);
    (&clone).write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    drop(clone);
    server.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    // A channel that is dropped before it is open does no harm, and is closed as well.
    drop(session.open_socket(path.to_str().unwrap()));
    assert_eq!(read_all(&session.exec("echo alive")), b"alive\n");
}

/// Asserts that `error` says that a deadline passed.
#[track_caller]
fn assert_late(error: io::Error) {
    let error = Error::io(ErrorKind::Internal, "in the test", error);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("did not answer in time"), "{error}");
}

#[test]
fn a_deadline_ends_a_read() {
    let sshd = Sshd::start(&[]);
    let session = session(&machine(&sshd));
    let mut channel = session.exec("exec cat >/dev/null");
    channel.wait_open().unwrap();
    let start = Instant::now();
    channel.set_deadline(Some(start + Duration::from_millis(100)));
    assert_late(channel.read(&mut [0]).unwrap_err());
    assert!((Duration::from_millis(100)..Duration::from_secs(5)).contains(&start.elapsed()));
    assert_late(channel.exit_status().unwrap_err().into());
    // The deadline can be moved while another thread blocks.
    channel.set_deadline(None);
    thread::scope(|scope| {
        let reader = scope.spawn(|| (&channel).read(&mut [0]).unwrap_err());
        thread::sleep(Duration::from_millis(50));
        channel.set_deadline(Some(Instant::now()));
        assert_late(reader.join().unwrap());
    });
}
