// SPDX-License-Identifier: GPL-3.0-or-later
//! Faults at random moments of builds on real Guix hosts, many times over, and a table of what came of them.
//! `make torture` starts the farm and runs this; `make check` runs each but the slowest once.
//!
//! `TORTURE_RUNS` is how often each fault is run (1). `TORTURE_SEED` repeats the moments of an earlier run, whose seed
//! it printed. `TORTURE_ONLY` is a part of the names of the faults to run. `TORTURE_LANES` lists the hosts to use, as
//! `HEAD:MACHINE:SPARE[:HEAD]`: so many runs go on at once. After `TORTURE_MINUTES` no more runs are begun.

mod conditions;
mod daemon;
mod faults;
mod lane;
mod random;
mod run;
mod servers;
mod shared_machines;
mod table;

#[path = "../support/farm/mod.rs"]
#[allow(dead_code)] // the tests of tests/farm use more of it
mod harness;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faults::{Fault, faults};
use harness::{invariants, lab, machines, memory, publisher, slots};
use lane::Lane;
use table::Row;

/// Lanes of the farm that `make torture` makes.
const LANES: &str = "ahead:aw:as:a2head bhead:bw:bs chead:cw:cs dhead:dw:ds ehead:ew:es";

/// No hook may ever have more, in bytes.
const MEMORY: u64 = 32 << 20;

/// From how many runs on the slow faults are among them.
const LONG: usize = 2;

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn main() {
    let runs: usize = setting("TORTURE_RUNS").map_or(1, |text| text.parse().expect("TORTURE_RUNS is a number"));
    let seed: u64 = setting("TORTURE_SEED").map_or_else(
        || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64,
        |text| text.parse().expect("TORTURE_SEED is a number"),
    );
    let only = setting("TORTURE_ONLY").unwrap_or_default();
    let mut faults = faults(runs < LONG);
    faults.retain(|fault| fault.name.contains(&only) && (!fault.long || runs >= LONG));
    println!("torture: {} faults, {runs} runs each, TORTURE_SEED={seed}", faults.len());

    let rows: Vec<Mutex<Row>> = faults.iter().map(|_| Mutex::default()).collect();
    let queue = Mutex::new(queue(&faults, runs));
    let end = setting("TORTURE_MINUTES").map(|text| {
        Instant::now() + Duration::from_secs(60 * text.parse::<u64>().expect("TORTURE_MINUTES is a number"))
    });
    let lanes = setting("TORTURE_LANES").unwrap_or(LANES.into());
    let (peak, begun) = (Mutex::new(0), Instant::now());
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            lanes.split(' ').map(|names| scope.spawn(|| work(names, &queue, &faults, &rows, seed, end))).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let mut peak = peak.lock().unwrap();
            *peak = memory::peak_of_hooks("guix-offload").max(*peak);
            drop(peak);
            std::thread::sleep(Duration::from_millis(400));
        }
    });

    let names = faults.iter().map(|fault| fault.name.as_str());
    let rows: Vec<Row> = rows.into_iter().map(|row| row.into_inner().unwrap()).collect();
    let peak = peak.into_inner().unwrap();
    print!("{}", table::table(names.zip(&rows)));
    println!(
        "\nmost memory of any hook: {:.1} MiB; took {} s",
        peak as f64 / (1 << 20) as f64,
        begun.elapsed().as_secs()
    );
    let breaches: usize = rows.iter().map(|row| row.breaches).sum();
    assert!(peak < MEMORY, "a hook took too much memory");
    assert!(breaches == 0, "{breaches} breaches");
    assert!(rows.iter().all(|row| row.runs > 0), "a fault was not run");
}

/// Which run of which fault comes next: the first of each, those that take longest first, then the second of each.
fn queue(faults: &[Fault], runs: usize) -> VecDeque<(usize, usize)> {
    let mut order: Vec<usize> = (0..faults.len()).collect();
    order.sort_by_key(|index| !faults[*index].long);
    let of_number = |number| order.iter().map(move |index| (*index, number));
    (0..runs).flat_map(of_number).filter(|(index, number)| *number < faults[*index].most).collect()
}

/// Does what is in the queue on one lane.
fn work(
    names: &str,
    queue: &Mutex<VecDeque<(usize, usize)>>,
    faults: &[Fault],
    rows: &[Mutex<Row>],
    seed: u64,
    end: Option<Instant>,
) {
    let mut lane = Lane::new(names);
    while end.is_none_or(|end| Instant::now() < end) {
        let next = {
            let mut queue = queue.lock().unwrap();
            let fits = |(index, _): &(usize, usize)| lane.second.is_some() || faults[*index].scenario.is_none();
            queue.iter().position(fits).and_then(|position| queue.remove(position))
        };
        let Some((index, number)) = next else { return };
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| run::run(&mut lane, &faults[index], seed, number)));
        let mut row = rows[index].lock().unwrap();
        row.runs += 1;
        match result {
            Ok(report) => row.note(&report),
            Err(panic) => {
                row.breaches += 1;
                println!("BREACH: {}, run {number} on {names}: {}", faults[index].name, text(&panic));
                drop(row);
                lane.mend();
                continue;
            }
        }
        if setting("TORTURE_VERBOSE").is_some() {
            println!("{} {number} on {names}: {:?}", faults[index].name, begun.elapsed());
        }
    }
}

fn text(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or("a panic".into())
}
