// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether hooks, whichever they are, keep to the slots of machines: by the times that builds were under way.

use super::lab::{Builds, Host};

/// Starts one more daemon of the same store and state, whose hook is the stock script, and returns its socket. It ends
/// when guix-daemon is started anew.
#[track_caller]
pub fn start_stock_daemon(head: Host) -> String {
    start_daemon(head, "stock", "STOCK=1")
}

/// As [`start_stock_daemon`], with this variable in its environment. `name` tells it from others.
#[track_caller]
pub fn start_daemon(head: Host, name: &str, variable: &str) -> String {
    let socket = format!("/var/guix/{name}/socket");
    let daemon = format!(
        "{variable} setsid guix-daemon --no-substitutes --build-users-group=guixbuild --max-jobs=0 --listen={socket} \
         >/var/log/guix-daemon-{name}.log 2>&1 </dev/null & until [ -S {socket} ]; do sleep 0.05; done"
    );
    head.sh(&["sh", "-c", &format!("rm -f {socket}; {daemon}")]);
    socket
}

/// How many of the `stamp` builds of `head`, so many of each, were under way at once on each of `machines` at most.
#[track_caller]
pub fn most_at_once(head: Host, builds: &[(Builds, usize)], machines: &[Host]) -> Vec<usize> {
    most_at_once_of(builds.iter().map(|(builds, count)| (head, builds, *count)), machines)
}

/// As [`most_at_once`], of builds of several heads.
#[track_caller]
pub fn most_at_once_of<'a>(builds: impl Iterator<Item = (Host, &'a Builds, usize)>, machines: &[Host]) -> Vec<usize> {
    let mut spans: Vec<Vec<(f64, f64)>> = vec![Vec::new(); machines.len()];
    for (head, builds, count) in builds {
        builds.assert_succeeded();
        for number in 0..count {
            let name = format!("stamp-{number}");
            spans[machine_of(builds, &name, machines)].push(span(head, builds.outputs(&name)[0]));
        }
    }
    let at_once = |spans: &[(f64, f64)], begin: f64| spans.iter().filter(|(b, e)| *b <= begin && begin < *e).count();
    spans.iter().map(|spans| spans.iter().map(|(begin, _)| at_once(spans, *begin)).max().unwrap_or(0)).collect()
}

/// Which of `machines` a build went to, as an index: to the last one, if it was tried on several.
#[track_caller]
fn machine_of(builds: &Builds, name: &str, machines: &[Host]) -> usize {
    let lines = builds.log.lines().filter_map(|line| line.strip_prefix("@ build-remote "));
    let mut names =
        lines.filter(|line| line.contains(&format!("-{name}.drv "))).flat_map(|line| line.split(' ').nth(1));
    let machine = names.next_back().unwrap_or_else(|| panic!("{name} went nowhere:\n{}", builds.log));
    machines.iter().position(|host| host.0 == machine).expect("one of the machines")
}

/// When a build began and ended, in seconds.
fn span(head: Host, output: &str) -> (f64, f64) {
    let text = std::fs::read_to_string(head.file(output)).unwrap();
    let (begin, end) = text.trim().split_once(' ').expect("two times");
    (begin.parse().unwrap(), end.parse().unwrap())
}
