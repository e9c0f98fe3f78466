// SPDX-License-Identifier: GPL-3.0-or-later
use std::os::unix::fs::{PermissionsExt, symlink};

use super::file::MAX_TEXT;
use super::*;
use crate::ground::clock::tests::TurnedClock;
use crate::machine::tests::machine;

/// A host with a temporary state directory.
struct Scene {
    histories: Histories,
    clock: Arc<TurnedClock>,
    root: tempfile::TempDir,
}

/// Makes the host, and a machine that has a directory there.
fn scene() -> (Scene, BuildMachine) {
    let (root, clock, machine) = (tempfile::tempdir().unwrap(), TurnedClock::new(), machine("m"));
    let at = |name: &str| root.path().join(name);
    let histories = Histories { state: at("offload"), acl: at("acl"), clock: Arc::clone(&clock) as Arc<dyn Clock> };
    StateDir::named(&histories.state, machine.label()).create().unwrap();
    (Scene { histories, clock, root }, machine)
}

impl Scene {
    fn later(&self, seconds: u64) {
        self.clock.turn(Duration::from_secs(seconds));
    }

    /// Returns why the machine is in back-off now.
    fn left_alone(&self, machine: &BuildMachine) -> Option<SetbackKind> {
        self.histories.of(machine).setback().map(|setback| setback.kind)
    }

    /// Lets time pass until the back-off of the machine ends. Returns how many seconds that took.
    fn back_off(&self, machine: &BuildMachine) -> u64 {
        let seconds = (0..).take_while(|_| {
            let left_alone = self.left_alone(machine).is_some();
            self.later(u64::from(left_alone));
            left_alone
        });
        seconds.count() as u64
    }
}

fn failure(text: &str) -> Error {
    Error::new(ErrorKind::Unavailable, text)
}

#[test]
fn what_builds_take_is_forgotten_slowly() {
    let (scene, machine) = scene();
    let hour = Duration::from_secs(3600);
    let more = |builds| scene.histories.of(&machine).more_builds(&vec![hour; builds]);
    assert_eq!(more(9), u32::MAX, "nothing is known");
    scene.histories.note_memory(&machine, 16, 0);
    scene.histories.note_memory(&machine, 6, 2);
    assert_eq!((more(2), more(0)), (1, 1));
    assert!(scene.histories.of(&machine).check_memory(&[hour]).is_ok());
    scene.histories.note_memory(&machine, 1, 3);
    assert_eq!((more(3), more(0)), (0, 1));
    assert!(scene.histories.of(&machine).check_memory(&[hour]).is_err());
    scene.later(24 * 3600);
    assert_eq!(more(3), u32::MAX);
}

#[test]
fn a_load_is_forgotten_after_a_minute() {
    let (scene, machine) = scene();
    scene.histories.note_answer(&machine, 0.25, None, None);
    scene.later(55);
    assert_eq!(scene.histories.of(&machine).recent_load(), Some(0.25));
    scene.later(6);
    assert_eq!(scene.histories.of(&machine).recent_load(), None);
}

#[test]
fn a_machine_that_answered_a_moment_ago_is_there_unless_something_was_wrong_since() {
    let (scene, machine) = scene();
    let fresh = || scene.histories.of(&machine).fresh_load(ANSWER_LIFETIME);
    let answers = || scene.histories.note_answer(&machine, 0.25, None, None);
    answers();
    scene.later(8);
    assert_eq!(fresh(), Some(0.25));
    scene.later(3);
    assert_eq!(fresh(), None);
    answers();
    std::fs::write(&scene.histories.acl, "(acl)").unwrap();
    assert_eq!(fresh(), None, "other keys are let in since");
    answers();
    scene.histories.note_setback(&machine, SetbackKind::NoRoom, &failure("it is full"));
    assert_eq!(fresh(), None);
    answers();
    assert_eq!(fresh(), Some(0.25));
    scene.histories.note_setback(&machine, SetbackKind::Misconfigured, &Error::new(ErrorKind::Untrusted, "no"));
    scene.later(3600);
    answers();
    assert_eq!(fresh(), None, "it is still distrusted");
    scene.histories.note_build(&machine, Duration::from_secs(1));
    assert_eq!(fresh(), Some(0.25));
}

#[test]
fn the_back_off_grows_and_ends_but_not_for_want_of_room() {
    for (kind, back_offs) in [
        (SetbackKind::Away, [5, 10, 20, 40, 60, 60]),
        (SetbackKind::Misconfigured, [5, 10, 20, 40, 60, 60]),
        (SetbackKind::NoRoom, [5; 6]),
        (SetbackKind::ThisHost, [3600; 6]),
    ] {
        let (scene, machine) = scene();
        for expected in back_offs {
            scene.histories.note_setback(&machine, kind, &failure("gone"));
            assert_eq!(scene.back_off(&machine), expected, "{kind:?}");
        }
        scene.histories.note_answer(&machine, 0.5, None, None);
        scene.histories.note_setback(&machine, kind, &failure("gone"));
        assert_eq!(scene.back_off(&machine), back_offs[0], "{kind:?}: an answer does not begin it anew");
    }
    let (scene, machine) = scene();
    let worst = History::parse("setback away 4294967295 1000 0\n");
    let at = |now| History { now, ..worst.clone() }.setback().is_some();
    assert!(at(1059) && !at(1060));
    scene.histories.change(&machine, |history| history.setback.clone_from(&worst.setback));
    scene.histories.note_setback(&machine, SetbackKind::Away, &failure("gone"));
    assert_eq!(scene.left_alone(&machine), Some(SetbackKind::Away));
}

#[test]
fn what_is_remembered_is_of_one_machine() {
    let (scene, machine) = scene();
    for other in [BuildMachine { name: "n".into(), ..machine.clone() }, BuildMachine { port: 2222, ..machine.clone() }]
    {
        StateDir::named(&scene.histories.state, other.label()).create().unwrap();
        scene.histories.note_setback(&other, SetbackKind::Away, &failure("gone"));
        assert_eq!((scene.left_alone(&other), scene.left_alone(&machine)), (Some(SetbackKind::Away), None));
    }
}

#[test]
fn a_setback_is_remembered_with_its_reason_until_the_machine_answers() {
    let (scene, machine) = scene();
    let reason = Error::new(ErrorKind::Authentication, "its host key differs").hint("look at 'it'").on_machine("m");
    for count in 1..=3 {
        scene.histories.note_setback(&machine, SetbackKind::Misconfigured, &reason);
        let history = scene.histories.of(&machine);
        let setback = history.setback().unwrap();
        assert_eq!((setback.kind, setback.count), (SetbackKind::Misconfigured, count));
        assert_eq!(setback.reason.kind(), ErrorKind::Authentication);
        assert_eq!(setback.reason.to_string(), reason.to_string());
        assert_eq!(setback.reason.hint_text(), Some("look at 'it'"));
    }
    scene.histories.note_setback(&machine, SetbackKind::Away, &failure("gone"));
    assert_eq!(scene.histories.of(&machine).setback().unwrap().count, 1, "of another kind");
    scene.histories.note_answer(&machine, 0.5, None, None);
    assert!(scene.histories.of(&machine).setback().is_none());
}

#[test]
fn a_machine_that_is_configured_otherwise_is_tried_again_at_once() {
    let (scene, mut machine) = scene();
    let (key, acl) = (scene.root.path().join("key"), scene.histories.acl.clone());
    machine.private_key.clone_from(&key);
    type Change<'a> = &'a dyn Fn(&mut BuildMachine);
    let changes: [Change; 4] = [
        &|_| std::fs::write(&key, "one").unwrap(),
        &|_| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap(),
        &|_| std::fs::write(&acl, "(acl)").unwrap(),
        &|machine| machine.user = "other".into(),
    ];
    for (index, change) in changes.iter().enumerate() {
        scene.histories.note_setback(&machine, SetbackKind::Misconfigured, &failure("x"));
        assert_eq!(scene.left_alone(&machine), Some(SetbackKind::Misconfigured));
        change(&mut machine);
        assert_eq!(scene.left_alone(&machine), None, "change {index} made no difference");
    }
    assert_eq!(mark(&machine, &acl), mark(&machine, &acl));
}

#[test]
fn who_never_answers_is_left_alone_and_who_is_far_away_is_not() {
    let (scene, machine) = scene();
    let unanswered = |ms| {
        let reason = failure("it has not answered");
        scene.histories.note_unanswered(&machine, Duration::from_millis(ms), &reason);
        scene.histories.of(&machine).setback().is_some()
    };
    assert!(!unanswered(300));
    assert!(unanswered(300));
    scene.histories.note_answer(&machine, 0.5, None, Some(Duration::from_millis(2000)));
    for _ in 0..5 {
        assert!(!unanswered(3000), "it takes two seconds to answer");
    }
    assert!(!unanswered(5000) && unanswered(5000));
}

#[test]
fn a_slow_link_is_remembered_for_an_hour_whatever_else_happens() {
    let (scene, machine) = scene();
    scene.histories.note_slow_link(&machine, 12.5e6);
    scene.histories.note_setback(&machine, SetbackKind::Away, &failure("gone"));
    assert!(scene.histories.of(&machine).setback().is_some());
    scene.histories.note_answer(&machine, 0.5, None, None);
    assert_eq!(scene.histories.of(&machine).slow_link(), Some(12.5e6));
    scene.later(3601);
    assert_eq!(scene.histories.of(&machine).slow_link(), None);
}

#[test]
fn the_rate_of_a_link_is_an_average_that_is_remembered_for_a_day() {
    let (scene, machine) = scene();
    let rate = || scene.histories.of(&machine).link_rate();
    assert_eq!(rate(), None);
    scene.histories.note_rate(&machine, 4e6);
    scene.histories.note_rate(&machine, 8e6);
    scene.histories.note_setback(&machine, SetbackKind::Away, &failure("gone"));
    assert_eq!(rate(), Some(6e6));
    scene.histories.note_rate(&machine, 2e6);
    assert_eq!(rate(), Some(4e6));
    scene.later(24 * 3600 + 1);
    assert_eq!(rate(), None);
    scene.histories.note_rate(&machine, 8e6);
    assert_eq!(rate(), Some(8e6), "what is old does not count");
}

#[test]
fn builds_take_as_long_as_the_last_ones_did() {
    let (scene, machine) = scene();
    let noted = |seconds| {
        scene.histories.note_build(&machine, Duration::from_secs(seconds));
        scene.histories.of(&machine).build_time().unwrap().as_secs()
    };
    assert_eq!(scene.histories.of(&machine).build_time(), None);
    assert_eq!((noted(1000), noted(500)), (1000, 750));
    let times: Vec<_> = (0..BUILDS).map(|_| noted(2)).collect();
    assert_eq!(times[BUILDS - 1], 2);
    scene.later(90_000);
    assert_eq!(scene.histories.of(&machine).build_time(), None);
}

#[test]
fn what_many_note_at_once_is_not_lost() {
    let (scene, machine) = scene();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    scene.histories.note_setback(&machine, SetbackKind::Away, &failure("gone"));
                }
            });
        }
    });
    assert_eq!(scene.histories.of(&machine).setback.unwrap().count, 40);
    let left = std::fs::read_dir(StateDir::named(&scene.histories.state, machine.label()).path("")).unwrap().count();
    assert_eq!(left, 2, "the history and its lock");
}

#[test]
fn the_file_is_private_and_a_link_in_its_place_is_not_followed() {
    let (scene, machine) = scene();
    let directory = StateDir::named(&scene.histories.state, machine.label());
    scene.histories.note_answer(&machine, 0.5, None, None);
    assert_eq!(scene.histories.of(&machine).recent_load(), Some(0.5));
    let mode = std::fs::metadata(directory.path(NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);

    let other = scene.root.path().join("other");
    std::fs::rename(directory.path(NAME), &other).unwrap();
    symlink(&other, directory.path(NAME)).unwrap();
    assert_eq!(scene.histories.of(&machine).recent_load(), None);
    scene.histories.note_answer(&machine, 0.75, None, None);
    assert!(std::fs::read_to_string(&other).unwrap().starts_with("load 0.5 "));
}

#[test]
fn a_text_of_any_length_is_remembered_in_part() {
    let (scene, machine) = scene();
    let reason = failure(&"ä".repeat(5000)).hint("h".repeat(5000));
    scene.histories.note_setback(&machine, SetbackKind::Away, &reason);
    let history = scene.histories.of(&machine);
    let reason = &history.setback().unwrap().reason;
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
        "rate 0 1",
        "rate -1 1",
        "rate 1",
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
    let (scene, machine) = scene();
    for address in [Some("10.0.0.1".parse().unwrap()), Some("fe80::1".parse().unwrap()), None] {
        scene.histories.note_address(&machine, address);
        scene.histories.note_answer(&machine, 0.5, None, None);
        assert_eq!(scene.histories.of(&machine).address(), address);
    }
}
