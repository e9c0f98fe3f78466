// SPDX-License-Identifier: GPL-3.0-or-later
//! What the commands that ask one machine, or none, say of broken machines: w1 has a full store, w2 does not know this
//! host's key, w3 drops all packets, nobody listens on port 1 of 127.0.0.1, and the address of w1 is listed with
//! another host key. w4 is well. `docs/broken-machines.md` shows this.

use std::time::{Duration, Instant};

use crate::lab::{Host, Undo, lab};
use crate::machines::{Hook, host_key};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

/// Runs a command that ends with `status`, and returns what it said.
#[track_caller]
fn say(arguments: &[&str], status: i32) -> String {
    let output = HEAD.run(&[&["/opt/guix-offload/bin/guix-offload"], arguments].concat());
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
    if arguments.contains(&"--json") {
        assert!(serde_json::from_str::<serde_json::Value>(&said).is_ok(), "{arguments:?}: {said}");
    }
    said
}

#[track_caller]
fn says(arguments: &[&str], status: i32, expected: &[&str]) {
    let said = say(arguments, status);
    for words in expected {
        assert!(said.contains(words), "{arguments:?}: {words:?} is missing in:\n{said}");
    }
}

/// `arguments` are about w3.
#[track_caller]
pub fn is_away(arguments: &[&str]) {
    says(
        arguments,
        1,
        &["error: cannot connect to 'w3', port 22: no answer in time\nhint: check that 'w3' is up and "],
    );
}

/// Has a build find all machines broken but those that are drained, and asks until it was said of each why it is left
/// alone. Then one of the others takes the build.
pub fn a_build_that_no_machine_takes_is_explained(address: &str) {
    let drained = ["w2", "w4"];
    HEAD.kill_keepers();
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // what is remembered of machines
    lab(&["restart-daemon", HEAD.0, Hook::Program.variable(), "--", "--max-jobs=0"]);
    drained.iter().for_each(|machine| says(&["drain", machine], 0, &[" gets no new builds; it has none now\n"]));
    let building = HEAD.start_build("plain", &[]);

    let left_alone = |machine: &str| format!("{machine}: it is left alone for another ");
    let mut awaited = vec![
        (left_alone("w1:22"), "it is low on disk space (50.0 MiB free)", "free some space there: ssh root@w1 guix gc"),
        (left_alone("w3:22"), "cannot connect to 'w3', port 22: no answer in time", "check that 'w3' is up and that "),
        (
            left_alone("127.0.0.1:1"),
            "'127.0.0.1', port 1: Connection refused",
            "check that '127.0.0.1' is up and that ",
        ),
        (left_alone(&format!("{address}:22")), ", but the machine file says SHA256:", "put its new key (/etc/ssh/ssh_"),
        ("w2:22: it was drained ".into(), " ago", "to let it have builds again: guix-offload resume w2:22"),
        ("w4:22: it was drained ".into(), " ago", "to let it have builds again: guix-offload resume w4:22"),
    ];
    let begun = Instant::now();
    while !awaited.is_empty() {
        let said = HEAD.run(&["/opt/guix-offload/bin/guix-offload", "explain", "x86_64-linux"]).stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        awaited.retain(|(start, reason, hint)| {
            let is_it =
                |pair: &[&str]| pair[0].starts_with(start) && pair[0].contains(reason) && pair[1].contains(hint);
            !lines.windows(2).any(is_it)
        });
        assert!(begun.elapsed() < Duration::from_secs(60), "{awaited:?} is missing in:\n{said}");
        std::thread::sleep(Duration::from_millis(500));
    }
    drained.iter().for_each(|machine| says(&["resume", machine], 0, &[" gets builds again\n"]));
    building.finish().assert_succeeded();
}

/// Nothing here waits for w3.
pub fn commands_that_wait_for_no_machine_go_on(address: &str) {
    let begun = Instant::now();
    // No machine is asked, so nothing is wrong with the file.
    says(&["check"], 0, &["/etc/guix/machines.scm: 6 machines, 0 errors, 0 warnings\n"]);
    says(&["explain", "x86_64-linux"], 0, &["answer: accept: ", "\n1 ", "w3:22 ", "127.0.0.1:1 "]);
    says(&["explain", "x86_64-linux", "--json"], 0, &["\"reply\": \"accept\""]);
    says(&["drain", "w3"], 0, &["'w3' gets no new builds; it has none now\n"]);
    says(&["drained", "--json"], 0, &["\"name\": \"w3\""]);
    says(&["resume", "w3"], 0, &["'w3' gets builds again\n"]);

    // ssh knows w1 and w2, so they are logged in to, and the address by another key.
    let known = [("w1", W1), ("w2", W2), (address, W2)].map(|(name, host)| format!("{name} {}\n", host_key(host)));
    let known_hosts = HEAD.file("/root/.ssh/known_hosts");
    std::fs::create_dir_all(known_hosts.parent().unwrap()).unwrap();
    std::fs::write(&known_hosts, known.concat()).unwrap();
    let _undo = Undo(|| drop(std::fs::remove_file(&known_hosts)));
    let key = "--key=/etc/guix/offload_key";
    let full = ";; warning: it is low on disk space (50.0 MiB free)\n;; hint: free some space there: ssh root@w1 ";
    says(&["scan", "w1", key], 0, &[full, "(parallel-builds "]);
    says(&["scan", "w1", key, "--json"], 0, &["\"state\":\"low on space\""]);
    says(&["scan", "w2", key], 0, &[";; ssh knows the machine under this key.\n", "(parallel-builds "]);
    let confirm = format!(" {}\n", key.replace('=', "='") + "'");
    says(&["scan", "w4", "builder", key], 1, &["Nobody has confirmed this key yet.\n", "--accept=SHA256:", &confirm]);
    says(&["scan", "127.0.0.1:1"], 1, &["error: cannot connect to '127.0.0.1', port 1: Connection refused\nhint: "]);
    let forget = format!("hint: if the machine was installed anew, run: ssh-keygen -R {address}, and scan it again");
    says(&["scan", address], 1, &["under another one\n", &forget]);
    let free = "\"hint\":\"free some space there: ssh root@w1 guix gc -F 1G\"";
    says(&["authorize", "w1", "--json"], 1, &["\"tested\":true", free]);
    says(&["authorize", "w2"], 1, &["key of this host, not authorized yet on 'w2':\n", "say --yes\n"]);
    says(&["authorize", "127.0.0.1"], 1, &["Connection refused\nhint: check that "]);
    says(&["authorize", address], 1, &["but the machine file says SHA256:", "hint: if the machine was installed anew"]);
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
}
