// SPDX-License-Identifier: GPL-3.0-or-later
//! Substitute servers: Guix's own `guix publish` on a host, and servers in front of it that misbehave.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::lab::{Host, lab};

/// The address of the farm's switch, at which its hosts reach what runs in the farm but on none of them.
const HERE: &str = "10.88.255.254";

/// The port of `guix publish`.
const PORT: u16 = 8080;

/// What a server does with the nars that `guix publish` would give. It passes on all else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nars {
    /// It gives them.
    Given,
    /// It answers 503.
    Refused,
    /// It gives others of the same size: a byte in the middle is changed.
    Changed,
    /// It ends the connection after a megabyte.
    Cut,
    /// After a megabyte, it gives no more, and keeps the connection.
    Silent,
}

/// `guix publish` on a host, until this is dropped.
pub struct Publisher(Host);

impl Publisher {
    /// Publishes the store of `host`, which gets `items` with all that they refer to from `from`.
    #[track_caller]
    pub fn new(host: Host, from: Host, items: &[&str]) -> Publisher {
        if !items.is_empty() {
            let bundle = "/var/tmp/published";
            from.sh(&["sh", "-c", &format!("guix archive --export -r {} >{bundle}", items.join(" "))]);
            std::fs::copy(from.file(bundle), host.file(bundle)).expect("a copy of the bundle");
            host.sh(&["sh", "-c", &format!("guix archive --import <{bundle} && rm {bundle}")]);
        }
        host.sh(&[
            "sh",
            "-c",
            &format!(
                "setsid guix publish --port={PORT} --listen=0.0.0.0 --compression=zstd:3 --compression=gzip:1 \
                 --user=nobody >/var/log/publish.log 2>&1 </dev/null & \
                 until ss -Hltn 'sport = :{PORT}' | grep -q .; do sleep 0.05; done"
            ),
        ]);
        let publisher = Publisher(host);
        publisher.answers(); // the first answer takes long
        publisher
    }

    #[track_caller]
    fn answers(&self) {
        let mut stream = connect(&self.url()).expect("a connection to guix publish");
        write!(stream, "GET /nix-cache-info HTTP/1.1\r\nHost: publisher\r\nConnection: close\r\n\r\n").expect("asking");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("StoreDir: /gnu/store"), "{answer}");
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}:{PORT}", lab(&["address", self.0.0]).trim())
    }

    /// Starts a server that gives what this one gives, but for its nars.
    #[track_caller]
    pub fn behind(&self, nars: Nars) -> Server {
        Server::start(self.url(), nars)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.0.run(&["pkill", "-f", "[g]uix publish"]);
    }
}

/// A server in this process, until this is dropped.
pub struct Server {
    url: String,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    upstream: String,
    nars: Nars,
    given: AtomicU64,
    ends: AtomicBool,
}

impl Server {
    fn start(upstream: String, nars: Nars) -> Server {
        let listener = TcpListener::bind((HERE, 0)).expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let (given, ends) = Default::default();
        let state = Arc::new(State { upstream, nars, given, ends });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ends.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that has gone is not this server's trouble.
                    let _ = client.and_then(|client| serve(client, &state));
                });
            }
        });
        Server { url, state, thread: Some(thread) }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many MiB of nars it has given.
    pub fn given_mib(&self) -> u64 {
        self.state.given.load(Ordering::SeqCst) >> 20
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::SeqCst);
        let _ = connect(&self.url); // so that it looks
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn connect(url: &str) -> io::Result<TcpStream> {
    TcpStream::connect(url.trim_start_matches("http://"))
}

/// Answers one question, and closes the connection.
fn serve(client: TcpStream, state: &State) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut question = String::new();
    reader.read_line(&mut question)?;
    let mut line = String::from("x");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let path = question.split(' ').nth(1).unwrap_or("/");
    let is_nar = path.starts_with("/nar/");
    let mut client = client;
    if is_nar && state.nars == Nars::Refused {
        return client.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let mut upstream = connect(&state.upstream)?;
    write!(upstream, "GET {path} HTTP/1.1\r\nHost: publisher\r\nConnection: close\r\n\r\n")?;
    let mut answer = BufReader::new(upstream);
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head.push_str(&line);
        }
        line.clear();
        if answer.read_line(&mut line)? == 0 {
            return Ok(());
        }
    }
    head.push_str("Connection: close\r\n\r\n");
    client.write_all(head.as_bytes())?;
    let (mut buffer, mut sent) = (vec![0; 64 << 10], 0u64);
    loop {
        let length = answer.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let bytes = &mut buffer[..length];
        let middle = (sent..sent + length as u64).contains(&(1 << 20));
        match state.nars {
            Nars::Changed if is_nar && middle => bytes[length / 2] ^= 1,
            Nars::Cut if is_nar && sent > 1 << 20 => return Ok(()),
            Nars::Silent if is_nar && sent > 1 << 20 => {
                while !state.ends.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                return Ok(());
            }
            _ => {}
        }
        client.write_all(bytes)?;
        sent += length as u64;
        if is_nar {
            state.given.fetch_add(length as u64, Ordering::SeqCst);
        }
    }
}

/// A machine whose guix-daemon fetches from these servers, until this is dropped.
pub struct Fetcher(Host);

impl Fetcher {
    /// Starts the machine's daemon anew.
    #[track_caller]
    pub fn new(host: Host, urls: &[&str]) -> Fetcher {
        lab(&["restart-daemon", host.0, "--", &format!("--substitute-urls={}", urls.join(" "))]);
        // What it knows of servers it keeps for a while.
        host.sh(&["rm", "-rf", "/var/cache/guix/substitute", "/var/guix/substitute"]);
        Fetcher(host)
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        let _ = Command::new(super::lab::LAB).args(["restart-daemon", self.0.0]).status();
    }
}
