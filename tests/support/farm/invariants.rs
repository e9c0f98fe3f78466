// SPDX-License-Identifier: GPL-3.0-or-later
//! What must hold after every scenario, whatever happened in it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions, read_dir};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, fcntl_lock};

use super::lab::Host;

/// How long what ends by itself may take to end: a process whose peer is gone, a daemon that clears up.
const PATIENCE: Duration = Duration::from_secs(30);

const DATABASE: &str = "/var/guix/db/db.sqlite";

/// Once the keeper is killed, no process of ours runs, no slot is held, no store has leftovers, and all are whole.
#[track_caller]
pub fn assert_clean(heads: &[Host], machines: &[Host]) {
    heads.iter().for_each(Host::kill_keepers);
    // Of a connection that is gone, on a machine: the relay, the shell that asks for the load, a builder.
    let on_machine = "pgrep -a -f 'primitive-eval|guix repl|^sh$'; pgrep -a -U $(id -u guixbuild1)";
    let check = |host: Host, processes: &str| {
        eventually(|| nothing_runs(host, processes));
        eventually(|| no_slot_is_held(host));
        eventually(|| no_leftovers(host));
        host.verify_store();
    };
    std::thread::scope(|scope| {
        let on_heads = heads.iter().map(|head| scope.spawn(|| check(*head, "pgrep -a -x guix-offload")));
        let on_machines = machines.iter().map(|machine| scope.spawn(|| check(*machine, on_machine)));
        let checks: Vec<_> = on_heads.chain(on_machines).collect();
        for check in checks {
            check.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Tries until it succeeds or patience ends.
#[track_caller]
pub fn eventually(mut attempt: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + PATIENCE;
    while let Err(problem) = attempt() {
        assert!(Instant::now() < end, "still after {PATIENCE:?}: {problem}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until `host` is, or no longer is, at a build of mode `sleep` that takes a minute.
#[track_caller]
pub fn await_sleeper(host: Host, is_there: bool) {
    eventually(|| match host.run(&["pgrep", "-f", "busybox sleep 60"]).status.success() == is_there {
        true => Ok(()),
        false => Err(format!("{} {} it", host.0, if is_there { "does not build" } else { "still builds" })),
    });
}

/// None of the processes runs on `host` that these commands print.
fn nothing_runs(host: Host, commands: &str) -> Result<(), String> {
    let found = host.sh(&["sh", "-c", &format!("{commands}; true")]);
    // The shell that looks is no leftover, though its command line has all that is looked for.
    match found.lines().find(|line| !line.contains("pgrep")) {
        None => Ok(()),
        Some(process) => Err(format!("{} runs {process}", host.0)),
    }
}

fn no_slot_is_held(head: Host) -> Result<(), String> {
    let Ok(machines) = read_dir(head.file("/var/guix/offload")) else { return Ok(()) };
    for machine in machines {
        let machine = machine.unwrap();
        for file in read_dir(machine.path()).unwrap() {
            let file = file.unwrap().path();
            let name = file.file_name().unwrap().to_str().unwrap();
            // What Guile made of machine files, warnings that were told, builds that are over.
            let is_kept = match machine.file_name().to_str() {
                Some(".machines") => name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()),
                Some(".told") => name == "warnings",
                Some(".keeper") => matches!(name, "lock" | "socket"),
                Some(".journal") => matches!(name, "builds" | "builds.old" | "lock"),
                Some(".demand") => name.ends_with(".lock"),
                _ => false,
            };
            if is_kept {
                continue;
            }
            if name.bytes().all(|b| b.is_ascii_digit()) {
                let lock = OpenOptions::new().write(true).open(&file).unwrap();
                fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive)
                    .map_err(|error| format!("slot {} is held: {error}", file.display()))?;
            } else if !["history", "history.lock", "lock", "waiting"].contains(&name) {
                return Err(format!("{} is left over", file.display()));
            }
        }
    }
    Ok(())
}

/// The store of `host` has only what is valid there, and what guix-daemon keeps besides.
fn no_leftovers(host: Host) -> Result<(), String> {
    let valid: HashSet<PathBuf> = valid_paths(host).into_iter().collect();
    for entry in read_dir(host.file("/gnu/store")).unwrap() {
        let name = entry.unwrap().file_name();
        let item = PathBuf::from("/gnu/store").join(&name);
        if name != ".links" && name != "trash" && !name.to_string_lossy().ends_with(".lock") && !valid.contains(&item) {
            return Err(format!("{} is left over on {}", item.display(), host.0));
        }
    }
    Ok(())
}

fn valid_paths(host: Host) -> Vec<PathBuf> {
    if !host.file(DATABASE).exists() {
        return Vec::new(); // nobody has asked this host's daemon anything yet
    }
    let database = database(host);
    let mut statement = database.prepare("SELECT path FROM ValidPaths").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    rows.map(|path| path.unwrap().into()).collect()
}

/// The store database of a host, to read.
pub fn database(host: Host) -> Connection {
    let file = host.file(DATABASE);
    File::open(&file).expect("the host has a store database");
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("opening a store database")
}
