// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands for administrators, of the C program and of the Guile module.

use crate::lab::Host;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

const C: &[&str] = &["/opt/guix-offload/bin/guix-offload"];
const GUILE: &[&str] = &["/opt/guix-offload/libexec/guix-offload-guile", "offload"];

/// Runs a program on `HEAD`: its exit status, and what it said on standard output and on standard error.
#[track_caller]
fn run(program: &[&str], arguments: &[&str]) -> (i32, String, String) {
    let output = HEAD.run(&[program, arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

/// Returns what a command prints that succeeds and says nothing else.
#[track_caller]
fn printed(program: &[&str], arguments: &[&str]) -> String {
    let (status, printed, said) = run(program, arguments);
    assert!(status == 0 && said.is_empty(), "{program:?} {arguments:?}: {status}\n{printed}{said}");
    printed
}

/// Returns the value of a metric.
#[track_caller]
fn metric(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in:\n{text}")).parse().unwrap()
}

#[test]
fn each_build_is_in_the_log_and_counts() {
    HEAD.offload_to(&[W1]);
    HEAD.kill_keepers();
    HEAD.sh(&["rm", "-rf", "/var/guix/offload/.journal"]);
    for program in [C, GUILE] {
        assert_eq!(printed(program, &["log"]), "no build is recorded\n");
    }
    HEAD.build("plain", &["count=2", "kib=40", "inputs=1", "inputs-kib=9"]).assert_succeeded();
    assert!(!HEAD.build("fail", &[]).succeeded);
    for program in [C, GUILE] {
        let log = printed(program, &["log"]);
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines[0].starts_with("ended") && lines.len() == 5, "{log}");
        assert!(lines[1..3].iter().all(|line| line.contains("  w1       done          ")), "{log}");
        assert!(lines[3].contains("  w1       build-failed  ") && lines[4].contains("failed"), "{log}");
        assert_eq!(printed(program, &["log", "1"]).lines().count(), 3);
        let json = printed(program, &["log", "--json", "0"]);
        assert!(json.starts_with("{\"schema\":1,\"builds\":[") && json.matches("\"ended\":").count() == 3, "{json}");

        let stats = printed(program, &["stats"]);
        assert!(stats.lines().any(|line| line.starts_with("w1       2     1       0 ")), "{stats}");
        assert!(printed(program, &["stats", "--json"]).contains("\"builds\":{\"done\":2,\"build-failed\":1,"));
        let metrics = printed(program, &["stats", "--prometheus"]);
        assert_eq!(metric(&metrics, "guix_offload_builds_total{machine=\"w1\",outcome=\"done\"}"), 2.0);
        assert!(metric(&metrics, "guix_offload_received_bytes_total{machine=\"w1\"}") > 80e3, "{metrics}");
        assert!(metric(&metrics, "guix_offload_sent_bytes_total{machine=\"w1\"}") > 9e3, "{metrics}");

        for (arguments, complaint) in [
            (&["log", "x"][..], "'log' takes one number of builds, not 'x'"),
            (&["log", "1", "2"], "'log' takes one number of builds, not '2'"),
            (&["log", "--prometheus"], "unknown option '--prometheus' of 'log'"),
            (&["stats", "--json", "--prometheus"], "'stats' takes one of '--json' and '--prometheus'"),
        ] {
            let (status, printed, said) = run(program, arguments);
            assert!(status == 2 && printed.is_empty() && said.contains(complaint), "{arguments:?}: {printed}{said}");
        }
    }
}

#[test]
fn the_status_can_be_watched_and_machines_are_named_as_they_answer() {
    HEAD.offload_to(&[W1]);
    for program in [C, GUILE] {
        let (status, table, said) = run(program, &["status", "--verbose"]);
        assert!(status == 0 && said.ends_with("guix offload: w1: ready\n"), "{table}{said}");
        assert!(!run(program, &["status"]).2.contains("w1: ready"));
        let watch = [&["timeout", "--signal=INT", "12"], program, &["status", "--watch"]].concat();
        let output = HEAD.run(&watch);
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(table.matches("machine  state").count() >= 2 && !table.contains('\x1b'), "{table}");
        assert_eq!(run(program, &["test", "--watch"]).0, 2);
    }
    // On a terminal.
    let typed = "TERM=vt100 script -qec 'timeout 5 /opt/guix-offload/bin/guix-offload status --watch' /dev/null";
    let screen = String::from_utf8_lossy(&HEAD.run(&["sh", "-c", typed]).stdout).into_owned();
    assert!(screen.contains("\x1b[H\x1b[2J") && screen.contains("machine  state"), "{screen:?}");
}
