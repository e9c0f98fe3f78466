// SPDX-License-Identifier: GPL-3.0-or-later
//! C programs that use the installed library, on real hosts. `make -C c-tests farm` builds them.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::invariants::eventually;
use crate::lab::Host;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");
pub const PROGRAMS: &str = "/opt/guix-offload/c-tests";

/// What does the jobs of those programs: threads of their own, or the keeper.
pub const ENGINES: [&str; 2] = ["TEST_ENGINE=threads", "TEST_ENGINE=keeper"];

/// A build that nobody has done yet, as guix-daemon would ask for it.
pub struct Request {
    derivation: String,
    outputs: Vec<String>,
    /// As `builds.scm` prints it.
    printed: String,
}

impl Request {
    pub fn new(mode: &str, settings: &[&str]) -> Request {
        let mut requests = Request::several(mode, settings);
        assert_eq!(requests.len(), 1);
        requests.remove(0)
    }

    /// As many as `settings` ask for.
    pub fn several(mode: &str, settings: &[&str]) -> Vec<Request> {
        HEAD.offload_to(&[W1]);
        let builds = HEAD.build(mode, &[&["print=1"], settings].concat());
        assert!(builds.succeeded, "{}", builds.log);
        builds.results.split_inclusive("end\n").map(Request::read).collect()
    }

    fn read(printed: &str) -> Request {
        let all = |word: &str| {
            let lines = printed.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
            lines.map(str::to_string).collect::<Vec<_>>()
        };
        let [derivation] = &all("derivation x86_64-linux")[..] else {
            panic!("one derivation expected in:\n{printed}")
        };
        Request { derivation: derivation.clone(), outputs: all("output"), printed: printed.to_string() }
    }

    /// Runs a program that takes system and derivation on its command line. Returns what it says.
    fn run(&self, program: &[&str]) -> String {
        let command = [&["sh", "-c", "\"$@\" 2>&1", "sh"], program, &["x86_64-linux", &self.derivation]];
        HEAD.sh(&command.concat())
    }

    /// The request in a file on the head, as `c-tests/request.h` reads it.
    pub fn file(&self) -> String {
        on_head(&self.printed)
    }

    /// The outputs are there, on the head.
    pub fn check_present(&self) {
        assert!(self.outputs.iter().all(|output| HEAD.file(output).exists()), "{:?}", self.outputs);
    }

    /// Is there an output of it on `host`?
    pub fn is_on(&self, host: Host) -> bool {
        self.outputs.iter().any(|output| host.file(output).exists())
    }

    /// The outputs are valid on the head and the same as on the machine, and the head's store is sound.
    pub fn check_done(&self) {
        for output in &self.outputs {
            HEAD.sh(&["guix", "gc", "--references", output]);
            assert_eq!(HEAD.sh(&["guix", "hash", "-r", output]), W1.sh(&["guix", "hash", "-r", output]));
        }
        HEAD.verify_store();
    }
}

/// A new file on the head.
fn on_head(text: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("/root/request-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    std::fs::write(HEAD.file(&name), format!("{text}\n")).unwrap();
    name
}

#[test]
fn four_verbs_make_a_build() {
    let request = Request::new("outputs", &["input-kib=64"]);
    let [trace, log] = ["/root/verbs.trace", "/root/verbs.log"];
    let [tracing, logging] = [format!("GUIX_OFFLOAD_TRACE={trace}"), format!("GUIX_OFFLOAD_LOG={log}")];
    let said = request.run(&["env", &tracing, &logging, &format!("{PROGRAMS}/verbs")]);
    assert!(said.contains(&format!("sent {}", request.derivation)), "{said}");
    request.check_done();
    // As of a whole build.
    let [trace, log] = [trace, log].map(|name| std::fs::read_to_string(HEAD.file(name)).unwrap());
    let phase = |line: &str| line.split("\"phase\":\"").nth(1).unwrap().split('"').next().unwrap().to_string();
    let phases: Vec<_> = trace.lines().map(phase).collect();
    assert_eq!(phases, ["choose", "query", "send", "build", "inspect", "retrieve", "register"], "{trace}");
    assert!(log.contains(": w1: chosen\n") && log.contains(": is registered\n"), "{log}");
    assert!(!HEAD.file(&format!("{}.lock", request.outputs[0])).exists());
}

#[test]
fn the_example_of_the_header_builds_linked_either_way() {
    let installed = "LD_LIBRARY_PATH=/opt/guix-offload/lib";
    let (dynamic, linked) = (Request::new("plain", &[]), Request::new("plain", &[]));
    std::fs::write(HEAD.file("/root/dynamic"), format!("#!/bin/sh\n{installed} exec {PROGRAMS}/example \"$@\"\n"))
        .unwrap();
    HEAD.sh(&["chmod", "+x", "/root/dynamic"]);
    dynamic.run(&["/root/dynamic"]);
    dynamic.check_done();
    linked.run(&[&format!("{PROGRAMS}/example-static")]);
    linked.check_done();
}

/// A program and guix-daemon that want the same output at the same time build it once: the second waits for the first.
#[test]
fn the_locks_of_a_program_and_of_guix_daemon_exclude_each_other() {
    let verbs = format!("{PROGRAMS}/verbs");
    let build = |name: &str| {
        let nonce = format!("nonce=locks-{}-{name}", std::process::id());
        let request = Request::new("sleep", &["seconds=8", &nonce]);
        (HEAD.file(&format!("{}.lock", request.outputs[0])), request, nonce)
    };

    let (lock, request, nonce) = build("daemon");
    let mut daemon = HEAD.start_build("sleep", &["seconds=8", &nonce]);
    daemon.wait_for("offloading '");
    assert!(lock.exists());
    let said = request.run(&[&verbs]);
    assert_eq!(said, "all outputs are there\n");
    daemon.finish().assert_succeeded();
    request.check_done();

    let (lock, request, nonce) = build("program");
    std::thread::scope(|scope| {
        let program = scope.spawn(|| request.run(&[&verbs]));
        eventually(|| if lock.exists() { Ok(()) } else { Err("the program has no lock".into()) });
        let daemon = HEAD.build("sleep", &["seconds=8", &nonce]);
        daemon.assert_succeeded();
        assert!(!daemon.log.contains("offloading '"), "{}", daemon.log);
        assert!(program.join().unwrap().contains("building on w1"));
    });
    request.check_done();
    assert!(!lock.exists());
}

#[test]
fn verbs_and_jobs_do_what_the_header_says() {
    for engine in ENGINES {
        let requests = [
            Request::new("plain", &["kib=512"]),
            Request::new("fail", &[]),
            Request::new("sleep", &["seconds=60", "chatty=1"]),
            Request::new("plain", &[]),
        ];
        let [plain, failing, talkative, another] = requests.each_ref().map(Request::file);
        HEAD.sh(&["env", engine, &format!("{PROGRAMS}/live"), &plain, &failing, &talkative, &another]);
        requests[0].check_done();
        requests[3].check_done();
    }
}

#[test]
fn a_job_with_too_few_descriptors_says_so_and_leaves_none() {
    let request = Request::new("plain", &[]);
    println!("{}", HEAD.sh(&[&format!("{PROGRAMS}/starve"), &request.file()]));
    request.check_done();
    let left = HEAD.sh(&["sh", "-c", "ls -d /gnu/store/*-guix-offload-incoming 2>/dev/null || true"]);
    assert!(left.is_empty(), "{left}");
}

#[test]
fn a_thousand_jobs_leave_nothing_behind() {
    do_many_jobs(ENGINES[0]);
}

#[test]
fn a_thousand_jobs_of_the_keeper_leave_nothing_behind() {
    do_many_jobs(ENGINES[1]);
}

fn do_many_jobs(engine: &str) {
    HEAD.offload_to(&[W1, W2]);
    let builds = HEAD.build("plain", &["print=1", "count=1000", "inputs=1"]);
    println!("{}", HEAD.sh(&["env", engine, &format!("{PROGRAMS}/soak"), &on_head(&builds.results), "1000"]));
    let outputs: Vec<&str> = builds.results.lines().filter_map(|line| line.strip_prefix("output ")).collect();
    assert_eq!(outputs.len(), 1000);
    HEAD.sh(&[&["guix", "gc", "--references"], &outputs[..]].concat());
    HEAD.verify_store();
}
