// SPDX-License-Identifier: GPL-3.0-or-later
//! Offloaded builds, timed: guix-daemon with the stock `guix offload` against the same daemon with our hook, on the
//! hosts of tests/lab, alternately in one run. `make bench` starts the farm and runs this.
//!
//! Prints a table of medians, and writes the same with all samples as JSON to the file that `BENCH_JSON` names.
//! `BENCH_RUNS` sets the number of samples of each (5), `BENCH_ONLY` a part of the names of the rows to run.

#[path = "../tests/farm/lab.rs"]
#[allow(dead_code)] // the tests use more of it
mod lab;

use std::fmt::Write as _;

use lab::{Host, lab};

/// A head whose daemon has the stock script for a hook, and one whose daemon has ours.
const STOCK: Host = Host("shead");
const OURS: Host = Host("head");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];

/// What is measured: the builds that `builds.scm` makes of this mode and settings.
struct Row {
    name: &'static str,
    machines: usize,
    mode: &'static str,
    settings: &'static [&'static str],
    /// What is moved, in MiB, for a rate.
    mib: Option<f64>,
}

const ROWS: [Row; 5] = [
    Row { name: "1 tiny build", machines: 1, mode: "plain", settings: &[], mib: None },
    Row {
        name: "16 tiny builds, 2 machines of 2 slots",
        machines: 2,
        mode: "plain",
        settings: &["count=16"],
        mib: None,
    },
    Row { name: "256 MiB of input", machines: 1, mode: "plain", settings: &["input-kib=262144"], mib: Some(256.0) },
    Row { name: "256 MiB of output", machines: 1, mode: "plain", settings: &["kib=262144"], mib: Some(256.0) },
    Row { name: "2,000 inputs of 4 KiB", machines: 1, mode: "plain", settings: &["inputs=2000"], mib: None },
];

/// Seconds of each run.
struct Samples(Vec<f64>);

impl Samples {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
    }
}

/// Seconds that the builds of `row` take from `head`.
fn time(head: Host, row: &Row) -> f64 {
    let builds = head.build(row.mode, row.settings);
    let total = builds.results.lines().find_map(|line| line.strip_prefix("total "));
    let seconds = total.and_then(|total| total.split(' ').nth(1)?.parse().ok());
    match seconds {
        Some(seconds) if builds.succeeded => seconds,
        _ => panic!("'{}' failed on {}:\n{}{}", row.name, head.0, builds.log, builds.results),
    }
}

fn main() {
    let runs: usize = std::env::var("BENCH_RUNS").ok().map_or(5, |runs| runs.parse().expect("BENCH_RUNS is a number"));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    lab(&["restart-daemon", STOCK.0, "--", "--max-jobs=0"]);
    lab(&["restart-daemon", OURS.0, "GUIX=/opt/guix-offload/libexec/guix-offload", "--", "--max-jobs=0"]);

    let mut table = format!("{:<40} {:>9} {:>9} {:>7}   rates (MiB/s)\n", "work", "stock (s)", "ours (s)", "ratio");
    let mut json = Vec::new();
    for row in ROWS.iter().filter(|row| row.name.contains(&only)) {
        let (mut stock, mut ours) = (Samples(Vec::new()), Samples(Vec::new()));
        for head in [STOCK, OURS] {
            head.offload_to(&MACHINES[..row.machines]);
            time(head, &ROWS[0]); // what all builds share is there afterwards
        }
        for _ in 0..runs {
            stock.0.push(time(STOCK, row));
            ours.0.push(time(OURS, row));
        }
        let (theirs, own) = (stock.median(), ours.median());
        let rates = row.mib.map_or(String::new(), |mib| format!("{:.0} -> {:.0}", mib / theirs, mib / own));
        writeln!(table, "{:<40} {theirs:>9.2} {own:>9.2} {:>6.1}x   {rates}", row.name, theirs / own).unwrap();
        json.push(format!("{{\"work\":{:?},\"stock\":{:?},\"ours\":{:?}}}", row.name, stock.0, ours.0));
        eprintln!("{}: {theirs:.2} s, {own:.2} s", row.name);
    }
    println!("\n{}\nmedians of {runs} alternating runs\n\n{table}", machine());
    if let Some(file) = std::env::var_os("BENCH_JSON") {
        let text = format!("{{\"machine\":{:?},\"seconds\":[\n{}\n]}}\n", machine(), json.join(",\n"));
        std::fs::write(file, text).expect("BENCH_JSON names a file that can be written");
    }
}

/// The machine that all hosts share.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_string())
    };
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores of {}, {} of memory, Linux {}; all hosts on this one machine",
        field("/proc/cpuinfo", "model name"),
        field("/proc/meminfo", "MemTotal"),
        kernel.trim()
    )
}
