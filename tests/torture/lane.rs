// SPDX-License-Identifier: GPL-3.0-or-later
//! A head and two build machines that nobody else uses: what one run at a time happens to.

use std::collections::HashMap;
use std::fs::{read_dir, read_link, read_to_string};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::invariants::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::{Machine, PROGRAM};

/// The link of a machine, in Mbit/s: sending and retrieving take more than a second each.
const RATE: &str = "25";

/// How many derivations are made at once, which takes a second or two.
const BATCH: usize = 24;

pub struct Lane {
    pub head: Host,
    /// Where builds go.
    pub machine: Host,
    /// Where they can go instead.
    pub spare: Host,
    /// Another head that can use them, in some lanes.
    pub second: Option<Host>,
    /// Derivations not built yet, by what they are like.
    fresh: HashMap<Kind, Vec<String>>,
    /// The derivation that was asked for last.
    last: String,
    mounts: Vec<(Host, String)>,
    /// The first processes of the hosts, and their process namespaces.
    inits: Vec<(Host, String, PathBuf)>,
}

/// What a derivation's build is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Some 4 MiB to send, 1 s to build, 4 MiB to retrieve.
    Usual,
    /// The same, but 20 MiB to retrieve.
    Large,
    /// The same, but 40 files to retrieve.
    Many,
    /// Nothing much to send or retrieve, but silent for 4 s.
    Silent,
    /// Three inputs of 8 MiB, which take so long to send that the machine is asked what of them it can fetch. If its
    /// answer is late, one is sent meanwhile.
    Fetched,
    /// Nothing much, at once.
    Small,
    /// With a log of so many MiB.
    Loud(u64),
}

impl Kind {
    fn settings(self) -> Vec<String> {
        let inputs = if self == Kind::Fetched { 3 } else { 1 };
        let (input, seconds, log, files, kib) = match self {
            Kind::Usual => (2000, 1, 0, 1, 4000),
            Kind::Large => (2000, 1, 0, 1, 20_000),
            Kind::Many => (2000, 1, 0, 40, 100),
            Kind::Silent => (0, 4, 0, 1, 1),
            Kind::Fetched => (8000, 0, 0, 1, 1),
            Kind::Small => (0, 0, 0, 1, 1),
            Kind::Loud(mib) => (0, 0, mib, 1, 1),
        };
        let numbers = [
            ("input-kib", input),
            ("input-count", inputs),
            ("seconds", seconds),
            ("log-mib", log),
            ("files", files),
            ("kib", kib),
        ];
        numbers.map(|(name, number)| format!("{name}={number}")).to_vec()
    }
}

impl Lane {
    /// `HEAD:MACHINE:SPARE`, or `HEAD:MACHINE:SPARE:HEAD`, all in the farm that is up.
    pub fn new(names: &str) -> Lane {
        let hosts: Vec<Host> = names.split(':').map(|name| Host(name.to_string().leak())).collect();
        let (head, machine, spare, second) = match hosts[..] {
            [head, machine, spare] => (head, machine, spare, None),
            [head, machine, spare, second] => (head, machine, spare, Some(second)),
            _ => panic!("not HEAD:MACHINE:SPARE: {names}"),
        };
        let last = String::new();
        let mut lane =
            Lane { head, machine, spare, second, fresh: HashMap::new(), last, mounts: Vec::new(), inits: Vec::new() };
        lane.use_machines(false);
        start_head(head);
        limit_buffers(head);
        [machine, spare].iter().for_each(|host| limit(*host));
        // Their daemons make their databases when they are first asked for something.
        lane.hosts().iter().for_each(|host| drop(host.sh(&["guix", "gc"])));
        lane.mounts = lane.hosts().map(|host| (host, mounts(host))).to_vec();
        lane
    }

    pub fn hosts(&self) -> [Host; 3] {
        [self.head, self.machine, self.spare]
    }

    /// Has the head use its machine, and the spare one if the machine fails.
    pub fn use_machines(&self, with_spare: bool) {
        let mut machines = vec![Machine::of(self.machine).with("speed", "9.0")];
        machines.extend(with_spare.then(|| Machine::of(self.spare)));
        self.head.write_machines(&machines);
    }

    /// Gets ready to do things to processes and files at once.
    pub fn look(&mut self) {
        let look = |host: Host| {
            let init = lab(&["pid", host.0]).trim().to_string();
            let namespace = read_link(format!("/proc/{init}/ns/pid")).expect("a namespace");
            (host, init, namespace)
        };
        self.inits = self.hosts().map(look).to_vec();
    }

    fn init(&self, host: Host) -> &(Host, String, PathBuf) {
        self.inits.iter().find(|(other, ..)| other.0 == host.0).expect("a host of the lane")
    }

    /// A file of `host` as processes there see it, all that is mounted there included.
    pub fn inside(&self, host: Host, file: &str) -> PathBuf {
        format!("/proc/{}/root{file}", self.init(host).1).into()
    }

    /// Kills every process of this name on `host`, at once: `lab sh` takes too long to hit a moment. There may be none
    /// any more.
    pub fn kill(&self, host: Host, name: &str) {
        signal(&self.processes(host, name), Signal::KILL);
    }

    /// Kills the hooks on the head, or what keeps connections warm for them.
    pub fn kill_ours(&self, keeper: bool) {
        for process in self.processes(self.head, "guix-offload") {
            let arguments = read_to_string(format!("/proc/{}/cmdline", process.as_raw_pid())).unwrap_or_default();
            if arguments.split('\0').any(|argument| argument == "keeper") == keeper {
                let _ = kill_process(process, Signal::KILL);
            }
        }
    }

    /// The processes of this name on `host`.
    pub fn processes(&self, host: Host, name: &str) -> Vec<Pid> {
        let namespace = &self.init(host).2;
        let processes = read_dir("/proc").unwrap().flatten().filter(|entry| {
            read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
                && read_link(entry.path().join("ns/pid")).is_ok_and(|theirs| theirs == *namespace)
        });
        processes.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// A derivation that nobody has built yet.
    pub fn derivation(&mut self, kind: Kind) -> String {
        let head = self.head;
        let fresh = self.fresh.entry(kind).or_default();
        if fresh.is_empty() {
            *fresh = make_derivations(head, kind);
        }
        self.last = fresh.pop().expect("derivations");
        self.last.clone()
    }

    /// The inputs of the derivation that was asked for last.
    pub fn inputs(&self) -> Vec<String> {
        let references = self.head.sh(&["guix", "gc", "--references", &self.last]);
        references.lines().filter(|item| item.ends_with("-input")).map(str::to_string).collect()
    }

    /// Gets over a run that went wrong.
    pub fn mend(&self) {
        lab(&["cut", self.machine.0, "off"]);
        for host in self.hosts() {
            host.run(&["pkill", "-KILL", "-x", "guix-offload"]);
        }
        start_head(self.head);
        [self.machine, self.spare].iter().for_each(|host| start_machine(*host));
        self.hosts().iter().for_each(|host| drop(host.run(&["guix", "gc"])));
    }

    /// What must hold after every run, also on the spare machine if it was used. Returns how many stores were verified.
    pub fn assert_clean(&self, with_spare: bool) -> usize {
        let machines = &[self.machine, self.spare][..1 + usize::from(with_spare)];
        assert_clean(&[self.head], machines);
        for (host, before) in &self.mounts {
            assert_eq!(mounts(*host), *before, "what is mounted on {}", host.0);
        }
        1 + machines.len()
    }
}

/// Other tests may use the hosts afterwards.
impl Drop for Lane {
    fn drop(&mut self) {
        [self.machine, self.spare].iter().for_each(|host| drop(lab(&["link", host.0, "off"])));
    }
}

/// Sends a signal to processes, some of which may be gone.
pub fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        let _ = kill_process(*process, signal);
    }
}

/// Starts guix-daemon anew on a head.
pub fn start_head(head: Host) {
    lab(&["restart-daemon", head.0, &format!("GUIX={PROGRAM}"), "--", "--max-jobs=0"]);
}

/// Starts guix-daemon anew on a machine.
pub fn start_machine(machine: Host) {
    lab(&["restart-daemon", machine.0]);
}

/// Slows its link.
pub fn limit(host: Host) {
    lab(&["link", host.0, "rate", RATE]);
    limit_buffers(host);
}

/// Has the kernel of a host buffer less than a transfer has, so that who is killed during it has not sent all already.
fn limit_buffers(host: Host) {
    host.sh(&["sh", "-c", "echo 4096 16384 65536 >/proc/sys/net/ipv4/tcp_wmem"]);
}

fn mounts(host: Host) -> String {
    host.sh(&["cat", "/proc/mounts"])
}

/// Makes derivations, with a garbage collector root for each.
fn make_derivations(head: Host, kind: Kind) -> Vec<String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let batch = format!("{}-{number}", std::process::id());
    let signed = format!("input-signed={}", number % 2); // so both ways of sending are struck
    let (count, nonce) = (format!("count={BATCH}"), format!("nonce={batch}"));
    let mut command =
        vec!["guix", "repl", "/usr/local/share/lab/builds.scm", "--", "work", "print=1", &count, &nonce, &signed];
    let settings = kind.settings();
    command.extend(settings.iter().map(String::as_str));
    let printed = head.sh(&command);
    let lines = printed.lines().filter_map(|line| line.strip_prefix("derivation "));
    let derivations: Vec<String> = lines.flat_map(|line| line.split(' ').nth(1)).map(str::to_string).collect();
    for (number, derivation) in derivations.iter().enumerate() {
        let root = head.file(&format!("/var/guix/gcroots/torture-{batch}-{number}"));
        symlink(derivation, root).expect("a root for the garbage collector");
    }
    derivations
}
