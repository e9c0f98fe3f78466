// SPDX-License-Identifier: GPL-3.0-or-later
use std::collections::{BTreeMap, HashSet};

use super::super::tests::entry;
use super::*;

/// A journal of three builds: one done after a failure elsewhere, one that failed, one that was given to no machine.
fn kept() -> Kept {
    let builds = vec![
        Entry { failed_before: vec!["w2".into()], ..entry(1_700_000_000, "w1", Outcome::Done) },
        entry(1_700_000_060, "w\"2\\", Outcome::BuildFailed),
        entry(1_700_000_061, "", Outcome::Cancelled),
    ];
    let mut totals = Totals { since: 1_700_000_000, ..Totals::default() };
    builds.iter().for_each(|build| totals.add(build));
    Kept { builds, totals: Some(totals) }
}

#[test]
fn builds_are_shown_a_line_each() {
    let name = format!("{}-x.drv", "a".repeat(32));
    let expected = format!(
        "\
ended                 machine  outcome       wait    send    build   retrieve  sent      received  derivation
2023-11-14T22:13:20Z  w1       done          0.01 s  0.25 s  4.00 s  0.00 s    3.00 MiB  1.00 KiB  {name}
  failed before on: w2
2023-11-14T22:14:20Z  w\"2\\     build-failed  0.01 s  0.25 s  4.00 s  0.00 s    3.00 MiB  1.00 KiB  {name}
  it \"fails\"
2023-11-14T22:14:21Z  -        cancelled     0.01 s  0.25 s  4.00 s  0.00 s    3.00 MiB  1.00 KiB  {name}
  it \"fails\"
"
    );
    assert_eq!(log_text(&kept(), 0), expected);
    assert_eq!(log_text(&kept(), 1).lines().count(), 3);
    assert_eq!(log_text(&Kept::default(), 5), "no build is recorded\n");
}

#[test]
fn totals_are_shown_a_line_a_machine() {
    let expected = "\
builds since 2023-11-14T22:13:20Z

machine  done  failed  timed out  cancelled  errors  failures  sent      received  building
-        0     0       0          1          0       0         3.00 MiB  1.00 KiB  4.00 s
w\"2\\     0     1       0          0          0       0         3.00 MiB  1.00 KiB  4.00 s
w1       1     0       0          0          0       0         3.00 MiB  1.00 KiB  4.00 s
w2       0     0       0          0          0       1         0 B       0 B       0.00 s
";
    assert_eq!(stats_text(&kept()), expected);
    assert_eq!(stats_text(&Kept::default()), "no build is recorded\n");
}

#[test]
fn nothing_in_the_file_leaves_its_line() {
    let odd = "a\u{1b}]0;title\u{7}\n\u{9b}2J\tb";
    let build = Entry {
        derivation: odd.into(),
        reason: Some(odd.into()),
        failed_before: vec![odd.into(), odd.into()],
        ..entry(1_700_000_000, odd, Outcome::HostFailed)
    };
    let mut totals = Totals::default();
    totals.add(&build);
    let kept = Kept { builds: vec![build], totals: Some(totals) };
    let (log, stats) = (log_text(&kept, 0), stats_text(&kept));
    assert_eq!((log.lines().count(), stats.lines().count()), (4, 4), "{log}{stats}");
    assert!(!(log + &stats).contains(|char: char| char.is_control() && char != '\n'));
}

#[test]
fn large_numbers_are_no_panic() {
    let mut build = entry(u64::MAX, "m", Outcome::MachineFailed);
    build.milliseconds = Phases { choose: u64::MAX, query: 1, inspect: u64::MAX, register: 1, ..Phases::default() };
    let mut totals = Totals::default();
    totals.add(&build);
    let machine = totals.machines.get_mut("m").unwrap();
    machine.machine_failures = u64::MAX;
    machine.builds = Outcome::ALL.map(|outcome| (outcome.word().to_string(), u64::MAX)).into();
    totals.add(&build);
    totals.add(&Entry { failed_before: vec!["m".into()], ..build.clone() });
    assert_eq!(
        (totals.machines["m"].count(Outcome::MachineFailed), totals.machines["m"].machine_failures),
        (u64::MAX, u64::MAX)
    );
    let kept = Kept { builds: vec![build], totals: Some(totals) };
    assert!(log_text(&kept, 0).contains("9999-12-31") && stats_text(&kept).contains(&u64::MAX.to_string()));
}

#[test]
fn programs_can_read_both() {
    let read = |text: String| -> serde_json::Value { serde_json::from_str(&text).unwrap() };
    let (log, none) = (read(log_json(&kept(), 2)), read(log_json(&Kept::default(), 0)));
    assert_eq!((&log["schema"], &log["builds"][0]["outcome"]), (&1.into(), &"build-failed".into()));
    assert_eq!((&log["builds"][1]["machine"], log["builds"].as_array().unwrap().len()), (&().into(), 2));
    assert_eq!(log["builds"][0]["milliseconds"]["build"], 4000);
    assert!(none["builds"].as_array().unwrap().is_empty());
    assert!(log_json(&kept(), 0).starts_with("{\"schema\":") && stats_json(&kept()).starts_with("{\"schema\":"));

    let (stats, none) = (read(stats_json(&kept())), read(stats_json(&Kept::default())));
    assert_eq!((&stats["since"], &stats["machines"][0]["name"]), (&1_700_000_000.into(), &().into()));
    assert_eq!((&stats["machines"][2]["name"], &stats["machines"][2]["builds"]["done"]), (&"w1".into(), &1.into()));
    assert_eq!(stats["machines"][2]["builds"].as_object().unwrap().len(), Outcome::ALL.len());
    assert_eq!(stats["machines"][3]["machineFailures"], 1);
    assert_eq!(none, serde_json::json!({"schema": 1, "since": null, "machines": []}));
}

/// The samples of a text in Prometheus's format, by name and labels.
type Samples = BTreeMap<(String, Vec<(String, String)>), f64>;

/// Reads what Prometheus reads, and refuses what its format does not allow.
fn parse(text: &str) -> Samples {
    let (mut samples, mut typed, mut helped) = (Samples::new(), BTreeMap::new(), HashSet::new());
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let mut last_family = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && !help.is_empty() && helped.insert(name.to_string()), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge"].contains(&kind) && helped.contains(name), "{line}");
            assert!(typed.insert(name.to_string(), kind.to_string()).is_none(), "{line}");
            last_family = name.to_string();
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let (name, mut rest) = line.split_at(end);
        // All samples of a family follow its type.
        assert_eq!(name, last_family, "{line}");
        assert!(typed[name] != "counter" || name.ends_with("_total"), "{line}");
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (label, after) = rest.split_once("=\"").unwrap();
                assert!(is_name(label), "{line}");
                let (mut value, mut chars) = (String::new(), after.char_indices());
                let end = loop {
                    match chars.next().unwrap() {
                        (at, '"') => break at,
                        (_, '\\') => value.push(match chars.next().unwrap().1 {
                            'n' => '\n',
                            escaped @ ('\\' | '"') => escaped,
                            other => panic!("'\\{other}' in {line}"),
                        }),
                        (_, char) => value.push(char),
                    }
                };
                labels.push((label.to_string(), value));
                rest = &after[end + 1..];
                match rest.strip_prefix(',') {
                    Some(next) => rest = next,
                    None => break,
                }
            }
            rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
        }
        let value = rest.strip_prefix(' ').unwrap().parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(samples.insert((name.to_string(), labels), value).is_none(), "twice: {line}");
    }
    samples
}

#[test]
fn prometheus_can_read_the_metrics() {
    let samples = parse(&metrics(&kept()));
    let value = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(label, value)| (label.to_string(), value.to_string())).collect();
        samples[&(format!("guix_offload_{name}"), labels)]
    };
    assert_eq!(value("journal_start_time_seconds", &[]), 1.7e9);
    assert_eq!(value("builds_total", &[("machine", "w1"), ("outcome", "done")]), 1.0);
    assert_eq!(value("builds_total", &[("machine", "w\"2\\"), ("outcome", "build-failed")]), 1.0);
    assert_eq!(value("builds_total", &[("machine", ""), ("outcome", "cancelled")]), 1.0);
    assert_eq!(value("phase_seconds_total", &[("machine", "w1"), ("phase", "send")]), 0.25);
    assert_eq!(value("machine_failures_total", &[("machine", "w2")]), 1.0);
    assert_eq!(value("sent_bytes_total", &[("machine", "w1")]), 3145728.0);
    assert_eq!(value("received_bytes_total", &[("machine", "w1")]), 1024.0);
    assert_eq!(parse(&metrics(&Kept::default())).len(), 1);
}

#[test]
fn no_counter_goes_back() {
    let mut kept = kept();
    let before = parse(&metrics(&kept));
    let more = entry(1_700_000_100, "w1", Outcome::Done);
    kept.totals.as_mut().unwrap().add(&more);
    let after = parse(&metrics(&kept));
    assert!(before.iter().all(|(sample, value)| after[sample] >= *value) && before != after);
}
