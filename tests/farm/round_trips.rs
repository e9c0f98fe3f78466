// SPDX-License-Identifier: GPL-3.0-or-later
//! How many round trips each phase of a build takes: on a link that is so long that everything else takes no time.

use std::collections::BTreeMap;
use std::fs;

use crate::invariants::assert_clean;
use crate::lab::{Host, SlowLink, lab};
use crate::machines::{Machine, PROGRAM};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

/// The round trip of the link, in milliseconds.
const ROUND_TRIP: u64 = 500;

/// Where the keeper writes how long the phases took.
const TRACE: &str = "/var/guix/round-trips";

/// How many round trips each phase of the builds that the trace has took: whole ones, as what else takes time takes
/// less than one.
fn phases(trace: &str) -> BTreeMap<String, u64> {
    let value = |line: &str, key: &str| -> String {
        let (_, rest) = line.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {line}"));
        rest.split([',', '}']).next().unwrap().trim_matches('"').into()
    };
    let mut phases = BTreeMap::new();
    for line in trace.lines() {
        let turns = value(line, "us").parse::<u64>().unwrap() / 1000 / ROUND_TRIP;
        *phases.entry(value(line, "phase")).or_insert(0) += turns;
    }
    phases
}

/// Builds something tiny; returns its phases.
fn build() -> BTreeMap<String, u64> {
    fs::OpenOptions::new().write(true).truncate(true).open(HEAD.file(TRACE)).unwrap(); // the keeper has it open
    HEAD.build("plain", &[]).assert_succeeded();
    phases(&fs::read_to_string(HEAD.file(TRACE)).unwrap())
}

#[test]
fn no_phase_takes_more_round_trips_than_it_must() {
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // what is remembered of machines
    HEAD.write_machines(&[Machine::of(W1)]);
    HEAD.kill_keepers();
    lab(&[
        "restart-daemon",
        HEAD.0,
        &format!("GUIX={PROGRAM}"),
        &format!("GUIX_OFFLOAD_TRACE={TRACE}"),
        "--",
        "--max-jobs=0",
    ]);
    HEAD.build("plain", &[]).assert_succeeded(); // what all builds there need
    HEAD.kill_keepers();
    let link = SlowLink::new(W1, &["delay", &(ROUND_TRIP / 2).to_string()]);
    let (first, next) = (build(), build());
    drop(link);
    HEAD.kill_keepers();
    fs::remove_file(HEAD.file(TRACE)).unwrap();
    let at_most = |phases: BTreeMap<String, u64>, most: [(&str, u64); 7]| {
        for (phase, turns) in most {
            assert!(phases[phase] <= turns, "{phase}: {phases:?}");
        }
        phases.values().sum::<u64>()
    };
    let with = |choose, query| {
        [
            ("choose", choose),
            ("query", query),
            ("send", 0),
            ("build", 1),
            ("inspect", 1),
            ("retrieve", 0),
            ("register", 0),
        ]
    };
    // To connect and to log in, to open channels, to ask for the load and to greet the daemon; and then: what is
    // missing; what is sent, and built; what the outputs are, and these. What is missing the next one knows.
    assert!(at_most(first, with(6, 1)) > 6, "it was not so far away");
    at_most(next, with(0, 0));
    assert_clean(&[HEAD], &[W1]);
}
