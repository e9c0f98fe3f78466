// SPDX-License-Identifier: GPL-3.0-or-later
use std::collections::{HashSet, VecDeque};
use std::io::{self, Read, Write};

use super::adding::WRITE_SIZE;
use super::archives::MAX_TEXT;
use super::greeting::{CLIENT_MAGIC, CLIENT_VERSION, SERVER_MAGIC};
use super::*;
use crate::daemon::request::{ContentAddressed, NewItem};

/// Conversations with real daemons; see the README beside them.
const RECORDINGS: [&str; 2] =
    [include_str!("../../tests/fixtures/daemon/guix-1.5.0"), include_str!("../../tests/fixtures/daemon/guix-1.2.0")];

/// What one side said before it was the other's turn.
#[derive(Clone)]
enum Turn {
    Ours(Vec<u8>),
    Theirs(Vec<u8>),
}

/// A daemon that knows one conversation by heart.
struct Replay {
    turns: VecDeque<Turn>,
    /// Whether it panics if the client sends anything else, or out of turn.
    strict: bool,
}

impl Replay {
    fn of(turns: Vec<Turn>) -> Replay {
        Replay { turns: turns.into(), strict: true }
    }

    /// Returns a daemon that says `bytes`, whatever the client sends.
    fn saying(bytes: Vec<u8>) -> Replay {
        Replay { turns: [Turn::Theirs(bytes)].into(), strict: false }
    }
}

impl Read for Replay {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(Turn::Theirs(bytes)) = self.turns.front_mut() else { return Ok(0) };
        let length = buffer.len().min(bytes.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        bytes.drain(..length);
        if bytes.is_empty() {
            self.turns.pop_front();
        }
        Ok(length)
    }
}

impl Write for Replay {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.turns.front_mut() {
            Some(Turn::Theirs(_)) if self.strict => panic!("sent {bytes:02x?} out of turn"),
            None | Some(Turn::Theirs(_)) => Ok(bytes.len()),
            Some(Turn::Ours(expected)) => {
                assert!(expected.starts_with(bytes), "sent {bytes:02x?}, not {expected:02x?}");
                expected.drain(..bytes.len());
                if expected.is_empty() {
                    self.turns.pop_front();
                }
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Replay {}

/// A recorded conversation.
struct Recording {
    version: u64,
    derivation: StorePath,
    failing: StorePath,
    output: StorePath,
    bundle: Vec<u8>,
    exported: Vec<u8>,
    turns: Vec<Turn>,
}

impl Recording {
    fn parse(text: &str) -> Recording {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let value = |key| value(key).unwrap_or_else(|| panic!("the recording has no {key}"));
        let path = |key| store().parse(value(key)).unwrap();
        let prefixed = |key: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            lines.flat_map(unhex).collect()
        };
        let mut turns: Vec<Turn> = Vec::new();
        for line in text.lines() {
            match (line.split_once(' '), turns.last_mut()) {
                (Some((">", hex)), Some(Turn::Ours(bytes))) => bytes.extend(unhex(hex)),
                (Some(("<", hex)), Some(Turn::Theirs(bytes))) => bytes.extend(unhex(hex)),
                (Some((">", hex)), _) => turns.push(Turn::Ours(unhex(hex))),
                (Some(("<", hex)), _) => turns.push(Turn::Theirs(unhex(hex))),
                _ => {}
            }
        }
        Recording {
            version: u64::from_str_radix(value("version"), 16).unwrap(),
            derivation: path("derivation"),
            failing: path("failing"),
            output: path("output"),
            bundle: prefixed("bundle"),
            exported: prefixed("exported"),
            turns,
        }
    }

    /// Returns the turns up to the point at which the daemon has said `left` bytes: it hangs up there.
    fn cut(&self, mut left: usize) -> Vec<Turn> {
        let mut turns = Vec::new();
        for turn in &self.turns {
            match turn {
                Turn::Theirs(bytes) if bytes.len() > left => {
                    turns.push(Turn::Theirs(bytes[..left].to_vec()));
                    break;
                }
                Turn::Theirs(bytes) => left -= bytes.len(),
                Turn::Ours(_) => {}
            }
            turns.push(turn.clone());
        }
        turns
    }

    /// Repeats the recorded conversation, as the client.
    fn converse(&self, turns: Vec<Turn>) -> Result<Client> {
        let mut client = Client::handshake(Box::new(Replay::of(turns)), &store())?;
        assert_eq!(client.version(), self.version);
        let valid = client.valid_paths(&[self.derivation.clone(), self.failing.clone()])?;
        assert_eq!(valid, HashSet::from([self.failing.clone()]));
        assert_eq!(client.import(&mut &self.bundle[..])?, 1);
        let info = client.path_info(&self.derivation)?;
        assert!(info.deriver.is_none() && info.nar_size > 500 && info.references.len() == 1, "{info:?}");
        client.add_temp_root(&self.derivation)?;
        client.set_options(
            &BuildOptions { max_silent_time: 60, timeout: 120, print_build_trace: true, ..BuildOptions::default() },
            true,
        )?;
        let mut log = Vec::new();
        let mut note = |text: &[u8]| -> Result<()> {
            log.extend_from_slice(text);
            Ok(())
        };
        build(&mut client, &self.derivation, &mut note)?;
        let refusal = build(&mut client, &self.failing, &mut note).unwrap_err();
        let log = String::from_utf8_lossy(&log);
        if refusal.kind() != ErrorKind::BuildFailed {
            return Err(refusal);
        }
        assert!(log.contains("\n1\n") && log.contains("about to fail\n"), "{log}");
        client.export(&self.output)?;
        let mut exported = Vec::new();
        ExportReader(&mut client)
            .read_to_end(&mut exported)
            .map_err(|e| Error::io(ErrorKind::Internal, "reading", e))?;
        assert_eq!(exported, self.exported);
        let info = client.path_info(&self.output)?;
        assert_eq!(info.deriver.as_ref(), Some(&self.derivation));
        let missing = store().parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-missing").unwrap();
        let refusal = client.path_info(&missing).unwrap_err();
        if refusal.kind() != ErrorKind::Daemon {
            return Err(refusal);
        }
        assert!(client.valid_paths(std::slice::from_ref(&missing))?.is_empty());
        Ok(client)
    }
}

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn what_is_said_to_real_daemons_and_what_their_answers_mean() {
    for text in RECORDINGS {
        let recording = Recording::parse(text);
        let mut client = recording.converse(recording.turns.clone()).unwrap();
        // The conversation is complete: after the last answer comes the end.
        assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_conversation_that_breaks_off_anywhere_is_an_error() {
    for text in RECORDINGS {
        let recording = Recording::parse(text);
        let said = |turn: &Turn| if let Turn::Theirs(bytes) = turn { bytes.len() } else { 0 };
        for length in 0..recording.turns.iter().map(said).sum() {
            let Err(error) = recording.converse(recording.cut(length)) else { panic!("{length} bytes are enough") };
            assert_eq!(error.kind(), ErrorKind::Unavailable, "after {length} bytes: {error}");
        }
    }
}

/// Returns a client of a daemon that has greeted it, and says `answer` next.
fn client_told(answer: &[u64]) -> Client {
    let mut bytes = Vec::new();
    for word in [SERVER_MAGIC, 0x164, LAST].iter().chain(answer) {
        put_number(&mut bytes, *word);
    }
    Client::handshake(Box::new(Replay::saying(bytes)), &store()).unwrap()
}

const LAST: u64 = 0x616c_7473;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;

fn build(client: &mut Client, derivation: &StorePath, log: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    client.begin_build(derivation)?;
    client.finish_build(log)
}

fn item() -> StorePath {
    store().parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x").unwrap()
}

#[test]
fn frames_out_of_turn_break_the_connection() {
    for frame in [READ, WRITE] {
        let mut client = client_told(&[frame, 8]);
        let error = build(&mut client, &item(), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        let later = client.add_temp_root(&item()).unwrap_err();
        assert!(later.to_string().contains("BuildPaths request broke off"), "{later}");
    }
    let error = client_told(&[WRITE, 8]).import(&mut &b""[..]).unwrap_err();
    assert!(error.to_string().contains("sent data during an import"), "{error}");
    let mut client = client_told(&[READ, 8]);
    client.export(&item()).unwrap();
    let error = client.read_export(&mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("asked for data during an export"), "{error}");
    let error = client_told(&[42]).add_temp_root(&item()).unwrap_err();
    assert!(error.to_string().contains("0x2a"), "{error}");
}

#[test]
fn nothing_again_and_again_breaks_the_connection() {
    let mut client = client_told(&[WRITE, 0].repeat(1 << 18));
    client.export(&item()).unwrap();
    let error = client.read_export(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let mut client = client_told(&[READ, 8].repeat(1 << 18));
    let error = client.import(&mut &b"x"[..]).unwrap_err();
    assert!(error.to_string().contains("asked for more than there is"), "{error}");
    assert!(!client.is_idle());
}

#[test]
fn an_error_during_an_import_or_export_leaves_the_connection_usable() {
    let mut failure = vec![0x6378_7470, 3, u64::from_le_bytes(*b"no!\0\0\0\0\0"), 1];
    failure.extend([LAST, 1]);
    let mut client = client_told(&failure);
    let error = client.import(&mut &b""[..]).unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Daemon, "no!"));
    client.add_temp_root(&item()).unwrap();
    let mut client = client_told(&failure);
    client.export(&item()).unwrap();
    assert_eq!(client.read_export(&mut [0; 8]).unwrap_err().kind(), ErrorKind::Daemon);
    client.add_temp_root(&item()).unwrap();
}

#[test]
fn names_that_are_none_are_the_daemons_fault() {
    let name = u64::from_le_bytes(*b"x.drv\0\0\0");
    let error = client_told(&[LAST, 5, name, 0, 0, 0, 0]).path_info(&item()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let error = client_told(&[LAST, 5, name]).add_text("x", "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let error = client_told(&[LAST, 1, 5, name]).valid_paths(&[item()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let error = client_told(&[LAST, 1, 5, name]).import(&mut &b""[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let error = client_told(&[LAST, 2]).valid_paths(&[item()]).unwrap_err();
    assert!(error.to_string().contains("2 times a store file name, more than 1"), "{error}");
}

/// A daemon with a relay beside it that takes many requests at once.
struct WithRelay(Replay);

impl Read for WithRelay {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for WithRelay {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for WithRelay {
    fn submit(&mut self, requests: &[Vec<u8>]) -> Option<io::Result<()>> {
        Some(requests.iter().try_for_each(|request| self.write_all(request)))
    }
}

/// Returns a conversation: the greeting, and then `turns`. In each, the client sends requests to add items, and the
/// daemon answers with names.
fn adding(turns: &[(&[NewItem], &[&str])]) -> Vec<Turn> {
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut conversation = vec![
        Turn::Ours(words(&[CLIENT_MAGIC])),
        Turn::Theirs(words(&[SERVER_MAGIC, 0x164])),
        Turn::Ours(words(&[CLIENT_VERSION, 0, 0])),
        Turn::Theirs(words(&[LAST])),
    ];
    for (items, names) in turns {
        conversation.push(Turn::Ours(items.iter().flat_map(NewItem::request).collect()));
        let mut answer = Vec::new();
        for name in *names {
            put_number(&mut answer, LAST);
            put_string(&mut answer, format!("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-{name}"));
        }
        conversation.push(Turn::Theirs(answer));
    }
    conversation
}

/// Returns a client of a daemon that gets a text's export and a question in one flight, and says `answers`.
fn client_that_asks_in_one_flight(answers: &[&[u8]]) -> Client {
    let mut ours =
        NewItem { name: "t", contents: &ContentAddressed::Text(b"text".to_vec()), references: &[] }.request();
    put_number(&mut ours, Operation::ExportPath as u64);
    put_string(&mut ours, item().as_str());
    put_number(&mut ours, 1);
    put_number(&mut ours, Operation::QueryValidPaths as u64);
    put_number(&mut ours, 0);
    let mut conversation = adding(&[]);
    conversation.extend([Turn::Ours(ours), Turn::Theirs(answers.concat())]);
    let mut client = Client::handshake(Box::new(Replay::of(conversation)), &store()).unwrap();
    client.export_text_later("t", "text", &item()).unwrap();
    client
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn records_and_exports_are_asked_for_at_once_and_read_in_that_order() {
    let paths =
        ["a", "b"].map(|name| store().parse(&format!("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-{name}")).unwrap());
    let asked: Vec<u8> = [Operation::QueryPathInfo, Operation::ExportPath]
        .iter()
        .flat_map(|operation| paths.iter().map(|path| request(*operation, &arguments_about(*operation, path))))
        .flatten()
        .collect();
    let record = |size: u64| words(&[LAST, 0, 0, 0, 1, size]);
    let export = |word: u64| words(&[0x6461_7416, 8, word, LAST, 1]);
    let client = |answers: &[Vec<u8>]| {
        let mut conversation = adding(&[]);
        conversation.extend([Turn::Ours(asked.clone()), Turn::Theirs(answers.concat())]);
        let mut client = Client::handshake(Box::new(Replay::of(conversation)), &store()).unwrap();
        client.ask_for_all(&paths).unwrap();
        client
    };
    let mut told = client(&[record(5), record(6), export(7), export(8)]);
    assert!(!told.is_idle());
    let refusal = told.valid_paths(&[]).unwrap_err();
    assert!(refusal.kind() == ErrorKind::Unavailable && refusal.to_string().contains("QueryPathInfo"), "{refusal}");
    assert_eq!(paths.clone().map(|path| told.path_info(&path).unwrap().nar_size), [5, 6]);
    for (path, word) in paths.iter().zip([7, 8]) {
        told.export(path).unwrap();
        let mut exported = Vec::new();
        ExportReader(&mut told).read_to_end(&mut exported).unwrap();
        assert_eq!(exported, words(&[word]));
    }
    assert!(told.is_idle());

    // After a refusal, there are answers left to read that nobody needs.
    let mut refused = words(&[0x6378_7470]);
    put_string(&mut refused, "it is gone");
    put_number(&mut refused, 1);
    let mut told = client(&[refused, record(6)]);
    assert_eq!(told.path_info(&paths[0]).unwrap_err().kind(), ErrorKind::Daemon);
    assert!(!told.is_idle());

    // This many are asked for one by one.
    let mut told = client_told(&[]);
    told.ask_for_all(&vec![item(); FLIGHT / 100]).unwrap();
    assert!(told.is_idle());
}

#[test]
fn an_export_of_a_text_travels_with_a_question_which_goes_on_if_it_fails() {
    let (mut added, mut refused) = (words(&[LAST]), words(&[0x6378_7470]));
    put_string(&mut added, item().as_str());
    put_string(&mut refused, "it has no key");
    put_number(&mut refused, 1);
    let exported = words(&[0x6461_7416, 8, 7, 0x6461_7416, 8, 9, LAST, 1]);
    let none_is_valid = words(&[LAST, 0]);

    let mut client = client_that_asks_in_one_flight(&[&added, &exported, &none_is_valid]);
    assert!(client.valid_paths(&[]).unwrap().is_empty());
    assert_eq!(client.take_exported().unwrap().unwrap(), words(&[7, 9]));
    assert!(client.take_exported().is_none() && client.is_idle());

    for answers in [[&added, &refused], [&refused, &refused]] {
        let mut client = client_that_asks_in_one_flight(&[answers[0], answers[1], &none_is_valid]);
        assert!(client.valid_paths(&[]).unwrap().is_empty());
        let error = client.take_exported().unwrap().unwrap_err();
        assert!(error.kind() == ErrorKind::Daemon && error.to_string() == "it has no key", "{error}");
        assert!(client.is_idle());
    }

    let endless = words(&[0x6461_7416, u64::MAX]);
    let mut client = client_that_asks_in_one_flight(&[&added, &endless, &vec![0; MAX_TEXT + 8192]]);
    let error = client.valid_paths(&[]).unwrap_err();
    assert!(error.kind() == ErrorKind::Protocol && error.to_string().contains("of a short text"), "{error}");
    assert!(!client.is_idle());
}

#[test]
fn batches_overlap_where_somebody_takes_them_and_come_one_after_the_other_elsewhere() {
    let contents = ContentAddressed::Text(b"text".to_vec());
    let [a, b, c] = ["a", "b", "c"].map(|name| NewItem { name, contents: &contents, references: &[] });
    let names = |paths: Vec<StorePath>| paths.iter().map(|path| path.name().to_string()).collect::<Vec<_>>();
    let conversations: [(Box<dyn Stream>, _); 2] = [
        (Box::new(WithRelay(Replay::of(adding(&[(&[a, b, c], &["a", "b", "c"])])))), "with a relay"),
        (Box::new(Replay::of(adding(&[(&[a, b], &["a", "b"]), (&[c], &["c"])]))), "without"),
    ];
    for (stream, which) in conversations {
        let mut client = Client::handshake(stream, &store()).unwrap();
        let first = client.begin_adding(&[a, b]).unwrap().unwrap();
        let second = client.begin_adding(&[c]).unwrap().unwrap();
        assert!(client.begin_adding(&[]).unwrap().is_none());
        assert_eq!(names(client.finish_adding(first).unwrap()), ["a", "b"], "{which}");
        assert!(!client.is_idle(), "{which}");
        assert_eq!(names(client.finish_adding(second).unwrap()), ["c"], "{which}");
        assert!(client.is_idle(), "{which}");
    }
}

#[test]
fn additions_travel_together_as_far_as_a_daemon_reads_at_once() {
    let sized = |size: usize| ContentAddressed::Text(vec![b'x'; size]);
    let (small, half, large) = (sized(100), sized(FLIGHT / 2 - 100), sized(10 * FLIGHT));
    let item = |name, contents| NewItem { name, contents, references: &[] };
    let [a, b, c, d, e] = [item("a", &half), item("b", &half), item("c", &small), item("d", &large), item("e", &small)];
    let turns: [(&[NewItem], &[&str]); 4] = [(&[a, b], &["a", "b"]), (&[c], &["c"]), (&[d], &["d"]), (&[e], &["e"])];
    let mut client = Client::handshake(Box::new(Replay::of(adding(&turns))), &store()).unwrap();
    let begun = client.begin_adding(&[a, b, c, d, e]).unwrap().unwrap();
    assert_eq!(client.finish_adding(begun).unwrap().len(), 5);
    assert!(client.is_idle());
}

#[test]
fn what_is_little_is_added_along_with_a_question() {
    let contents = ContentAddressed::Text(b"text".to_vec());
    let addition = NewItem { name: "x", contents: &contents, references: &[] };
    let names = std::slice::from_ref(&addition);
    let client = |answer: Vec<u8>| {
        let mut ours = addition.request();
        ours.extend(words(&[Operation::QueryValidPaths as u64, 0]));
        let mut conversation = adding(&[]);
        conversation.extend([Turn::Ours(ours), Turn::Theirs([answer, words(&[LAST, 0])].concat())]);
        let mut client = Client::handshake(Box::new(Replay::of(conversation)), &store()).unwrap();
        assert!(client.add_later(names, &[item()]).unwrap());
        client
    };
    let named = |name: &str| {
        let mut answer = words(&[LAST]);
        put_string(&mut answer, name);
        answer
    };
    let mut told = client(named(item().as_str()));
    assert!(told.valid_paths(&[]).unwrap().is_empty() && told.take_refusal().is_none() && told.is_idle());

    let mut refused = words(&[0x6378_7470]);
    put_string(&mut refused, "the disk is full");
    put_number(&mut refused, 1);
    let mut told = client(refused);
    assert!(told.valid_paths(&[]).unwrap().is_empty() && told.is_idle());
    assert_eq!(told.take_refusal().unwrap().to_string(), "the disk is full");

    let mut told = client(named("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-other"));
    let error = told.valid_paths(&[]).unwrap_err();
    assert!(error.kind() == ErrorKind::Protocol && error.to_string().contains("-other' of what is"), "{error}");
    assert!(!told.is_idle());

    // An item that is larger than a flight does not travel with a request.
    let contents = ContentAddressed::Text(vec![b'x'; FLIGHT]);
    let large = NewItem { name: "x", contents: &contents, references: &[] };
    assert!(!client_told(&[]).add_later(&[large], &[item()]).unwrap());
}

#[test]
fn additions_that_break_off_break_the_connection() {
    let contents = ContentAddressed::Text(b"text".to_vec());
    let [a, b] = ["a", "b"].map(|name| NewItem { name, contents: &contents, references: &[] });
    let relay = WithRelay(Replay::of(adding(&[(&[a, b], &["a"])])));
    let mut client = Client::handshake(Box::new(relay), &store()).unwrap();
    let (first, second) = (client.begin_adding(&[a]).unwrap().unwrap(), client.begin_adding(&[b]).unwrap().unwrap());
    client.finish_adding(first).unwrap();
    assert_eq!(client.finish_adding(second).unwrap_err().kind(), ErrorKind::Unavailable);
    let Err(later) = client.begin_adding(&[a]) else { panic!("it goes on") };
    assert!(later.to_string().contains("AddTextToStore request broke off"), "{later}");
    let relay = WithRelay(Replay::of(adding(&[(&[a, b], &[])])));
    let mut client = Client::handshake(Box::new(relay), &store()).unwrap();
    for additions in [client.begin_adding(&[a]).unwrap().unwrap(), client.begin_adding(&[b]).unwrap().unwrap()] {
        assert_eq!(client.finish_adding(additions).unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

#[test]
fn a_nar_is_added_in_pieces_as_it_is_at_once() {
    let nar = vec![7; 3 * WRITE_SIZE];
    let contents = ContentAddressed::Source(nar.clone());
    let turns = adding(&[(&[NewItem { name: "a", contents: &contents, references: &[] }], &["a"])]);
    let mut client = Client::handshake(Box::new(Replay::of(turns)), &store()).unwrap();
    assert_eq!(client.add_nar("a", &mut &nar[..]).unwrap().name(), "a");
    assert!(client.is_idle());
}

#[test]
fn a_nar_that_cannot_be_read_is_not_the_daemons_fault() {
    struct Damaged;
    impl Read for Damaged {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(Error::new(ErrorKind::Store, "it is damaged").into())
        }
    }
    let mut client = client_told(&[]);
    let error = client.add_nar("a", &mut Damaged).unwrap_err();
    assert!(error.kind() == ErrorKind::Store && error.to_string().contains("it is damaged"), "{error}");
    assert!(!client.is_idle());
}

#[test]
fn failures_of_builds_are_told_from_those_of_daemons() {
    for (message, status, kind) in [
        ("build of `/gnu/store/x.drv' failed", 100, ErrorKind::BuildFailed),
        ("build of `/gnu/store/x.drv' failed", 101, ErrorKind::TimedOut),
        ("build of `/gnu/store/x.drv' failed", 1, ErrorKind::Daemon),
        ("some substitutes for the outputs failed", 1, ErrorKind::Daemon),
        ("no space left on device", 1, ErrorKind::Daemon),
    ] {
        let mut bytes = Vec::new();
        put_string(&mut bytes, message);
        put_number(&mut bytes, status);
        let words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let mut client = client_told(&[0x6378_7470].into_iter().chain(words).collect::<Vec<_>>());
        assert_eq!(build(&mut client, &item(), &mut |_| Ok(())).unwrap_err().kind(), kind, "{message} {status}");
    }
}

#[test]
fn who_is_not_guix_daemon_is_told_apart() {
    for (words, complaint) in [
        (vec![u64::from_le_bytes(*b"SSH-2.0-")], "not guix-daemon"),
        (vec![SERVER_MAGIC, 0x110, LAST], "1.2.0 or later"),
        (vec![SERVER_MAGIC, 0x264, LAST], "not 1.x"),
    ] {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let Err(error) = Client::handshake(Box::new(Replay::saying(bytes)), &store()) else { panic!("{words:x?}") };
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(format!("{error} {:?}", error.hint_text()).contains(complaint), "{error}");
    }
}
