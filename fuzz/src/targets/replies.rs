// SPDX-License-Identifier: GPL-3.0-or-later
//! What a build machine says: its daemon, in frames and results, and its shell, of load and space.

use std::io::{self, Read, Write};

use guix_offload::daemon::{BuildOptions, Client, ContentAddressed, NewItem, Stream};
use guix_offload::ground::error::{ErrorKind, Result};
use guix_offload::ground::store_path::{StoreDir, StorePath};
use guix_offload::remote::{Answer, Survey};

use super::bytes::Bytes;
use super::request::assert_printable;

/// What a daemon says first: its magic, its version, LAST.
pub const GREETING: [u64; 3] = [0x6478_696f, 0x164, 0x616c_7473];

/// A daemon that says what it says whatever it is told, in pieces of at most `piece` bytes.
struct Script {
    bytes: Vec<u8>,
    said: usize,
    piece: usize,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.bytes[self.said..];
        let length = buffer.len().min(left.len()).min(self.piece);
        buffer[..length].copy_from_slice(&left[..length]);
        self.said += length;
        Ok(length)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Script {}

/// A byte: is it the shell that answers, does the daemon greet first, how many requests there are; the requests, a byte
/// each; the answers.
pub fn run(data: &[u8]) {
    let mut input = Bytes(data);
    let how = input.byte();
    if how & 1 == 1 {
        return shell(input.0);
    }
    let requests = input.take(usize::from(how >> 4));
    let mut bytes = Vec::new();
    if how & 2 == 0 {
        GREETING.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    }
    bytes.extend_from_slice(input.0);
    let piece = if how & 4 == 0 { usize::MAX } else { 7 };
    daemon(Script { bytes, said: 0, piece }, requests);
}

fn shell(answer: &[u8]) {
    let text = String::from_utf8_lossy(answer);
    if let Some(answer) = Answer::parse(&text, 1_700_000_000) {
        assert!(answer.probe.load.is_finite() && !answer.daemon_socket.is_some_and(|name| name.is_empty()));
    }
    let survey = Survey::parse(&text);
    for text in [&survey.kernel, &survey.architecture, &survey.host_name, &survey.guix_version] {
        assert_printable(text);
    }
}

fn daemon(script: Script, requests: &[u8]) {
    let store = StoreDir::new("/gnu/store").unwrap();
    let path = |letter: &str| store.parse(&format!("/gnu/store/{}-x.drv", letter.repeat(32))).unwrap();
    let mut client = match Client::handshake(Box::new(script), &store) {
        Ok(client) => client,
        Err(error) => return assert_printable(&error.to_string()),
    };
    for request in requests {
        let result = ask(&mut client, *request, &[path("a"), path("b")]);
        let Err(error) = result else {
            assert!(client.is_idle());
            continue;
        };
        assert_printable(&error.to_string());
        match error.kind() {
            // Roots and options travel with other requests: one that is refused breaks the connection.
            ErrorKind::Daemon if matches!(request % 8, 3 | 4) => {}
            // So does one of which others were asked for at the same time.
            ErrorKind::Daemon if request % 16 == ALL_AT_ONCE => {}
            ErrorKind::Daemon | ErrorKind::BuildFailed | ErrorKind::TimedOut => assert!(client.is_idle()),
            ErrorKind::Protocol | ErrorKind::Unavailable => {}
            other => panic!("{other:?}: {error}"),
        }
        if !client.is_idle() {
            assert_eq!(ask(&mut client, *request, &[path("a")]).unwrap_err().kind(), ErrorKind::Unavailable);
            return;
        }
    }
}

/// The request for records and exports at once.
const ALL_AT_ONCE: u8 = 9;

/// A question that a text's export and an addition travel with.
const IN_COMPANY: u8 = 8;

fn ask(client: &mut Client, request: u8, paths: &[StorePath]) -> Result<()> {
    match request % 16 {
        IN_COMPANY => {
            let contents = ContentAddressed::Text(b"text".to_vec());
            let item = NewItem { name: "x.drv", contents: &contents, references: &[] };
            client.export_text_later("x", "text", &paths[0])?;
            assert!(client.add_later(&[item], &paths[..1])?);
            client.valid_paths(paths)?;
            assert!(client.take_exported().is_some() && client.is_idle());
            client.take_refusal();
            return Ok(());
        }
        ALL_AT_ONCE => {
            client.ask_for_all(paths)?;
            for path in paths {
                client.path_info(path)?;
            }
            for path in paths {
                client.export(path)?;
                while client.read_export(&mut [0; 100])? > 0 {}
            }
            return Ok(());
        }
        _ => {}
    }
    let options = BuildOptions { max_silent_time: 1, timeout: 2, print_build_trace: true, ..BuildOptions::default() };
    match request % 8 {
        0 => client.valid_paths(paths).map(|_| ()),
        1 => client.path_info(&paths[0]).map(|_| ()),
        2 => client.add_text("x.drv", "text").map(|_| ()),
        3 => client.add_temp_root(&paths[0]),
        4 => client.set_options(&options, request & 8 == 0),
        5 => {
            client.begin_build(&paths[0])?;
            client.finish_build(&mut |_| Ok(()))
        }
        6 => {
            client.export(&paths[0])?;
            let mut buffer = [0; 100];
            while client.read_export(&mut buffer[..1 + usize::from(request / 8)])? > 0 {}
            Ok(())
        }
        _ => client.import(&mut [7; 40_000].as_slice()).map(|_| ()),
    }
}
