// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::super::Outcome;
use super::super::tests::entry;
use super::*;

/// A state directory to throw away.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("offload")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state().join(DIRECTORY).join(name)
    }

    fn append(&self, entry: Entry, max_size: u64) {
        append_within(&self.state(), entry, max_size, PATIENCE).unwrap();
    }

    fn done(&self) -> u64 {
        let totals = read(&self.state()).unwrap().totals.expect("there were builds");
        totals.machines.values().map(|totals| totals.count(Outcome::Done)).sum()
    }
}

#[test]
fn builds_are_kept_in_a_private_file() {
    let place = Place::new();
    let kept = read(&place.state()).unwrap();
    assert!(kept.builds.is_empty() && kept.totals.is_none());
    let builds = [entry(7, "w1", Outcome::Done), entry(8, "w2", Outcome::BuildFailed)];
    builds.iter().for_each(|build| append(&place.state(), build.clone()).unwrap());
    let kept = read(&place.state()).unwrap();
    assert_eq!(kept.builds, builds);
    assert_eq!(kept.totals.as_ref().unwrap().since, 7);
    assert_eq!(kept.totals.unwrap().machines["w2"].count(Outcome::BuildFailed), 1);
    for name in [FILE, LOCK] {
        assert_eq!(fs::metadata(place.file(name)).unwrap().permissions().mode() & 0o7777, 0o600);
    }
}

#[test]
fn it_does_not_grow_and_counts_on() {
    let place = Place::new();
    for ended in 1..=100 {
        place.append(entry(ended, "w1", Outcome::Done), 4000);
        assert_eq!(place.done(), ended, "a counter went back");
        let kept = read(&place.state()).unwrap();
        assert_eq!((kept.builds.last().unwrap().ended, kept.totals.unwrap().since), (ended, 1));
    }
    assert!([FILE, OLD].iter().all(|name| fs::metadata(place.file(name)).unwrap().len() <= 4000));
    let mut names: Vec<_> =
        fs::read_dir(place.file("")).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [FILE, OLD, LOCK]);
    let builds = read(&place.state()).unwrap().builds;
    assert!(builds.len() < 30 && builds.windows(2).all(|two| two[0].ended + 1 == two[1].ended), "{builds:?}");
}

#[test]
fn whoever_is_killed_between_two_files_loses_nothing() {
    let place = Place::new();
    (1..=3).for_each(|ended| place.append(entry(ended, "w1", Outcome::Done), MAX_SIZE));
    fs::rename(place.file(FILE), place.file(OLD)).unwrap();
    assert_eq!((place.done(), read(&place.state()).unwrap().builds.len()), (3, 3));
    place.append(entry(4, "w1", Outcome::Done), MAX_SIZE);
    assert_eq!((place.done(), read(&place.state()).unwrap().builds.len()), (4, 4));
}

#[test]
fn many_may_write_at_once() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let place = &place;
            scope.spawn(move || {
                for number in 0..50 {
                    append_within(
                        &place.state(),
                        entry(writer * 100 + number, &format!("w{writer}"), Outcome::Done),
                        5000,
                        Duration::from_secs(60),
                    )
                    .unwrap();
                    place.done(); // a reader beside them
                }
            });
        }
    });
    assert_eq!(place.done(), 400);
    let totals = read(&place.state()).unwrap().totals.unwrap();
    assert!(totals.machines.values().all(|totals| totals.count(Outcome::Done) == 50), "{totals:?}");
}

#[test]
fn damage_costs_no_more_than_the_damaged_line() {
    let place = Place::new();
    (1..=3).for_each(|ended| place.append(entry(ended, "w1", Outcome::Done), MAX_SIZE));
    let text = fs::read_to_string(place.file(FILE)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    fs::write(place.file(FILE), format!("{}\n{}\n{{\"ended\": 2\n\0\n{}", lines[0], lines[1], lines[3])).unwrap();
    let ended: Vec<u64> = read(&place.state()).unwrap().builds.iter().map(|entry| entry.ended).collect();
    assert_eq!(ended, [1, 3]);
    fs::write(place.file(FILE), [b"junk\n", lines[2].as_bytes()].concat()).unwrap();
    assert_eq!(read(&place.state()).unwrap().totals.unwrap().since, 2);
}

#[test]
fn versions_read_what_others_wrote() {
    let place = Place::new();
    place.append(entry(1, "w1", Outcome::Done), MAX_SIZE);
    let newer = r#"{"since":5,"era":2,"machines":{"w1":{"builds":{"done":7,"paused":2,"skipped":1},"heat":3}}}"#;
    let builds = r#"{"ended":9,"machine":"w1","outcome":"paused","color":"red"}"#;
    fs::write(place.file(FILE), format!("{newer}\n{builds}\n{{\"outcome\":\"done\"}}\n")).unwrap();
    let kept = read(&place.state()).unwrap();
    assert_eq!(kept.builds.iter().map(|entry| entry.outcome).collect::<Vec<_>>(), [Outcome::Unknown, Outcome::Done]);
    let totals = kept.totals.unwrap();
    assert_eq!((totals.since, totals.machines["w1"].count(Outcome::Done)), (5, 7));
    assert_eq!((totals.machines["w1"].count(Outcome::Unknown), totals.machines[""].count(Outcome::Done)), (4, 1));

    place.append(entry(10, "w1", Outcome::Done), 1); // the next file
    let text = fs::read_to_string(place.file(FILE)).unwrap();
    assert!(text.contains(r#""paused":2,"skipped":1"#), "{text}");
}

#[test]
fn totals_that_cannot_be_read_are_not_replaced() {
    let place = Place::new();
    (1..=3).for_each(|ended| place.append(entry(ended, "w1", Outcome::Done), MAX_SIZE));
    place.append(entry(4, "w1", Outcome::Done), 1); // the next file
    let damage = |name: &str| {
        let text = fs::read_to_string(place.file(name)).unwrap();
        let damaged = format!("{{\"since\": [\n{}", text.split_once('\n').unwrap().1);
        fs::write(place.file(name), &damaged).unwrap();
        damaged
    };
    damage(FILE);
    assert_eq!(place.done(), 4, "the file before has what was in the first line");
    place.append(entry(5, "w1", Outcome::Done), 1);
    assert_eq!(place.done(), 5);

    let damaged = [FILE, OLD].map(|name| (name, damage(name)));
    let error = append_within(&place.state(), entry(6, "w1", Outcome::Done), 1, PATIENCE).unwrap_err();
    assert!(error.to_string().contains("the first line of 'builds'"), "{error}");
    fs::remove_file(place.file(FILE)).unwrap();
    let error = append(&place.state(), entry(6, "w1", Outcome::Done)).unwrap_err();
    assert!(error.to_string().contains("the first line of 'builds.old'"), "{error}");
    assert_eq!(fs::read_to_string(place.file(OLD)).unwrap(), damaged[1].1);
}

#[test]
fn a_file_that_a_crash_emptied_is_begun_anew() {
    let place = Place::new();
    (1..=3).for_each(|ended| place.append(entry(ended, "w1", Outcome::Done), MAX_SIZE));
    fs::rename(place.file(FILE), place.file(OLD)).unwrap();
    fs::write(place.file(FILE), "").unwrap();
    assert_eq!(place.done(), 3);
    (4..=5).for_each(|ended| place.append(entry(ended, "w1", Outcome::Done), MAX_SIZE));
    assert_eq!(place.done(), 5);
}

#[test]
fn one_file_under_both_names_is_an_error() {
    let place = Place::new();
    place.append(entry(1, "w1", Outcome::Done), MAX_SIZE);
    fs::hard_link(place.file(FILE), place.file(OLD)).unwrap();
    let error = read(&place.state()).unwrap_err();
    assert!(error.to_string().contains("are the same file"), "{error}");
}

#[test]
fn a_long_reason_is_cut() {
    let place = Place::new();
    let reason = |text: &str| Entry { reason: Some(text.repeat(3000)), ..entry(1, "w1", Outcome::HostFailed) };
    place.append(reason("\u{e9}"), MAX_SIZE);
    place.append(reason("\u{1}"), MAX_SIZE); // six characters each, as JSON has it
    let text = fs::read_to_string(place.file(FILE)).unwrap();
    assert!(text.lines().all(|line| line.len() < MAX_LINE));
    let builds = read(&place.state()).unwrap().builds;
    assert_eq!(builds[0].reason.as_deref(), Some(&*"\u{e9}".repeat(MAX_REASON / 2)));
    assert_eq!((builds[1].reason.as_deref(), builds.len()), (None, 2));
}

#[test]
fn no_link_is_followed_and_nobody_is_waited_for_too_long() {
    let place = Place::new();
    place.append(entry(1, "w1", Outcome::Done), MAX_SIZE);
    let elsewhere = place.0.path().join("elsewhere");
    fs::rename(place.file(FILE), &elsewhere).unwrap();
    symlink(&elsewhere, place.file(FILE)).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    let error = append(&place.state(), entry(2, "w1", Outcome::Done)).unwrap_err();
    assert!(error.to_string().contains("links are not followed"), "{error}");
    assert!(read(&place.state()).unwrap_err().to_string().contains("links are not followed"));
    assert_eq!(fs::read(&elsewhere).unwrap(), before);

    fs::remove_file(place.file(FILE)).unwrap();
    let directory = StateDir::named(&place.state(), DIRECTORY).open().unwrap();
    let _held = locked(&directory, Duration::ZERO).unwrap();
    let begun = Instant::now();
    let patience = Duration::from_millis(100);
    append_within(&place.state(), entry(3, "w1", Outcome::Done), MAX_SIZE, patience).unwrap_err();
    assert!(begun.elapsed() >= patience);
}
