// SPDX-License-Identifier: GPL-3.0-or-later
//! A keeper that hangs.

use std::os::unix::net::UnixListener;
use std::thread;

use super::*;
use crate::ground::directories::tests::below;

/// A keeper that accepts nothing, as one that is stopped.
struct Hung {
    scratch: tempfile::TempDir,
    directories: Directories,
    listener: UnixListener,
}

impl Hung {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("state/offload/.keeper");
        std::fs::create_dir_all(&place).unwrap();
        let listener = UnixListener::bind(place.join("socket")).unwrap();
        Hung { directories: below(scratch.path()), scratch, listener }
    }

    fn connect(&self, cancel: &Cancel) -> (Result<UnixStream>, Duration) {
        let begun = Instant::now();
        (connect(&self.directories, Path::new("/nonexistent"), cancel), begun.elapsed())
    }

    fn is_noted(&self) -> bool {
        self.scratch.path().join("state/offload/.keeper/unanswering").exists()
    }

    /// Answers all clients from now on.
    fn answer(&self) {
        let listener = self.listener.try_clone().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let _ = receive(&mut &stream).and_then(|_: FromClient| send(&mut &stream, &FromKeeper::Welcome));
            }
        });
    }
}

#[test]
fn only_the_first_client_of_a_keeper_that_hangs_waits_for_long() {
    let hung = Hung::new();
    let never = Cancel::default();
    let (first, time) = hung.connect(&never);
    assert!(time >= WELCOME_TIMEOUT && hung.is_noted());
    let (second, time) = hung.connect(&never);
    assert!(time < WELCOME_TIMEOUT / 2, "{time:?}");
    let (first, second) = (first.unwrap_err(), second.unwrap_err());
    assert_eq!(first.to_string(), second.to_string(), "a warning that is said once");
    assert!(first.to_string().contains("does not answer within 5 s"), "{first}");
    // Once it answers, all is well again.
    hung.answer();
    // On a busy machine, an answer may take longer than it has.
    assert!((0..20).any(|_| hung.connect(&never).0.is_ok()));
    assert!(!hung.is_noted());
}

#[test]
fn what_is_cancelled_does_not_wait_for_a_keeper_that_hangs() {
    let (hung, cancel) = (Hung::new(), Cancel::default());
    let (result, time) = thread::scope(|scope| {
        let waiting = scope.spawn(|| hung.connect(&cancel));
        thread::sleep(Duration::from_millis(300));
        cancel.cancel();
        waiting.join().unwrap()
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(time < WELCOME_TIMEOUT / 2 && !hung.is_noted(), "{time:?}");
}

#[test]
fn a_keeper_that_hangs_with_a_full_queue_holds_up_nobody() {
    let hung = Hung::new();
    rustix::net::listen(&hung.listener, 0).unwrap();
    let _one = UnixStream::connect(hung.scratch.path().join("state/offload/.keeper/socket")).unwrap();
    let (result, time) = hung.connect(&Cancel::default());
    assert!(result.unwrap_err().to_string().contains("too many connections wait"));
    assert!(time < WELCOME_TIMEOUT, "{time:?}");
}
