// SPDX-License-Identifier: GPL-3.0-or-later
//! Reports for programs, in JSON (RFC 8259):
//!
//! ```text
//! {"schema": 1,
//!  "machines": [{"name": ..., "port": ..., "user": ..., "systems": [...], "features": [...], "slots": ...,
//!                "slotsTaken": ..., "drained": ..., "state": ..., "reachable": ..., "load": ..., "cores": ...,
//!                "freeSpace": BYTES, "availableMemory": BYTES, "memory": BYTES,
//!                "pressure": {"cpu": SHARE, "memory": SHARE, "io": SHARE},
//!                "clockDifference": SECONDS, "guixVersion": ..., "kernel": ..., "architecture": ..., "hostName": ...,
//!                "passed": [...], "notes": [{"text": ..., "hint": ...}],
//!                "error": {"text": ..., "hint": ...}}],
//!  "keeper": see [`crate::doors::keeper::report`]}
//! ```
//!
//! Every key is always there; what is not known is `null`. Keys may be added. A SHARE is the share of the last ten
//! seconds in which a process waited for that resource, from 0 to 1.

use super::{Report, text};
use crate::doors::keeper::activity::KeeperReport;
use crate::machine::suitability::Pressure;
use crate::report::json::{array, document, object, or_null, remark, string};

/// Returns all reports, and the keeper's, in one line that ends with a newline.
pub fn report(reports: &[Report], keeper: Option<&KeeperReport>) -> String {
    let machines: Vec<String> = reports.iter().map(machine).collect();
    let keeper = or_null(keeper.map(KeeperReport::json));
    document(&[("machines", array(machines)), ("keeper", keeper)])
}

fn machine(report: &Report) -> String {
    let Report { machine, state, .. } = report;
    let probe = state.as_ref().map(|state| &state.probe);
    let survey = state.as_ref().map(|state| &state.survey);
    let said = |text: Option<&String>| text.filter(|text| !text.is_empty()).map(|text| string(text));
    let bytes = |known: Option<u64>| known.filter(|bytes| *bytes > 0).map(|bytes| bytes.to_string());
    object(&[
        ("name", string(&machine.name)),
        ("port", machine.port.to_string()),
        ("user", string(&machine.user)),
        ("systems", array(machine.systems.iter().map(|text| string(text)))),
        ("features", array(machine.features.iter().map(|text| string(text)))),
        ("slots", machine.parallel_builds.to_string()),
        ("slotsTaken", or_null(report.slots_taken.map(|taken| taken.to_string()))),
        ("drained", report.drained.is_some().to_string()),
        ("state", string(text::state(report))),
        ("reachable", state.is_some().to_string()),
        ("load", or_null(probe.map(|probe| probe.load.to_string()))),
        ("cores", or_null(survey.filter(|survey| survey.cores > 0).map(|survey| survey.cores.to_string()))),
        ("freeSpace", or_null(probe.map(|probe| probe.free_space.to_string()))),
        ("availableMemory", or_null(bytes(probe.map(|probe| probe.memory)))),
        ("memory", or_null(bytes(probe.map(|probe| probe.total_memory)))),
        ("pressure", or_null(probe.map(|probe| pressure(probe.pressure)))),
        ("clockDifference", or_null(probe.and_then(|probe| probe.clock_offset).map(|offset| offset.to_string()))),
        ("guixVersion", or_null(said(survey.map(|survey| &survey.guix_version)))),
        ("kernel", or_null(said(survey.map(|survey| &survey.kernel)))),
        ("architecture", or_null(said(survey.map(|survey| &survey.architecture)))),
        ("hostName", or_null(said(survey.map(|survey| &survey.host_name)))),
        ("passed", array(report.checks_passed.iter().map(|text| string(text)))),
        ("notes", array(report.notes.iter().map(|note| remark(&note.text, note.hint.as_deref())))),
        ("error", or_null(report.failure.as_ref().map(|error| remark(&error.to_string(), error.hint_text())))),
    ])
}

fn pressure(Pressure { cpu, memory, io }: Pressure) -> String {
    let share = |share: Option<f64>| or_null(share.map(|share| share.to_string()));
    object(&[("cpu", share(cpu)), ("memory", share(memory)), ("io", share(io))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::farm::tests::reports;

    /// Python reads it, and finds what was put in.
    #[test]
    fn programs_can_read_it() {
        const SCRIPT: &str = "
import json, sys
said = json.load(sys.stdin)
assert list(said)[0] == 'schema' and said['schema'] == 1
good, full, away = said['machines']
assert good['name'] == 'good' and good['slotsTaken'] == 1 and good['slots'] == 4 and good['load'] == 0.25
assert good['freeSpace'] == 3 << 30 and good['clockDifference'] == -3 and good['guixVersion'] == '1.5.0'
assert good['state'] == 'ready' and full['state'] == 'low on space' and good['error'] is None
assert good['availableMemory'] == 2 << 30 and good['memory'] == 4 << 30 and away['pressure'] is None
assert good['pressure'] == {'cpu': 0.125, 'memory': 0, 'io': None}
assert good['notes'] == [{'text': \"machine 'good' is 3 seconds behind\", 'hint': None}]
assert away['reachable'] is False and away['load'] is None and away['slotsTaken'] is None
assert away['error'] == {'text': \"cannot connect to 'away'\", 'hint': 'check that it is up'}
assert good.keys() == away.keys()
";
        use std::io::Write;
        let mut python = std::process::Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is needed to read JSON");
        python.stdin.take().unwrap().write_all(report(&reports(), None).as_bytes()).unwrap();
        assert!(python.wait().unwrap().success());
    }
}
