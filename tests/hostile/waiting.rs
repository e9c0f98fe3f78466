// SPDX-License-Identifier: GPL-3.0-or-later
//! Who keeps whom waiting during a build: a reader of the log that pauses, and a machine that dies.

use std::io::Write;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use guix_offload::ground::error::ErrorKind;
use guix_offload::report::{Event, Observer};

use crate::cases::with;
use crate::double::Answer;
use crate::harness::{Deaf, build, limits, machine};
use crate::refusing::scene;
use crate::sshd::Sshd;
use crate::wire_bytes::*;

/// The shortest limit for silence, in seconds, and a time after which it is over for sure.
const LIMIT: u64 = 1;
const LONG: Duration = Duration::from_secs(13);

#[test]
fn a_build_times_out_only_if_it_was_silent() {
    std::thread::scope(|scope| {
        scope.spawn(a_slow_reader_of_the_log);
        scope.spawn(a_dead_machine);
    });
}

/// Takes its time for the log.
struct Slow;

impl Observer for Slow {
    fn event(&mut self, _: &Event<'_>) {}

    fn log(&mut self, _: &[u8]) -> guix_offload::ground::error::Result<()> {
        sleep(LONG);
        Ok(())
    }
}

/// The build was never silent, and is done by the time that its log was read.
fn a_slow_reader_of_the_log() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let mut plan = scene.honest(&scene.output(nar(file(b"good\n"))).signed(&scene.trusted));
    plan.build = Arc::new(|to| {
        to.write_all(&[number(NEXT), string("a line\n")].concat())?;
        sleep(Duration::from_secs(1));
        to.write_all(&done())
    });
    build(&scene, &machine(&sshd, &scene), plan, limits(LIMIT, LIMIT), &mut Slow).unwrap();
    assert!(scene.database().is_valid(&scene.path("output")).unwrap());
}

/// Its end is noticed by a limit for silence that is shorter than the patience of keepalives; but it is the machine
/// that failed.
fn a_dead_machine() {
    let scene = scene();
    let sshd = Arc::new(Sshd::start(&[]));
    let stopped = Arc::downgrade(&sshd); // who answers outlives the test, and must not keep the server
    let dies: Answer = Arc::new(move |_| {
        stopped.upgrade().unwrap().signal_connections(Signal::STOP);
        sleep(Duration::from_secs(60));
        Ok(())
    });
    let plan = with(&scene, |plan| plan.build = dies);
    let error = build(&scene, &machine(&sshd, &scene), plan, limits(LIMIT, 0), &mut Deaf).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
