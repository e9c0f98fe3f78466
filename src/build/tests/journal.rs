// SPDX-License-Identifier: GPL-3.0-or-later
//! Each build that is over is in the journal.

use super::*;
use crate::build::site::Task;
use crate::choose::Choice;
use crate::report::journal::file::{Kept, read};
use crate::report::journal::{Entry, Outcome};

fn journal(host: &Host) -> Vec<Entry> {
    let Kept { builds, .. } = read(&host.world.engine.directories().offload_state()).unwrap();
    builds
}

#[test]
fn a_build_is_in_it_with_machine_bytes_and_outcome() {
    let host = Host::new(&["a", "b"]);
    host.world.doubles.act(|name, at, _| match (name, at) {
        ("a", Step::Build) => Err(failure(ErrorKind::Unavailable)),
        _ => Ok(()),
    });
    let mut machines = host.machines.clone();
    (machines[0].speed, machines[1].speed) = (3.0, 1.5);
    let Ok(Reply::Accept(accepted)) = host.world.ask(&machines, &host.derivation, false) else { panic!() };
    host.run(*accepted, &Cancel::default(), &mut Notes::default()).unwrap();
    let [entry] = &journal(&host)[..] else { panic!("{:?}", journal(&host)) };
    assert_eq!((entry.machine.as_deref(), &entry.failed_before[..]), (Some("b"), &["a".to_string()][..]));
    assert_eq!((entry.outcome, &entry.reason), (Outcome::Done, &None));
    assert_eq!(entry.derivation, host.derivation.to_string());
    // The derivation, of 120 bytes, went to both, in an archive.
    assert!(entry.sent > 240 && entry.received > 0, "{entry:?}");
}

#[test]
fn a_build_that_fails_is_in_it_with_the_reason() {
    for (kind, outcome) in [(ErrorKind::BuildFailed, Outcome::BuildFailed), (ErrorKind::TimedOut, Outcome::TimedOut)] {
        let host = Host::new(&["a"]);
        host.world.doubles.act(move |_, at, _| if at == Step::Build { Err(failure(kind)) } else { Ok(()) });
        let error = host.build(&mut Notes::default()).unwrap_err();
        let [entry] = &journal(&host)[..] else { panic!("{:?}", journal(&host)) };
        assert_eq!((entry.outcome, &entry.reason), (outcome, &Some(error.to_string())));
    }
}

#[test]
fn a_build_whose_steps_are_done_one_by_one_is_in_it_once() {
    let host = Host::new(&["a"]);
    let (options, cancel) = (BuildOptions::default(), Cancel::default());
    let outputs = [host.output.clone()];
    let items = [host.derivation.clone()];
    let task = Task { derivation: &host.derivation, items: &items, outputs: &outputs, options: &options };
    let requirements = request(&host.derivation).requirements;
    let site = || {
        let chosen =
            host.world.engine.choose(&host.machines, &requirements, None, &cancel, &mut Notes::default()).unwrap();
        let Some(Choice::Machine(lease)) = chosen else { panic!() };
        host.world.engine.site(*lease, &cancel)
    };
    let mut done = site();
    done.send(&task, &mut Notes::default()).unwrap();
    done.build(&task, &mut Notes::default()).unwrap();
    assert!(journal(&host).is_empty());
    done.retrieve(&task, &mut Notes::default()).unwrap();
    drop(done);
    host.world.doubles.act(|_, at, _| if at == Step::Build { Err(failure(ErrorKind::BuildFailed)) } else { Ok(()) });
    let mut fails = site();
    fails.send(&task, &mut Notes::default()).unwrap();
    fails.build(&task, &mut Notes::default()).unwrap_err();
    let entries = journal(&host);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.outcome, entry.machine.as_deref())).collect();
    assert_eq!(seen, [(Outcome::Done, Some("a")), (Outcome::BuildFailed, Some("a"))]);
    assert!(entries[0].sent > 120 && entries[0].received > 0, "{entries:?}");
}

#[test]
fn a_journal_that_cannot_be_written_fails_no_build() {
    let host = Host::new(&["a"]);
    let state = host.world.engine.directories().offload_state();
    std::fs::create_dir_all(&state).unwrap();
    std::os::unix::fs::symlink("/nonexistent", state.join(".journal")).unwrap();
    host.build(&mut Notes::default()).unwrap();
    assert!(host.take_output());
}
