// SPDX-License-Identifier: GPL-3.0-or-later
//! The farm, as tests see it: a thin layer over `tests/lab/lab`.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab");

/// Runs a command of the lab.
///
/// # Panics
///
/// When no farm is up or the command fails.
#[track_caller]
pub fn lab(args: &[&str]) -> String {
    let output = Command::new(LAB).args(args).output().expect("the lab's script starts");
    assert!(output.status.success(), "lab {}: {}\n{}", args.join(" "), output.status, text(&output.stderr));
    text(&output.stdout)
}

/// One host of the farm.
#[derive(Clone, Copy)]
pub struct Host(pub &'static str);

impl Host {
    /// Runs a command on this host as root, whatever its status.
    #[track_caller]
    pub fn run(self, command: &[&str]) -> Output {
        let output = Command::new(LAB).args(["sh", self.0]).args(command).output().expect("the lab's script starts");
        // A failing command must not be mistaken for a host that is not there.
        assert!(output.status.success() || !output.stderr.starts_with(b"lab: "), "{}", text(&output.stderr));
        output
    }

    /// Runs a command on this host as root and returns what it printed.
    #[track_caller]
    pub fn sh(self, command: &[&str]) -> String {
        let output = self.run(command);
        assert!(
            output.status.success(),
            "{}# {}: {}\n{}{}",
            self.0,
            command.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Writes this head's machines.scm: these machines and no others.
    #[track_caller]
    pub fn offload_to(self, machines: &[Host]) {
        let names = machines.iter().map(|host| host.0);
        lab(&["machines", self.0].into_iter().chain(names).collect::<Vec<_>>());
    }

    /// Has this host's SSH server read its configuration again, and waits until it listens anew.
    #[track_caller]
    pub fn reload_sshd(self) {
        // It closes its sockets, some time after the signal, and opens others.
        const RELOAD: &str = "
            sockets() { ss -Hltne 'sport = :22' | grep -o 'ino:[0-9]*' | sort; }
            before=$(sockets)
            kill -HUP $(pgrep -o -x sshd)
            for look in $(seq 1000); do
              now=$(sockets)
              [ \"$(echo \"$now\" | wc -l)\" = \"$(echo \"$before\" | wc -l)\" ] && [ -n \"$now\" ] &&
                [ \"$(echo \"$before\n$now\" | sort | uniq -d)\" = '' ] && exit
              sleep 0.02
            done
            echo 'sshd does not listen any more' >&2
            exit 1";
        self.sh(&["sh", "-c", "sshd -t"]);
        self.sh(&["sh", "-c", RELOAD]);
    }

    /// Where a file of this host is, seen from the test: not for `/run`, `/tmp` and `/dev`.
    #[track_caller]
    pub fn file(self, path: &str) -> PathBuf {
        PathBuf::from(lab(&["root", self.0]).trim_end().to_owned() + path)
    }

    /// Lets this host's daemon build what `builds.scm` offers under `mode`, with its settings.
    #[track_caller]
    pub fn build(self, mode: &str, settings: &[&str]) -> Builds {
        self.start_build(mode, settings).finish()
    }

    /// As [`Host::build`], but does not wait.
    #[track_caller]
    pub fn start_build(self, mode: &str, settings: &[&str]) -> Building {
        self.start_build_through("/var/guix/daemon-socket/socket", mode, settings)
    }

    /// As [`Host::start_build`], by the daemon that listens on this socket.
    #[track_caller]
    pub fn start_build_through(self, socket: &str, mode: &str, settings: &[&str]) -> Building {
        let environment = ["env", &format!("GUIX_DAEMON_SOCKET={socket}")];
        let program = ["guix", "repl", "/usr/local/share/lab/builds.scm", "--", mode];
        Building::start(self, Command::new(LAB).args(["sh", self.0]).args(environment).args(program).args(settings))
    }

    /// The process numbers of this host's keepers.
    #[track_caller]
    pub fn keepers(&self) -> Vec<String> {
        let found = self.run(&["pgrep", "-f", "[g]uix-offload keeper serve"]);
        String::from_utf8_lossy(&found.stdout).lines().map(str::to_string).collect()
    }

    /// Kills this host's keepers: those of the tests before, too, which would end some time while a test looks.
    #[track_caller]
    pub fn kill_keepers(&self) {
        self.sh(&["sh", "-c", "for keeper in $(pgrep -f '[g]uix-offload keeper serve'); do kill -KILL $keeper; done"]);
    }

    /// Returns how many bytes this host has received over the network.
    #[track_caller]
    pub fn received(self) -> u64 {
        self.moved(0)
    }

    /// Returns how many bytes this host has sent over the network.
    #[track_caller]
    pub fn sent(self) -> u64 {
        self.moved(8)
    }

    #[track_caller]
    fn moved(self, column: usize) -> u64 {
        let table = self.sh(&["cat", "/proc/net/dev"]);
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix("eth0:")).expect("an eth0");
        line.split_whitespace().nth(column).and_then(|bytes| bytes.parse().ok()).expect("a number of bytes")
    }

    /// Checks every file and every database entry of this host's store.
    #[track_caller]
    pub fn verify_store(self) {
        let output = self.run(&["guix", "gc", "--verify=contents"]);
        let log = text(&output.stderr);
        // The daemon's verdict on an item it finds changed or gone is a message, not a status.
        let complaint =
            log.lines().find(|line| ["modified", "disappeared", "error", "missing"].iter().any(|w| line.contains(w)));
        assert!(output.status.success() && complaint.is_none(), "the store of {} is damaged:\n{log}", self.0);
    }
}

/// A host whose link is slow, until this is dropped.
pub struct SlowLink(Host);

impl SlowLink {
    /// As `lab link`.
    #[track_caller]
    pub fn new(host: Host, limits: &[&str]) -> SlowLink {
        lab(&[&["link", host.0], limits].concat());
        SlowLink(host)
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        let _ = Command::new(LAB).args(["link", self.0.0, "off"]).status();
    }
}

/// Restores what a test changed, also when it fails.
pub struct Undo<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// What `builds.scm` said.
pub struct Builds {
    /// All builds were successful.
    pub succeeded: bool,
    /// One line a build, see `builds.scm`.
    pub results: String,
    /// The build log, the hook's messages among it.
    pub log: String,
}

impl Builds {
    #[track_caller]
    pub fn assert_succeeded(&self) {
        assert!(self.succeeded, "{}{}", self.log, self.results);
    }

    /// The outputs of the build of this name.
    #[track_caller]
    pub fn outputs(&self, name: &str) -> Vec<&str> {
        let prefix = format!("ok {name} ");
        let line = self.results.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no build {name} in:\n{}{}", self.log, self.results)).split(' ').collect()
    }
}

/// A build that is under way.
pub struct Building {
    host: Host,
    child: Child,
    lines: Receiver<String>,
    results: JoinHandle<String>,
    log: String,
}

impl Building {
    /// No build takes longer, unless it says so, not even beside other farms: one that does hangs.
    const PATIENCE: Duration = Duration::from_secs(180);

    #[track_caller]
    fn start(host: Host, command: &mut Command) -> Building {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the lab's script starts");
        let (mut stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let _ = sender.send(text(&line) + "\n");
            }
        });
        let results = std::thread::spawn(move || {
            let mut results = Vec::new();
            stdout.read_to_end(&mut results).expect("reading results");
            text(&results)
        });
        Building { host, child, lines, results, log: String::new() }
    }

    /// Waits for a line of the log that contains `what`.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str) {
        while let Ok(line) = self.lines.recv_timeout(Self::PATIENCE) {
            self.log += &line;
            if line.contains(what) {
                return;
            }
        }
        panic!("no line {what:?} in:\n{}", self.log);
    }

    /// What was in the log so far.
    pub fn log(&mut self) -> &str {
        self.log.extend(self.lines.try_iter());
        &self.log
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(self) -> Builds {
        self.finish_within(Self::PATIENCE)
    }

    /// Waits for its end, which comes within that time unless it hangs.
    #[track_caller]
    pub fn finish_within(mut self, patience: Duration) -> Builds {
        let end = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.log += &line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let log = self.log.clone();
                    self.abandon();
                    panic!("a build has not ended after {patience:?}:\n{log}");
                }
            }
        }
        let succeeded = self.child.wait().expect("waiting for a build").success();
        Builds { succeeded, results: self.results.join().expect("reading results"), log: self.log }
    }

    /// Has whoever asked this host for builds go away. Returns the log.
    pub fn abandon(mut self) -> String {
        self.host.run(&["pkill", "-KILL", "-f", "builds.scm"]); // of this host alone: each has its pid namespace
        let _ = self.child.wait();
        self.log.extend(self.lines.iter());
        self.log
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
