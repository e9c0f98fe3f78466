// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of the nar reader.

use super::*;
use crate::ground::error::ErrorKind;

/// What a nar holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Directory,
    Entry(Vec<u8>),
    EndDirectory,
    File(bool, Vec<u8>),
    Symlink(Vec<u8>),
}

/// Records what it is told.
#[derive(Default)]
pub struct Recorder {
    pub events: Vec<Event>,
    size: u64,
}

impl Visitor for Recorder {
    fn directory(&mut self) -> Result<()> {
        self.events.push(Event::Directory);
        Ok(())
    }
    fn entry(&mut self, name: &[u8]) -> Result<()> {
        self.events.push(Event::Entry(name.to_vec()));
        Ok(())
    }
    fn end_directory(&mut self) -> Result<()> {
        self.events.push(Event::EndDirectory);
        Ok(())
    }
    fn file(&mut self, executable: bool, size: u64) -> Result<()> {
        self.size = size;
        self.events.push(Event::File(executable, Vec::new()));
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(Event::File(_, contents)) = self.events.last_mut() else { panic!("data without a file") };
        contents.extend_from_slice(bytes);
        Ok(())
    }
    fn end_file(&mut self) -> Result<()> {
        let Some(Event::File(_, contents)) = self.events.last() else { panic!("end without a file") };
        assert_eq!(contents.len() as u64, self.size);
        Ok(())
    }
    fn symlink(&mut self, target: &[u8]) -> Result<()> {
        self.events.push(Event::Symlink(target.to_vec()));
        Ok(())
    }
}

/// Encodes the words of `text`, which are separated by blanks; `_` stands for the empty string.
fn words(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    text.split_ascii_whitespace().for_each(|word| put_string(&mut bytes, word.trim_matches('_')));
    bytes
}

const EMPTY_FILE: &str = "( type regular contents _ )";

fn nar(node: &str) -> Vec<u8> {
    words(&format!("nix-archive-1 {node}"))
}

fn parse(mut bytes: &[u8]) -> Result<Vec<Event>> {
    let mut recorder = Recorder::default();
    read(&mut WordReader::new(&mut bytes)?, &mut recorder)?;
    assert!(bytes.is_empty(), "the nar was not read to its end");
    Ok(recorder.events)
}

#[track_caller]
fn assert_malformed(bytes: &[u8], why: &str) {
    let error = parse(bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn every_kind_of_node_is_told_in_order() {
    // The contents of a file are written like a string.
    let tree = "( type directory
         entry ( name a node ( type directory ) )
         entry ( name b node ( type regular executable _ contents 12345678 ) )
         entry ( name c node ( type directory entry ( name d node ( type symlink target ../b ) ) ) )
         entry ( name e node ( type regular contents xyz ) ) )";
    use Event::*;
    let entry = |name: &str| Entry(name.into());
    let expected = [
        vec![Directory, entry("a"), Directory, EndDirectory, entry("b"), File(true, b"12345678".into())],
        vec![entry("c"), Directory, entry("d"), Symlink(b"../b".into()), EndDirectory],
        vec![entry("e"), File(false, b"xyz".into()), EndDirectory],
    ]
    .concat();
    assert_eq!(parse(&nar(tree)).unwrap(), expected);
    assert_eq!(parse(&nar("( type symlink target x )")).unwrap(), [Symlink(b"x".into())]);
    assert_eq!(parse(&nar(EMPTY_FILE)).unwrap(), [File(false, vec![])]);
}

#[test]
fn names_are_checked() {
    let with_names = |names: &[&[u8]]| {
        let mut bytes = nar("( type directory");
        for name in names {
            bytes.extend(words("entry ( name"));
            put_string(&mut bytes, name);
            bytes.extend(words(&format!("node {EMPTY_FILE} )")));
        }
        bytes.extend(words(")"));
        bytes
    };
    for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"a\0", &[b'x'; 256]] {
        assert!(parse(&with_names(&[bad])).is_err(), "{bad:?}");
    }
    for good in [&b"..."[..], b"\xff\xfe", b" ", b"a\\b", &[b'x'; 255]] {
        parse(&with_names(&[good])).unwrap();
    }
    parse(&with_names(&[b"B", b"a", b"a.", b"aa", b"\xff"])).unwrap();
    assert_malformed(&with_names(&[b"a", b"a"]), "'a' comes after 'a'");
    assert_malformed(&with_names(&[b"b", b"a"]), "'a' comes after 'b'");
    assert_malformed(&with_names(&[b"a", b"B"]), "'B' comes after 'a'");
}

#[test]
fn only_one_spelling_is_read() {
    for bad in [
        "(",
        ") type regular",
        "( kind regular contents _ )",
        "( type fifo )",
        "( type regular )",
        "( type regular contents _ ",
        "( type regular contents _ contents _ )",
        "( type regular executable x contents _ )",
        "( type regular executable _ executable _ contents _ )",
        "( type symlink )",
        "( type symlink target _ )",
        "( type directory contents _ )",
        "( type directory entry ( name a ) )",
        "( type directory entry ( node ( type directory ) ) )",
        "( type directory entry ( name a node ( type directory ) x )",
        "( type directory type directory )",
    ] {
        assert!(parse(&nar(bad)).is_err(), "{bad}");
    }
    assert_malformed(&words("nix-archive-2"), "at byte 0: expected nix-archive-1");
}

#[test]
fn sizes_and_targets_have_limits() {
    let mut huge = nar("( type regular contents");
    huge.extend((i64::MAX as u64 + 1).to_le_bytes());
    assert_malformed(&huge, "a file of 9223372036854775808 bytes");
    let link = |target: &[u8]| {
        let mut bytes = nar("( type symlink target");
        put_string(&mut bytes, target);
        bytes.extend(words(")"));
        bytes
    };
    parse(&link(&[b'x'; 4095])).unwrap();
    assert_malformed(&link(&[b'x'; 4096]), "4096 bytes");
    assert_malformed(&link(b"a\0b"), "cannot have this target");
}

#[test]
fn directories_are_limited_in_depth() {
    let nested = |depth: usize| {
        let open = "( type directory entry ( name d node ".repeat(depth - 1);
        nar(&format!("{open} ( type directory ){}", " ) )".repeat(depth - 1)))
    };
    assert_eq!(parse(&nested(MAX_DEPTH)).unwrap().len(), 3 * MAX_DEPTH - 1);
    assert_malformed(&nested(MAX_DEPTH + 1), "2047 directories");
}

#[test]
fn a_nar_that_is_cut_off_is_an_error_wherever_it_ends() {
    let whole = nar("( type directory entry ( name f node ( type regular executable _ contents 123456789 ) ) )");
    parse(&whole).unwrap();
    for length in 0..whole.len() {
        let expected = format!("cut off after byte {length}");
        assert_malformed(&whole[..length], &expected);
    }
}

#[test]
fn the_nar_of_a_lone_file_is_what_the_reader_reads() {
    for (executable, contents) in [(false, &b""[..]), (true, b"1234567"), (false, b"12345678")] {
        let (before, after) = file_nar_frame(executable, contents.len() as u64);
        let whole = [&before, contents, &after].concat();
        assert_eq!(parse(&whole).unwrap(), [Event::File(executable, contents.to_vec())]);
    }
}
