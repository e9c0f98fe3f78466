// SPDX-License-Identifier: GPL-3.0-or-later
//! The log tells what was decided about each build, and why.

use super::*;
use crate::report::log::Log;

/// Returns what is logged of a host's builds, without times and process.
fn logged(host: &mut Host, act: impl FnOnce(&Host)) -> Vec<String> {
    let file = host.scene.at("log");
    Arc::get_mut(&mut host.world.engine.common).unwrap().log = Some(Log::open_file(&file).unwrap());
    act(host);
    let text = std::fs::read_to_string(file).unwrap();
    let begin = format!(" {} {}: ", std::process::id(), host.derivation.base_name());
    text.lines().map(|line| line.split_once(&begin).expect(line).1.to_string()).collect()
}

#[test]
fn a_build_can_be_followed_from_machine_to_machine() {
    let mut host = Host::new(&["a", "b"]);
    (host.machines[0].speed, host.machines[1].speed) = (3.0, 1.5);
    host.world.doubles.act(|name, at, _| match (name, at) {
        ("a", Step::Build) => Err(failure(ErrorKind::Unavailable)),
        _ => Ok(()),
    });
    let output = host.output.clone();
    let lines = logged(&mut host, |host| {
        let Ok(Reply::Accept(accepted)) = host.world.ask(&host.machines, &host.derivation, false) else { panic!() };
        host.run(*accepted, &Cancel::default(), &mut Notes::default()).unwrap();
    });
    let on = |name: &str| format!("takes the slot '{}/offload/{name}:22/0'", host.scene.directories.state.display());
    let expected = [
        "may go to a (speed 3), then b (speed 1.5)",
        &on("a"),
        "a: is connected to",
        "a: load 0",
        "a: chosen",
        "is accepted, with a machine",
        "a: is sent 1 items, 120 bytes",
        "a: builds",
        "a: failed, is tried again: Unavailable: building",
        "may go to b (speed 1.5)",
        &on("b"),
        "b: is connected to",
        "b: load 0",
        "b: chosen",
        "b: is sent 1 items, 120 bytes",
        "b: builds",
        "is built",
        "b: 1 outputs are retrieved",
        &format!("'{output}' is verified"),
        "is registered",
        "is done",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line:?} instead of {expected:?}");
    }
}

#[test]
fn it_says_why_no_machine_is_used() {
    let mut host = Host::new(&["a"]);
    host.world.doubles.act(|_, at, _| if at == Step::Connect { Err(failure(ErrorKind::HostKey)) } else { Ok(()) });
    let lines = logged(&mut host, |host| {
        assert!(host.world.ask(&host.machines, &host.derivation, false).is_err());
        assert!(host.world.ask(&host.machines, &host.derivation, true).is_ok());
    });
    let seen = |words: &str| assert!(lines.iter().any(|line| line.starts_with(words)), "{words:?}: {lines:#?}");
    seen("a: passed over: HostKey: it fails");
    seen("no machine can be used now: misconfigured");
    seen("it fails: HostKey");
    seen("may go to no machine: all are left alone");
    seen("is built here");
    seen("is declined");
}
