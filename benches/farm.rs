// SPDX-License-Identifier: GPL-3.0-or-later
//! Offloaded builds, timed: guix-daemon with the stock `guix offload` against the same daemon with our hook, our Guile
//! module, or jobs in one process, on the hosts of tests/lab, alternately in one run. `make bench` starts the farm and
//! runs this.
//!
//! Prints a table of medians, and writes the same with all samples as JSON to the file that `BENCH_JSON` names.
//! `BENCH_RUNS` sets the number of samples of each (5), `BENCH_ONLY` a part of the names of the rows to run.

#[path = "../tests/farm/lab.rs"]
#[allow(dead_code)] // the tests use more of it
mod lab;

use std::fmt::Write as _;

use lab::{Host, lab};

/// A head whose daemon has the stock script for a hook, one whose daemon has ours, one whose daemon has our Guile module,
/// and one that builds by itself.
const STOCK: Host = Host("shead");
const OURS: Host = Host("head");
const GUILE: Host = Host("ghead");
const ALONE: Host = Host("ahead");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];

/// The programs that this project installs, on heads.
const PROGRAMS: &str = "/opt/guix-offload/libexec";

/// Who does the work.
#[derive(Clone, Copy)]
enum Contender {
    /// The daemon of this head, through its hook if it has one.
    Daemon(Host),
    /// Jobs in one process on `OURS`, one after the other; the median of all but the first, which has to connect.
    Jobs,
    /// `guix offload --version` on this head, as the hook of its daemon says it.
    Version(Host),
}

/// What is measured: the builds that `builds.scm` makes of this mode and settings, done by one and by the other.
struct Row {
    name: &'static str,
    labels: [&'static str; 2],
    contenders: [Contender; 2],
    machines: usize,
    settings: &'static [&'static str],
    /// What is moved, in MiB, for a rate.
    mib: Option<f64>,
}

const fn row(
    name: &'static str,
    labels: [&'static str; 2],
    contenders: [Contender; 2],
    machines: usize,
    settings: &'static [&'static str],
    mib: Option<f64>,
) -> Row {
    Row { name, labels, contenders, machines, settings, mib }
}

const HOOKS: [&str; 2] = ["stock", "hook"];
const STOCK_AND_HOOK: [Contender; 2] = [Contender::Daemon(STOCK), Contender::Daemon(OURS)];
const VERSIONS: [Contender; 2] = [Contender::Version(STOCK), Contender::Version(GUILE)];

const ROWS: [Row; 9] = [
    row("1 tiny build", HOOKS, STOCK_AND_HOOK, 1, &[], None),
    row("1 tiny build", ["stock", "Guile"], [Contender::Daemon(STOCK), Contender::Daemon(GUILE)], 1, &[], None),
    row("next tiny build", ["stock", "job"], [Contender::Daemon(STOCK), Contender::Jobs], 1, &[], None),
    row(
        "next tiny build",
        ["local", "job"],
        [Contender::Daemon(ALONE), Contender::Jobs],
        1,
        &["jobs=1", "offload=0"],
        None,
    ),
    row("16 tiny builds, 2 machines x 2 slots", HOOKS, STOCK_AND_HOOK, 2, &["count=16"], None),
    row("256 MiB of input", HOOKS, STOCK_AND_HOOK, 1, &["input-kib=262144"], Some(256.0)),
    row("256 MiB of output", HOOKS, STOCK_AND_HOOK, 1, &["kib=262144"], Some(256.0)),
    row("2,000 inputs of 4 KiB", HOOKS, STOCK_AND_HOOK, 1, &["inputs=2000"], None),
    row("guix offload --version", ["stock", "Guile"], VERSIONS, 1, &[], None),
];

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

impl Contender {
    fn head(self) -> Host {
        match self {
            Contender::Daemon(head) | Contender::Version(head) => head,
            Contender::Jobs => OURS,
        }
    }

    /// Seconds that the builds of `settings` take.
    fn time(self, settings: &[&str]) -> f64 {
        match self {
            Contender::Daemon(head) => {
                let builds = head.build("plain", settings);
                let total = builds.results.lines().find_map(|line| line.strip_prefix("total "));
                let seconds = total.and_then(|total| total.split(' ').nth(1)?.parse().ok());
                seconds
                    .filter(|_| builds.succeeded)
                    .unwrap_or_else(|| panic!("builds failed on {}:\n{}{}", head.0, builds.log, builds.results))
            }
            Contender::Jobs => {
                let prepare = "guix repl /usr/local/share/lab/builds.scm -- plain count=8 print=1 >/root/goals";
                OURS.sh(&["sh", "-c", prepare]);
                let times = OURS.sh(&[&format!("{PROGRAMS}/bench"), "/root/goals"]);
                let times: Vec<f64> = times.lines().filter_map(|line| line.parse().ok()).collect();
                median(&times[1..])
            }
            Contender::Version(head) => {
                let guix = if head.0 == GUILE.0 { format!("{PROGRAMS}/guix-offload-guile") } else { "guix".into() };
                let begun = std::time::Instant::now();
                head.sh(&[&guix, "offload", "--version"]);
                begun.elapsed().as_secs_f64()
            }
        }
    }
}

fn main() {
    let runs: usize = std::env::var("BENCH_RUNS").ok().map_or(5, |runs| runs.parse().expect("BENCH_RUNS is a number"));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    lab(&["restart-daemon", STOCK.0, "--", "--max-jobs=0"]);
    for (head, hook) in [(OURS, "guix-offload"), (GUILE, "guix-offload-guile")] {
        lab(&["restart-daemon", head.0, &format!("GUIX={PROGRAMS}/{hook}"), "--", "--max-jobs=0"]);
    }

    let mut table = format!("{:<38} {:>14} {:>14} {:>7}   MiB/s\n", "work", "", "", "ratio");
    let mut json = Vec::new();
    for row in ROWS.iter().filter(|row| row.name.contains(&only)) {
        for contender in row.contenders {
            contender.head().offload_to(&MACHINES[..row.machines]);
            contender.time(row.settings); // what all builds share is there afterwards
        }
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            for (samples, contender) in samples.iter_mut().zip(row.contenders) {
                samples.push(contender.time(row.settings));
            }
        }
        let [one, other] = [median(&samples[0]), median(&samples[1])];
        let cell = |label: &str, seconds: f64| format!("{label} {seconds:.3} s");
        let rates = row.mib.map_or(String::new(), |mib| format!("{:.0} -> {:.0}", mib / one, mib / other));
        let (first, second) = (cell(row.labels[0], one), cell(row.labels[1], other));
        writeln!(table, "{:<38} {first:>14} {second:>14} {:>6.1}x   {rates}", row.name, one / other).unwrap();
        json.push(format!(
            "{{\"work\":{:?},{:?}:{:?},{:?}:{:?}}}",
            row.name, row.labels[0], samples[0], row.labels[1], samples[1]
        ));
        eprintln!("{}: {first}, {second}", row.name);
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
