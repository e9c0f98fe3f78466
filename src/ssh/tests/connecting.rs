// SPDX-License-Identifier: GPL-3.0-or-later
//! Which connections come about, and what is said of the others.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::sshd::{Sshd, generate_key};
use super::{LONG, machine, machine_at, session};
use crate::error::{Error, ErrorKind};
use crate::machine::{BuildMachine, HostKey};
use crate::ssh::Session;

/// Why no session with `machine` comes about.
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
    assert_eq!(error.kind(), ErrorKind::Authentication);
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
    assert_eq!(error.kind(), ErrorKind::Authentication);
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
        // Its public part need not lie beside it.
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
    // A channel that is asked for afterwards fails in the same way.
    assert_eq!(session.exec("true").exit_status().unwrap_err().to_string(), error.to_string());
}
