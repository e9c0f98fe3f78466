// SPDX-License-Identifier: GPL-3.0-or-later
//! `guix offload check`: what is wrong or odd in a machine file, and whether guix-daemon uses this library. Connects to
//! no machine.
//!
//! The report for programs:
//!
//! ```text
//! {"schema": 1, "file": ..., "machines": COUNT,
//!  "problems": [{"severity": "error" or "warning", "machine": ..., "text": ..., "hint": ...}],
//!  "daemons": [{"process": ..., "user": NUMBER, "guix": ..., "extensions": ..., "uses": ..., "text": ...}]}
//! ```
//!
//! An error keeps a machine from being used; `uses` is `null` if it cannot be seen whether the guix-daemon uses this
//! library. Every key is always there; what is not known is `null`.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::daemons::{self, Daemon};
use super::{Note, Report, distinct};
use crate::choose::drained;
use crate::ground::clock::{Clock, SystemClock};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result, line};
use crate::machine::BuildMachine;
use crate::machine::suitability::WITHOUT_SLOTS;
use crate::report::json::{array, document, object, or_null, string};
use crate::report::lines;
use crate::ssh::read_private_key;

/// A problem of a machine file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps a machine from being used.
    pub is_error: bool,
    /// The machine that it is about.
    pub machine: Option<String>,
    /// What is wrong, in a clause.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What was found out, for people and for programs.
pub struct Answer {
    /// All machines that are well-formed, each once, with what is wrong with them as notes.
    pub reports: Vec<Report>,
    /// How many problems are errors.
    pub errors: usize,
    /// Lines for people.
    pub text: String,
    /// A line for programs.
    pub json: String,
}

/// Checks the `machines` of `file`, which has the problems `known` from having been read. Looks in `proc` for
/// guix-daemons of root or of the owner of the state directory.
pub fn check(
    directories: &Directories,
    file: &str,
    machines: &[BuildMachine],
    known: Vec<Problem>,
    proc: &Path,
) -> Answer {
    let owner = std::fs::metadata(&directories.state).ok().map(|state| state.uid());
    let daemons = daemons::find(proc, owner);
    let mut problems = known;
    problems.extend(unreadable_keys(machines, daemons.first()));
    problems.extend(duplicates(machines));
    problems.extend(distinct(machines).into_iter().filter_map(|machine| drained_machine(directories, machine)));
    problems.extend(machines.iter().flat_map(without_builds));
    let errors = problems.iter().filter(|problem| problem.is_error).count();
    let report = |machine: &BuildMachine| {
        let about = problems.iter().filter(|problem| problem.machine.as_ref() == Some(&machine.name));
        let notes = about.map(|problem| Note { text: problem.text.clone(), hint: problem.hint.clone() }).collect();
        Report { notes, ..Report::new(machine.clone(), directories) }
    };
    let count = distinct(machines).len();
    Answer {
        reports: distinct(machines).into_iter().map(report).collect(),
        errors,
        text: text(file, count, &problems, &daemons),
        json: json(file, count, &problems, &daemons),
    }
}

fn warning(machine: &BuildMachine, text: String, hint: Option<&str>) -> Problem {
    let text = format!("machine '{}': {text}", machine.name);
    Problem { is_error: false, machine: Some(machine.name.clone()), text, hint: hint.map(str::to_string) }
}

/// Returns the private keys that guix-daemon's user cannot use: that of `daemon`, or without one, this process's.
fn unreadable_keys(machines: &[BuildMachine], daemon: Option<&Daemon>) -> Vec<Problem> {
    let mut asked: Vec<&Path> = Vec::new();
    let mut problems = Vec::new();
    for machine in machines {
        let key = &*machine.private_key;
        if asked.contains(&key) {
            continue;
        }
        asked.push(key);
        let Err(error) = as_daemon(daemon, || readable(key, daemon)) else { continue };
        let users = machines.iter().filter(|other| other.private_key == key).map(|other| format!("'{}'", other.name));
        let mut users: Vec<_> = users.collect();
        users.dedup();
        problems.push(Problem {
            is_error: true,
            machine: Some(machine.name.clone()),
            text: format!("{error}, for {}", users.join(", ")),
            hint: error.hint_text().map(str::to_string),
        });
    }
    problems
}

/// Fails if `key` is not a private key that can be used with the rights of the caller, which are those of `daemon`.
fn readable(key: &Path, daemon: Option<&Daemon>) -> Result<()> {
    let denied = File::open(key).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    match daemon.filter(|_| denied) {
        Some(Daemon { user, .. }) if geteuid().as_raw() == *user => {
            let key = key.display();
            let message = format!("private key {key} cannot be read by user {user}, as whom guix-daemon runs");
            Err(Error::new(ErrorKind::Configuration, message).hint(format!(
                "give guix-daemon a key of its own, as README does; or let that user read this one, and enter the \
                 directories above: chown {user} {key}"
            )))
        }
        _ => read_private_key(key).map(|_| ()),
    }
}

/// Does something with the rights of `daemon`, if this process has the right to take them.
fn as_daemon(daemon: Option<&Daemon>, act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let Some(daemon) = daemon.filter(|daemon| geteuid().is_root() && daemon.user != 0) else { return act() };
    let (user, group) = (Uid::from_raw(daemon.user), Gid::from_raw(daemon.group));
    let groups: Vec<_> = daemon.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    // The rights of a thread end with it.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_thread_groups(&groups)
                .and_then(|()| set_thread_res_gid(group, group, group))
                .and_then(|()| set_thread_res_uid(user, user, user))
                .map_err(std::io::Error::from)
                .io_context(ErrorKind::Internal, || "taking the rights of guix-daemon")?;
            act()
        });
        thread.join().unwrap_or_else(|panic| Err(Error::panicked(&*panic)))
    })
}

/// Returns the machines that are listed twice for a system.
fn duplicates(machines: &[BuildMachine]) -> Vec<Problem> {
    let mut found = Vec::new();
    for (index, machine) in machines.iter().enumerate() {
        let earlier = || machines[..index].iter().filter(|other| other.is_same(machine));
        let again = machine.systems.iter().filter(|system| earlier().any(|other| other.systems.contains(system)));
        let again: Vec<&str> = again.map(String::as_str).collect();
        if !again.is_empty() {
            let text = format!("it is listed more than once for {}", again.join(", "));
            found.push(warning(machine, text, Some("leave one of the entries: their slots are the same")));
        }
    }
    found
}

fn drained_machine(directories: &Directories, machine: &BuildMachine) -> Option<Problem> {
    let seconds = drained::seconds(&directories.offload_state(), machine, SystemClock.since_epoch())?;
    let reason = drained::reason(machine, seconds);
    Some(warning(machine, reason.to_string(), reason.hint_text()))
}

/// Returns why the entry gets no builds, whatever the machine is like.
fn without_builds(machine: &BuildMachine) -> Vec<Problem> {
    let mut found = Vec::new();
    if machine.parallel_builds == 0 {
        let hint =
            "to let it have no builds for a while, drain it; else set the number of builds that it may do at once";
        found.push(warning(machine, WITHOUT_SLOTS.into(), Some(hint)));
    }
    if machine.systems.is_empty() {
        found.push(warning(machine, "it gets no builds: 'systems' is empty".into(), Some("name its system types")));
    }
    found
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn text(file: &str, count: usize, problems: &[Problem], daemons: &[Daemon]) -> String {
    let errors = problems.iter().filter(|problem| problem.is_error).count();
    let counts = [plural(count, "machine"), plural(errors, "error"), plural(problems.len() - errors, "warning")];
    let mut text = line(format!("{file}: {}", counts.join(", "))) + "\n";
    for Problem { is_error, text: what, hint, .. } in problems {
        let severity = if *is_error { "error" } else { "warning" };
        writeln!(text, "{}", line(format!("{severity}: {what}"))).unwrap_or_default();
        if let Some(hint) = hint {
            writeln!(text, "{}", lines::hint(hint)).unwrap_or_default();
        }
    }
    for daemon in daemons {
        writeln!(text, "{}", daemon.text()).unwrap_or_default();
    }
    if daemons.is_empty() {
        text += "no guix-daemon is seen to run, so it is not known whether it offloads through this library\n";
    }
    text
}

fn json(file: &str, count: usize, problems: &[Problem], daemons: &[Daemon]) -> String {
    let text = |text: &Option<String>| or_null(text.as_deref().map(string));
    let problem = |problem: &Problem| {
        object(&[
            ("severity", string(if problem.is_error { "error" } else { "warning" })),
            ("machine", text(&problem.machine)),
            ("text", string(&problem.text)),
            ("hint", text(&problem.hint)),
        ])
    };
    document(&[
        ("file", string(file)),
        ("machines", count.to_string()),
        ("problems", array(problems.iter().map(problem))),
        ("daemons", array(daemons.iter().map(Daemon::json))),
    ])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;
    use crate::ground::directories::tests::below;
    use crate::machine::tests::machine;

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let directories = below(root.path());
        let again = BuildMachine { systems: vec!["i686-linux".into(), "x86_64-linux".into()], ..machine("a") };
        let other_port = BuildMachine { port: 2222, systems: vec![], ..machine("a") };
        let none = BuildMachine { parallel_builds: 0, ..machine("b") };
        let machines = [machine("a"), again, other_port, none];
        drained::drain(&directories.offload_state(), &machines[3], SystemClock.since_epoch()).unwrap();
        let hint = Some("mend it".to_string());
        let known = vec![Problem { is_error: true, machine: None, text: "f:1:0: it is malformed".into(), hint }];
        let answer = check(&directories, "f", &machines, known, root.path());
        assert_eq!((answer.errors, answer.reports.len()), (2, 3));
        let expected = "f: 3 machines, 2 errors, 4 warnings\n\
                        error: f:1:0: it is malformed\nhint: mend it\n\
                        error: private key /nonexistent/key does not exist, for 'a', 'b'\nhint: create it with ";
        assert!(answer.text.starts_with(expected), "{}", answer.text);
        for part in [
            "\nwarning: machine 'a': it is listed more than once for x86_64-linux\nhint: leave one",
            "\nwarning: machine 'b': it was drained 0 s ago\nhint: to let it have builds again: ",
            "\nwarning: machine 'a': it gets no builds: 'systems' is empty\n",
            "\nwarning: machine 'b': it gets no builds: 'parallel-builds' is 0\n",
            "\nno guix-daemon is seen to run",
        ] {
            assert!(answer.text.contains(part), "{part:?} is missing in {}", answer.text);
        }
        let json = "{\"schema\": 1, \"file\": \"f\", \"machines\": 3, \"problems\": [{\"severity\": \"error\", \
                    \"machine\": null, \"text\": \"f:1:0: it is malformed\", \"hint\": \"mend it\"}, ";
        assert!(answer.json.starts_with(json) && answer.json.ends_with("\"daemons\": []}\n"), "{}", answer.json);
        let clean = check(&directories, "f", &[], Vec::new(), root.path());
        assert!(clean.errors == 0 && clean.text.starts_with("f: 0 machines, 0 errors, 0 warnings\nno guix-daemon"));
    }

    #[test]
    fn a_key_is_read_as_guix_daemons_user_needs_root() {
        assert!(geteuid().is_root(), "this test needs root");
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, "-----BEGIN EC PRIVATE KEY-----\n-----END EC PRIVATE KEY-----\n").unwrap();
        let machine = BuildMachine { private_key: key.clone(), ..machine("m") };
        let found = |mode: u32, owner: u32, daemon: Option<&Daemon>| {
            chown(&key, Some(owner), Some(33)).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            unreadable_keys(std::slice::from_ref(&machine), daemon)
        };
        let daemon = Daemon { process: 1, user: 30_001, group: 8, groups: vec![33], way: None };
        assert_eq!(found(0o600, 0, None), []);
        assert_eq!(found(0o600, 30_001, Some(&daemon)), []);
        assert_eq!(found(0o640, 0, Some(&daemon)), []);
        let problems = found(0o600, 0, Some(&daemon));
        assert!(problems.len() == 1 && problems[0].text.contains("user 30001, as whom guix-daemon runs"));
        assert!(problems[0].hint.as_ref().unwrap().contains("chown 30001"), "{problems:?}");
        assert!(geteuid().is_root() && std::fs::read(&key).is_ok(), "this process keeps its rights");
    }
}
