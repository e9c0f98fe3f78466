// SPDX-License-Identifier: GPL-3.0-or-later
//! What an administrator does with machines from afar: drains one while it builds, asks what would become of a build,
//! has the machine file checked.

use crate::invariants::assert_clean;
use crate::lab::Host;
use crate::machines::{Hook, Machine, quoted};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");

const C: &[&str] = &["/opt/guix-offload/bin/guix-offload"];
const GUILE: &[&str] = &["/opt/guix-offload/libexec/guix-offload-guile", "offload"];

/// Returns the exit status of a command, and what it says.
#[track_caller]
fn say(program: &[&str], arguments: &[&str]) -> (i32, String) {
    let output = HEAD.run(&[program, arguments].concat());
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

#[track_caller]
fn assert_says(program: &[&str], arguments: &[&str], status: i32, words: &[&str]) {
    let (code, said) = say(program, arguments);
    assert_eq!(code, status, "{arguments:?}: {said}");
    for words in words {
        assert!(said.contains(words), "{arguments:?}: {words:?} is missing in:\n{said}");
    }
}

#[test]
fn a_machine_is_drained_explained_and_checked() {
    HEAD.kill_keepers();
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
    // As guix-daemon runs: one machine is faster, so all builds would go there.
    let fast = Machine::of(W1).with("speed", "2.0");
    HEAD.offload_with_our_hook(&[fast.clone(), Machine::of(W2)]);
    let mut building = HEAD.start_build("sleep", &["seconds=15"]);
    building.wait_for("@ build-remote");
    assert!(building.log().contains(" w1\n"), "{}", building.log());

    // The keeper has a connection there, and sees the mark at its next choice.
    assert_says(C, &["drain", "w1"], 0, &["'w1' gets no new builds; one is still there, and goes on\n"]);
    assert_says(C, &["drained"], 0, &["w1:22    ", " ago  1/2\n"]);
    assert_says(
        GUILE,
        &["drained", "--json"],
        0,
        &["{\"schema\": 1, \"machines\": [{\"name\": \"w1\", \"port\": 22, "],
    );
    assert_says(C, &["keeper", "status"], 0, &["w1 is left alone until it is resumed: machine 'w1': it was drained "]);
    assert_says(C, &["status"], 0, &["\nw1       drained  1/2 ", "\nw2       ready "]);
    let builds = HEAD.build("plain", &["count=3"]);
    builds.assert_succeeded();
    let to = |machine: &str| {
        let sent = |line: &&str| line.starts_with("@ build-remote") && line.ends_with(machine);
        builds.log.lines().filter(sent).count()
    };
    assert_eq!((to(" w1"), to(" w2")), (0, 3), "{}", builds.log);
    building.finish().assert_succeeded();

    // With none left, guix-daemon, which may build nothing here, is told to ask again, and the user why.
    assert_says(GUILE, &["drain", "w2"], 0, &["'w2' gets no new builds; it has none now\n"]);
    let mut waiting = HEAD.start_build("plain", &[]);
    waiting.wait_for("skipping machine 'w1': it was drained ");
    assert_says(C, &["resume", "w1"], 0, &["'w1' gets builds again\n"]);
    waiting.finish().assert_succeeded();

    // What machines have is known to the keeper.
    let built = HEAD.build("plain", &["input-kib=4000"]);
    built.assert_succeeded();
    let derivation = built.log.lines().find_map(|line| line.strip_prefix("@ build-remote ")?.split(' ').next());
    let derivation = derivation.expect("it was offloaded");
    for program in [C, GUILE] {
        let words = ["answer: accept: ", "\n1      w1:22    0/2 ", " MiB  ", "\nw2:22: it was drained "];
        assert_says(program, &["explain", derivation], 0, &words);
    }
    let (_, json) = say(C, &["explain", derivation, "--json"]);
    assert!(
        json.contains("\"keeper\": true") && json.contains("\"name\": \"w1\", \"port\": 22, \"order\": 1"),
        "{json}"
    );
    let lacks = |machine: &str| -> u64 {
        let rest = json.split(&format!("\"name\": \"{machine}\"")).nth(1).unwrap();
        rest.split("\"missing\": ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    };
    assert!(lacks("w1") == 0 && lacks("w2") >= 4000 << 10, "{json}");
    assert_says(C, &["explain", "riscv64-linux", "kvm"], 1, &["answer: decline: no machine builds for riscv64-linux"]);
    assert_says(C, &["explain", "/gnu/store"], 2, &["/gnu/store"]);
    assert_says(GUILE, &["explain"], 2, &["arguments"]);

    // guix-daemon runs the program; then the module.
    let odd = Machine::of(W2).with("systems", "'(\"x86_64_linux\")").with("private-key", quoted("/etc/guix/none"));
    let malformed = Machine::of(W1).with("user", "5");
    for (program, hook) in [(C, Hook::Program), (GUILE, Hook::Guile)] {
        HEAD.offload_through(hook, &[fast.clone(), odd.clone(), malformed.clone()]);
        let words = [
            "/etc/guix/machines.scm: 2 machines, 2 errors, 2 warnings\n",
            "error: /etc/guix/machines.scm:",
            "field 'user': expected a string",
            "use \"x86_64-linux\"",
            "error: private key /etc/guix/none does not exist, for 'w2'\n",
            "machine 'w2': it was drained ",
            hook.variable(),
            ": it offloads through this library\n",
        ];
        assert_says(program, &["check"], 1, &words);
        assert_says(
            program,
            &["check", "--json"],
            1,
            &["\"uses\": true, ", "\"severity\": \"error\", \"machine\": \"w1\""],
        );
        assert_says(program, &["check", "/srv/none.scm"], 2, &["machine file '/srv/none.scm': No such file"]);
        assert_says(program, &["drain", "w9"], 2, &["there is no build machine 'w9'", "has these: w1:22, w2:22\n"]);
    }
    HEAD.offload_with_our_hook(&[Machine::of(W1), Machine::of(W2)]);
    assert_says(C, &["check", "/etc/guix/machines.scm"], 0, &["2 machines, 0 errors, 1 warning\n"]);
    assert_says(C, &["resume", "w2:22"], 0, &["'w2' gets builds again\n"]);
    assert_clean(&[HEAD], &[W1, W2]);
}
