// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands for administrators, of the C program and of the Guile module.

use crate::lab::{Host, Undo, lab};
use crate::machines::{Hook, Machine};

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
    HEAD.offload_through(Hook::Program, &[Machine::of(W1)]);
    HEAD.kill_keepers();
    HEAD.sh(&["rm", "-rf", "/var/guix/offload/.journal"]);
    for program in [C, GUILE] {
        assert_eq!(printed(program, &["log"]), "no build is recorded\n");
    }
    // One by the keeper, one by the hook itself.
    HEAD.build("plain", &["kib=40", "inputs=1", "inputs-kib=9"]).assert_succeeded();
    let alone = [Hook::Program.variable(), "GUIX_OFFLOAD_KEEPER=no"];
    lab(&[&["restart-daemon", HEAD.0], &alone[..], &["--", "--max-jobs=0"]].concat());
    HEAD.build("plain", &["kib=40", "inputs=1", "inputs-kib=9"]).assert_succeeded();
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
        // Once it cannot be written, there is nothing to go on for.
        let full = format!("timeout 60 {} status --watch >/dev/full", program.join(" "));
        assert_eq!(HEAD.run(&["sh", "-c", &full]).status.code(), Some(1));
    }
    // On a terminal.
    let typed = "TERM=vt100 script -qec 'timeout 5 /opt/guix-offload/bin/guix-offload status --watch' /dev/null";
    let screen = String::from_utf8_lossy(&HEAD.run(&["sh", "-c", typed]).stdout).into_owned();
    assert!(screen.contains("\x1b[H\x1b[2J") && screen.contains("machine  state"), "{screen:?}");
}

/// Returns what a file of w1 has as its key: type and base 64.
fn key_of_w1() -> String {
    let line = W1.sh(&["cat", "/etc/ssh/ssh_host_ed25519_key.pub"]);
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_machine_is_described_once_its_host_key_is_confirmed() {
    HEAD.offload_to(&[W1]);
    let key = key_of_w1();
    let fingerprint = W1.sh(&["ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key.pub"]);
    let fingerprint = fingerprint.split(' ').nth(1).unwrap();
    let known_hosts = HEAD.file("/root/.ssh/known_hosts");
    std::fs::create_dir_all(known_hosts.parent().unwrap()).unwrap();
    let know = |text: String| std::fs::write(&known_hosts, text).unwrap();
    let _undo = Undo(|| drop(std::fs::remove_file(&known_hosts)));
    let private = "--key=/etc/guix/offload_key";
    for program in [C, GUILE] {
        know(String::new());
        let logins =
            || W1.sh(&["sh", "-c", "cat /var/log/*sshd* /var/log/auth.log 2>/dev/null | grep -c Accepted || :"]);
        let before = logins();
        let (status, form, said) = run(program, &["scan", "w1"]);
        assert!(status == 1 && said.is_empty() && before == logins(), "{form}{said}");
        let next = format!("guix-offload scan w1 root --accept={fingerprint}\n");
        for words in [";; Nobody has confirmed this key yet.\n", &format!("(host-key \"{key}\")"), &next] {
            assert!(form.contains(words), "{words} is missing in:\n{form}");
        }
        assert!(!form.contains("parallel-builds"), "{form}");

        let form = printed(program, &["scan", "w1:22", "root", &format!("--accept={fingerprint}"), private]);
        let systems = "(systems '(\"x86_64-linux\" \"i686-linux\"))";
        for words in ["(name \"w1\")", systems, "(private-key \"/etc/guix/offload_key\")", "Guix: 1.5.0\n"] {
            assert!(form.contains(words), "{words} is missing in:\n{form}");
        }
        // It can be used as it is: the key comes from the machine file.
        know(format!("w1 {key}\n"));
        let form = printed(program, &["scan", "w1"]);
        assert!(form.contains(";; ssh knows the machine under this key.\n"), "{form}");
        std::fs::write(HEAD.file("/srv/scanned.scm"), format!("(list\n{form})")).unwrap();
        let (status, _, said) = run(program, &["test", "/srv/scanned.scm"]);
        assert!(status == 0 && said.contains("the build machine is usable"), "{said}");
        let json = printed(program, &["scan", "w1", "--json"]);
        assert!(json.starts_with("{\"schema\":1,\"name\":\"w1\"") && json.contains("\"knownToSsh\":true"), "{json}");

        let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI";
        know(format!("w1 {other}\n"));
        let (status, form, said) = run(program, &["scan", "w1"]);
        assert!(status == 1 && form.is_empty() && said.contains("ssh knows 'w1' under another one"), "{form}{said}");
        let (status, _, said) = run(program, &["scan", "w1", "--accept=SHA256:wrong"]);
        assert!(status == 1 && said.contains("not SHA256:wrong"), "{said}");
        assert_eq!(run(program, &["scan"]).0, 2);
        assert_eq!(run(program, &["scan", "w1:ssh"]).0, 2);
        assert_eq!(run(program, &["scan", "w1", "--verbose"]).0, 2);
    }
}

#[test]
fn keys_are_exchanged_once_both_are_confirmed() {
    HEAD.offload_to(&[W1]);
    let lists = [HEAD.file("/etc/guix/acl"), W1.file("/etc/guix/acl")];
    let before = lists.each_ref().map(|list| std::fs::read(list).unwrap());
    let restore = || lists.iter().zip(&before).for_each(|(list, text)| std::fs::write(list, text).unwrap());
    let _undo = Undo(restore);
    for program in [C, GUILE] {
        lists.iter().for_each(|list| std::fs::write(list, "(acl)").unwrap());
        let (status, printed, said) = run(program, &["authorize", "w1"]);
        assert!(status == 1 && printed.is_empty(), "{printed}{said}");
        assert_eq!(said.matches("(public-key").count(), 2, "{said}");
        assert!(said.contains("not authorized yet on 'w1':") && said.contains("say --yes\n"), "{said}");
        assert!(lists.iter().all(|list| std::fs::read(list).unwrap() == b"(acl)"), "something was changed");

        let (status, printed, said) = run(program, &["authorize", "w1", "--yes"]);
        assert!(status == 0, "{printed}{said}");
        for words in ["'w1' accepts what this host signs\n", "this host accepts what 'w1' signs\n", "is usable\n"] {
            assert!(printed.contains(words), "{words} is missing in:\n{printed}");
        }
        // Again: there is nothing to do, nor to confirm.
        let lists_now = lists.each_ref().map(|list| std::fs::read(list).unwrap());
        let (status, printed, said) = run(program, &["authorize", "w1:22", "--file=/etc/guix/machines.scm"]);
        assert!(status == 0 && !printed.contains("accepts") && printed.contains("is usable\n"), "{printed}{said}");
        assert_eq!(lists.each_ref().map(|list| std::fs::read(list).unwrap()), lists_now);
        let json = printed_json(program);
        assert!(json.contains("\"authorizedThere\":true,\"authorizedHere\":true,\"tested\":true"), "{json}");
        let (status, _, said) = run(program, &["authorize", "nobody"]);
        assert!(status == 2 && said.contains("no machine 'nobody'\nhint: it has these: w1:22\n"), "{said}");
        let (status, _, said) = run(program, &["authorize", "w1", "--file=/srv/none.scm"]);
        assert!(status == 2 && said.contains("machine file '/srv/none.scm': No such file"), "{said}");
        assert_eq!(run(program, &["authorize"]).0, 2);
        assert_eq!(run(program, &["authorize", "w1", "--watch"]).0, 2);
    }
}

#[track_caller]
fn printed_json(program: &[&str]) -> String {
    printed(program, &["authorize", "w1", "--json"])
}
