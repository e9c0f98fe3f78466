// SPDX-License-Identifier: GPL-3.0-or-later
//! Looking after the keeper: what it says of its builds, and that it can be stopped in their midst.

use std::time::{Duration, Instant};

use crate::invariants::{assert_clean, eventually};
use crate::lab::{Host, lab};
use crate::machines::{Machine, PROGRAM, quoted};

const HEAD: Host = Host("head");
const UHEAD: Host = Host("uhead");
const W1: Host = Host("w1");

/// What `guix-offload` says.
#[track_caller]
fn say(arguments: &[&str]) -> String {
    let output = HEAD.run(&[&[PROGRAM], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn it_says_which_build_is_where_and_ends_after_it_when_told_to() {
    HEAD.kill_keepers();
    // Nobody listens at the second one.
    let away = Machine::of(W1).with("name", quoted("127.0.0.1")).with("port", "1").with("speed", "9.");
    HEAD.offload_with_our_hook(&[Machine::of(W1), away]);
    assert_eq!(say(&["keeper", "status"]), "no keeper is running\n");
    let mut build = HEAD.start_build("sleep", &["seconds=15"]);
    build.wait_for("@ build-remote");

    let text = say(&["keeper", "status"]);
    let building = text.lines().find(|line| line.contains("-sleep")).unwrap_or_else(|| panic!("no build in {text}"));
    assert!(building.contains(" building ") && building.contains(" w1"), "{text}");
    assert!(text.contains(": 1 build\n"), "{text}");
    assert!(text.contains("127.0.0.1 is left alone for another "), "{text}");
    let json = say(&["keeper", "status", "--json"]);
    assert!(json.contains("\"phase\": \"building\", \"machine\": \"w1\", "), "{json}");
    // The machines are asked, too; one of them is not there.
    let status = HEAD.run(&[PROGRAM, "status"]);
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(status.contains("\nw1 ") && status.contains("\nkeeper ") && status.contains(" building "), "{status}");

    assert_eq!(
        say(&["keeper", "stop"]),
        "guix offload: the keeper ends once its builds are done; it shows no status any more\n"
    );
    eventually(|| match &*say(&["keeper", "status"]) {
        "no keeper is running\n" => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(say(&["keeper", "stop"]), "guix offload: no keeper is running\n");
    // The old one does its build, a new one the next.
    assert!(HEAD.build("plain", &[]).succeeded);
    build.finish().assert_succeeded();
    eventually(|| match HEAD.keepers().len() {
        1 => Ok(()),
        count => Err(format!("{count} keepers run")),
    });
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn root_looks_after_the_keeper_of_another_user_and_nobody_else_does() {
    UHEAD.offload_with_our_hook(&[Machine::of(W1)]);
    assert!(UHEAD.build("plain", &[]).succeeded);
    let status = UHEAD.run(&[PROGRAM, "keeper", "status"]);
    assert!(String::from_utf8_lossy(&status.stdout).starts_with("keeper "), "{status:?}");
    let refused = UHEAD.run(&["setpriv", "--reuid=nobody", "--clear-groups", PROGRAM, "keeper", "status"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("hint: do that as root, or as the user"), "{said}");
    // One that does not answer is named.
    UHEAD.sh(&["sh", "-c", "kill -STOP $(pgrep -f '[g]uix-offload keeper serve')"]);
    let hung = UHEAD.run(&[PROGRAM, "keeper", "stop"]);
    let said = String::from_utf8_lossy(&hung.stderr).into_owned();
    let [keeper] = &UHEAD.keepers()[..] else { panic!("more than one keeper") };
    let expected =
        format!("process {keeper}, does not answer within 5 s\nhint: if that lasts, end it: kill -KILL {keeper}\n");
    assert!(!hung.status.success() && said.contains(&expected), "{said}");
    UHEAD.sh(&["sh", "-c", "kill -CONT $(pgrep -f '[g]uix-offload keeper serve')"]);
    assert_clean(&[UHEAD], &[W1]);
}

/// Waits until HEAD has one keeper, which is another one than `before`.
fn await_another(before: &[String]) {
    eventually(|| match &HEAD.keepers()[..] {
        [one] if !before.contains(one) => Ok(()),
        others => Err(format!("these keepers run: {others:?}, before: {before:?}")),
    });
}

#[test]
fn when_its_program_or_its_directory_is_replaced_it_ends_after_its_builds() {
    HEAD.kill_keepers();
    HEAD.sh(&[
        "sh",
        "-c",
        "mkdir -p /root/prefix && cp -a /opt/guix-offload/lib /opt/guix-offload/libexec /root/prefix",
    ]);
    let program = "/root/prefix/libexec/guix-offload";
    HEAD.write_machines(&[Machine::of(W1)]);
    lab(&["restart-daemon", HEAD.0, &format!("GUIX={program}"), "--", "--max-jobs=0"]);
    for replace in [&*format!("cp {program} {program}.new && mv -f {program}.new {program}"), "rm -r /var/guix/offload"]
    {
        let mut build = HEAD.start_build("sleep", &["seconds=8"]);
        build.wait_for("@ build-remote");
        let before = HEAD.keepers();
        HEAD.sh(&["sh", "-c", replace]);
        HEAD.build("plain", &[]).assert_succeeded();
        let now = HEAD.keepers();
        assert!(now.len() == 2 && now.contains(&before[0]), "{replace}: {before:?}, now {now:?}");
        build.finish().assert_succeeded();
        await_another(&before);
    }
    assert_clean(&[HEAD], &[W1]);
    HEAD.sh(&["rm", "-r", "/root/prefix"]);
}

#[test]
fn another_user_at_its_socket_gets_no_answer_and_disturbs_nobody() {
    HEAD.kill_keepers();
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let mut build = HEAD.start_build("sleep", &["seconds=5"]);
    build.wait_for("@ build-remote");
    let (place, before) = ("/var/guix/offload/.keeper", HEAD.keepers());
    let speak = format!(
        "(sigaction SIGPIPE SIG_IGN)
         (let ((keeper (socket PF_UNIX SOCK_STREAM 0)) (answer (make-bytevector 100)))
           (connect keeper AF_UNIX \"{place}/socket\")
           (false-if-exception (send keeper (make-bytevector 1000 1)))
           (format #t \"~a bytes~%\" (or (false-if-exception (recv! keeper answer)) 0)))"
    );
    let speak_as_nobody = |more: &[&str]| {
        let guile = ["guile", "--no-auto-compile", "-c", &format!("(use-modules (rnrs bytevectors)) {speak}")];
        HEAD.run(&[&["setpriv", "--reuid=nobody", "--clear-groups"], more, &guile[..]].concat())
    };
    let refused = speak_as_nobody(&[]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    // If no permission of a file keeps that user out.
    for _ in 0..100 {
        let said = speak_as_nobody(&["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]);
        assert_eq!(String::from_utf8_lossy(&said.stdout), "0 bytes\n", "{said:?}");
    }
    build.finish().assert_succeeded();
    assert_eq!(HEAD.keepers(), before);
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn one_that_hangs_costs_one_hook_some_seconds_and_is_used_again_when_it_answers() {
    HEAD.kill_keepers();
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    HEAD.build("plain", &[]).assert_succeeded();
    let (keepers, mark) = (HEAD.keepers(), HEAD.file("/var/guix/offload/.keeper/unanswering"));
    let signal = |name: &str| drop(HEAD.sh(&["kill", name, &keepers[0]]));
    let build = || {
        let begun = Instant::now();
        let builds = HEAD.build("plain", &[]);
        builds.assert_succeeded();
        (builds.log, begun.elapsed())
    };
    signal("-STOP");
    // Whoever asked for the build goes away while the hook waits for the keeper.
    let building = HEAD.start_build("plain", &[]);
    let hooks = || HEAD.run(&["pgrep", "-f", "[g]uix-offload offload"]).status.success();
    eventually(|| if hooks() { Ok(()) } else { Err("there is no hook".to_string()) });
    building.abandon();
    let begun = Instant::now();
    eventually(|| if hooks() { Err("the hook stays".to_string()) } else { Ok(()) });
    assert!(begun.elapsed() < Duration::from_secs(3) && !mark.exists(), "{:?}", begun.elapsed());

    let ((first, long), (second, short)) = (build(), build());
    assert!(first.contains("this build goes on without the keeper: the keeper, process "), "{first}");
    assert!(!second.contains("the keeper"), "it was told already: {second}");
    assert!(long >= Duration::from_secs(5) && short < long && mark.exists(), "{long:?}, {short:?}");
    signal("-CONT");
    eventually(|| {
        build();
        if mark.exists() { Err("it does not answer".to_string()) } else { Ok(()) }
    });
    assert_eq!(HEAD.keepers(), keepers);
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn a_hook_in_another_mount_namespace_or_with_another_priority_disturbs_nobody() {
    HEAD.kill_keepers();
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    // The machine is found, and then the hook is left.
    let ask = |prefix: &[&str]| {
        let question = format!("1 x86_64-linux /gnu/store/{}-x.drv ", "a".repeat(32));
        let hook = format!("echo '{question}' | {PROGRAM} offload x86_64-linux 0 0 0 2>&1");
        let said = HEAD.run(&[prefix, &["sh", "-c", &hook]].concat()).stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("# accept"), "{prefix:?}: {said}");
        said
    };
    // One that a nice hook has started makes room for a hook that is less nice.
    ask(&["nice", "-n", "5"]);
    let nice = HEAD.keepers();
    assert_eq!(nice.len(), 1, "the question was not for the keeper");
    HEAD.build("plain", &[]).assert_succeeded();
    await_another(&nice);
    let keepers = HEAD.keepers();
    assert!(!ask(&["nice", "-n", "5"]).contains("without the keeper"));
    let elsewhere = ask(&["unshare", "--mount"]);
    assert!(elsewhere.contains("goes on without the keeper: the keeper of this state directory is in another mount"));
    HEAD.build("plain", &[]).assert_succeeded();
    assert_eq!(HEAD.keepers(), keepers);
    assert_clean(&[HEAD], &[W1]);
}
