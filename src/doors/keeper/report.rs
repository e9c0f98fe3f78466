// SPDX-License-Identifier: GPL-3.0-or-later
//! What a keeper is doing, for people and, in JSON, for programs:
//!
//! ```text
//! {"process": ..., "version": ..., "seconds": ...,
//!  "builds": [{"derivation": ..., "phase": ..., "machine": ..., "seconds": ..., "phaseSeconds": ...,
//!              "bytes": ..., "bytesInAll": ..., "candidates": [...]}],
//!  "leftAlone": [{"machine": ..., "seconds": ..., "error": {"text": ..., "hint": ...}}]}
//! ```
//!
//! Every key is always there; what is not known is `null`. Keys may be added.

use std::time::Duration;

use super::activity::{BuildReport, KeeperReport, LeftAlone, Phase};
use crate::ground::error::line;
use crate::report::json::{array, object, or_null, remark, string};
use crate::report::lines;
use crate::report::table::table;

/// Returns a report for people.
pub fn text(keeper: Option<&KeeperReport>) -> String {
    let Some(keeper) = keeper else { return "no keeper is running\n".into() };
    let KeeperReport { process, version, builds, .. } = keeper;
    let builds_in_all = match builds.len() {
        0 => "no build".into(),
        1 => "1 build".into(),
        count => format!("{count} builds"),
    };
    let mut text = format!("keeper {process}, version {version}, runs for {}: {builds_in_all}\n", seconds(keeper.age));
    if !builds.is_empty() {
        text.push('\n');
        let mut rows = vec![["build", "since", "phase", "since", "machine", "moved"].map(str::to_string)];
        rows.extend(builds.iter().map(row));
        text += &table(&rows);
    }
    for LeftAlone { machine, reason, time } in &keeper.left_alone {
        text += "\n";
        let how_long =
            time.map_or_else(|| "until it is resumed".into(), |time| format!("for another {}", seconds(time)));
        text += &line(format!("{machine} is left alone {how_long}: {}", lines::describe(reason)));
        text += "\n";
        text += &reason.hint_text().map(|hint| line(format!("  hint: {hint}")) + "\n").unwrap_or_default();
    }
    text
}

fn row(build: &BuildReport) -> [String; 6] {
    let none = || "-".to_string();
    let machine = match (&build.machine, build.phase) {
        (Some(machine), _) => machine.clone(),
        (None, Phase::Waiting) => match &build.candidates[..] {
            [only] => only.clone(),
            several => format!("one of {}", several.join(", ")),
        },
        (None, _) => none(),
    };
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let moved = |(bytes, all)| format!("{:.1} of {:.1} MiB", mib(bytes), mib(all));
    [
        build.derivation.as_str().into(),
        seconds(build.age),
        build.phase.word().into(),
        seconds(build.phase_age),
        line(machine),
        build.bytes.map_or_else(none, moved),
    ]
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

impl KeeperReport {
    /// Returns a report for programs: a JSON object.
    pub fn json(&self) -> String {
        let whole = |time: Duration| time.as_secs().to_string();
        let build = |build: &BuildReport| {
            object(&[
                ("derivation", string(build.derivation.as_str())),
                ("phase", string(build.phase.word())),
                ("machine", or_null(build.machine.as_deref().map(string))),
                ("seconds", whole(build.age)),
                ("phaseSeconds", whole(build.phase_age)),
                ("bytes", or_null(build.bytes.map(|(moved, _)| moved.to_string()))),
                ("bytesInAll", or_null(build.bytes.map(|(_, all)| all.to_string()))),
                ("candidates", array(build.candidates.iter().map(|name| string(name)))),
            ])
        };
        let left_alone = |LeftAlone { machine, reason, time }: &LeftAlone| {
            let error = remark(&reason.to_string(), reason.hint_text());
            object(&[("machine", string(machine)), ("seconds", or_null(time.map(whole))), ("error", error)])
        };
        object(&[
            ("process", self.process.to_string()),
            ("version", string(&self.version)),
            ("seconds", whole(self.age)),
            ("builds", array(self.builds.iter().map(build))),
            ("leftAlone", array(self.left_alone.iter().map(left_alone))),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::keeper::activity::Activity;
    use crate::doors::keeper::activity::tests::derivation;
    use crate::ground::error::{Error, ErrorKind};
    use crate::report::Event;

    fn report() -> KeeperReport {
        let mut waiting = Activity::new(derivation(), vec!["w1".into(), "w2".into()]);
        waiting.note(&Event::Queued { away: false });
        let mut sending = Activity::new(derivation(), vec!["w1".into()]);
        sending.note(&Event::Chosen { machine: "w1" });
        sending.note(&Event::Sending { machine: "w1", items: 1, bytes: 3 << 20 });
        sending.note(&Event::Transferred { bytes: 1 << 20 });
        let reason = Error::new(ErrorKind::Unavailable, "cannot connect to 'w3'").hint("check\nthat").on_machine("w3");
        KeeperReport {
            process: 42,
            version: "1.2".into(),
            age: Duration::from_secs(7),
            builds: vec![sending.report(), waiting.report()],
            left_alone: vec![LeftAlone { machine: "w3".into(), reason, time: Some(Duration::from_secs(5)) }],
        }
    }

    #[test]
    fn people_see_what_is_where_and_what_waits_for_what() {
        let drv = format!("/gnu/store/{}-x.drv", "a".repeat(32));
        let expected = format!(
            "keeper 42, version 1.2, runs for 7 s: 2 builds\n\n\
             build{:46}since  phase    since  machine        moved\n\
             {drv}  0 s    sending  0 s    w1             1.0 of 3.0 MiB\n\
             {drv}  0 s    waiting  0 s    one of w1, w2  -\n\n\
             w3 is left alone for another 5 s: cannot connect to 'w3'\n  hint: check that\n",
            ""
        );
        assert_eq!(text(Some(&report())), expected);
        assert_eq!(text(None), "no keeper is running\n");
        let idle = KeeperReport { builds: vec![], left_alone: vec![], ..report() };
        assert_eq!(text(Some(&idle)), "keeper 42, version 1.2, runs for 7 s: no build\n");
    }

    #[test]
    fn programs_see_the_same() {
        let drv = format!("\"derivation\": \"/gnu/store/{}-x.drv\"", "a".repeat(32));
        let reason = "{\"text\": \"cannot connect to 'w3'\", \"hint\": \"check that\"}";
        let expected = format!(
            "{{\"process\": 42, \"version\": \"1.2\", \"seconds\": 7, \"builds\": [\
             {{{drv}, \"phase\": \"sending\", \"machine\": \"w1\", \"seconds\": 0, \"phaseSeconds\": 0, \
             \"bytes\": 1048576, \"bytesInAll\": 3145728, \"candidates\": [\"w1\"]}}, \
             {{{drv}, \"phase\": \"waiting\", \"machine\": null, \"seconds\": 0, \"phaseSeconds\": 0, \
             \"bytes\": null, \"bytesInAll\": null, \"candidates\": [\"w1\", \"w2\"]}}], \
             \"leftAlone\": [{{\"machine\": \"w3\", \"seconds\": 5, \"error\": {reason}}}]}}"
        );
        assert_eq!(report().json(), expected);
    }
}
