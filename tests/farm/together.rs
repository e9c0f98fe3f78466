// SPDX-License-Identifier: GPL-3.0-or-later
//! Many builds at once, by our hook and by the stock script, which keep the same slots.

use crate::afterwards::assert_clean;
use crate::lab::{Builds, Host, lab};
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];
const SLOTS: usize = 2;

#[test]
fn slots_are_shared_with_the_stock_script() {
    HEAD.offload_with_our_hook(&MACHINES.map(Machine::of));
    let guile = another_daemon("guile", Hook::Guile.variable());
    let stock = another_daemon("stock", "STOCK=1");
    // The script takes seconds of processor time for each.
    let builds = |socket: &str, count: usize| {
        let count_setting = format!("count={count}");
        (HEAD.start_build_through(socket, "stamp", &[&count_setting, "seconds=1"]), count)
    };
    let running = [builds("/var/guix/daemon-socket/socket", 8), builds(&guile, 6), builds(&stock, 6)];
    let finished = running.map(|(building, count)| (building.finish(), count));
    lab(&["restart-daemon", "head"]); // which ends all

    let mut spans: Vec<Vec<(f64, f64)>> = vec![Vec::new(); MACHINES.len()];
    for (builds, count) in &finished {
        assert!(builds.succeeded, "{}{}", builds.log, builds.results);
        for number in 0..*count {
            let name = format!("stamp-{number}");
            spans[machine_of(builds, &name)].push(span(builds.outputs(&name)[0]));
        }
    }
    for (machine, spans) in MACHINES.iter().zip(&spans) {
        let at_once = |&(begin, _): &(f64, f64)| spans.iter().filter(|(b, e)| *b <= begin && begin < *e).count();
        let most = spans.iter().map(at_once).max().unwrap_or(0);
        assert!((1..=SLOTS).contains(&most), "{most} builds at once on {}: {spans:?}", machine.0);
    }
    assert_clean(&[HEAD], &MACHINES);
}

/// Starts one more daemon of the same store and state on `HEAD`. Returns its socket.
#[track_caller]
fn another_daemon(name: &str, variable: &str) -> String {
    let socket = format!("/var/guix/{name}/socket");
    let daemon = format!(
        "{variable} setsid guix-daemon --no-substitutes --build-users-group=guixbuild --max-jobs=0 --listen={socket} \
         >/var/log/guix-daemon-{name}.log 2>&1 </dev/null & until [ -S {socket} ]; do sleep 0.05; done; echo $!"
    );
    HEAD.sh(&["sh", "-c", &daemon]);
    socket
}

/// Which machine a build went to, as an index.
#[track_caller]
fn machine_of(builds: &Builds, name: &str) -> usize {
    let lines = builds.log.lines().filter_map(|line| line.strip_prefix("@ build-remote "));
    let mut machines =
        lines.filter(|line| line.contains(&format!("-{name}.drv "))).flat_map(|line| line.split(' ').nth(1));
    let machine = machines.next().unwrap_or_else(|| panic!("{name} went nowhere:\n{}", builds.log));
    MACHINES.iter().position(|host| host.0 == machine).expect("one of the machines")
}

/// When a build began and ended, in seconds.
fn span(output: &str) -> (f64, f64) {
    let text = std::fs::read_to_string(HEAD.file(output)).unwrap();
    let (begin, end) = text.trim().split_once(' ').expect("two times");
    (begin.parse().unwrap(), end.parse().unwrap())
}
