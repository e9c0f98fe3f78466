// SPDX-License-Identifier: GPL-3.0-or-later
//! The table that is printed in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::run::Report;

/// What came of the runs of one fault.
#[derive(Default)]
pub struct Row {
    pub runs: usize,
    pub breaches: usize,
    /// How often a store was found whole.
    verified: usize,
    noticed: Option<Duration>,
    outcomes: BTreeMap<&'static str, usize>,
}

impl Row {
    pub fn note(&mut self, report: &Report) {
        self.verified += report.stores;
        self.noticed = self.noticed.max(report.noticed);
        *self.outcomes.entry(report.outcome).or_default() += 1;
    }
}

/// The table, in Markdown.
pub fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a Row)>) -> String {
    let mut lines = vec!["| fault | runs | breaches | stores found whole | noticed within | outcome |".to_string()];
    lines.push("|---|---|---|---|---|---|".to_string());
    for (name, row) in rows {
        let outcomes: Vec<String> = row.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let noticed = row.noticed.map_or("-".into(), |time| format!("{:.1} s", time.as_secs_f64()));
        let Row { runs, breaches, verified, .. } = row;
        lines.push(format!("| {name} | {runs} | {breaches} | {verified} | {noticed} | {} |", outcomes.join(", ")));
    }
    lines.join("\n") + "\n"
}
