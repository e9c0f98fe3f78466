// SPDX-License-Identifier: GPL-3.0-or-later
//! Servers that send what nobody asked for.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::sshd::{Sshd, generate_key};
use super::{LONG, machine_at};
use crate::ground::error::ErrorKind;
use crate::ssh::Session;
use crate::ssh::driver::Keepalive;

/// Encodes a packet before there are keys (RFC 4253, section 6).
pub fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (payload.len() + 9) % 8) % 8;
    let length = (payload.len() + padding + 1) as u32;
    [&length.to_be_bytes(), &[padding as u8][..], payload, &[0; 16][..padding]].concat()
}

/// Encodes the message in which a server says what it supports: its lists, in their order.
pub fn kexinit(lists: [&str; 10]) -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend([7; 16]);
    for list in lists {
        payload.extend((list.len() as u32).to_be_bytes());
        payload.extend(list.as_bytes());
    }
    payload.extend([0; 5]);
    packet(&payload)
}

/// Starts a server that sends `words`, and then `again` as long as it can. Returns its port.
fn server(words: Vec<u8>, again: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _): (TcpStream, _) = listener.accept().unwrap();
        client.write_all(&words).unwrap();
        while client.write_all(&again).is_ok() {}
    });
    port
}

#[test]
fn packets_that_nobody_asks_for_do_not_fill_the_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    generate_key(&key, &["-t", "ed25519"]);
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let both = "chacha20-poly1305@openssh.com";
    let greeting = kexinit([
        "curve25519-sha256",
        "ssh-ed25519",
        both,
        both,
        "hmac-sha2-256",
        "hmac-sha2-256",
        "none",
        "none",
        "",
        "",
    ]);
    let greeting = [b"SSH-2.0-flood\r\n".to_vec(), greeting].concat();
    // 99 says that a request was granted, here for a channel that does not exist; 215 has no meaning at all.
    for (number, size) in [(99, 5), (99, 30_000), (215, 5), (215, 30_000)] {
        let mut payload = vec![0; size];
        payload[0] = number;
        let flood = packet(&payload).repeat(1 << 18 >> 13);
        let machine = machine_at(server(greeting.clone(), flood), &public, key.clone());
        let begun = Instant::now();
        let error = Session::start(&machine, LONG).unwrap().wait_ready(LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert!(error.to_string().contains("nobody asked for"), "{error}");
        assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    }
}

/// No real server floods, so the session may hold no memory at all here.
#[test]
fn a_session_that_holds_too_much_ends() {
    let sshd = Sshd::start(&[]);
    let keepalive = Keepalive { memory: 0, ..Keepalive::DEFAULT };
    let session = Session::start_with(&super::machine(&sshd), None, LONG, keepalive).unwrap();
    let end = Instant::now() + LONG;
    while session.failure().is_none() {
        assert!(Instant::now() < end, "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(session.failure().unwrap().kind(), ErrorKind::Protocol);
}
