// SPDX-License-Identifier: GPL-3.0-or-later
//! Reports for people. Lines that are known from Guix, and that programs look for, are worded as in Guix.

use std::fmt::Write;

use super::{MachineState, Report};
use crate::ground::error::{self, Error, ErrorKind};
use crate::machine::suitability::{Pressure, Probe, Unsuitable};
use crate::report::lines::{self, PREFIX};
use crate::report::table::{size, table};

/// Returns the result of a test: lines for standard error.
pub fn test(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        for passed in &report.checks_passed {
            line(&mut text, passed, None);
        }
        problems(&mut text, report);
    }
    let failed = reports.iter().filter(|report| report.failure.is_some()).count();
    match (failed, reports.len()) {
        (0, 1) => line(&mut text, "the build machine is usable", None),
        (0, all) => line(&mut text, &format!("all {all} build machines are usable"), None),
        (_, 1) => line(&mut text, "error: the build machine cannot be used", None),
        (failed, all) => line(&mut text, &format!("error: {failed} of {all} build machines cannot be used"), None),
    }
    text
}

/// Returns how machines are doing: a table, then for each machine the details that the table has no room for.
pub fn status(reports: &[Report]) -> String {
    let mut rows =
        vec![["machine", "state", "slots", "load", "cores", "free space", "clock", "guix"].map(str::to_string)];
    rows.extend(reports.iter().map(row));
    let mut text = table(&rows);
    for report in reports {
        text.push('\n');
        match &report.state {
            Some(state) => details(&mut text, report, state),
            None => writeln!(text, "{}", report.machine.name).unwrap_or_default(),
        }
        let mut about = String::new();
        problems(&mut about, report);
        for line in about.lines() {
            let line = line.strip_prefix(PREFIX).unwrap_or(line);
            writeln!(text, "  {line}").unwrap_or_default();
        }
    }
    text
}

fn line(text: &mut String, message: &str, hint: Option<&str>) {
    let message = error::line(format!("{PREFIX}{message}"));
    *text += &lines::text(&[message].into_iter().chain(hint.map(lines::hint)).collect::<Vec<_>>());
}

/// Appends the notes about a machine, and its failure.
fn problems(text: &mut String, report: &Report) {
    for note in &report.notes {
        line(text, &format!("warning: {}", note.text), note.hint.as_deref());
    }
    if let Some(error) = &report.failure {
        // A daemon's complaint about a key has many lines.
        let described = lines::describe(&error.clone().on_machine(&report.machine.name));
        let message = described.split_whitespace().collect::<Vec<_>>().join(" ");
        line(text, &format!("error: {message}"), error.hint_text());
    }
}

/// Returns a word, or a few, on whether the machine gets builds.
pub fn state(report: &Report) -> &'static str {
    match (&report.state, report.unsuitable()) {
        _ if report.drained.is_some() => "drained",
        (None, _) => match report.failure.as_ref().map(Error::kind) {
            Some(ErrorKind::Configuration) => "misconfigured",
            Some(ErrorKind::Authentication) => "refused",
            Some(ErrorKind::HostKey) => "host key differs",
            Some(ErrorKind::NoGuix) => "no Guix",
            Some(ErrorKind::Unavailable | ErrorKind::Protocol) => "unreachable",
            _ => "failed",
        },
        (_, Some(Unsuitable::Overloaded { .. })) => "overloaded",
        (_, Some(Unsuitable::LowOnSpace { .. })) => "low on space",
        (_, Some(Unsuitable::ShortOfMemory { .. } | Unsuitable::TooLittleMemory { .. })) => "short of memory",
        (_, None) if report.failure.is_some() => "failed",
        (_, None) => "ready",
    }
}

fn row(report: &Report) -> [String; 8] {
    let unknown = || "-".to_string();
    let slots = match report.slots_taken {
        Some(taken) => format!("{taken}/{}", report.machine.parallel_builds),
        None => format!("?/{}", report.machine.parallel_builds),
    };
    let (name, condition) = (report.machine.name.clone(), state(report).to_string());
    let Some(MachineState { probe, survey }) = &report.state else {
        return [name, condition, slots, unknown(), unknown(), unknown(), unknown(), unknown()];
    };
    let said = |text: String, is: bool| if is { text } else { unknown() };
    [
        name,
        condition,
        slots,
        format!("{:.2}", probe.load),
        said(survey.cores.to_string(), survey.cores > 0),
        size(probe.free_space),
        probe.clock_offset.map_or_else(unknown, |offset| format!("{offset:+} s")),
        said(survey.guix_version.clone(), !survey.guix_version.is_empty()),
    ]
}

/// Appends the details of a machine, in the lines of `guix offload status` and some more.
fn details(text: &mut String, report: &Report, MachineState { probe, survey }: &MachineState) {
    let unknown = || "unknown".to_string();
    writeln!(
        text,
        "{}\n  kernel: {}\n  architecture: {}\n  host name: {}\n  normalized load: {:.2}\n  free disk space: {}\n  \
         time difference: {} s\n  available memory: {}\n  pressure of the last 10 s: {}",
        report.machine.name,
        survey.kernel,
        survey.architecture,
        survey.host_name,
        probe.load,
        size(probe.free_space),
        probe.clock_offset.map_or_else(unknown, |offset| offset.to_string()),
        match probe {
            Probe { memory: 0, .. } => unknown(),
            Probe { memory, total_memory: 0, .. } => size(*memory),
            Probe { memory, total_memory, .. } => format!("{} of {}", size(*memory), size(*total_memory)),
        },
        pressure(probe.pressure),
    )
    .unwrap_or_default();
}

/// Returns which share of the time processes waited for each resource, in words.
fn pressure(Pressure { cpu, memory, io }: Pressure) -> String {
    let share = |(name, share): (&str, Option<f64>)| share.map(|share| format!("{name} {:.0}%", share * 100.0));
    let shares: Vec<_> = [("processor", cpu), ("memory", memory), ("disk", io)].into_iter().filter_map(share).collect();
    if shares.is_empty() { "unknown".to_string() } else { shares.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choose::history::SetbackKind;
    use crate::doors::farm::tests::reports;

    #[test]
    fn a_table_has_a_row_for_every_machine_and_then_what_it_has_no_room_for() {
        let text = status(&reports());
        let expected = "\
machine  state         slots  load  cores  free space  clock  guix
good     ready         1/4    0.25  8      3.00 GiB    -3 s   1.5.0
full     low on space  0/4    0.25  8      1.00 MiB    -3 s   1.5.0
away     unreachable   ?/4    -     -      -           -      -

good
  kernel: Linux 6.1.0
  architecture: x86_64
  host name: w
  normalized load: 0.25
  free disk space: 3.00 GiB
  time difference: -3 s
  available memory: 2.00 GiB of 4.00 GiB
  pressure of the last 10 s: processor 12%, memory 0%
  warning: machine 'good' is 3 seconds behind
";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("\naway\n  error: cannot connect to 'away'\n  hint: check that it is up\n"), "{text}");
    }

    /// `docs/machines-not-used.md` explains every kind of error that is about a machine.
    #[test]
    fn the_manual_tells_of_each_reason_what_it_is() {
        const MANUAL: &str = include_str!("../../../docs/machines-not-used.md");
        let kinds = [
            ErrorKind::Unavailable,
            ErrorKind::Protocol,
            ErrorKind::Daemon,
            ErrorKind::Collected,
            ErrorKind::Configuration,
            ErrorKind::Authentication,
            ErrorKind::HostKey,
            ErrorKind::NoGuix,
            ErrorKind::Untrusted,
            ErrorKind::Internal,
        ];
        // Kinds that the manual need not have: they are not about a machine.
        let elsewhere = |kind| match kind {
            ErrorKind::InvalidArgument
            | ErrorKind::Store
            | ErrorKind::BuildFailed
            | ErrorKind::TimedOut
            | ErrorKind::Cancelled
            | ErrorKind::Exhausted => true,
            ErrorKind::Unavailable
            | ErrorKind::Protocol
            | ErrorKind::Daemon
            | ErrorKind::Collected
            | ErrorKind::Configuration
            | ErrorKind::Authentication
            | ErrorKind::HostKey
            | ErrorKind::NoGuix
            | ErrorKind::Untrusted
            | ErrorKind::Internal => false,
        };
        let word = |cell: &str| cell.trim().trim_matches('`').to_string();
        let rows: Vec<Vec<String>> = MANUAL
            .lines()
            .filter(|line| line.starts_with("| ") && line.contains(" | `"))
            .map(|line| line.trim_matches('|').split('|').map(word).collect())
            .filter(|cells: &Vec<String>| cells.len() == 4 && cells[1] != "kind")
            .collect();
        let mut told = 0;
        let mut without_error = Vec::new();
        for row in &rows {
            let [_, kind, is, says] = &row[..] else { panic!("{row:?}") };
            if kind == "-" {
                without_error.push((is.as_str(), says.as_str()));
                continue;
            }
            let kind = *kinds.iter().find(|known| format!("{known:?}") == *kind).unwrap_or_else(|| panic!("{row:?}"));
            let error = Error::new(kind, "why");
            let expected = match SetbackKind::of(&error) {
                SetbackKind::NoRoom => "passing",
                SetbackKind::Away => "away",
                SetbackKind::Misconfigured | SetbackKind::ThisHost => "misconfigured",
                SetbackKind::Drained => unreachable!("no error of a machine drains it"),
            };
            assert_eq!(is, expected, "{row:?}");
            assert_eq!(says, state(&Report { failure: Some(error), ..reports().remove(2) }), "{row:?}");
            assert!(!elsewhere(kind));
            told += 1;
        }
        assert_eq!(told, kinds.len(), "{rows:?}");
        let known = [
            ("passing", "ready"),
            ("passing", "overloaded"),
            ("passing", "low on space"),
            ("passing", "short of memory"),
            ("passing", "short of memory"), // for another build
            ("away", "drained"),
            ("away", "unreachable"), // it is being started or stopped
        ];
        assert_eq!(without_error, known);
        for class in ["passing", "away", "misconfigured"] {
            assert!(MANUAL.lines().any(|line| line.starts_with(&format!("| {class} | "))), "what doors do: {class}");
        }
    }

    #[test]
    fn a_machine_that_cannot_be_used_says_which_way() {
        for (kind, expected) in [
            (ErrorKind::Configuration, "misconfigured"),
            (ErrorKind::Authentication, "refused"),
            (ErrorKind::HostKey, "host key differs"),
            (ErrorKind::NoGuix, "no Guix"),
            (ErrorKind::Unavailable, "unreachable"),
            (ErrorKind::Protocol, "unreachable"),
            (ErrorKind::Internal, "failed"),
        ] {
            let away = reports().remove(2);
            assert_eq!(state(&Report { failure: Some(Error::new(kind, "why")), ..away }), expected);
        }
    }

    #[test]
    fn a_test_says_what_passed_and_what_failed() {
        assert_eq!(
            test(&reports()),
            "guix offload: 'good' is running GNU Guix 1.5.0\n\
             guix offload: warning: machine 'good' is 3 seconds behind\n\
             guix offload: error: cannot connect to 'away'\n\
             hint: check that it is up\n\
             guix offload: error: 1 of 3 build machines cannot be used\n"
        );
        assert_eq!(test(&reports()[1..2]), "guix offload: the build machine is usable\n");
        assert!(test(&reports()[2..]).ends_with("guix offload: error: the build machine cannot be used\n"));
    }
}
