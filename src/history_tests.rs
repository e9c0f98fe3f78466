// SPDX-License-Identifier: GPL-3.0-or-later
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::machine::tests::machine;

/// A machine with a directory in a state directory to throw away.
fn scene() -> (tempfile::TempDir, BuildMachine) {
    let (state, machine) = (tempfile::tempdir().unwrap(), machine("m"));
    Directory::of_machine(state.path(), &machine).create().unwrap();
    (state, machine)
}

fn failure(text: &str) -> Error {
    Error::new(ErrorKind::Unavailable, text)
}

#[test]
fn a_load_is_forgotten_after_a_minute() {
    let recent = History::parse(&format!("load 0.25 {}\n", now() - 5));
    assert_eq!(recent.recent_load(), Some(0.25));
    assert_eq!(History::parse(&format!("load 0.25 {}\n", now() - 61)).recent_load(), None);
}

#[test]
fn the_back_off_grows_and_ends_but_not_for_want_of_room() {
    let left_alone = |kind: &str, count: u32, ago: u64| {
        History::parse(&format!("setback {kind} {count} {} 7\n", now() - ago)).setback(7).is_some()
    };
    for kind in ["away", "misconfigured"] {
        assert!(left_alone(kind, 1, 1) && !left_alone(kind, 1, 6));
        assert!(left_alone(kind, 3, 15) && !left_alone(kind, 3, 21));
        assert!(left_alone(kind, u32::MAX, 50) && !left_alone(kind, u32::MAX, 61));
    }
    assert!(left_alone("no-room", 9, 1) && !left_alone("no-room", 9, 6));
}

#[test]
fn a_setback_is_remembered_with_its_reason_until_the_machine_answers() {
    let (state, machine) = scene();
    let reason = Error::new(ErrorKind::Authentication, "its host key differs").hint("look at 'it'").on_machine("m");
    for count in 1..=3 {
        History::note_setback(state.path(), &machine, 7, SetbackKind::Misconfigured, &reason);
        let history = History::read(state.path(), &machine);
        let setback = history.setback(7).unwrap();
        assert_eq!((setback.kind, setback.count), (SetbackKind::Misconfigured, count));
        assert_eq!(setback.reason.kind(), ErrorKind::Authentication);
        assert_eq!(setback.reason.to_string(), reason.to_string());
        assert_eq!(setback.reason.hint_text(), Some("look at 'it'"));
    }
    History::note_setback(state.path(), &machine, 7, SetbackKind::Away, &failure("gone"));
    assert_eq!(History::read(state.path(), &machine).setback(7).unwrap().count, 1, "of another kind");
    History::note_answer(state.path(), &machine, 0.5, None);
    assert!(History::read(state.path(), &machine).setback(7).is_none());
}

#[test]
fn a_machine_that_is_configured_otherwise_is_tried_again_at_once() {
    let (state, mut machine) = scene();
    let (key, acl) = (state.path().join("key"), state.path().join("acl"));
    machine.private_key.clone_from(&key);
    let mut seen = vec![mark(&machine, &acl)];
    std::fs::write(&key, "one").unwrap();
    seen.push(mark(&machine, &acl));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    seen.push(mark(&machine, &acl));
    std::fs::write(&acl, "(acl)").unwrap();
    seen.push(mark(&machine, &acl));
    machine.user = "other".into();
    seen.push(mark(&machine, &acl));
    assert_eq!(mark(&machine, &acl), seen[4]);
    for (index, one) in seen.iter().enumerate() {
        assert!(!seen[..index].contains(one), "change {index} made no difference");
    }
    History::note_setback(state.path(), &machine, seen[0], SetbackKind::Misconfigured, &failure("x"));
    let history = History::read(state.path(), &machine);
    assert!(history.setback(seen[0]).is_some() && history.setback(seen[1]).is_none());
}

#[test]
fn who_never_answers_is_left_alone_and_who_is_far_away_is_not() {
    let (state, machine) = scene();
    let unanswered = |ms| {
        let reason = failure("it has not answered");
        History::note_unanswered(state.path(), &machine, 7, Duration::from_millis(ms), &reason);
        History::read(state.path(), &machine).setback(7).is_some()
    };
    assert!(!unanswered(300));
    assert!(unanswered(300));
    History::note_answer(state.path(), &machine, 0.5, Some(Duration::from_millis(2000)));
    for _ in 0..5 {
        assert!(!unanswered(3000), "it takes two seconds to answer");
    }
    assert!(!unanswered(5000) && unanswered(5000));
}

#[test]
fn a_slow_link_is_remembered_for_an_hour_whatever_else_happens() {
    let (state, machine) = scene();
    History::note_slow_link(state.path(), &machine, 12.5e6);
    History::note_setback(state.path(), &machine, 7, SetbackKind::Away, &failure("gone"));
    assert!(History::read(state.path(), &machine).setback(7).is_some());
    History::note_answer(state.path(), &machine, 0.5, None);
    assert_eq!(History::read(state.path(), &machine).slow_link(), Some(12.5e6));
    assert_eq!(History::parse(&format!("slow 12500000 {}\n", now() - 3601)).slow_link(), None);
}

#[test]
fn builds_take_as_long_as_the_last_ones_did() {
    let (state, machine) = scene();
    let noted = |seconds| {
        History::note_build(state.path(), &machine, Duration::from_secs(seconds));
        History::read(state.path(), &machine).build_time().unwrap().as_secs()
    };
    assert_eq!(History::read(state.path(), &machine).build_time(), None);
    assert_eq!((noted(1000), noted(500)), (1000, 750));
    let times: Vec<_> = (0..BUILDS).map(|_| noted(2)).collect();
    assert_eq!(times[BUILDS - 1], 2);
    assert_eq!(History::parse(&format!("took {} 100\n", now() - 90_000)).build_time(), None);
}

#[test]
fn what_many_note_at_once_is_not_lost() {
    let (state, machine) = scene();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    History::note_setback(state.path(), &machine, 7, SetbackKind::Away, &failure("gone"));
                }
            });
        }
    });
    assert_eq!(History::read(state.path(), &machine).setback.unwrap().count, 40);
    let left = std::fs::read_dir(Directory::of_machine(state.path(), &machine).path("")).unwrap().count();
    assert_eq!(left, 2, "the history and its lock");
}

#[test]
fn the_file_is_private_and_a_link_in_its_place_is_not_followed() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().join("offload");
    let machine = machine("m");
    let directory = Directory::of_machine(&state, &machine);
    directory.create().unwrap();
    History::note_answer(&state, &machine, 0.5, None);
    assert_eq!(History::read(&state, &machine).recent_load(), Some(0.5));
    let mode = std::fs::metadata(directory.path(NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    let other = state.join("other");
    std::fs::rename(directory.path(NAME), &other).unwrap();
    symlink(&other, directory.path(NAME)).unwrap();
    assert_eq!(History::read(&state, &machine).recent_load(), None);
    History::note_answer(&state, &machine, 0.75, None);
    assert!(std::fs::read_to_string(&other).unwrap().starts_with("load 0.5 "));
}

#[test]
fn a_text_of_any_length_is_remembered_in_part() {
    let (state, machine) = scene();
    let reason = failure(&"ä".repeat(5000)).hint("h".repeat(5000));
    History::note_setback(state.path(), &machine, 7, SetbackKind::Away, &reason);
    let history = History::read(state.path(), &machine);
    let reason = &history.setback(7).unwrap().reason;
    assert_eq!((reason.to_string().len(), reason.hint_text().unwrap().len()), (MAX_TEXT, MAX_TEXT));
}

#[test]
fn damage_is_ignorance() {
    for text in [
        "",
        "load",
        "load x 1",
        "load NaN 1",
        "slow NaN 1",
        "slow 1",
        "\0\0",
        "setback away 0 1 1",
        "setback away -1 1 1",
        "setback x 1 1 1",
        "reason unavailable x",
        "hint x",
        "took",
        "took 1",
        "took 1 x",
        "answered x",
        "unanswered x",
    ] {
        assert_eq!(History::parse(text).text(), "", "{text:?}");
    }
}

#[test]
fn the_address_that_answered_is_remembered() {
    let (state, machine) = scene();
    for address in [Some("10.0.0.1".parse().unwrap()), Some("fe80::1".parse().unwrap()), None] {
        History::note_address(state.path(), &machine, address);
        History::note_answer(state.path(), &machine, 0.5, None);
        assert_eq!(History::read(state.path(), &machine).address(), address);
    }
}
