// SPDX-License-Identifier: GPL-3.0-or-later
//! The probe of a machine before it gets a build: load, pressure, memory, free space, clock.
//!
//! It is one short program for the remote `sh`. A line that the machine cannot answer stays empty.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::shell::{self, KILLS, MEMORY, free_space, quoted, value};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StoreDir;
use crate::machine::BuildMachine;
use crate::machine::suitability::{Pressure, Probe};
use crate::ssh::{Channel, Session};

/// First line of the program's output. It shows that `sh` runs the program.
const RUNS: &str = "sh runs";

/// A program that prints what processes wait for, as the kernel says it if it does: `some avg10=0.00`.
const PRESSURE: &str = "for what in cpu memory io; do [ -r /proc/pressure/$what ] && \
     read -r kind average rest </proc/pressure/$what && echo pressure-$what $kind $average; done\n";

/// A machine's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The figures that choosing needs.
    pub probe: Probe,
    /// How many processes its kernel has killed for lack of memory, if it says so.
    pub kills: Option<u64>,
    /// Whether it has a machine file of its own, so that its daemon may hand builds on.
    pub offloads: bool,
    /// `GUIX_DAEMON_SOCKET` in the remote user's environment. It overrides the machine file, as for
    /// `guix offload`.
    pub daemon_socket: Option<String>,
    /// Identity of its daemon: see [`identity`].
    pub daemon: Option<String>,
}

/// Returns the identity of the daemon that listens at `socket`: the boot ID of its kernel, and device and inode of the
/// socket. It does not depend on the name by which the host is reached. `None`: there is no such file.
pub fn identity(socket: &Path) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let socket = std::fs::metadata(socket).ok()?;
    Some(format!("{} {}:{}", boot.trim(), socket.dev(), socket.ino()))
}

/// Asks `machine`. Returns at once.
pub fn ask(session: &Session, machine: &BuildMachine, store: &StoreDir) -> Channel {
    shell::start(session, &program(&machine.daemon_socket, store))
}

fn program(socket: &str, store: &StoreDir) -> String {
    format!(
        "echo {RUNS}\n\
         read -r load rest </proc/loadavg && echo load $load\n\
         echo cores $(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)\n\
         {}{MEMORY}{KILLS}{PRESSURE}\
         [ -d {} ] || echo storeless yes\n\
         echo time ${{EPOCHSECONDS:-$(date +%s)}}\n\
         read -r boot </proc/sys/kernel/random/boot_id\n\
         echo daemon $boot $(stat -L -c %d:%i {} 2>/dev/null)\n\
         [ -e \"${{GUIX_CONFIGURATION_DIRECTORY:-/etc/guix}}/machines.scm\" ] && echo offloads yes\n\
         echo socket \"$GUIX_DAEMON_SOCKET\"\n",
        free_space(store, "free"),
        quoted(store.as_str()),
        quoted(socket)
    )
}

/// Waits at most `limit` for the answer of `machine`.
pub fn answer(channel: &mut Channel, machine: &BuildMachine, store: &StoreDir, limit: Duration) -> Result<Answer> {
    let text = shell::answer(channel, limit, "asking for load and free space")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let said = String::from_utf8_lossy(&channel.stderr()).lines().next().unwrap_or_default().to_string();
    if !text.lines().any(|line| line == RUNS) {
        let status = channel.exit_status()?;
        return Err(no_shell(&machine.user, text.lines().chain([&*said]).find(|line| !line.trim().is_empty()), status));
    }
    Answer::parse(&text, now).ok_or_else(|| no_answer(&text, &said, machine, store))
}

/// Returns the error for an account that does not run commands: its login shell is `nologin`, or a command is forced.
fn no_shell(user: &str, said: Option<&str>, status: Option<i32>) -> Error {
    let answer = match (said, status) {
        (Some(line), _) => format!("it answers {:?}", line.trim()),
        (None, Some(status)) => format!("it says nothing and ends with status {status}"),
        (None, None) => "it says nothing".to_string(),
    };
    Error::new(ErrorKind::Configuration, format!("the account of user {user} there does not run 'sh': {answer}")).hint(
        format!(
            "there, give {user} a login shell ('chsh -s /bin/sh {user}'), and look for 'command=' in front of the key \
             in ~{user}/.ssh/authorized_keys and for ForceCommand in sshd_config; or name another user in the machine \
             file"
        ),
    )
}

/// Returns the error for a machine whose shell printed `text`, which is no answer, and `said` on its standard error.
fn no_answer(text: &str, said: &str, machine: &BuildMachine, store: &StoreDir) -> Error {
    let (name, user, store) = (&machine.name, &machine.user, store.as_str());
    if value(text, "storeless").is_some() {
        return Error::new(ErrorKind::NoGuix, format!("Guix is not installed on '{name}': there is no {store}"))
            .hint(format!("install Guix on '{name}', or leave it out of the machine file"));
    }
    Error::new(
        ErrorKind::Unavailable,
        format!("'sh' on '{name}' does not say how much space is free: {text:?} {said:?}"),
    )
    .hint(format!("user {user} must be able to run 'sh', 'df', 'nproc' and 'date' there over SSH"))
}

impl Answer {
    /// Parses an answer; `None`: it does not say how much space is free. `now`: seconds since the epoch.
    pub fn parse(text: &str, now: i64) -> Option<Self> {
        let value = |word: &str| value(text, word);
        let load = value("load").and_then(|v| v.parse::<f64>().ok()).filter(|load| load.is_finite());
        let cores = value("cores").and_then(|v| v.parse::<f64>().ok()).filter(|cores| *cores >= 1.0);
        let free_kib: u64 = value("free")?.parse().ok()?;
        let kib = |word: &str| value(word).and_then(|v| v.parse().ok()).map_or(0, |kib: u64| kib.saturating_mul(1024));
        let pressure = |word: &str| {
            let percent: f64 = value(word)?.strip_prefix("some avg10=")?.parse().ok()?;
            // With the two digits that it has: no 0.27140000000000003.
            (0.0..=100.0).contains(&percent).then_some((percent * 100.0).round() / 10_000.0)
        };
        Some(Answer {
            probe: Probe {
                // As for `guix offload`, a machine that does not say its load counts as fully loaded.
                load: load.zip(cores).map_or(1.0, |(load, cores)| load / cores),
                free_space: free_kib.saturating_mul(1024),
                memory: kib("memory"),
                total_memory: kib("total-memory"),
                pressure: Pressure {
                    cpu: pressure("pressure-cpu"),
                    memory: pressure("pressure-memory"),
                    io: pressure("pressure-io"),
                },
                clock_offset: value("time").and_then(|v| v.parse::<i64>().ok()).map(|time| time.saturating_sub(now)),
            },
            kills: value("kills").and_then(|v| v.parse().ok()),
            offloads: value("offloads") == Some("yes"),
            daemon_socket: value("socket").filter(|s| !s.is_empty()).map(str::to_string),
            daemon: value("daemon").filter(|s| s.contains(' ')).map(str::to_string),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;
    use crate::remote::shell::tests::run_by;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = Answer::parse("load 0.50\ncores 2\nfree 1024\nmemory 2048\ntime 990\nsocket \n", 1000).unwrap();
        let (free_space, memory, clock_offset) = (1 << 20, 2 << 20, Some(-10));
        assert_eq!(answer.probe, Probe { load: 0.25, free_space, memory, clock_offset, ..Probe::default() });
        assert_eq!((answer.daemon_socket, answer.offloads, answer.kills), (None, false, None));
    }

    #[test]
    fn what_a_kernel_says_of_pressure_is_a_share_or_is_not_known() {
        let pressure = |lines: &str| Answer::parse(&format!("free 1\n{lines}"), 0).unwrap().probe.pressure;
        let said = "pressure-cpu some avg10=27.14\npressure-memory some avg10=0.00\npressure-io some avg10=100.00\n";
        assert_eq!(pressure(said), Pressure { cpu: Some(0.2714), memory: Some(0.0), io: Some(1.0) });
        for odd in ["", "-1.00", "100.01", "NaN", "inf", "lots", "1.00 avg60=1.00"] {
            assert_eq!(pressure(&format!("pressure-cpu some avg10={odd}\n")), Pressure::default(), "{odd}");
        }
        assert_eq!(pressure("pressure-cpu full avg10=1.00\npressure-io\n"), Pressure::default());
    }

    #[test]
    fn a_kernel_that_tells_of_pressure_is_asked() {
        let said = run_by("sh", &program("/nowhere", &StoreDir::new("/tmp").unwrap()), Path::new("/"));
        let Probe { memory, total_memory, pressure, .. } = Answer::parse(&said, 0).unwrap().probe;
        assert!(memory > 0 && total_memory >= memory, "{said}");
        let tells = |name: &str| Path::new("/proc/pressure").join(name).exists();
        let known = [pressure.cpu, pressure.memory, pressure.io].map(|known| known.is_some());
        assert_eq!(known, ["cpu", "memory", "io"].map(tells), "{said}");
    }

    #[test]
    fn a_machine_that_does_not_tell_its_load_is_fully_loaded() {
        let answer = Answer::parse("cores 0\nfree 1\nkills 7\noffloads yes\nsocket /run/guix.sock\n", 0).unwrap();
        assert_eq!(answer.probe.load, 1.0);
        assert!(answer.offloads);
        assert_eq!(answer.kills, Some(7));
        assert_eq!(answer.daemon_socket.as_deref(), Some("/run/guix.sock"));
    }

    #[test]
    fn the_shell_takes_the_name_of_the_store_as_a_name() {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("it's$(touch${IFS}pwned)`touch${IFS}pwned`;touch${IFS}pwned\"#*");
        std::fs::create_dir(&store).unwrap();
        let program = program("/it's a socket", &StoreDir::new(store.to_str().unwrap()).unwrap());
        let said = run_by("sh", &program, scratch.path());
        assert!(Answer::parse(&said, 0).is_some_and(|answer| answer.probe.memory > 0), "{said}");
        assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 1);
    }

    #[test]
    fn a_machine_without_a_store_has_no_guix() {
        let run = |store: &str| {
            let store = StoreDir::new(store).unwrap();
            let said = run_by("sh", &program("/nowhere", &store), Path::new("/"));
            no_answer(&said, "df: no such file", &machine("w1"), &store)
        };
        let error = run("/nonexistent/store");
        assert_eq!(error.kind(), ErrorKind::NoGuix);
        assert_eq!(error.to_string(), "Guix is not installed on 'w1': there is no /nonexistent/store");
        assert_eq!(run("/tmp").kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_daemon_is_recognised_by_its_socket() {
        let scratch = tempfile::tempdir().unwrap();
        let (socket, link) = (scratch.path().join("its socket"), scratch.path().join("link"));
        std::fs::write(&socket, "").unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        let seen = |socket: &Path| {
            let program = program(socket.to_str().unwrap(), &StoreDir::new("/tmp").unwrap());
            Answer::parse(&run_by("sh", &program, Path::new("/")), 0).unwrap().daemon
        };
        assert!(seen(&socket).is_some() && seen(&socket) == identity(&link) && seen(&link) == identity(&socket));
        assert_ne!(seen(&socket), identity(scratch.path()));
        let nowhere = scratch.path().join("nowhere");
        assert_eq!((seen(&nowhere), identity(&nowhere)), (None, None));
    }

    #[test]
    fn a_clock_may_be_as_wrong_as_it_likes() {
        let offset = |time: i64| Answer::parse(&format!("free 1\ntime {time}\n"), 1000).unwrap().probe.clock_offset;
        assert_eq!((offset(i64::MIN), offset(i64::MAX)), (Some(i64::MIN), Some(i64::MAX - 1000)));
    }

    #[test]
    fn without_free_space_there_is_no_answer() {
        assert_eq!(Answer::parse("", 0), None);
        assert_eq!(Answer::parse("free \n", 0), None);
        assert_eq!(Answer::parse("free lots\n", 0), None);
    }
}
