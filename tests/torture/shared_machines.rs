// SPDX-License-Identifier: GPL-3.0-or-later
//! Two heads, and the stock script beside our hook on one of them, which all use the same machines.

use crate::invariants::assert_clean;
use crate::lane::{Lane, start_head};
use crate::machines::Machine;
use crate::run::Report;
use crate::slots::{most_at_once, start_stock_daemon};

/// Of each machine, for all hooks of one head together.
const SLOTS: usize = 2;

pub fn run(lane: &mut Lane) -> Report {
    let second = lane.second.expect("a lane with a second head");
    let machines = [lane.machine, lane.spare];
    for head in [lane.head, second] {
        head.write_machines(&machines.map(Machine::of));
        start_head(head);
    }
    let socket = start_stock_daemon(lane.head);
    let settings = |count| [count, "seconds=0.5"];
    let ours = lane.head.start_build("stamp", &settings("count=4"));
    let script = lane.head.start_build_through(&socket, "stamp", &settings("count=2"));
    let others = second.start_build("stamp", &settings("count=4"));
    let (of_head, of_second) = ([(ours.finish(), 4), (script.finish(), 2)], [(others.finish(), 4)]);
    start_head(lane.head);
    for (head, builds) in [(lane.head, &of_head[..]), (second, &of_second)] {
        let most = most_at_once(head, builds, &machines);
        assert!(most.iter().all(|most| *most <= SLOTS), "{most:?} builds of {} at once", head.0);
    }
    assert_clean(&[lane.head, second], &machines);
    Report { outcome: "succeeds", stores: 4, noticed: None }
}
