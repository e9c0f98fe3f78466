// SPDX-License-Identifier: GPL-3.0-or-later
//! What is done to a build, and what must come of it.

use std::time::Duration;

use rustix::process::Signal;

use crate::conditions::*;
use crate::lab::lab;
use crate::lane::{Kind, Lane, limit, signal, start_head, start_machine};
use crate::random::Random;
use crate::run::Report;
use crate::servers::*;
use crate::shared_machines;

pub struct Fault {
    pub name: String,
    /// What is built.
    pub kind: Kind,
    /// What is so during this build and the next one.
    pub condition: fn(&mut Lane) -> Undo,
    /// When it strikes: in this phase, up to so many ms after it began.
    pub phase: Phase,
    pub within: u64,
    /// What happens then, until this build is over.
    pub strike: fn(&Lane, &mut Random) -> Undo,
    pub effect: Effect,
    /// Instead of all that: more than one build, in a lane with a second head.
    pub scenario: Option<fn(&mut Lane) -> Report>,
    /// Takes a minute or more: left out of a short run.
    pub long: bool,
    /// It is run so often at most.
    pub most: usize,
    /// By when it has to be noticed.
    pub noticed_within: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Never: the condition is all.
    Never,
    /// From the moment on in which the build is asked for.
    Asked,
    /// While the machine fetches inputs.
    Fetching,
    Sending,
    Building,
    Retrieving,
    Registering,
}

/// What must come of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The machine has failed: the build is done on another, or, if there is none, has failed for now.
    Machine,
    /// The hook has failed, as guix-daemon says: the build has failed for now.
    Hook,
    /// The keeper has failed, as its hook says: the build has failed for now, unless it is not needed any more.
    Keeper,
    /// The daemon is gone, and its hook ends by itself.
    Daemon,
    /// This host has failed, which no other machine could change: the build has failed for now. With these words.
    Head(&'static [&'static str]),
    /// None: the build succeeds, and says this.
    Nothing(&'static str),
}

/// Ends a fault when dropped.
#[derive(Default)]
pub struct Undo(Option<Box<dyn FnOnce()>>);

impl Undo {
    pub fn nothing() -> Undo {
        Undo(None)
    }

    pub fn with(undo: impl FnOnce() + 'static) -> Undo {
        Undo(Some(Box::new(undo)))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

/// A dead network has to be noticed by then; anything else but what is stuck is noticed sooner.
const NOTICED_WITHIN: Duration = Duration::from_secs(90);

/// As what does not move has to be: an import whose bytes are all on their way is waited for five minutes.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(320);

/// How long the phases of a usual build take, in ms, or a little less.
const SENDING: (Phase, u64) = (Phase::Sending, 1000);
const BUILDING: (Phase, u64) = (Phase::Building, 1000);
const RETRIEVING: (Phase, u64) = (Phase::Retrieving, 1000);
const REGISTERING: (Phase, u64) = (Phase::Registering, 300);
const ASKED: (Phase, u64) = (Phase::Asked, 600);
const FETCHING: (Phase, u64) = (Phase::Fetching, 3000);

/// What a hook says of a machine that fetches inputs.
pub const FETCHES: &str = "' fetches ";

type Strike = fn(&Lane, &mut Random) -> Undo;
type Condition = fn(&mut Lane) -> Undo;
type Serving = (&'static str, Kind, Condition, (Phase, u64), Strike, &'static str);
type Kill = (&'static str, &'static [(Phase, u64)], Strike, Effect);

/// Every fault there is; in a `short` run, some are less.
pub fn faults(short: bool) -> Vec<Fault> {
    let all: &'static [_] = &[SENDING, BUILDING, RETRIEVING, REGISTERING];
    let network: &'static [_] = &[SENDING, BUILDING, RETRIEVING];
    let kills: [Kill; 7] = [
        ("hook killed", all, kill_hook, Effect::Hook),
        ("keeper killed", all, kill_keeper, Effect::Keeper),
        ("the head's guix-daemon killed", all, kill_head_daemon, Effect::Daemon),
        ("the machine's sshd session killed", network, kill_session, Effect::Machine),
        ("the machine's guix-daemon killed", &[SENDING, BUILDING], kill_machine_daemon, Effect::Machine),
        ("machine rebooted", &[BUILDING], reboot, Effect::Machine),
        ("network cut", network, cut, Effect::Machine),
    ];
    let usual = Fault {
        name: String::new(),
        kind: Kind::Usual,
        condition: |_| Undo::nothing(),
        phase: Phase::Never,
        within: 0,
        strike: |_, _| Undo::nothing(),
        effect: Effect::Nothing("done with offloaded"),
        scenario: None,
        long: false,
        most: usize::MAX,
        noticed_within: NOTICED_WITHIN,
    };
    let mut faults = Vec::new();
    for (name, moments, strike, effect) in kills {
        for &(phase, within) in moments {
            let name = format!("{name} while {}", format!("{phase:?}").to_lowercase());
            let long = name.starts_with("network");
            // Nothing that happens here can tell the machine.
            let condition: Condition = if long { noticing } else { usual.condition };
            faults.push(Fault { name, condition, phase, within, strike, effect: effect.clone(), long, ..usual });
        }
    }

    // What is on its way is no longer the daemon's: up to 8 MiB.
    faults.push(Fault {
        name: "the machine's guix-daemon killed while retrieving".into(),
        kind: Kind::Large,
        condition: brisk,
        phase: Phase::Retrieving,
        within: 400,
        strike: kill_machine_daemon,
        effect: Effect::Machine,
        ..usual
    });

    // What does not move is waited for longer than what is dead.
    let stopped: [(Kind, Condition, (Phase, u64)); 2] =
        [(Kind::Usual, usual.condition, SENDING), (Kind::Large, brisk, (Phase::Retrieving, 400))];
    for (kind, condition, (phase, within)) in stopped {
        faults.push(Fault {
            name: format!("the machine's guix-daemon stopped while {}", format!("{phase:?}").to_lowercase()),
            kind,
            condition,
            phase,
            within,
            strike: stop_machine_daemon,
            effect: Effect::Machine,
            long: true,
            most: 3,
            noticed_within: GIVEN_UP_WITHIN,
            ..usual
        });
    }

    // No file that could have had its room on the disk before.
    let full: [(&str, Condition, (Phase, u64), Effect); 3] = [
        ("disk of the machine full while importing", small_machine_store, (Phase::Sending, 800), Effect::Machine),
        (
            "disk of the head full while restoring",
            small_head_store,
            (Phase::Retrieving, 600),
            Effect::Head(&["retrieving", "No space left on device"]),
        ),
        (
            "disk of the head's database full",
            small_head_database,
            (Phase::Retrieving, 600),
            Effect::Head(&["registering the outputs", "disk is full"]),
        ),
    ];
    for (name, condition, (phase, within), effect) in full {
        let name = name.to_string();
        faults.push(Fault { name, kind: Kind::Many, condition, phase, within, strike: fill, effect, ..usual });
    }

    let mib = if short { 64 } else { 2048 };
    let endless = format!("log of {mib} MiB without a newline");
    let done = "done with offloaded";
    let conditions: [(&str, Kind, Condition, Effect); 10] = [
        ("garbage collectors running on both sides", Kind::Usual, collect_garbage, Effect::Nothing(done)),
        ("sshd forwards no sockets", Kind::Usual, no_forwarding, Effect::Nothing(done)),
        ("sshd allows one session", Kind::Usual, one_session, Effect::Nothing(done)),
        ("sshd forwards no sockets and allows one session", Kind::Usual, one_session_only, Effect::Nothing(done)),
        ("sshd closes idle channels", Kind::Silent, close_idle, Effect::Machine),
        ("login banner of 32 KiB", Kind::Usual, banner, Effect::Nothing(done)),
        ("100 MB of lines before SSH begins", Kind::Usual, chatter, Effect::Nothing(done)),
        ("network at 1 KiB/s", Kind::Small, slow, Effect::Nothing(done)),
        (&endless, Kind::Loud(mib), fast, Effect::Nothing(done)),
        ("clock of the machine an hour behind", Kind::Usual, clock_behind, Effect::Nothing("seconds behind")),
    ];
    for (name, kind, condition, effect) in conditions {
        let name = name.to_string();
        let most = if matches!(kind, Kind::Loud(_)) { 3 } else { usual.most };
        faults.push(Fault { name, kind, condition, effect, most, ..usual });
    }
    let serving: [Serving; 5] = [
        ("substitute server killed while fetching", Kind::Fetched, served, FETCHING, kill_server, FETCHES),
        ("substitute server cut off while fetching", Kind::Fetched, served, FETCHING, cut_server, FETCHES),
        ("substitute server that lies", Kind::Fetched, lied_to, FETCHING, |_, _| Undo::nothing(), FETCHES),
        ("garbage collector of the machine while fetching", Kind::Fetched, served, FETCHING, collect_there, FETCHES),
        ("garbage collected there before inputs are used again", Kind::Usual, remembered, ASKED, collect_there, done),
    ];
    for (name, kind, condition, (phase, within), strike, says) in serving {
        let (name, effect) = (name.to_string(), Effect::Nothing(says));
        faults.push(Fault { name, kind, condition, phase, within, strike, effect, long: true, ..usual });
    }
    let name = "two heads and the stock script on the same slots".to_string();
    faults.push(Fault { name, scenario: Some(shared_machines::run), ..usual });
    faults
}

fn kill_hook(lane: &Lane, _: &mut Random) -> Undo {
    lane.kill_ours(false);
    Undo::nothing()
}

fn kill_keeper(lane: &Lane, _: &mut Random) -> Undo {
    lane.kill_ours(true);
    Undo::nothing()
}

fn kill_head_daemon(lane: &Lane, _: &mut Random) -> Undo {
    lane.kill(lane.head, "guix-daemon");
    let head = lane.head;
    Undo::with(move || start_head(head))
}

fn kill_session(lane: &Lane, _: &mut Random) -> Undo {
    lane.kill(lane.machine, "sshd-session");
    Undo::nothing()
}

fn kill_machine_daemon(lane: &Lane, _: &mut Random) -> Undo {
    lane.kill(lane.machine, "guix-daemon");
    let machine = lane.machine;
    Undo::with(move || start_machine(machine))
}

/// Its SSH server lives on.
fn stop_machine_daemon(lane: &Lane, _: &mut Random) -> Undo {
    let processes = lane.processes(lane.machine, "guix-daemon");
    signal(&processes, Signal::STOP);
    Undo::with(move || signal(&processes, Signal::CONT))
}

fn reboot(lane: &Lane, _: &mut Random) -> Undo {
    lab(&["kill", lane.machine.0]);
    lab(&["start", lane.machine.0]);
    limit(lane.machine);
    Undo::nothing()
}

fn cut(lane: &Lane, _: &mut Random) -> Undo {
    lab(&["cut", lane.machine.0, "on"]);
    let machine = lane.machine;
    Undo::with(move || drop(lab(&["cut", machine.0, "off"])))
}
