// SPDX-License-Identifier: GPL-3.0-or-later
//! Many builds at once, by our hook and by the stock script, which keep the same slots.

use crate::afterwards::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::Machine;
use crate::slots::{most_at_once, start_stock_daemon};

const HEAD: Host = Host("head");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];
const SLOTS: usize = 2;

#[test]
fn slots_are_shared_with_the_stock_script() {
    HEAD.offload_with_our_hook(&MACHINES.map(Machine::of));
    let socket = start_stock_daemon(HEAD);
    // The script takes seconds of processor time for each.
    let with_ours = HEAD.start_build("stamp", &["count=14", "seconds=1"]);
    let with_script = HEAD.start_build_through(socket, "stamp", &["count=6", "seconds=1"]);
    let finished = [(with_ours.finish(), 14), (with_script.finish(), 6)];
    lab(&["restart-daemon", "head"]); // which ends both

    for (machine, most) in MACHINES.iter().zip(most_at_once(HEAD, &finished, &MACHINES)) {
        assert!((1..=SLOTS).contains(&most), "{most} builds at once on {}", machine.0);
    }
    assert_clean(&[HEAD], &MACHINES);
}
