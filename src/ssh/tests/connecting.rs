// SPDX-License-Identifier: GPL-3.0-or-later
//! Which connections succeed, and how the failures of others are explained.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::sshd::{Sshd, generate_key};
use super::{LONG, machine, machine_at, session};
use crate::ground::error::{Error, ErrorKind};
use crate::machine::{BuildMachine, HostKey};
use crate::ssh::Session;

/// Returns why no session with `machine` comes about.
fn refusal(machine: &BuildMachine) -> Error {
    let start = Instant::now();
    let error = Session::start(machine, LONG).unwrap().wait_ready(LONG).expect_err("it should have failed");
    assert!(start.elapsed() < LONG / 2, "it took too long to see that {error}");
    assert!(error.hint_text().is_some(), "{error} has no hint");
    assert_eq!(error.machine(), Some("127.0.0.1"));
    error
}

fn public_key(private: &Path) -> String {
    fs::read_to_string(private.with_extension("pub")).unwrap()
}

#[test]
fn another_host_key_is_rejected_with_both_fingerprints() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    machine.host_key = HostKey::parse(&public_key(&sshd.user_key())).unwrap();
    let error = refusal(&machine);
    assert_eq!(error.kind(), ErrorKind::HostKey);
    for key in [sshd.host_key(), public_key(&sshd.user_key())] {
        let fingerprint = HostKey::parse(&key).unwrap().fingerprint().unwrap();
        assert!(error.to_string().contains(&fingerprint), "{error}");
    }
    assert!(!sshd.log().contains("Accepted"), "it should not have offered its key: {}", sshd.log());
}

#[test]
fn rsa_and_ecdsa_host_keys_can_be_pinned() {
    for options in [["-t", "rsa", "-b", "2048"], ["-t", "ecdsa", "-b", "256"]] {
        let sshd = Sshd::start_with_host_key(&options, &[]);
        session(&machine(&sshd));
    }
}

#[test]
fn a_host_key_of_another_type_is_named() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    let rsa = sshd.directory().join("rsa");
    generate_key(&rsa, &["-t", "rsa"]);
    machine.host_key = HostKey::parse(&public_key(&rsa)).unwrap();
    let error = refusal(&machine);
    assert_eq!(error.kind(), ErrorKind::HostKey);
    assert!(error.to_string().contains("no host key of type ssh-rsa"), "{error}");
}

#[test]
fn private_keys_of_all_formats_work() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    let formats: [&[&str]; 6] = [
        &["-t", "rsa", "-b", "2048"],
        &["-t", "rsa", "-b", "2048", "-m", "PEM"],
        &["-t", "rsa", "-b", "2048", "-m", "PKCS8"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384", "-m", "PEM"],
        &["-t", "ed25519"],
    ];
    for (index, options) in formats.iter().enumerate() {
        machine.private_key = sshd.new_user_key(&format!("key{index}"), options);
        // The public key need not lie beside it.
        fs::remove_file(machine.private_key.with_extension("pub")).unwrap();
        let session = Session::start(&machine, LONG).unwrap();
        assert!(session.wait_ready(LONG).unwrap_or_else(|error| panic!("{options:?}: {error}")));
    }
}

#[test]
fn a_key_that_the_server_does_not_know_is_rejected() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    machine.private_key = sshd.directory().join("other");
    generate_key(&machine.private_key, &["-t", "ed25519"]);
    let error = refusal(&machine);
    assert_eq!(error.kind(), ErrorKind::Authentication);
    assert!(error.to_string().contains("does not let user root in"), "{error}");
    assert!(error.hint_text().unwrap().contains("authorized_keys"), "{error:?}");
}

#[test]
fn a_key_file_that_only_looks_like_one_is_rejected() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    machine.private_key = sshd.directory().join("damaged");
    fs::write(&machine.private_key, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    fs::set_permissions(&machine.private_key, fs::Permissions::from_mode(0o600)).unwrap();
    let error = refusal(&machine);
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("damaged is not a private key"), "{error}");
}

#[test]
fn a_port_without_a_server_is_reported() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    machine.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(&machine);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[test]
fn a_server_that_is_none_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sshd = Sshd::start(&[]);
    let machine = machine_at(listener.local_addr().unwrap().port(), &sshd.host_key(), sshd.user_key());
    let session = Session::start(&machine, LONG).unwrap();
    drop(listener.accept().unwrap());
    let error = session.wait_ready(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("connection to '127.0.0.1' lost while exchanging keys"), "{error}");
}

#[test]
fn a_server_that_never_answers_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sshd = Sshd::start(&[]);
    let machine = machine_at(listener.local_addr().unwrap().port(), &sshd.host_key(), sshd.user_key());
    let start = Instant::now();
    let session = Session::start(&machine, Duration::from_millis(400)).unwrap();
    let channel = session.open_socket("/x");
    assert!(!session.wait_ready(Duration::from_millis(50)).unwrap());
    let error = channel.wait_open().unwrap_err();
    assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&start.elapsed()));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(session.wait_ready(LONG).unwrap_err().to_string(), error.to_string());
    assert_eq!(session.failure().unwrap().to_string(), error.to_string());
    // A channel that is opened afterwards fails in the same way.
    assert_eq!(session.exec("true").exit_status().unwrap_err().to_string(), error.to_string());
}

#[test]
fn a_server_that_lets_in_few_at_a_time_lets_all_in() {
    let sshd = Sshd::start(&["MaxStartups 1:100:1"]);
    let machine = machine(&sshd);
    let sessions: Vec<Session> = (0..8).map(|_| Session::start(&machine, LONG).unwrap()).collect();
    for session in &sessions {
        assert!(session.wait_ready(LONG).unwrap(), "{}", sshd.log());
    }
    // Otherwise this test shows nothing.
    assert!(sshd.log().contains("MaxStartups"), "{}", sshd.log());
}

#[test]
fn a_server_that_lets_nobody_in_is_given_up_with_its_words() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sshd = Sshd::start(&[]);
    let machine = machine_at(listener.local_addr().unwrap().port(), &sshd.host_key(), sshd.user_key());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(b"Not allowed at this time\r\n");
        }
    });
    let start = Instant::now();
    let session = Session::start(&machine, Duration::from_millis(500)).unwrap();
    let error = session.wait_ready(LONG).unwrap_err();
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("Not allowed at this time"), "{error}");
    assert!(error.hint_text().unwrap().contains("MaxStartups"), "{error:?}");
}

#[test]
fn a_session_that_is_left_while_it_is_made_ends_after_the_login() {
    let sshd = Sshd::start(&["LogLevel VERBOSE"]);
    let session = Session::start(&machine(&sshd), LONG).unwrap();
    let channel = session.exec("true");
    session.leave(Error::new(ErrorKind::Cancelled, "another one was faster"));
    assert_eq!(channel.wait_open().unwrap_err().kind(), ErrorKind::Cancelled);
    drop((session, channel));
    let end = Instant::now() + LONG;
    while !sshd.log().contains("Disconnected from user") {
        assert!(Instant::now() < end, "{}", sshd.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The tests' own probe of the server ends before it logs in; a session that has begun to log in must not.
    let log = sshd.log();
    assert!(log.contains("Accepted publickey") && !log.contains("Connection closed by authenticating"), "{log}");
    assert!(log.contains(":11: done"), "{log}");
}

#[test]
fn addresses_of_ipv6_work_as_people_write_them() {
    let sshd = Sshd::start(&["ListenAddress ::1"]);
    for name in ["::1", "[::1]"] {
        let machine = BuildMachine { name: name.into(), ..machine(&sshd) };
        let session = Session::start(&machine, LONG).unwrap();
        assert!(session.wait_ready(LONG).unwrap_or_else(|error| panic!("{name}: {error}")));
    }
}

#[test]
fn what_a_server_and_we_have_not_in_common_is_said() {
    for (lines, words) in [
        (
            &["KexAlgorithms sntrup761x25519-sha512@openssh.com"][..],
            ["key exchange method", "sntrup761", "KexAlgorithms"],
        ),
        (&["Ciphers aes128-ctr", "MACs umac-128-etm@openssh.com"], ["message authentication code", "umac-128", "MACs"]),
    ] {
        let sshd = Sshd::start(lines);
        let error = refusal(&machine(&sshd));
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        let said = format!("{error}; {}", error.hint_text().unwrap());
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} not in: {said}"));
    }
}

/// Forwards bytes to `port` and back, each of them `delay` later. Returns the port to connect to.
pub(super) fn long_line(port: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
            [&near, &far].into_iter().for_each(|end| end.set_nodelay(true).unwrap());
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                let (queue, arrivals) = std::sync::mpsc::channel::<(Instant, Vec<u8>)>();
                std::thread::spawn(move || {
                    let mut buffer = [0; 1 << 15];
                    while let Ok(count @ 1..) = from.read(&mut buffer) {
                        let _ = queue.send((Instant::now() + delay, buffer[..count].to_vec()));
                    }
                });
                std::thread::spawn(move || {
                    for (at, data) in arrivals {
                        std::thread::sleep(at.saturating_duration_since(Instant::now()));
                        let _ = to.write_all(&data);
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    own
}

#[test]
fn each_step_of_connecting_may_take_its_time() {
    let sshd = Sshd::start(&[]);
    let mut machine = machine(&sshd);
    // A step is one round trip here. All steps together take longer than one step may.
    machine.port = long_line(machine.port, Duration::from_millis(1500));
    let (step, start) = (Duration::from_secs(6), Instant::now());
    let session = Session::start(&machine, step).unwrap();
    assert!(session.wait_ready(LONG).unwrap());
    assert!(start.elapsed() > step, "{:?}: this shows nothing", start.elapsed());
}

#[test]
fn a_server_that_drips_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sshd = Sshd::start(&[]);
    let machine = machine_at(listener.local_addr().unwrap().port(), &sshd.host_key(), sshd.user_key());
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        while client.write_all(b"x\n").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let start = Instant::now();
    let error = Session::start(&machine, Duration::from_secs(1)).unwrap().wait_ready(LONG).unwrap_err();
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
