// SPDX-License-Identifier: GPL-3.0-or-later
//! Faults at random moments of builds on real Guix hosts, many times over, and a table of what came of them.
//! `make torture` starts the farm and runs this; `make check` runs each but the slowest once.
//!
//! `TORTURE_RUNS` is how often each fault is run (1). `TORTURE_SEED` repeats the moments of an earlier run, whose seed
//! it printed. `TORTURE_ONLY` is a part of the names of the faults to run. `TORTURE_LANES` lists the hosts to use, as
//! `HEAD:MACHINE:SPARE`: so many runs go on at once.

#[path = "../farm/afterwards.rs"]
#[allow(dead_code)] // the tests of tests/farm use more of it
mod afterwards;
mod conditions;
mod daemon;
mod faults;
#[path = "../farm/lab.rs"]
#[allow(dead_code)]
mod lab;
mod lane;
#[path = "../farm/machines.rs"]
#[allow(dead_code)]
mod machines;
#[path = "../farm/memory.rs"]
#[allow(dead_code)]
mod memory;
mod random;
mod run;
mod table;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use faults::{Fault, faults};
use lane::Lane;
use table::Row;

/// Two lanes of the farm that `lab with-farm` makes.
const LANES: &str = "head:w1:w2 uhead:w3:w4";

/// No hook may ever have more, in bytes.
const MEMORY: u64 = 48 << 20;

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
    let lanes = setting("TORTURE_LANES").unwrap_or(LANES.into());
    let (peak, begun) = (Mutex::new(0), Instant::now());
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            lanes.split(' ').map(|names| scope.spawn(|| work(names, &queue, &faults, &rows, seed))).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let mut peak = peak.lock().unwrap();
            *peak = memory::peak_of_hooks().max(*peak);
            drop(peak);
            std::thread::sleep(std::time::Duration::from_millis(100));
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

/// Which run of which fault comes next: those first that take longest.
fn queue(faults: &[Fault], runs: usize) -> VecDeque<(usize, usize)> {
    let mut order: Vec<usize> = (0..faults.len()).collect();
    order.sort_by_key(|index| !faults[*index].long);
    order.iter().flat_map(|index| (0..runs.min(faults[*index].most)).map(move |number| (*index, number))).collect()
}

/// Does what is in the queue on one lane.
fn work(names: &str, queue: &Mutex<VecDeque<(usize, usize)>>, faults: &[Fault], rows: &[Mutex<Row>], seed: u64) {
    let mut lane = Lane::new(names);
    loop {
        let Some((index, number)) = queue.lock().unwrap().pop_front() else { return };
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| run::run(&mut lane, &faults[index], seed, number)));
        let mut row = rows[index].lock().unwrap();
        row.runs += 1;
        match result {
            Ok(report) => row.note(&report, lane.hosts().len()),
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
