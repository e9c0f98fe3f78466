// SPDX-License-Identifier: GPL-3.0-or-later
//! Offloaded builds, measured: guix-daemon with the stock `guix offload` against the same daemon with our hook, our
//! Guile module, or jobs in one process, on the hosts of tests/lab, alternately in one run. `make bench` starts the
//! farm and runs this.
//!
//! Prints a table of medians, and writes the same with all samples as JSON to the file that `BENCH_JSON` names.
//! `BENCH_RUNS` sets the number of samples of each (5), `BENCH_ONLY` a part of the names of the rows to run; without
//! it, those that take much disk are left out.

mod contender;

#[path = "../../tests/support/farm/mod.rs"]
#[allow(dead_code)] // the tests use more of it
mod harness;

use std::fmt::Write as _;

use guix_offload::report::json::string;

use contender::{ALONE, BOTH_OURS, BOTH_STOCK, Contender, GUILE, OURS, STOCK, Servers};
use harness::lab::SlowLink;
use harness::{lab, machines, memory, publisher, slots};

const W1: lab::Host = lab::Host("w1");

/// What is measured: the builds that `builds.scm` makes of these settings, on one machine unless the name says more.
struct Row {
    name: &'static str,
    settings: &'static [&'static str],
    /// What we are compared with, then ourselves.
    contenders: [(&'static str, Contender); 2],
    /// How many machines there are.
    machines: usize,
    /// How many slots each has.
    slots: u32,
    /// What is moved, in MiB, for a rate.
    mib: f64,
    /// The link of the machine.
    link: &'static [&'static str],
    /// Whether a sample takes so much time and disk that it is run only if it is asked for, and without a rehearsal.
    large: bool,
}

const ROW: Row = Row {
    name: "",
    settings: &[],
    contenders: [("stock", Contender::Daemon(STOCK)), ("hook", Contender::Daemon(OURS))],
    machines: 1,
    slots: 2,
    mib: 0.0,
    link: &[],
    large: false,
};

/// Links with that many milliseconds each way.
const NEXT_COUNTRY: &[&str] = &["delay", "20"];
const NEXT_CONTINENT: &[&str] = &["delay", "100"];

/// Builds that read what those of the layer before them made, and nothing else of that size.
const CHAIN: &[&str] = &["layers=1,1,1,1,1,1,1,1", "kib=65536"];
/// Builds that each take a processor a second or two.
const BURNING: &[&str] = &["count=12", "seconds=0", "turns=700000"];
const DIAMOND: &[&str] = &["layers=1,1,4,1,1", "kib=65536"];

const ROWS: &[Row] = &[
    Row { name: "1 tiny build", ..ROW },
    Row {
        name: "1 tiny build, the first",
        contenders: [("stock", Contender::Daemon(STOCK)), ("hook", Contender::First(OURS))],
        ..ROW
    },
    Row {
        name: "1 tiny build, through Guile",
        contenders: [("stock", Contender::Daemon(STOCK)), ("Guile", Contender::Daemon(GUILE))],
        ..ROW
    },
    Row {
        name: "1 tiny build, the first of a daemon, without keeper",
        contenders: [("no keeper", Contender::Booted(&["GUIX_OFFLOAD_KEEPER=no"])), ("hook", Contender::Booted(&[]))],
        ..ROW
    },
    Row { name: "1 tiny build, 40 ms away", link: NEXT_COUNTRY, ..ROW },
    Row {
        name: "1 tiny build, the first, 40 ms away",
        contenders: [("stock", Contender::Daemon(STOCK)), ("hook", Contender::First(OURS))],
        link: NEXT_COUNTRY,
        ..ROW
    },
    Row { name: "1 tiny build, 200 ms away", link: NEXT_CONTINENT, ..ROW },
    Row {
        name: "1 tiny build, the first, 200 ms away",
        contenders: [("stock", Contender::Daemon(STOCK)), ("hook", Contender::First(OURS))],
        link: NEXT_CONTINENT,
        ..ROW
    },
    Row { name: "8 tiny builds, 2 slots, 40 ms away", settings: &["count=8"], link: NEXT_COUNTRY, ..ROW },
    Row {
        name: "next tiny build on the machine",
        contenders: [("stock", Contender::Daemon(STOCK)), ("job", Contender::Jobs)],
        ..ROW
    },
    Row {
        name: "next tiny build on the machine, and at home",
        settings: &contender::AT_HOME,
        contenders: [("at home", Contender::Daemon(ALONE)), ("job", Contender::Jobs)],
        ..ROW
    },
    Row { name: "16 tiny builds, 2 machines x 2 slots", settings: &["count=16"], machines: 2, ..ROW },
    Row { name: "64 tiny builds, 2 machines x 2 slots", settings: &["count=64"], machines: 2, ..ROW },
    Row {
        name: "200 tiny builds, 2 machines x 8 slots",
        settings: &["count=200"],
        machines: 2,
        slots: 8,
        large: true, // minutes, for stock
        ..ROW
    },
    Row {
        name: "200 tiny builds, 2 machines x 8 slots, in guix-daemon",
        settings: &["count=200"],
        contenders: [("hook", Contender::Daemon(OURS)), ("agent", Contender::Agent)],
        machines: 2,
        slots: 8,
        ..ROW
    },
    Row { name: "chain of 8 builds of 64 MiB", settings: CHAIN, machines: 2, ..ROW },
    Row {
        name: "chain of 8 builds of 64 MiB, sent",
        settings: CHAIN,
        contenders: [("stock", Contender::Received(STOCK)), ("hook", Contender::Received(OURS))],
        machines: 2,
        ..ROW
    },
    Row { name: "diamond of 8 builds of 64 MiB", settings: DIAMOND, machines: 2, ..ROW },
    Row {
        name: "diamond of 8 builds of 64 MiB, sent",
        settings: DIAMOND,
        contenders: [("by load alone", Contender::ReceivedByLoad), ("hook", Contender::Received(OURS))],
        machines: 2,
        ..ROW
    },
    Row {
        name: "diamond of 8 builds of 64 MiB, 100 Mbit/s, sent",
        settings: DIAMOND,
        contenders: [("by load alone", Contender::ReceivedByLoad), ("hook", Contender::Received(OURS))],
        machines: 2,
        link: &["rate", "100"],
        large: true, // minutes
        ..ROW
    },
    Row {
        name: "512 MiB of input that servers have, 40 Mbit/s",
        settings: &["built-input=1", "built-kib=524288"],
        contenders: [
            ("stock", Contender::Inputs(STOCK, Servers::Have)),
            ("hook", Contender::Inputs(OURS, Servers::Have)),
        ],
        large: true, // minutes, for stock
        ..ROW
    },
    Row {
        name: "512 MiB of input that servers have, fetched there",
        settings: &["built-input=1", "built-kib=524288"],
        contenders: [("guix build", Contender::FetchThere), ("hook", Contender::Inputs(OURS, Servers::Have))],
        large: true,
        ..ROW
    },
    Row {
        name: "128 MiB of input that no server has, 40 Mbit/s",
        settings: &["built-input=1", "built-kib=131072"],
        contenders: [
            ("not asked", Contender::Inputs(OURS, Servers::Unasked)),
            ("hook", Contender::Inputs(OURS, Servers::Lack)),
        ],
        large: true,
        ..ROW
    },
    Row {
        name: "32 MiB of input, servers drop packets, 40 Mbit/s",
        settings: &["built-input=1", "built-kib=32768"],
        contenders: [
            ("not asked", Contender::Inputs(OURS, Servers::DropUnasked)),
            ("hook", Contender::Inputs(OURS, Servers::Drop)),
        ],
        large: true,
        ..ROW
    },
    Row {
        name: "32 MiB of input, servers drop packets, the second",
        settings: &["built-input=1", "built-kib=32768"],
        contenders: [
            ("not asked", Contender::NextInputs(OURS, Servers::DropUnasked)),
            ("hook", Contender::NextInputs(OURS, Servers::Drop)),
        ],
        large: true,
        ..ROW
    },
    Row {
        name: "2 heads x 12 builds, 2 cores, 4 slots each",
        settings: BURNING,
        contenders: [("stock", Contender::Together(BOTH_STOCK)), ("hook", Contender::Together(BOTH_OURS))],
        slots: 4,
        large: true, // minutes, for stock
        ..ROW
    },
    Row {
        name: "2 heads x 12 builds, at once there",
        settings: BURNING,
        contenders: [("stock", Contender::AtOnce(BOTH_STOCK)), ("hook", Contender::AtOnce(BOTH_OURS))],
        slots: 4,
        large: true,
        ..ROW
    },
    Row { name: "2,000 inputs of 4 KiB", settings: &["inputs=2000", "inputs-kib=4"], ..ROW },
    Row {
        name: "2,000 inputs of 4 KiB, less the same at home",
        settings: &["inputs=2000", "inputs-kib=4"],
        contenders: [("stock", Contender::Beyond(STOCK)), ("hook", Contender::Beyond(OURS))],
        ..ROW
    },
    Row { name: "256 MiB of input", settings: &["input-kib=262144"], mib: 256.0, ..ROW },
    Row {
        name: "256 MiB of input, sending alone",
        settings: &["input-kib=262144"],
        contenders: [("from a file there", Contender::ImportFromFile), ("hook", Contender::Phase("send"))],
        mib: 256.0,
        ..ROW
    },
    Row { name: "256 MiB of output, its making included", settings: &["kib=262144"], mib: 256.0, ..ROW },
    Row {
        name: "256 MiB of output, less the same at home",
        settings: &["kib=262144"],
        contenders: [("stock", Contender::Beyond(STOCK)), ("hook", Contender::Beyond(OURS))],
        mib: 256.0,
        ..ROW
    },
    Row {
        name: "256 MiB of output, retrieving alone",
        settings: &["kib=262144"],
        contenders: [("ssh cat", Contender::SshFrom), ("hook", Contender::Phase("retrieve"))],
        mib: 256.0,
        ..ROW
    },
    Row {
        name: "64 MiB of input, 40 ms away, sending alone",
        settings: &["input-kib=65536"],
        contenders: [("ssh", Contender::SshTo), ("hook", Contender::Phase("send"))],
        mib: 64.0,
        link: NEXT_COUNTRY,
        ..ROW
    },
    Row {
        name: "64 MiB of output, 40 ms away, retrieving alone",
        settings: &["kib=65536"],
        contenders: [("ssh", Contender::SshFrom), ("hook", Contender::Phase("retrieve"))],
        mib: 64.0,
        link: NEXT_COUNTRY,
        ..ROW
    },
    Row {
        name: "256 MiB of source code as input, 100 Mbit/s",
        settings: &["input-kib=262144", "input-text=1"],
        mib: 256.0,
        link: &["rate", "100"],
        ..ROW
    },
    Row {
        name: "first accept, the best 10 of 50 machines dead",
        contenders: [("all alive", Contender::Accept { dead: 0 }), ("hook", Contender::Accept { dead: 10 })],
        ..ROW
    },
    Row {
        name: "decline, 50 machines",
        contenders: [
            ("no machines", Contender::Decline { machines: 0 }),
            ("hook", Contender::Decline { machines: 50 }),
        ],
        ..ROW
    },
    Row {
        name: "processor time here, 256 MiB each way",
        settings: &["input-kib=262144", "kib=262144"],
        contenders: [("stock", Contender::Processor(STOCK)), ("hook", Contender::Processor(OURS))],
        ..ROW
    },
    Row {
        name: "guix offload test, 2 machines",
        contenders: [("stock", Contender::Command(STOCK, "test")), ("program", Contender::Command(OURS, "test"))],
        machines: 2,
        ..ROW
    },
    Row {
        name: "guix offload status, 2 machines",
        contenders: [("stock", Contender::Command(STOCK, "status")), ("program", Contender::Command(OURS, "status"))],
        machines: 2,
        ..ROW
    },
    Row {
        name: "guix offload --version",
        contenders: [
            ("stock", Contender::Command(STOCK, "--version")),
            ("Guile", Contender::Command(GUILE, "--version")),
        ],
        ..ROW
    },
    Row {
        name: "peak memory of the hook, 4 GiB each way",
        contenders: [("stock", Contender::Memory(STOCK)), ("hook", Contender::Memory(OURS))],
        large: true,
        ..ROW
    },
];

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn main() {
    let runs: usize = std::env::var("BENCH_RUNS").ok().map_or(5, |runs| runs.parse().expect("BENCH_RUNS is a number"));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let rows: Vec<&Row> =
        ROWS.iter().filter(|row| row.name.contains(&only) && !(row.large && only.is_empty())).collect();
    assert!(!rows.is_empty(), "BENCH_ONLY: no row is called something with '{only}'");
    contender::prepare();

    let mut table = format!("{:<48} {:>26} {:>18} {:>7}   MiB/s\n", "work", "", "", "ratio");
    let mut json = Vec::new();
    for row in rows {
        let _link = (!row.link.is_empty()).then(|| SlowLink::new(W1, row.link));
        for (_, contender) in row.contenders {
            contender.ready(row.machines, row.slots);
            if !row.large {
                contender.measure(row.settings); // what all builds share is there afterwards
            }
        }
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            for (samples, (_, contender)) in samples.iter_mut().zip(row.contenders) {
                if !row.settings.is_empty() {
                    warm_memory();
                }
                samples.push(contender.measure(row.settings));
            }
        }
        contender::clean();
        let [one, other] = [median(&samples[0]), median(&samples[1])];
        let [(one_label, contender), (label, _)] = row.contenders;
        let cell = |label: &str, value: f64| format!("{label} {value:.3} {}", contender.unit());
        let rates =
            if row.mib > 0.0 { format!("{:.0} -> {:.0}", row.mib / one, row.mib / other) } else { String::new() };
        let (first, second) = (cell(one_label, one), cell(label, other));
        writeln!(table, "{:<48} {first:>26} {second:>18} {:>6.1}x   {rates}", row.name, one / other).unwrap();
        json.push(format!(
            "{{\"work\":{},\"unit\":{},{}:{:?},{}:{:?}}}",
            string(row.name),
            string(contender.unit()),
            string(one_label),
            samples[0],
            string(label),
            samples[1]
        ));
        eprintln!("{}: {first}, {second}, {rates}", row.name);
    }
    println!("\n{}\nmedians of {runs} alternating runs\n\n{table}", machine());
    if let Some(file) = std::env::var_os("BENCH_JSON") {
        let text = format!("{{\"machine\":{},\"samples\":[\n{}\n]}}\n", string(&machine()), json.join(",\n"));
        std::fs::write(file, text).expect("BENCH_JSON names a file that can be written");
    }
}

/// Touches as much memory as a sample takes, and frees it. A virtual machine may have given what it has not used for a
/// while back to its host, and getting it again takes longer than what is measured.
fn warm_memory() {
    std::hint::black_box(vec![1u8; 3 << 30]);
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
