// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that fetch the inputs of a build from a substitute server, which fails them.

use crate::daemon::{self, Build, Outcome};
use crate::faults::Undo;
use crate::lab::lab;
use crate::lane::{Kind, Lane};
use crate::publisher::{Fetcher, Nars, Publisher};
use crate::random::Random;

/// The spare machine publishes the inputs, and the machine may fetch them.
pub fn served(lane: &mut Lane) -> Undo {
    serve(lane, None)
}

/// What comes is not what the server has promised.
pub fn lied_to(lane: &mut Lane) -> Undo {
    serve(lane, Some(Nars::Changed))
}

fn serve(lane: &mut Lane, nars: Option<Nars>) -> Undo {
    let inputs = lane.inputs();
    let publisher = Publisher::new(lane.spare, lane.head, &inputs.iter().map(String::as_str).collect::<Vec<_>>());
    let server = nars.map(|nars| publisher.behind(nars));
    let url = server.as_ref().map_or_else(|| publisher.url(), |server| server.url().to_string());
    let fetcher = Fetcher::new(lane.machine, &[&url]);
    lane.head.kill_keepers(); // one of them may know that the machine fetches nothing
    Undo::with(move || drop((fetcher, server, publisher)))
}

/// The machine's daemon sees its connection reset, and nobody listens any more.
pub fn kill_server(lane: &Lane, _: &mut Random) -> Undo {
    lane.spare.sh(&["pkill", "-KILL", "-f", "[g]uix publish"]);
    Undo::nothing()
}

pub fn cut_server(lane: &Lane, _: &mut Random) -> Undo {
    let spare = lane.spare;
    lab(&["cut", spare.0, "on"]);
    Undo::with(move || drop(lab(&["cut", spare.0, "off"])))
}

/// The head remembers that the machine has the inputs.
pub fn remembered(lane: &mut Lane) -> Undo {
    let other = lane.derivation(Kind::Usual);
    assert_eq!(Build::start(lane.head, &other).finish().outcome, Outcome::Succeeded);
    // Longer than an idle connection protects what was there.
    std::thread::sleep(std::time::Duration::from_secs(4));
    Undo::nothing()
}

pub fn collect_there(lane: &Lane, _: &mut Random) -> Undo {
    daemon::collect_garbage(lane.machine);
    Undo::nothing()
}
