// SPDX-License-Identifier: GPL-3.0-or-later
//! How many more hooks the guix-daemon that started this one can hold.
//!
//! guix-daemon (`nix/libstore/build.cc`, as of Guix 1.5.0) asks about all ready derivations, one after the other, and
//! only then reaps hooks that are done. A hook that has accepted costs the daemon five descriptors until it is reaped.
//! One of them stays open as long as the result is of interest: for what the client itself asked for, until its request
//! ends. The daemon waits with select(2), which ends at descriptor 1024, and does not check that. So its hooks do, in
//! `/proc`.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Most descriptors that select(2) can wait for (`FD_SETSIZE`).
const SELECT_LIMIT: usize = 1024;

/// Descriptors that are left to the daemon for other things: the next hook, a local build, locks, its database.
const RESERVE: usize = 32;

/// Descriptors that the daemon holds for each hook that has accepted a build.
const PER_HOOK: usize = 5;

/// Descriptors, out of those five, that the daemon closes when it reaps the hook.
const FREED_PER_HOOK: usize = 4;

/// Number of hooks for which there must be room once the running ones are done. For fewer, it is not worth waiting five
/// seconds, after which guix-daemon asks again.
const WORTH_WAITING_FOR: usize = 8;

/// How long a daemon that was found full counts as full without another look, which costs milliseconds. The daemon asks
/// about thousands of derivations in a row, and reaps no hooks meanwhile.
const FULL_FOR: Duration = Duration::from_millis(100);

/// Most builds in each [`SOON`] that the daemon is made to ask about again as soon as a hook has ended. That costs it a
/// millisecond or two per build each time.
const ASKED_SOON: u32 = 32;

/// Period for counting the builds that guix-daemon is made to ask about again as soon as a hook has ended.
const SOON: Duration = Duration::from_secs(1);

/// Subcommands of `guix` that the daemon runs for as long as it serves a client.
const SERVANTS: [&[u8]; 2] = [b"authenticate", b"substitute"];

/// Whether the daemon can hold another hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It can.
    Enough,
    /// Not before it has reaped hooks that are done.
    Full {
        /// Whether there will be little room even then, as descriptors of results stay open until the client's request
        /// ends.
        scarce: bool,
    },
    /// Not before the client's request ends.
    Spent {
        /// How many descriptors the daemon has open.
        open: usize,
        /// How many it may have open.
        limit: usize,
    },
}

/// The process that started this one, which is a hook.
#[derive(Clone, Debug)]
pub struct Parent {
    pid: u32,
    /// The kernel's name for hooks: little else is known of a process that has ended.
    hook: String,
    /// When the daemon was last found full, and the result.
    full: Cell<Option<(Instant, Room)>>,
    /// When the present [`SOON`] began, and how many builds the daemon was made to ask about again in it.
    soon: Cell<Option<(Instant, u32)>>,
}

impl Parent {
    /// Returns the parent of this process.
    pub fn of_this_process() -> Self {
        let hook = name_of(std::process::id()).unwrap_or_default();
        Parent { pid: std::os::unix::process::parent_id(), hook, full: Cell::default(), soon: Cell::default() }
    }

    /// Returns whether it can hold another hook. A parent that cannot be examined has [`Room::Enough`].
    pub fn room(&self) -> Room {
        // The last result is void once the daemon's last other hook has ended.
        if let Some((_, room)) = self.full.get().filter(|(at, _)| at.elapsed() < FULL_FOR && self.awaits_hooks()) {
            return room;
        }
        let room = self.look();
        let is_full = matches!(room, Room::Full { .. });
        self.full.set(is_full.then(|| (Instant::now(), room)));
        room
    }

    fn look(&self) -> Room {
        let limit = self.limit();
        let Some(open) = self.open_descriptors().filter(|open| open + RESERVE > limit) else {
            return Room::Enough;
        };
        let hooks = self.count(Child::Hook);
        if hooks == 0 {
            return Room::Spent { open, limit };
        }
        let needed = open.saturating_sub(hooks * FREED_PER_HOOK) + WORTH_WAITING_FOR * PER_HOOK + RESERVE;
        Room::Full { scarce: needed > limit }
    }

    /// Returns whether a build for which the daemon itself has no slot may be declined now. The daemon asks again about
    /// a declined build as soon as one of its children has ended, but about a postponed one five seconds later
    /// (`Worker::childTerminated` and `DerivationGoal::tryToBuild`). Without a child it would give up a declined build.
    pub fn may_ask_soon(&self) -> bool {
        let (since, count) = self.soon.get().filter(|(since, _)| since.elapsed() < SOON).unwrap_or((Instant::now(), 0));
        let may = count < ASKED_SOON && self.awaits_hooks();
        if may {
            self.soon.set(Some((since, count + 1)));
        }
        may
    }

    /// Returns whether there is another hook that it has not reaped yet.
    fn awaits_hooks(&self) -> bool {
        self.others().any(|pid| Child::of(pid, &self.hook) == Child::Hook)
    }

    /// Returns whether it is a guix-daemon that builds something by itself: it will build more once that is done.
    pub fn builds(&self) -> bool {
        name_of(self.pid).is_some_and(|name| name.trim_end() == "guix-daemon") && self.count(Child::Builder) > 0
    }

    fn count(&self, kind: Child) -> usize {
        self.others().filter(|pid| Child::of(*pid, &self.hook) == kind).count()
    }

    /// Returns its children other than this process.
    fn others(&self) -> impl Iterator<Item = u32> {
        self.children().into_iter().filter(|pid| *pid != std::process::id())
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    fn open_descriptors(&self) -> Option<usize> {
        match fs::read_dir(self.file("fd")) {
            Ok(entries) => Some(entries.count()),
            // A daemon of another user, or with more capabilities, cannot be examined: estimate from what anybody may
            // see.
            Err(_) => Some(self.children().len() * PER_HOOK).filter(|open| *open > 0),
        }
    }

    fn limit(&self) -> usize {
        let limits = fs::read_to_string(self.file("limits")).unwrap_or_default();
        let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
        soft.and_then(|soft| soft.parse().ok()).map_or(SELECT_LIMIT, |soft: usize| soft.min(SELECT_LIMIT))
    }

    /// Returns its children, including those that have ended and are not reaped yet.
    fn children(&self) -> Vec<u32> {
        // The parent is outside this process's PID namespace.
        if self.pid == 0 {
            return Vec::new();
        }
        // The kernel may have been built without this list.
        if let Ok(list) = fs::read_to_string(self.file(&format!("task/{}/children", self.pid))) {
            return list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        }
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| parent_of(*pid) == Some(self.pid)).collect()
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn name_of(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// The purpose of a child of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Hook,
    Builder,
    Servant,
}

impl Child {
    fn of(pid: u32, hook: &str) -> Self {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let has = |word: &[u8]| arguments.split(|byte| *byte == 0).skip(1).any(|argument| argument == word);
        // A process that has ended has no arguments any more.
        let ended_as_hook = arguments.is_empty() && name_of(pid).is_some_and(|name| name == hook);
        if ended_as_hook || has(b"offload") {
            Child::Hook
        } else if SERVANTS.iter().any(|servant| has(servant)) {
            Child::Servant
        } else {
            Child::Builder
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// A shell that plays the daemon: it may have `descriptors` descriptors, runs `script`, and then waits for its
    /// input to end.
    pub struct Shell(std::process::Child);

    impl Shell {
        fn start(descriptors: usize, script: &str) -> Self {
            let script = format!("ulimit -n {descriptors}; {script}; echo ready; read -r end");
            let directory = tempfile::tempdir().unwrap();
            let name = directory.path().join("guix-daemon"); // the kernel goes by the name of what is executed
            std::os::unix::fs::symlink("/bin/sh", &name).unwrap();
            let mut command = Command::new(&name);
            command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut shell = command.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            Shell(shell)
        }

        pub fn parent(&self) -> Parent {
            Parent { pid: self.0.id(), hook: "python3\n".into(), full: Cell::default(), soon: Cell::default() }
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    /// Starts a daemon that has no room for another hook until its present hooks are over.
    pub fn full_of_hooks() -> Shell {
        // Each of the eleven hooks frees four descriptors of the daemon.
        let opened: String = (10..50).map(|number| format!("exec {number}<&0; ")).collect();
        let bash = format!("exec bash -c \"exec 3<&0; {opened} $0\"");
        let child = "sh -c 'read -r end' guix offload <&3 & ".repeat(11);
        let many = Shell::start(RESERVE + 42, &bash.replace("$0", &format!("{child} echo ready; read -r end")));
        await_room(&many, |room| room == Room::Full { scarce: false });
        many
    }

    /// Waits until the daemon has the `expected` room: a child is a copy of the shell at first.
    #[track_caller]
    fn await_room(shell: &Shell, expected: impl Fn(Room) -> bool) {
        let begun = Instant::now();
        while !expected(shell.parent().room()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", shell.parent().room());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_daemon_has_room_until_its_reserve_is_reached() {
        assert_eq!(Shell::start(RESERVE + 20, ":").parent().room(), Room::Enough);
        let shell = Shell::start(RESERVE + 1, ":");
        let room = shell.parent().room();
        assert!(matches!(room, Room::Spent { open: 3.., limit } if limit == RESERVE + 1), "{room:?}");
        let shell = Shell::start(4096, ":");
        assert_eq!(shell.parent().limit(), SELECT_LIMIT);
    }

    #[test]
    fn hooks_make_room_when_they_end() {
        let hooks = |count: usize, descriptors: usize| {
            let child = "sh -c 'read -r end' guix offload <&3 & ".repeat(count);
            Shell::start(descriptors, &format!("exec 3<&0; {child} true"))
        };
        await_room(&hooks(1, RESERVE), |room| room == Room::Full { scarce: true });
        let many = hooks(11, RESERVE);
        assert_eq!(many.parent().children().len(), 11);
        assert!(many.parent().children().iter().all(|child| parent_of(*child) == Some(many.0.id())));
        let many = full_of_hooks();
        assert!(!Shell::start(RESERVE, ":").parent().may_ask_soon());
        assert!(!Shell::start(RESERVE, "sleep 1 & :").parent().may_ask_soon());
        let parent = many.parent();
        assert_eq!((0..100).filter(|_| parent.may_ask_soon()).count(), ASKED_SOON as usize);
        // A hook that has ended and is not reaped.
        let python = "import os, sys; os.fork() or os._exit(0); print('ready', flush=True); sys.stdin.read()";
        await_room(&Shell::start(RESERVE, &format!("exec python3 -c \"{python}\"")), |room| {
            room == Room::Full { scarce: true }
        });
    }

    #[test]
    fn a_full_daemon_is_looked_at_again_after_a_moment_or_when_its_hooks_are_gone() {
        let child = "sh -c 'read -r end' guix offload <&3 & ";
        let mut shell = Shell::start(RESERVE, &format!("exec 3<&0; {child} true"));
        let parent = shell.parent();
        let full = Room::Full { scarce: true };
        let begun = Instant::now();
        while parent.room() != full {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", parent.room());
            std::thread::sleep(Duration::from_millis(1));
        }
        let looked = |parent: &Parent| parent.full.get().unwrap().0;
        let first = looked(&parent);
        assert_eq!(parent.room(), full);
        assert!(looked(&parent) == first || first.elapsed() >= FULL_FOR);
        std::thread::sleep(FULL_FOR);
        assert_eq!(parent.room(), full);
        assert!(looked(&parent) > first);
        drop(shell.0.stdin.take());
        shell.0.wait().unwrap();
        assert_eq!(parent.room(), Room::Enough, "it is gone");
    }

    #[test]
    fn builders_and_servants_make_no_room() {
        let spent_while = |arguments: &str, builds: bool| {
            let script = format!("exec 3<&0; sh -c 'read -r end' {arguments} <&3 & true");
            let shell = Shell::start(RESERVE, &script);
            await_room(&shell, |room| matches!(room, Room::Spent { .. }) && shell.parent().builds() == builds);
        };
        spent_while("guix authenticate", false);
        spent_while("builder -e make", true);
    }

    #[test]
    fn a_process_that_is_gone_is_no_hindrance() {
        for pid in [u32::MAX, 0] {
            let gone = Parent { pid, hook: String::new(), full: Cell::default(), soon: Cell::default() };
            assert!(gone.room() == Room::Enough && !gone.builds());
        }
    }
}
