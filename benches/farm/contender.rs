// SPDX-License-Identifier: GPL-3.0-or-later
//! Who is measured, and how.

use std::fs;
use std::time::{Duration, Instant};

use crate::lab::{Host, SlowLink, lab};
use crate::machines::{Machine, PROGRAM, quoted, system};
use crate::memory::with_peak_memory;
use crate::publisher::{Fetcher, Publisher};
use crate::slots::most_at_once_of;

/// A head whose daemon has the stock script for a hook.
pub const STOCK: Host = Host("shead");
/// A head whose daemon has our hook.
pub const OURS: Host = Host("head");
/// Two heads of each kind.
pub const BOTH_STOCK: [Host; 2] = [STOCK, Host("s2head")];
pub const BOTH_OURS: [Host; 2] = [OURS, Host("h2head")];
/// A head whose daemon has our Guile module.
pub const GUILE: Host = Host("ghead");
/// A head that builds by itself.
pub const ALONE: Host = Host("ahead");

/// Settings for builds on the head itself.
pub const AT_HOME: [&str; 2] = ["jobs=1", "offload=0"];

const MACHINES: [Host; 2] = [Host("w1"), Host("w2")];
/// Gets no packets.
const DEAD: Host = Host("w3");

/// Where the hook of `OURS` writes its trace.
const TRACE: &str = "/var/guix/trace";

/// Publishes substitutes.
const PUBLISHER: Host = Host("pub");

/// What the link of a head moves, in Mbit a second, where [`Contender::Inputs`] is measured; the publisher's moves
/// [`FAST`].
const SLOW: &str = "40";
const FAST: &str = "1000";

/// The programs that this project installs, on heads.
const PROGRAMS: &str = "/opt/guix-offload/libexec";

/// No builds take longer: those of gibibytes take the script minutes.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Who does the work.
#[derive(Clone, Copy)]
pub enum Contender {
    /// The daemon of this head, through its hook if it has one: seconds of the build request.
    Daemon(Host),
    /// The same, where no keeper has a connection yet.
    First(Host),
    /// MiB that the machines receive, for the builds of this head's daemon.
    Received(Host),
    /// The same on `OURS`, for a hook without a keeper: it does not know what machines have.
    ReceivedByLoad,
    /// The same, less the seconds that the same build takes at home.
    Beyond(Host),
    /// Jobs in one process on `OURS`, one after the other: the median of all but the first, which has to connect.
    Jobs,
    /// Jobs in one process on `OURS`, all at once, as guix-daemon would have them with our agent in it.
    Agent,
    /// The seconds that our hook spends in this phase of a build.
    Phase(&'static str),
    /// The machine's daemon imports what our hook would send, from a local file: seconds.
    ImportFromFile,
    /// `ssh` takes as many bytes from the machine: seconds.
    SshFrom,
    /// `ssh` brings as many bytes to the machine: seconds.
    SshTo,
    /// The hook, asked for a build while the first `dead` of 50 machines drop all packets: seconds until it accepts.
    Accept {
        /// How many.
        dead: usize,
    },
    /// The hook, asked for a build that none of so many machines can do: seconds until it declines.
    Decline {
        /// How many.
        machines: usize,
    },
    /// Processor time, in seconds, of this head's daemon, all that it starts for a build, and the keeper.
    Processor(Host),
    /// Peak memory, in MiB, of this head's hook, or of its keeper if that has more, while 4 GiB are sent and then
    /// retrieved.
    Memory(Host),
    /// The daemon of this head, for a build with an input that the machine may fetch, over a link of [`SLOW`]: seconds.
    Inputs(Host, Servers),
    /// The same for the second build of two, whose inputs differ.
    NextInputs(Host, Servers),
    /// `guix build` on the machine, which fetches the same: seconds.
    FetchThere,
    /// The daemons of two heads at the same time, on the same machine: seconds until both have built all.
    Together([Host; 2]),
    /// The same: how many builds were under way at once on the machine, at most.
    AtOnce([Host; 2]),
    /// The first build of this head after its daemon was started, with these variables: seconds. Only for `OURS`.
    Booted(&'static [&'static str]),
    /// A command of `guix offload` on this head, as the hook of its daemon does it: seconds.
    Command(Host, &'static str),
}

/// What the machine's substitute servers are like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Servers {
    /// They have the input.
    Have,
    /// They have it, and the hook does not let the machine be asked.
    Unasked,
    /// They lack it.
    Lack,
    /// They drop all packets.
    Drop,
    /// They drop all packets, and the hook does not let the machine be asked.
    DropUnasked,
}

impl Servers {
    fn are_asked(self) -> bool {
        !matches!(self, Servers::Unasked | Servers::DropUnasked)
    }

    fn answer(self) -> bool {
        !matches!(self, Servers::Drop | Servers::DropUnasked)
    }
}

/// Starts the daemons as they are measured.
pub fn prepare() {
    BOTH_STOCK.iter().for_each(|head| drop(lab(&["restart-daemon", head.0, "--", "--max-jobs=0"])));
    BOTH_OURS.iter().for_each(|head| start(*head, &[]));
    lab(&["restart-daemon", GUILE.0, &format!("GUIX={PROGRAMS}/guix-offload-guile"), "--", "--max-jobs=0"]);
    fs::write(OURS.file("/root/import.scm"), include_str!("import.scm")).expect("writing a program");
    fs::copy(OURS.file("/root/import.scm"), MACHINES[0].file("/root/import.scm")).expect("copying a program");
    lab(&["cut", DEAD.0, "on"]);
    add_addresses();
}

/// Starts the daemon of a head with our hook, and with these variables.
fn start(head: Host, variables: &[&str]) {
    let (guix, trace) = (format!("GUIX={PROGRAM}"), format!("GUIX_OFFLOAD_TRACE={TRACE}"));
    lab(&[&["restart-daemon", head.0, &guix, &trace], variables, &["--", "--max-jobs=0"]].concat());
    head.kill_keepers();
}

/// Removes what was built and sent.
pub fn clean() {
    for host in [GUILE, ALONE].into_iter().chain(BOTH_STOCK).chain(BOTH_OURS).chain(MACHINES) {
        host.sh(&["guix", "gc"]);
    }
}

/// The hosts of the farm have more names than one: 50 machines are too many for one real machine.
fn add_addresses() {
    for (index, host) in MACHINES.into_iter().chain([DEAD]).enumerate() {
        for number in 1..=20 {
            host.sh(&["ip", "address", "add", &format!("10.88.{}.{number}/16", 100 + index), "dev", "eth0"]);
        }
    }
}

/// 50 machines, of which `dead` are the fastest and drop all packets.
fn fifty(dead: usize) -> Vec<Machine> {
    let machine = |host: Host, address: String, speed: &str| {
        Machine::of(host).with("name", quoted(&address)).with("speed", speed)
    };
    let alive =
        (0..50 - dead).map(|n| machine(MACHINES[n % 2], format!("10.88.{}.{}", 100 + n % 2, 1 + n / 2 % 20), "1.0"));
    (1..=dead).map(|n| machine(DEAD, format!("10.88.102.{n}"), "9.0")).chain(alive).collect()
}

impl Contender {
    /// What [`Contender::measure`] counts.
    pub fn unit(self) -> &'static str {
        match self {
            Contender::Memory(_) | Contender::Received(_) | Contender::ReceivedByLoad => "MiB",
            Contender::AtOnce(_) => "builds",
            _ => "s",
        }
    }

    /// Gives its head so many machines, with so many slots.
    pub fn ready(self, machines: usize, slots: u32) {
        let has = |head: Host| {
            let machines = MACHINES[..machines].iter();
            let of = |host: &Host| Machine::of(*host).with("parallel-builds", slots.to_string());
            head.write_machines(&machines.map(of).collect::<Vec<_>>());
        };
        match self {
            Contender::Daemon(head)
            | Contender::First(head)
            | Contender::Received(head)
            | Contender::Beyond(head)
            | Contender::Processor(head)
            | Contender::Memory(head)
            | Contender::Inputs(head, _)
            | Contender::NextInputs(head, _)
            | Contender::Command(head, _) => {
                has(head);
            }
            Contender::Together(heads) | Contender::AtOnce(heads) => heads.into_iter().for_each(has),
            Contender::Jobs
            | Contender::Agent
            | Contender::Phase(_)
            | Contender::Booted(_)
            | Contender::ReceivedByLoad => has(OURS),
            Contender::ImportFromFile | Contender::SshFrom | Contender::SshTo | Contender::FetchThere => {}
            Contender::Accept { .. } | Contender::Decline { .. } => {}
        }
    }

    /// Does the builds of `settings`, or what is compared with them, and returns what that took.
    pub fn measure(self, settings: &[&str]) -> f64 {
        match self {
            Contender::Daemon(head) => build(head, settings),
            Contender::First(head) => {
                head.kill_keepers();
                build(head, settings)
            }
            Contender::Received(head) => received(|| {
                build(head, settings);
            }),
            Contender::ReceivedByLoad => {
                start(OURS, &["GUIX_OFFLOAD_KEEPER=no"]);
                let received = received(|| {
                    build(OURS, settings);
                });
                start(OURS, &[]);
                received
            }
            Contender::Beyond(head) => build(head, settings) - build(ALONE, &[settings, &AT_HOME].concat()),
            Contender::Jobs => {
                let prepare = "guix repl /usr/local/share/lab/builds.scm -- plain count=8 print=1 >/root/goals";
                OURS.sh(&["sh", "-c", prepare]);
                let times = OURS.sh(&[&format!("{PROGRAMS}/bench"), "/root/goals"]);
                let times: Vec<f64> = times.lines().filter_map(|line| line.parse().ok()).collect();
                crate::median(&times[1..])
            }
            Contender::Agent => {
                let requests = add(OURS, settings);
                fs::write(OURS.file("/root/goals"), requests).expect("writing requests");
                let times = OURS.sh(&[&format!("{PROGRAMS}/bench"), "/root/goals", "together"]);
                times.lines().last().and_then(|line| line.strip_prefix("total ")?.parse().ok()).expect("a total")
            }
            Contender::Phase(phase) => {
                // Emptied, not removed: the keeper has it open.
                fs::File::create(OURS.file(TRACE)).expect("emptying the trace");
                build(OURS, settings);
                phase_in(&fs::read_to_string(OURS.file(TRACE)).expect("the trace"), phase)
            }
            Contender::ImportFromFile => import_from_file(settings),
            Contender::SshFrom => ssh(settings, "ssh $options root@w1 cat /root/bytes >/root/bytes"),
            Contender::SshTo => ssh(settings, "ssh $options root@w1 'cat >/root/bytes' </root/bytes"),
            Contender::Accept { dead } => {
                let _ = fs::remove_dir_all(OURS.file("/var/guix/offload")); // where failures are remembered
                OURS.write_machines(&fifty(dead));
                ask(&system(), "accept")
            }
            Contender::Decline { machines } => {
                OURS.write_machines(&fifty(0)[..machines]);
                ask("riscv64-linux", "decline")
            }
            Contender::Processor(head) => {
                // Less what it takes to add the input to the store.
                let adding = processor_time(head, || {
                    add(head, settings);
                });
                processor_time(head, || {
                    build(head, settings);
                }) - adding
            }
            Contender::Memory(head) => memory(head),
            Contender::Inputs(head, servers) => inputs(head, servers, 1, settings),
            Contender::NextInputs(head, servers) => inputs(head, servers, 2, settings),
            Contender::Together(heads) => together(heads, settings).0,
            Contender::AtOnce(heads) => together(heads, settings).1,
            Contender::FetchThere => fetch_there(settings),
            Contender::Booted(variables) => {
                start(OURS, variables);
                let seconds = build(OURS, settings);
                start(OURS, &[]);
                seconds
            }
            Contender::Command(head, command) => {
                let program = match head.0 {
                    name if name == GUILE.0 => format!("{PROGRAMS}/guix-offload-guile offload"),
                    name if name == OURS.0 => PROGRAM.to_string(),
                    _ => "guix offload".into(),
                };
                seconds(head, &format!("{program} {command} >/dev/null 2>&1"))
            }
        }
    }
}

/// Seconds that the builds of `settings` take.
fn build(head: Host, settings: &[&str]) -> f64 {
    let mode = if settings.iter().any(|setting| setting.starts_with("layers=")) { "layers" } else { "plain" };
    let builds = head.start_build(mode, settings).finish_within(PATIENCE);
    let total = builds.results.lines().find_map(|line| line.strip_prefix("total "));
    let seconds = total.and_then(|total| total.split(' ').nth(1)?.parse().ok());
    seconds
        .filter(|_| builds.succeeded)
        .unwrap_or_else(|| panic!("builds failed on {}:\n{}{}", head.0, builds.log, builds.results))
}

/// MiB that the machines receive while `work` is done.
fn received(work: impl FnOnce()) -> f64 {
    let now = || MACHINES.iter().map(|host| host.received()).sum::<u64>();
    let before = now();
    work();
    (now() - before) as f64 / f64::from(1 << 20)
}

/// Adds what the builds of `settings` need to the store; returns what a hook would be told.
fn add(head: Host, settings: &[&str]) -> String {
    head.sh(&[&["guix", "repl", "/usr/local/share/lab/builds.scm", "--", "plain", "print=1"], settings].concat())
}

/// The seconds of the phases of this name.
///
/// # Panics
///
/// When there is none.
fn phase_in(trace: &str, phase: &str) -> f64 {
    let name = format!("\"phase\":\"{phase}\"");
    let time = |line: &str| line.split_once("\"us\":")?.1.split(',').next()?.parse::<f64>().ok();
    let times: Vec<f64> = trace.lines().filter(|line| line.contains(&name)).filter_map(time).collect();
    assert!(!times.is_empty(), "no phase {phase} in the trace:\n{trace}");
    times.iter().sum::<f64>() / 1e6
}

fn import_from_file(settings: &[&str]) -> f64 {
    let told = add(OURS, settings);
    let input = told.lines().find_map(|line| line.strip_prefix("input ").filter(|item| item.ends_with("-input")));
    let export = format!("guix archive --export {} >/root/bundle", input.expect("the large input"));
    OURS.sh(&["sh", "-c", &export]);
    let machine = MACHINES[0];
    fs::copy(OURS.file("/root/bundle"), machine.file("/root/bundle")).expect("copying a bundle");
    machine.sh(&["guix", "repl", "/root/import.scm", "--", "/root/bundle"]).trim().parse().expect("seconds")
}

/// Seconds that `command` takes on `OURS`, with as many bytes in `/root/bytes` as the builds of `settings` move.
fn ssh(settings: &[&str], command: &str) -> f64 {
    let kib = settings.iter().find_map(|setting| setting.split_once("kib=")).expect("a size").1;
    for host in [OURS, MACHINES[0]] {
        host.sh(&["sh", "-c", &format!("head -c {kib}K /dev/urandom >/root/bytes")]);
    }
    let options =
        "-i /etc/guix/offload_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
    seconds(OURS, &format!("options='{options}'; {command}"))
}

/// Seconds that the hook takes to say `answer` when it is asked for a build for `system`, and to end then.
fn ask(system: &str, answer: &str) -> f64 {
    let request = format!("1 {system} /gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv ");
    let hook = format!("{PROGRAM} offload {} 3600 false 86400", crate::machines::system());
    let time = seconds(OURS, &format!("echo '{request}' | {hook} >/root/said 2>&1 4>/dev/null || true"));
    let said = fs::read_to_string(OURS.file("/root/said")).expect("what the hook said");
    assert!(said.contains(&format!("# {answer}")), "{said}");
    time
}

/// Seconds that a shell command takes on this host.
fn seconds(host: Host, command: &str) -> f64 {
    let timed = format!("begin=$(date +%s%N); {command}; end=$(date +%s%N); echo; echo $((end - begin))");
    let nanoseconds = host.sh(&["sh", "-ec", &timed]);
    nanoseconds.lines().last().and_then(|line| line.parse::<f64>().ok()).expect("nanoseconds") / 1e9
}

/// Processor time, in seconds, that the daemon of this head, its children and the keeper take for `work`.
fn processor_time(head: Host, work: impl FnOnce()) -> f64 {
    let now = || {
        let processes = "pgrep -o -x guix-daemon; pgrep -f '[g]uix-offload keeper'";
        let command = &format!("getconf CLK_TCK; for process in $({processes}); do cat /proc/$process/stat; done");
        let stats = head.sh(&["sh", "-c", command]);
        let (ticks, stats) = stats.split_once('\n').expect("ticks, and stat lines");
        let time = |stat: &str| -> f64 {
            let fields = stat.rsplit_once(") ").expect("a stat line").1.split(' ');
            fields.skip(11).take(4).map(|field| field.parse().unwrap_or(0.0)).sum()
        };
        stats.lines().map(time).sum::<f64>() / ticks.parse::<f64>().expect("ticks a second")
    };
    let before = now();
    work();
    std::thread::sleep(Duration::from_millis(300)); // the daemon's children end after their clients
    now() - before
}

/// The peak memory of this head's hook, in MiB, for a build with an input of 4 GiB and an output of 4 GiB.
fn memory(head: Host) -> f64 {
    let program = if head.0 == STOCK.0 { "guix" } else { "guix-offload" };
    let (_, peak) = with_peak_memory(program, || build(head, &["kib=4194304", "fill=zero", "built-input=1"]));
    clean();
    peak as f64 / f64::from(1 << 20)
}

/// Seconds that the builds of `settings` take on two heads together, and how many are under way at once at most.
fn together(heads: [Host; 2], settings: &[&str]) -> (f64, f64) {
    let begun = Instant::now();
    let building = heads.map(|head| head.start_build("stamp", settings));
    let builds = building.map(|building| building.finish_within(PATIENCE));
    let seconds = begun.elapsed().as_secs_f64();
    let count = settings.iter().find_map(|setting| setting.strip_prefix("count=")?.parse().ok()).expect("a number");
    let of_heads = heads.into_iter().zip(&builds).map(|(head, builds)| (head, builds, count));
    (seconds, most_at_once_of(of_heads, &MACHINES)[0] as f64)
}

/// Seconds that the last of so many builds on this head takes, whose input is valid there.
fn inputs(head: Host, servers: Servers, builds: usize, settings: &[&str]) -> f64 {
    if head.0 == OURS.0 {
        start(OURS, if servers.are_asked() { &[] } else { &["GUIX_OFFLOAD_SUBSTITUTES=no"] });
    }
    let nonces = (0..builds).map(|_| format!("nonce={}", fastrand::u64(..))).collect::<Vec<_>>();
    let settings = nonces.iter().map(|nonce| [settings, &[nonce]].concat()).collect::<Vec<_>>();
    let input = built_input(head, &settings[builds - 1]);
    let published: &[&str] = if servers == Servers::Lack { &[] } else { &[&input] };
    let publisher = Publisher::new(PUBLISHER, head, published);
    let url = if servers.answer() { publisher.url() } else { format!("http://{}", DEAD.0) };
    let _fetcher = Fetcher::new(MACHINES[0], &[&url]);
    let _links = [(head, SLOW), (PUBLISHER, FAST)].map(|(host, rate)| SlowLink::new(host, &["rate", rate]));
    settings.iter().fold(0.0, |_, settings| build(head, settings))
}

/// Seconds that the machine's own `guix build` takes to fetch the same.
fn fetch_there(settings: &[&str]) -> f64 {
    let input = built_input(ALONE, settings);
    let publisher = Publisher::new(PUBLISHER, ALONE, &[&input]);
    let _fetcher = Fetcher::new(MACHINES[0], &[&publisher.url()]);
    let _link = SlowLink::new(PUBLISHER, &["rate", FAST]);
    seconds(MACHINES[0], &format!("guix build {input}"))
}

/// Makes the input of these builds valid on `head`, and returns it.
fn built_input(head: Host, settings: &[&str]) -> String {
    let told = add(head, settings);
    let input = told.lines().find_map(|line| line.strip_prefix("input ").filter(|item| item.ends_with("-built-input")));
    input.expect("an input").to_string()
}
