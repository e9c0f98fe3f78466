// SPDX-License-Identifier: GPL-3.0-or-later
//! `guix offload test` and `status`, of the C program and of the Guile module: all machines at once, of which each has
//! something wrong with it.

use std::path::Path;
use std::time::{Duration, Instant};

use guix_offload::doors::farm;
use guix_offload::ground::cancel::Cancel;
use guix_offload::ground::directories::Directories;
use guix_offload::machine::file;

use crate::broken;
use crate::hosts::configure_ssh;
use crate::lab::{Host, Undo, lab};
use crate::machines::{Machine, quoted};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");
const W2: Host = Host("w2");
const W3: Host = Host("w3");
const W4: Host = Host("w4");

const C: &[&str] = &["/opt/guix-offload/libexec/guix-offload", "offload"];
const GUILE: &[&str] = &["/opt/guix-offload/libexec/guix-offload-guile", "offload"];

/// Runs a program on `HEAD`: whether it succeeded, and what it said on standard output and on standard error.
#[track_caller]
fn run(program: &[&str], arguments: &[&str]) -> (bool, String, String) {
    run_on(HEAD, program, arguments)
}

#[track_caller]
fn run_on(host: Host, program: &[&str], arguments: &[&str]) -> (bool, String, String) {
    let output = host.run(&[program, arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn assert_says(text: &str, expected: &[&str]) {
    for words in expected {
        assert!(text.contains(words), "{words:?} is missing in:\n{text}");
    }
}

#[test]
fn usable_machines_pass_and_leave_the_stores_whole() {
    HEAD.offload_to(&[W1, W2]);
    for program in [C, GUILE] {
        let (passed, _, said) = run(program, &["test"]);
        assert!(passed, "{said}");
        assert_says(
            &said,
            &[
                "guix offload: testing 2 build machines defined in '/etc/guix/machines.scm'...\n",
                "guix offload: Guix is usable on 'w1' (test returned \"/gnu/store/",
                "guix offload: 'w2' successfully imported '/gnu/store/",
                "-import-test' from 'w2'\n",
                "guix offload: all 2 build machines are usable\n",
            ],
        );
    }
    let (passed, _, said) = run(C, &["test", "/etc/guix/machines.scm", "^w[13]$"]);
    assert!(passed && !said.contains("'w2'"), "{said}");
    assert_says(&said, &["'w1' is running GNU Guix 1.5.0\n", "guix offload: the build machine is usable\n"]);
    // Root sees the store of this one read-only: only its daemon can import.
    UHEAD.offload_to(&[W1]);
    let (passed, _, said) = run_on(UHEAD, C, &["test"]);
    assert!(passed, "{said}");
    for host in [HEAD, UHEAD, W1] {
        host.verify_store();
    }
}

#[test]
fn every_machine_says_what_is_wrong_with_it_while_others_go_on() {
    HEAD.offload_to(&[W1, W2, W3, W4]);
    let file = HEAD.file("/etc/guix/machines.scm");
    let text = std::fs::read_to_string(&file).unwrap();
    let key = |number: usize| text.split("(host-key ").nth(number).unwrap().split(')').next().unwrap().to_string();
    // Down, and a wrong host key: under the names of addresses.
    let more = |name: &str, port: u32, key: &str| {
        format!(
            "(build-machine (name \"{name}\") (port {port}) (systems '(\"x86_64-linux\")) (user \"root\")\n  \
             (host-key {key}) (private-key \"/etc/guix/offload_key\"))\n"
        )
    };
    let address = lab(&["address", W1.0]).trim().to_string();
    let text = format!(
        "(append {text} (list {} {}))",
        more("127.0.0.1", 1, &key(1)), // nobody listens there
        more(&address, 22, &key(2)),   // w1 with the key of w2
    );
    std::fs::write(&file, text).unwrap();

    // The first connection leaves a text that the database lists (src/remote/trust.rs): in the store that comes back.
    run(C, &["status", "/etc/guix/machines.scm", "^w1$"]);
    // w1 has a full store, w2 does not know our key, w3 drops all packets.
    W1.sh(&["mount", "-t", "tmpfs", "-o", "size=50m", "full", "/mnt"]);
    W1.sh(&["mount", "--bind", "/mnt", "/gnu/store"]);
    let acl = W2.file("/etc/guix/acl");
    let keys = std::fs::read(&acl).unwrap();
    std::fs::write(&acl, "(acl)").unwrap();
    lab(&["cut", W3.0, "on"]);
    let _undo = Undo(|| {
        lab(&["cut", W3.0, "off"]);
        std::fs::write(&acl, &keys).unwrap();
        W1.sh(&["umount", "/gnu/store", "/mnt"]);
    });

    // Two at a time, as each takes as long as w3 is waited for: 15 s. Each starts five programs in Guile elsewhere, for
    // which no machine may take longer than that either.
    let ask = |program: &'static [&'static str], arguments: &'static [&'static str]| {
        move || {
            let begun = Instant::now();
            let answer = run(program, arguments);
            let time = begun.elapsed();
            println!("{} {arguments:?}: {time:?}", program[0]);
            assert!((Duration::from_secs(14)..Duration::from_secs(25)).contains(&time), "{arguments:?}: {time:?}");
            answer
        }
    };
    let both = |arguments| {
        std::thread::scope(|scope| {
            [C, GUILE].map(|program| scope.spawn(ask(program, arguments))).map(|asked| asked.join().unwrap())
        })
    };
    // What else waits for w3 does so meanwhile.
    let (tests, tables) = std::thread::scope(|scope| {
        let explained = scope.spawn(|| broken::a_build_that_no_machine_takes_is_explained(&address));
        let tests = both(&["test"]);
        explained.join().unwrap();
        let described = ["scan", "authorize"].map(|command| scope.spawn(|| broken::is_away(&[command, "w3"])));
        let tables = both(&["status"]);
        described.into_iter().for_each(|thread| thread.join().unwrap());
        (tests, tables)
    });
    let reports = both(&["status", "--json"]);

    for (passed, _, said) in tests {
        assert!(!passed, "{said}");
        assert_says(
            &said,
            &[
                "error: machine 'w1': it is low on disk space (50.0 MiB free)\n\
                 hint: free some space there: ssh root@w1 guix gc",
                "error: sending files to 'w2': it does not let in what this host signs: unauthorized public \
                 key: (public-key (ecc",
                "\nhint: authorize this host's key there: ssh root@w2 guix archive --authorize < \
                 /etc/guix/signing-key.pub\n",
                "error: cannot connect to 'w3', port 22: no ",
                "error: cannot connect to '127.0.0.1', port 1: Connection refused\n",
                &format!("error: the host key of '{address}' is SHA256:"),
                "but the machine file says SHA256:",
                "guix offload: 'w4' is running GNU Guix 1.5.0\n",
                "-import-test' from 'w4'\n",
                "error: 5 of 6 build machines cannot be used\n",
            ],
        );
    }

    broken::commands_that_wait_for_no_machine_go_on(&address);
    for (all_reached, table, said) in tables {
        assert!(!all_reached && said.contains("getting status of 6 build machines"), "{said}");
        let line = |name: &str| {
            let found = table.lines().find(|line| line.split(' ').next() == Some(name));
            let found = found.unwrap_or_else(|| panic!("no line for {name} in:\n{table}"));
            found.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert!(line("w1").starts_with("w1 low on space 0/2 "), "{table}");
        assert_says(
            &table,
            &["  warning: machine 'w1' gets no builds now: it is low on disk space (50.0 MiB free)\n  \
               hint: free some space there: ssh root@w1 guix gc -F 1G\n"],
        );
        for name in ["w2", "w4"] {
            assert!(line(name).starts_with(&format!("{name} ready ")) && line(name).ends_with(" 1.5.0"), "{table}");
        }
        for (name, state) in [("w3", "unreachable"), ("127.0.0.1", "unreachable"), (&address, "host key differs")] {
            assert!(line(name).starts_with(&format!("{name} {state} 0/")), "{table}");
        }
        assert_says(
            &table,
            &["\nw2\n  kernel: Linux ", "\n  architecture: ", "\n  normalized load: ", "\n  time difference: "],
        );
        let pressure = if Path::new("/proc/pressure").exists() { "processor " } else { "unknown" };
        assert_says(
            &table,
            &["\n  available memory: ", " GiB of ", &format!("\n  pressure of the last 10 s: {pressure}")],
        );
    }
    for (all_reached, report, said) in reports {
        assert!(!all_reached && said.is_empty() && report.lines().count() == 1, "{report}{said}");
        assert!(serde_json::from_str::<serde_json::Value>(&report).is_ok(), "{report}");
        assert_eq!(report.matches("\"reachable\": false").count(), 3, "{report}");
        assert_says(
            &report,
            &["\"name\": \"w1\"", "\"state\": \"low on space\"", "\"freeSpace\": 52428800,", "\"state\": \"ready\""],
        );
    }
}

#[test]
fn a_missing_guix_and_a_slow_clock_are_explained() {
    HEAD.offload_to(&[W1, W2]);
    // All that is in the PATH but guix; and a date that is an hour behind, as clocks belong to the kernel.
    W1.sh(&["sh", "-c", "mkdir -p /srv/bin && ln -sf /usr/bin/* /srv/bin && rm /srv/bin/guix*"]);
    let date = "mkdir -p /srv/bin && printf '#!/bin/sh\necho $(($(/usr/bin/date +%%s) - 3600))\n' >/srv/bin/date && \
                chmod +x /srv/bin/date";
    W2.sh(&["sh", "-c", date]);
    configure_ssh(W1, "SetEnv PATH=/srv/bin");
    configure_ssh(W2, "SetEnv PATH=/srv/bin:/usr/local/bin:/usr/bin:/bin");
    let _undo = Undo(|| [W1, W2].iter().for_each(|host| configure_ssh(*host, "")));

    for (program, arguments) in [(C, "test"), (GUILE, "test"), (C, "status")] {
        let (passed, table, said) = run(program, &[arguments]);
        assert!(passed, "they are usable: {said}");
        assert_says(
            &(table + &said),
            &[
                "warning: 'guix' is not in the PATH of non-interactive SSH sessions of user root on 'w1'\n",
                "hint: builds work, but large files may be sent slowly; set PATH in ~/.bashrc or with SetEnv",
                "warning: machine 'w2' is 36",
                " seconds behind\n",
                "hint: set its clock: ",
            ],
        );
    }
}

#[test]
fn a_machine_that_takes_too_long_is_given_up() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let key = quoted(HEAD.file("/etc/guix/offload_key").to_str().unwrap());
    let machines = [W1, W2].map(|host| Machine::of(host).with("private-key", key.clone()));
    std::fs::write(file.path(), crate::machines::text(&machines)).unwrap();
    let machines = file::load(file.path(), &Default::default()).unwrap().expect("machines").machines;
    let mut directories = Directories::from_environment().unwrap();
    let state = tempfile::tempdir().unwrap();
    directories.state = state.path().into();

    W1.sh(&["pkill", "-STOP", "-x", "guix-daemon"]);
    let _undo = Undo(|| drop(W1.sh(&["pkill", "-CONT", "-x", "guix-daemon"])));
    let begun = Instant::now();
    let (limit, cancel) = (Duration::from_secs(4), Cancel::default());
    let reports = farm::examine(&directories, &machines, limit, farm::check::test, &cancel, &mut |_| Ok(()));
    let reports = reports.unwrap();
    assert!((4..9).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let failures: Vec<String> =
        reports.iter().map(|report| format!("{}", report.failure.as_ref().expect("a failure"))).collect();
    assert!(failures[0].contains("'w1' took longer than 4 s"), "{failures:?}");
    // The other one went on: there is no daemon here to send anything from.
    assert!(!failures[1].contains("took longer") && reports[1].state.is_some(), "{failures:?}");
}

#[test]
fn refused_forwarding_a_refused_key_and_unknown_signatures_are_explained() {
    HEAD.offload_to(&[W1, W2]);
    let keys = W2.file("/root/.ssh/authorized_keys");
    let (acl, authorized) = (HEAD.file("/etc/guix/acl"), std::fs::read(&keys).unwrap());
    let trusted = std::fs::read(&acl).unwrap();
    configure_ssh(W1, "AllowStreamLocalForwarding no");
    std::fs::write(&keys, "").unwrap();
    let _undo = Undo(|| {
        configure_ssh(W1, "");
        std::fs::write(&keys, &authorized).unwrap();
        std::fs::write(&acl, &trusted).unwrap();
    });

    let (passed, _, said) = run(C, &["test"]);
    assert!(!passed, "{said}");
    assert_says(
        &said,
        &[
            "successfully imported '/gnu/store/",
            "warning: the SSH server of 'w1' does not forward sockets",
            "error: 'w2' does not let user root in with the key /etc/guix/offload_key\n",
            "error: 1 of 2 build machines cannot be used\n",
        ],
    );
    assert!(run(C, &["status"]).1.contains("\nw2       refused  0/2 "));
    std::fs::write(&acl, "(acl)").unwrap();
    let (passed, _, said) = run(C, &["test", "/etc/guix/machines.scm", "w1"]);
    assert!(!passed, "{said}");
    assert_says(
        &said,
        &["authorize its key here, as root: ssh root@w1 cat /etc/guix/signing-key.pub | guix archive --authorize\n"],
    );
}

#[test]
fn the_command_line_is_checked() {
    HEAD.offload_to(&[W1]);
    let machines = "/etc/guix/machines.scm";
    std::fs::write(HEAD.file("/srv/empty.scm"), "(list)").unwrap();
    std::fs::write(HEAD.file("/srv/broken.scm"), "(car '())").unwrap();
    for (arguments, complaint) in [
        (&[machines, "w[1"][..], "'w[1' is not a regular expression"),
        (&["a", "b", "c"], "arguments"),
        (&[machines, "nobody"], "no build machine of '/etc/guix/machines.scm' matches 'nobody'"),
        (&["/srv/none.scm"], "machine file '/srv/none.scm': No such file or directory"),
        (&["--bogus"], "unknown option '--bogus'"),
        (&[machines, "-v"], "unknown option '-v'"),
        (&["/srv/empty.scm"], "'/srv/empty.scm' has no build machine"),
        (&["/srv"], "/srv: the machine file is a directory"),
        (&["/srv/broken.scm"], "/srv/broken.scm:1:"),
    ] {
        for (program, command) in [(C, "test"), (C, "status"), (GUILE, "test")] {
            let output = HEAD.run(&[program, &[command], arguments].concat());
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{program:?} {command} {arguments:?}: {said}");
            assert!(said.contains(complaint), "{program:?} {command} {arguments:?}: {said}");
            assert!(output.stdout.is_empty() && !said.contains("usable\n"), "{command} {arguments:?}: {said}");
        }
    }
    for program in [C, GUILE] {
        assert_eq!(HEAD.run(&[program, &["nonsense"]].concat()).status.code(), Some(2));
        for arguments in [&["--help"][..], &["-h"], &["test", "--help"], &["status", machines, "-h"]] {
            let (passed, help, said) = run(program, arguments);
            assert!(passed && said.is_empty(), "{said}");
            assert_says(&help, &["Usage: guix", "offload SYSTEM MAX-SILENT-TIME", "status [FILE [REGEXP]] [--json]"]);
        }
        let version = format!("libguix_offload {}", env!("CARGO_PKG_VERSION"));
        assert_says(&run(program, &["--version"]).1, &[version.as_str(), "GPL"]);
        let (passed, report, said) = run(program, &["test", "--json"]);
        assert!(passed && said.is_empty() && report.starts_with("{\"schema\": 1, \"machines\": ["), "{report}{said}");
        let (passed, _, said) = run(program, &["status"]);
        assert!(passed && said.contains("getting status of 1 build machine defined in "), "{said}");
    }
}

/// What is in `bin`: of its own, and everything else is for the real guix.
#[test]
fn the_program_in_the_path_knows_its_commands_and_hands_on_the_rest() {
    const BIN: &[&str] = &["/opt/guix-offload/bin/guix-offload"];
    HEAD.offload_to(&[W1]);
    let version = format!("libguix_offload {}", env!("CARGO_PKG_VERSION"));
    assert_says(&run(BIN, &["--version"]).1, &[&version]);
    assert_says(&run(BIN, &["--help"]).1, &["Usage: guix-offload test"]);
    assert_eq!(HEAD.run(BIN).status.code(), Some(2));
    let (passed, table, said) = run(BIN, &["status"]);
    assert!(passed && table.contains("\nw1  ") || table.contains("\nw1 "), "{table}{said}");
    let (passed, _, said) = run(BIN, &["test"]);
    assert!(passed && said.contains("the build machine is usable"), "{said}");

    // What guix-daemon asks of $GUIX besides `offload`, each answered by guix itself.
    for (command, answer) in [
        (&["authenticate", "--version"][..], "guix authenticate (GNU Guix) 1.5.0"),
        (&["substitute", "--version"], "guix substitute (GNU Guix) 1.5.0"),
        (&["perform-download", "--version"], "guix (GNU Guix) 1.5.0"),
        (&["gc", "--version"], "guix gc (GNU Guix) 1.5.0"),
    ] {
        assert_says(&run(BIN, command).1, &[answer]);
    }
}

#[test]
fn a_machine_without_guix_is_told_as_that() {
    HEAD.offload_to(&[W1]);
    // The daemon would make a store.
    W1.sh(&["pkill", "-x", "guix-daemon"]);
    W1.sh(&["mount", "-t", "tmpfs", "none", "/gnu"]);
    let _undo = Undo(|| {
        W1.sh(&["umount", "/gnu"]);
        lab(&["restart-daemon", W1.0]);
    });
    for program in [C, GUILE] {
        let (passed, table, said) = run(program, &["status"]);
        assert!(!passed, "{table}{said}");
        assert_says(
            &table,
            &[
                "w1       no Guix  0/2 ",
                "  error: Guix is not installed on 'w1': there is no /gnu/store\n  hint: install Guix on 'w1', or ",
            ],
        );
        let (passed, printed, said) = run(program, &["authorize", "w1", "--yes"]);
        assert!(!passed && printed.is_empty(), "{printed}{said}");
        assert_says(&said, &["error: Guix is not installed on 'w1': there is no /gnu/store\nhint: install Guix "]);
    }
}
