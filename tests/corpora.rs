// SPDX-License-Identifier: GPL-3.0-or-later
//! What the fuzzers of `fuzz/` have found worth keeping, once more, and some new inputs made from it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

/// Longest new input, in bytes.
const MAX_LENGTH: usize = 16 << 10;

/// All of a target's corpus, in the same order everywhere.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// Runs a target, and says with which input it failed.
#[track_caller]
fn run(target: targets::Target, input: &[u8], name: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("the input was {name}: \"{}\"", input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

/// `input` with a few changes, some of them taken from `other`.
fn mutated(input: &[u8], other: &[u8], numbers: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.usize(..3) {
        let at = numbers.usize(..bytes.len().max(1));
        let end = at + numbers.usize(..(bytes.len() - at).min(64) + 1);
        match numbers.usize(..7) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << numbers.usize(..8)),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = numbers.usize(..256) as u8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            5 => {
                let from = numbers.usize(..other.len().max(1));
                let until = from + numbers.usize(..(other.len() - from).min(64) + 1);
                drop(bytes.splice(at..end, other[from..until].to_vec()));
            }
            _ => {
                let number = [0, 1, 8, 255, 4096, 1 << 20, 1 << 63, u64::MAX][numbers.usize(..8)];
                let at = at / 8 * 8;
                bytes.iter_mut().skip(at).zip(number.to_le_bytes()).for_each(|(byte, new)| *byte = new);
            }
        }
    }
    bytes.truncate(MAX_LENGTH);
    bytes
}

/// Runs a target with its corpus, and with this many new inputs made of each in it.
fn replay(name: &str, mutations: usize) {
    let (_, target) = targets::ALL.into_iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    assert!(corpus.len() >= 10, "the corpus of {name} has {} inputs only", corpus.len());
    corpus.iter().for_each(|(name, input)| run(target, input, name));
    let mut numbers = fastrand::Rng::with_seed(1); // the same each time
    for number in 0..corpus.len() * mutations {
        let ((name, input), (_, other)) = (&corpus[number % corpus.len()], &corpus[numbers.usize(..corpus.len())]);
        run(target, &mutated(input, other, &mut numbers), &format!("made from {name}"));
    }
}

#[test]
fn items_are_restored_where_they_belong() {
    replay("restore", 10);
}

#[test]
fn replies_of_machines_are_understood_or_refused() {
    replay("replies", 10);
}

#[test]
fn machine_files_are_read_or_left_to_guile() {
    replay("machine_file", 10);
}

#[test]
fn signatures_are_valid_or_not() {
    replay("signature", 10);
}

#[test]
fn changed_signatures_vouch_for_what_was_signed_or_for_nothing() {
    replay("forged", 40);
}

#[test]
fn requests_are_understood_or_refused() {
    replay("request", 10);
}

#[test]
fn calls_of_the_abi_do_what_they_promise() {
    replay("abi", 1); // each takes some milliseconds
}
