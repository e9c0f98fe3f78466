// SPDX-License-Identifier: GPL-3.0-or-later
//! Journal and totals, for people and for programs.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::file::Kept;
use super::totals::{MachineTotals, Totals};
use super::{Entry, Outcome, Phases};
use crate::ground::error::line;
use crate::report::json::document_of;
use crate::report::table::{size, table};

/// Returns the last `count` builds, or all if that is 0: one line for each, and one for why it failed.
pub fn log_text(kept: &Kept, count: usize) -> String {
    let builds = last(kept, count);
    if builds.is_empty() {
        return "no build is recorded\n".into();
    }
    let title = ["ended", "machine", "outcome", "wait", "send", "build", "retrieve", "sent", "received", "derivation"];
    let mut rows = vec![title.map(str::to_string)];
    rows.extend(builds.iter().map(row));
    let rows = table(&rows);
    let mut text = String::new();
    for (at, row) in rows.lines().enumerate() {
        writeln!(text, "{row}").unwrap_or_default();
        let Some(build) = at.checked_sub(1).and_then(|at| builds.get(at)) else { continue };
        if !build.failed_before.is_empty() {
            writeln!(text, "  failed before on: {}", line(build.failed_before.join(", "))).unwrap_or_default();
        }
        if let Some(reason) = &build.reason {
            writeln!(text, "  {}", line(reason.clone())).unwrap_or_default();
        }
    }
    text
}

/// The file belongs to guix-daemon's user, and root reads it on a terminal: its words stay in their cells.
fn row(build: &Entry) -> [String; 10] {
    let Phases { choose, query, send, build: builds, inspect, retrieve, register } = build.milliseconds;
    let base_name = build.derivation.rsplit('/').next().unwrap_or_default();
    [
        date(build.ended),
        line(build.machine.clone().unwrap_or_else(|| "-".into())),
        build.outcome.word().into(),
        seconds(choose.saturating_add(query)),
        seconds(send),
        seconds(builds),
        seconds(inspect.saturating_add(retrieve).saturating_add(register)),
        size(build.sent),
        size(build.received),
        line(base_name.into()),
    ]
}

fn last(kept: &Kept, count: usize) -> &[Entry] {
    let count = if count == 0 { usize::MAX } else { count };
    &kept.builds[kept.builds.len().saturating_sub(count)..]
}

fn date(seconds: u64) -> String {
    // The year 9999 is the last one that can be written.
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799))).to_string()
}

fn seconds(milliseconds: u64) -> String {
    format!("{:.2} s", milliseconds as f64 / 1000.0)
}

/// Returns the last `count` builds, or all if that is 0, as a line of JSON:
///
/// ```text
/// {"schema": 1, "builds": [{"ended": SECONDS, "derivation": ..., "machine": ..., "outcome": ..., "reason": ...,
///    "failedBefore": [...], "milliseconds": {"choose": ..., ...}, "sent": BYTES, "received": BYTES}]}
/// ```
pub fn log_json(kept: &Kept, count: usize) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        builds: &'a [Entry],
    }
    document_of(&Document { builds: last(kept, count) })
}

/// Returns the totals as a table.
pub fn stats_text(kept: &Kept) -> String {
    let Some(totals) = &kept.totals else { return "no build is recorded\n".into() };
    let title =
        ["machine", "done", "failed", "timed out", "cancelled", "errors", "failures", "sent", "received", "building"];
    let mut rows = vec![title.map(str::to_string)];
    for (name, machine) in &totals.machines {
        let count = |outcome| machine.count(outcome).to_string();
        rows.push([
            if name.is_empty() { "-".into() } else { line(name.clone()) },
            count(Outcome::Done),
            count(Outcome::BuildFailed),
            count(Outcome::TimedOut),
            count(Outcome::Cancelled),
            machine.count(Outcome::MachineFailed).saturating_add(machine.count(Outcome::HostFailed)).to_string(),
            machine.machine_failures.to_string(),
            size(machine.sent),
            size(machine.received),
            seconds(machine.milliseconds.build),
        ]);
    }
    format!("builds since {}\n\n{}", date(totals.since), table(&rows))
}

/// Returns the totals as a line of JSON:
///
/// ```text
/// {"schema": 1, "since": SECONDS, "machines": [{"name": ..., "builds": {"done": ..., ...}, "machineFailures": ...,
///    "sent": BYTES, "received": BYTES, "milliseconds": {"choose": ..., ...}}]}
/// ```
///
/// `since` is null, and there are no machines, before the first build.
pub fn stats_json(kept: &Kept) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Machine<'a> {
        name: Option<&'a str>,
        builds: std::collections::BTreeMap<Outcome, u64>,
        machine_failures: u64,
        sent: u64,
        received: u64,
        milliseconds: Phases,
    }
    #[derive(Serialize)]
    struct Document<'a> {
        since: Option<u64>,
        machines: Vec<Machine<'a>>,
    }
    fn machine<'a>((name, totals): (&'a String, &MachineTotals)) -> Machine<'a> {
        let name = Some(name.as_str()).filter(|name| !name.is_empty());
        Machine {
            name,
            builds: Outcome::ALL.map(|outcome| (outcome, totals.count(outcome))).into(),
            machine_failures: totals.machine_failures,
            sent: totals.sent,
            received: totals.received,
            milliseconds: totals.milliseconds,
        }
    }
    let machines = kept.totals.iter().flat_map(|totals| totals.machines.iter().map(machine)).collect();
    document_of(&Document { since: kept.totals.as_ref().map(|totals| totals.since), machines })
}

/// Returns the totals as metrics for Prometheus, in its text format, version 0.0.4. No counter goes back, as long as
/// the journal is not removed. The label `machine` is empty for builds that were given to no machine.
pub fn metrics(kept: &Kept) -> String {
    let mut text = String::new();
    let totals = kept.totals.clone().unwrap_or_default();
    let mut family = |name: &str, kind: &str, help: &str, samples: &mut dyn FnMut(&mut String, &str)| {
        writeln!(text, "# HELP guix_offload_{name} {help}\n# TYPE guix_offload_{name} {kind}").unwrap_or_default();
        samples(&mut text, &format!("guix_offload_{name}"));
    };
    family("journal_start_time_seconds", "gauge", "When counting began, since the epoch.", &mut |text, name| {
        writeln!(text, "{name} {}", totals.since).unwrap_or_default();
    });
    family("builds_total", "counter", "Builds that ended, by what came of them.", &mut |text, name| {
        of_each(&totals, |machine, totals| {
            for outcome in Outcome::ALL {
                let (word, count) = (outcome.word(), totals.count(outcome));
                writeln!(text, "{name}{{machine=\"{machine}\",outcome=\"{word}\"}} {count}").unwrap_or_default();
            }
        });
    });
    family("phase_seconds_total", "counter", "Time that phases of builds took.", &mut |text, name| {
        of_each(&totals, |machine, totals| {
            for (phase, time) in totals.milliseconds.named() {
                let (seconds, rest) = (time / 1000, time % 1000);
                writeln!(text, "{name}{{machine=\"{machine}\",phase=\"{phase}\"}} {seconds}.{rest:03}")
                    .unwrap_or_default();
            }
        });
    });
    type Count = fn(&MachineTotals) -> u64;
    let counters: [(&str, &str, Count); 3] = [
        ("machine_failures_total", "Builds that the machine failed, by its own fault.", |totals| {
            totals.machine_failures
        }),
        ("sent_bytes_total", "Bytes of archives sent to the machine, before compression.", |totals| totals.sent),
        ("received_bytes_total", "Bytes of archives received from it, before compression.", |totals| totals.received),
    ];
    for (name, help, count) in counters {
        family(name, "counter", help, &mut |text, name| {
            of_each(&totals, |machine, totals| {
                writeln!(text, "{name}{{machine=\"{machine}\"}} {}", count(totals)).unwrap_or_default();
            });
        });
    }
    text
}

/// Calls `tell` with each machine's name, as the value of a label, and totals.
fn of_each(totals: &Totals, mut tell: impl FnMut(&str, &MachineTotals)) {
    for (name, machine) in &totals.machines {
        tell(&name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"), machine);
    }
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
