// SPDX-License-Identifier: GPL-3.0-or-later
//! `guix offload drain`, `resume` and `drained`: which machines get no new builds, as an administrator says.
//!
//! The report for programs:
//!
//! ```text
//! {"schema": 1, "machines": [{"name": ..., "port": ..., "drained": ..., "drainedFor": SECONDS, "slots": ...,
//!                             "slotsTaken": ...}]}
//! ```
//!
//! Every key is always there; what is not known is `null`.

use super::{Report, distinct};
use crate::choose::drained;
use crate::ground::clock::{Clock, SystemClock};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result, line};
use crate::machine::BuildMachine;
use crate::report::json::{array, document, object, or_null, string};
use crate::report::table::table;

/// What was done, for people and for programs, and the machines that it is about.
pub struct Answer {
    /// The machines.
    pub reports: Vec<Report>,
    /// Lines for people.
    pub text: String,
    /// A line for programs.
    pub json: String,
}

/// Drains the machine of `machines` that is called `name`: see [`named`].
pub fn drain(directories: &Directories, machines: &[BuildMachine], name: &str) -> Result<Answer> {
    let machine = named(machines, name)?;
    let fresh = drained::drain(&directories.offload_state(), machine, SystemClock.since_epoch())?;
    let report = Report::new(machine.clone(), directories);
    let builds = match report.slots_taken {
        Some(0) => "it has none now".into(),
        Some(1) => "one is still there, and goes on".into(),
        Some(count) => format!("{count} are still there, and go on"),
        None => "those that it has go on".into(),
    };
    let so = if fresh { "gets" } else { "was drained before, and gets" };
    Ok(answer(vec![report], line(format!("'{}' {so} no new builds; {builds}", machine.name)) + "\n"))
}

/// Lets the machine of `machines` that is called `name` have builds again: see [`named`].
pub fn resume(directories: &Directories, machines: &[BuildMachine], name: &str) -> Result<Answer> {
    let machine = named(machines, name)?;
    let text = match drained::resume(&directories.offload_state(), machine)? {
        true => "gets builds again",
        false => "was not drained",
    };
    let text = line(format!("'{}' {text}", machine.name)) + "\n";
    Ok(answer(vec![Report::new(machine.clone(), directories)], text))
}

/// Returns which of `machines` are drained.
pub fn list(directories: &Directories, machines: &[BuildMachine]) -> Answer {
    let reports = distinct(machines).into_iter().map(|machine| Report::new(machine.clone(), directories));
    let reports: Vec<_> = reports.filter(|report| report.drained.is_some()).collect();
    let text = match reports.is_empty() {
        true => "no machine is drained\n".into(),
        false => {
            let row = |report: &Report| {
                let since = report.drained.map(|seconds| format!("{} ago", drained::age(seconds)));
                let taken = report.slots_taken.map_or_else(|| "?".into(), |taken| taken.to_string());
                let slots = format!("{taken}/{}", report.machine.parallel_builds);
                [line(report.machine.label()), since.unwrap_or_default(), slots]
            };
            let mut rows = vec![["machine", "drained", "slots"].map(str::to_string)];
            rows.extend(reports.iter().map(row));
            table(&rows)
        }
    };
    answer(reports, text)
}

fn answer(reports: Vec<Report>, text: String) -> Answer {
    let machine = |report: &Report| {
        object(&[
            ("name", string(&report.machine.name)),
            ("port", report.machine.port.to_string()),
            ("drained", report.drained.is_some().to_string()),
            ("drainedFor", or_null(report.drained.map(|seconds| seconds.to_string()))),
            ("slots", report.machine.parallel_builds.to_string()),
            ("slotsTaken", or_null(report.slots_taken.map(|taken| taken.to_string()))),
        ])
    };
    let json = document(&[("machines", array(reports.iter().map(machine)))]);
    Answer { reports, text, json }
}

/// Returns the machine that is called `name`, or `NAME:PORT` if several ports of a host are machines. Fails with
/// [`ErrorKind::InvalidArgument`], and with the names that there are, if that is none or several.
pub fn named<'a>(machines: &'a [BuildMachine], name: &str) -> Result<&'a BuildMachine> {
    let all = distinct(machines);
    let labels = |machines: &[&BuildMachine]| match machines {
        [] => "none".to_string(),
        _ => machines.iter().map(|machine| machine.label()).collect::<Vec<_>>().join(", "),
    };
    let found: Vec<_> = all.iter().copied().filter(|machine| machine.label() == name || machine.name == name).collect();
    match found[..] {
        [machine] => Ok(machine),
        [] => Err(Error::new(ErrorKind::InvalidArgument, format!("there is no build machine '{}'", line(name.into())))
            .hint(format!("the machine file has these: {}", labels(&all)))),
        _ => Err(Error::new(ErrorKind::InvalidArgument, format!("'{}' is several build machines", line(name.into())))
            .hint(format!("name one with its port: {}", labels(&found)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::farm::text::state;
    use crate::ground::directories::tests::below;

    #[test]
    fn a_machine_is_named_as_in_the_machine_file() {
        let on = |name: &str, port| BuildMachine { port, ..crate::machine::tests::machine(name) };
        let for_other_system = BuildMachine { systems: vec!["i686-linux".into()], ..on("w1", 22) };
        let machines = [on("w1", 22), on("w2", 22), on("w2", 2222), on("::1", 22), for_other_system];
        for (name, index) in [("w1", 0), ("w1:22", 0), ("w2:22", 1), ("w2:2222", 2), ("::1", 3), ("::1:22", 3)] {
            assert_eq!(named(&machines, name).unwrap(), &machines[index], "{name}");
        }
        for (name, message, hint) in [
            ("w2", "'w2' is several build machines", "name one with its port: w2:22, w2:2222"),
            ("w", "no build machine 'w'", "the machine file has these: w1:22, w2:22, w2:2222, ::1:22"),
            ("", "no build machine ''", "the machine file has these: "),
            ("../w1", "no build machine '../w1'", "the machine file has these: "),
        ] {
            let error = named(&machines, name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(message) && error.hint_text().unwrap().starts_with(hint), "{error:?}");
        }
        assert!(named(&[], "w1").unwrap_err().hint_text().unwrap().ends_with(": none"));
    }

    #[test]
    fn what_is_drained_says_so_until_it_is_resumed() {
        let root = tempfile::tempdir().unwrap();
        let (directories, machines) = (below(root.path()), ["a", "b"].map(crate::machine::tests::machine));
        assert_eq!(list(&directories, &machines).text, "no machine is drained\n");
        let answer = drain(&directories, &machines, "b").unwrap();
        assert_eq!(answer.text, "'b' gets no new builds; it has none now\n");
        assert!(drain(&directories, &machines, "b").unwrap().text.starts_with("'b' was drained before, and gets no"));
        assert_eq!((answer.reports.len(), state(&answer.reports[0])), (1, "drained"));
        let listed = list(&directories, &machines);
        let lines: Vec<_> = listed.text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!((lines[0].join(" "), lines.len()), ("machine drained slots".into(), 2));
        assert!(lines[1][0] == "b:22" && lines[1].ends_with(&["ago", "0/1"]), "{}", listed.text);
        let json = "{\"schema\": 1, \"machines\": [{\"name\": \"b\", \"port\": 22, \"drained\": true, \"drainedFor\": ";
        assert!(listed.json.starts_with(json), "{}", listed.json);
        assert_eq!(resume(&directories, &machines, "b").unwrap().text, "'b' gets builds again\n");
        assert_eq!(resume(&directories, &machines, "b").unwrap().text, "'b' was not drained\n");
        assert_eq!(list(&directories, &machines).json, "{\"schema\": 1, \"machines\": []}\n");
    }
}
