// SPDX-License-Identifier: GPL-3.0-or-later
//! Inputs that machines fetch from substitute servers by themselves.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::invariants::assert_clean;
use crate::lab::{Builds, Host, SlowLink, Undo, lab};
use crate::machines::{Hook, Machine};
use crate::publisher::{Fetcher, Nars, Publisher};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const W2: Host = Host("w2");
const OLD: Host = Host("old");

/// Size of the input, in MiB.
const SIZE: u64 = 24;
/// What the link of HEAD moves, in Mbit a second. Sending the input takes 6 s.
const RATE: &str = "32";
/// The build.
const SETTINGS: [&str; 2] = ["built-input=1", "built-kib=24576"];

/// An input that is valid on HEAD and published on W2, and a build that reads it.
struct Scene {
    nonce: String,
    publisher: Publisher,
    _link: SlowLink,
}

impl Scene {
    /// HEAD offloads to `machine` alone, with this variable in guix-daemon's environment.
    #[track_caller]
    fn new(machine: Host, variable: &str) -> Scene {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nonce = format!("nonce={}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        HEAD.write_machines(&[Machine::of(machine)]);
        lab(&["restart-daemon", HEAD.0, Hook::Program.variable(), variable, "--", "--max-jobs=0"]);
        HEAD.kill_keepers();
        HEAD.sh(&["rm", "-rf", "/var/guix/offload"]);
        let printed = HEAD.build("plain", &[&["print=1"][..], &SETTINGS, &[&nonce]].concat()).results;
        let inputs = printed.lines().filter_map(|line| line.strip_prefix("input "));
        let input = inputs.into_iter().find(|item| item.ends_with("-built-input")).expect("the input");
        let publisher = Publisher::new(W2, HEAD, &[input]);
        Scene { nonce, publisher, _link: SlowLink::new(HEAD, &["rate", RATE]) }
    }

    /// Builds, and returns how many MiB HEAD has sent, and how long it took.
    #[track_caller]
    fn build(&self) -> (u64, Duration, Builds) {
        self.build_another("")
    }

    /// Does the same with another input, by this name.
    #[track_caller]
    fn build_another(&self, name: &str) -> (u64, Duration, Builds) {
        let (before, begun) = (HEAD.sent(), Instant::now());
        let builds = HEAD.build("plain", &[&SETTINGS[..], &[&(self.nonce.clone() + name)]].concat());
        builds.assert_succeeded();
        ((HEAD.sent() - before) >> 20, begun.elapsed(), builds)
    }
}

#[test]
fn a_machine_fetches_what_would_take_long_to_send() {
    for machine in [W1, OLD] {
        let scene = Scene::new(machine, "GUIX_OFFLOAD_LOG=/var/log/offload.log");
        let server = scene.publisher.behind(Nars::Given);
        let fetcher = Fetcher::new(machine, &[server.url()]);
        let (sent, _, builds) = scene.build();
        let log = HEAD.sh(&["cat", "/var/log/offload.log"]);
        assert!(sent < 8 && server.given_mib() >= SIZE, "sent {sent} MiB, fetched {} MiB:\n{log}", server.given_mib());
        assert!(builds.log.contains(&format!("'{}' fetches ", machine.0)), "{}", builds.log);
        drop(fetcher);
        assert_clean(&[HEAD], &[machine]);
    }
}

#[test]
fn what_a_server_does_not_give_as_promised_is_sent() {
    for nars in [Nars::Refused, Nars::Changed, Nars::Cut, Nars::Silent] {
        let scene = Scene::new(W1, "LANG=C");
        let server = scene.publisher.behind(nars);
        let fetcher = Fetcher::new(W1, &[server.url()]);
        let (sent, time, builds) = scene.build();
        assert!(builds.log.contains("'w1' fetches "), "{nars:?}: {}", builds.log);
        assert!(sent >= SIZE && time < Duration::from_secs(60), "{nars:?}: sent {sent} MiB in {time:?}");
        drop((server, fetcher));
        assert_clean(&[HEAD], &[W1]);
    }
}

#[test]
fn servers_that_the_machine_does_not_use_or_trust_change_nothing() {
    for (trusted, variable) in [(true, "GUIX_OFFLOAD_SUBSTITUTES=no"), (false, "LANG=C")] {
        let scene = Scene::new(W1, variable);
        let server = scene.publisher.behind(Nars::Given);
        let fetcher = Fetcher::new(W1, &[server.url()]);
        let acl = W1.sh(&["cat", "/etc/guix/acl"]);
        let _acl = Undo(move || W1.sh(&["sh", "-c", &format!("cat >/etc/guix/acl <<'END'\n{acl}END")]).clear());
        if !trusted {
            W1.sh(&["cp", "/etc/guix/acl", "/etc/guix/acl.all"]);
            let head = HEAD.sh(&["cat", "/etc/guix/signing-key.pub"]);
            W1.sh(&["sh", "-c", &format!("cat >/etc/guix/acl <<'END'\n(acl (entry {head} (tag (guix import))))\nEND")]);
        }
        let (sent, _, builds) = scene.build();
        assert!(!builds.log.contains("fetches"), "{}", builds.log);
        assert!(sent >= SIZE && server.given_mib() == 0, "sent {sent} MiB, fetched {} MiB", server.given_mib());
        drop(fetcher);
    }
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn a_server_that_does_not_answer_costs_a_second_once() {
    let scene = Scene::new(W1, "GUIX_OFFLOAD_LOG=/var/log/offload.log");
    // Nothing answers at this address, not even to say that nobody is there.
    let fetcher = Fetcher::new(W1, &["http://w3:8080"]);
    let cut = Undo(|| drop(lab(&["cut", "w3", "off"])));
    lab(&["cut", "w3", "on"]);
    for attempt in ["-first", "-second"] {
        HEAD.sh(&["sh", "-c", ">/var/log/offload.log"]);
        let (sent, ..) = scene.build_another(attempt);
        assert!(sent >= SIZE, "{sent} MiB");
        let log = HEAD.sh(&["cat", "/var/log/offload.log"]);
        let asked = log.contains("w1: is asked what it can fetch");
        assert_eq!(asked, attempt == "-first", "{log}");
        assert_eq!(log.contains("w1: fetches nothing for 600 s"), asked, "{log}");
    }
    drop((cut, fetcher));
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn an_output_that_a_server_promises_and_does_not_give_is_built() {
    let scene = Scene::new(W1, "LANG=C");
    let (_, _, builds) = scene.build();
    let output = builds.outputs("plain-0")[0].to_string();
    let publisher = Publisher::new(W2, HEAD, &[&output]);
    let server = publisher.behind(Nars::Refused);
    HEAD.sh(&["guix", "gc", "-D", &output]);
    HEAD.kill_keepers();
    let fetcher = Fetcher::new(W1, &[server.url()]);
    W1.sh(&["guix", "gc", "-D", &output]);
    let (_, _, builds) = scene.build();
    assert!(!builds.log.contains("machine 'w1' failed"), "{}", builds.log);
    assert_eq!(builds.outputs("plain-0"), [output]);
    drop(fetcher);
    assert_clean(&[HEAD], &[W1]);
}
