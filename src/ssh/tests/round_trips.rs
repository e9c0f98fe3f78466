// SPDX-License-Identifier: GPL-3.0-or-later
//! How many round trips it takes to log in and to run a command, on a line that takes far longer than all else.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use super::connecting::long_line;
use super::sshd::Sshd;
use super::{LONG, machine};
use crate::ssh::Session;

/// How long bytes take from one end of the line to the other: half a round trip.
const HALF: Duration = Duration::from_millis(600);

/// Returns how many halves of a round trip it takes to log in with a new key that `options` describe, and to run a
/// command.
fn halves(sshd: &Sshd, options: &[&str]) -> [u128; 2] {
    let mut machine = machine(sshd);
    machine.private_key = sshd.new_user_key(options[1], options);
    machine.port = long_line(machine.port, HALF);
    let begun = Instant::now();
    let since = || begun.elapsed().as_millis() / HALF.as_millis();
    let session = Session::start(&machine, LONG).unwrap();
    let mut command = session.exec("echo it runs");
    assert!(session.wait_ready(LONG).unwrap());
    let logged_in = since();
    let mut said = String::new();
    command.read_to_string(&mut said).unwrap();
    assert_eq!(said, "it runs\n");
    [logged_in, since()]
}

#[test]
fn logging_in_takes_no_more_round_trips_than_it_must() {
    let sshd = &Sshd::start(&[]);
    // TCP's own round trip is not among them, as the line begins behind it. Names and lists of methods take one, keys
    // another, and logging in a third, or with an RSA key two more. The command's channel is opened meanwhile; to start
    // the command takes the last one.
    let count = || {
        thread::scope(|scope| {
            [["-t", "ed25519"], ["-t", "rsa"]]
                .map(|key| scope.spawn(move || halves(sshd, &key)))
                .map(|it| it.join().unwrap())
        })
    };
    // Others who use the processor can only add to it.
    let expected = [[6, 8], [8, 10]];
    let counted = (0..3).map(|_| count()).find(|counted| *counted == expected);
    assert!(counted.is_some(), "not {expected:?} in three attempts, the last one {:?}", count());
}
