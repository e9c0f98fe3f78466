// SPDX-License-Identifier: GPL-3.0-or-later
//! Many builds at once, by our hook and by the stock script, which keep the same slots.

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
