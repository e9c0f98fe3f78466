// SPDX-License-Identifier: GPL-3.0-or-later
//! Many builds at once, by our hook and by the stock script, which keep the same slots.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::invariants::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::{Hook, Machine};
use crate::slots::{most_at_once, start_daemon, start_stock_daemon};

const HEAD: Host = Host("head");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];
const SLOTS: usize = 2;

#[test]
fn slots_are_shared_with_the_stock_script() {
    HEAD.offload_with_our_hook(&MACHINES.map(Machine::of));
    let guile = start_daemon(HEAD, "guile", Hook::Guile.variable());
    let stock = start_stock_daemon(HEAD);
    // The script takes seconds of processor time for each.
    let builds = |socket: &str, count: usize| {
        let count_setting = format!("count={count}");
        (HEAD.start_build_through(socket, "stamp", &[&count_setting, "seconds=1"]), count)
    };
    let running = [builds("/var/guix/daemon-socket/socket", 8), builds(&guile, 6), builds(&stock, 6)];
    let finished = running.map(|(building, count)| (building.finish(), count));
    lab(&["restart-daemon", "head"]); // which ends all

    for (machine, most) in MACHINES.iter().zip(most_at_once(HEAD, &finished, &MACHINES)) {
        assert!((1..=SLOTS).contains(&most), "{most} builds at once on {}", machine.0);
    }
    assert_clean(&[HEAD], &MACHINES);
}

#[test]
fn builds_take_turns_on_a_machine_whose_memory_is_enough_for_one() {
    const HISTORY: &str = "/var/guix/offload/w1:22/history";
    const GIB: u64 = 1 << 30;
    let machine = MACHINES[0];
    let forget_memory = || {
        HEAD.kill_keepers();
        HEAD.sh(&["sh", "-c", &format!("sed -i '/^memory /d' {HISTORY}; touch {HISTORY}")]);
    };
    let taken = || {
        let history = HEAD.sh(&["cat", HISTORY]);
        let line = history.lines().find_map(|line| line.strip_prefix("memory ")).expect("what is known of its memory");
        line.split(' ').nth(1).expect("what a build took").parse::<u64>().expect("bytes")
    };
    HEAD.offload_with_our_hook(&[Machine::of(machine)]);
    HEAD.build("plain", &[]).assert_succeeded();
    forget_memory();

    // The second build connects anew, and asks the machine while the first one holds its memory.
    let first = HEAD.start_build("stamp", &["held-mib=2048", "seconds=8"]);
    let begun = Instant::now();
    while !machine.run(&["pgrep", "-f", "[s]leep 8$"]).status.success() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the build has not begun");
        std::thread::sleep(Duration::from_millis(100));
    }
    HEAD.build("plain", &[]).assert_succeeded();
    first.finish().assert_succeeded();
    let seen = taken();
    println!("a build of 2 GiB took {:.2} GiB", seen as f64 / GIB as f64);
    assert!((GIB..8 * GIB).contains(&seen), "others use this computer, too, but {seen} bytes");

    // Of builds that take most of the memory, one is begun at a time.
    let at_once = |build: Option<u64>| {
        forget_memory();
        if let Some(build) = build {
            let total = total_memory();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            HEAD.sh(&["sh", "-c", &format!("echo memory {total} {build} {total} {now} >>{HISTORY}")]);
        }
        let builds = HEAD.build("stamp", &["count=4", "seconds=2"]);
        most_at_once(HEAD, &[(builds, 4)], &[machine])[0]
    };
    assert_eq!(at_once(None), SLOTS);
    assert_eq!(at_once(Some(total_memory() / 10 * 9)), 1);
    forget_memory(); // it is not true
    assert_clean(&[HEAD], &[machine]);
}

/// The memory of this computer, in bytes.
fn total_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).expect("the memory");
    line.trim().strip_suffix(" kB").expect("KiB").parse::<u64>().expect("a number") << 10
}
