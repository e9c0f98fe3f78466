// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of a link with a keeper that says what the test tells it to.

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use super::*;
use crate::daemon::BuildOptions;
use crate::doors::keeper::socket::receive;
use crate::ground::directories::tests::below;
use crate::machine::Requirements;
use crate::machine::tests::machine;

const SOON: Duration = Duration::from_secs(20);

struct Scene {
    _scratch: tempfile::TempDir,
    link: Arc<Link>,
    listener: UnixListener,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let directories = below(scratch.path());
        std::fs::create_dir_all(at("state/offload/.keeper")).unwrap();
        let listener = UnixListener::bind(at("state/offload/.keeper/socket")).unwrap();
        let link = Arc::new(Link::new(at("program"), directories));
        Scene { _scratch: scratch, link, listener }
    }

    fn start(&self) -> Box<dyn Job> {
        let machine = machine("m");
        let requirements = Requirements { system: machine.systems[0].clone(), features: Vec::new() };
        let derivation = self.link.directories.store.parse(&format!("/gnu/store/{}-x.drv", "a".repeat(32))).unwrap();
        let work = Work { inputs: Vec::new(), outputs: Vec::new(), options: BuildOptions::default() };
        match self.link.start(&[machine], Request { requirements, derivation, is_patient: true }, work, None).unwrap() {
            Started::Running(job) => job,
            _ => panic!("not started"),
        }
    }

    /// Starts the first job, and a keeper for it.
    fn start_first(&self) -> (Box<dyn Job>, Keeper, u64) {
        let (job, keeper) = thread::scope(|scope| {
            let keeper = scope.spawn(|| self.keeper());
            (self.start(), keeper.join().unwrap())
        });
        let number = keeper.hear_start();
        (job, keeper, number)
    }

    /// Accepts a link and welcomes it.
    fn keeper(&self) -> Keeper {
        let (stream, _) = self.listener.accept().unwrap();
        assert!(matches!(receive(&mut &stream).unwrap(), FromClient::Hello(_)));
        send(&mut &stream, &FromKeeper::Welcome).unwrap();
        assert!(matches!(receive(&mut &stream).unwrap(), FromClient::Link));
        stream.set_read_timeout(Some(SOON)).unwrap();
        Keeper(stream)
    }

    fn is_readable(job: &dyn Job) -> bool {
        let descriptor = job.descriptor();
        let mut watched = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
        rustix::event::poll(&mut watched, Some(&Default::default())).unwrap() == 1
    }
}

struct Keeper(UnixStream);

impl Keeper {
    fn hear(&self) -> About<FromLink> {
        receive(&mut &self.0).unwrap()
    }

    fn hear_start(&self) -> u64 {
        let About(number, said) = self.hear();
        assert!(matches!(said, FromLink::Start { .. }), "{said:?}");
        number
    }

    fn say(&self, job: u64, message: FromKeeper) {
        send(&mut &self.0, &About(job, message)).unwrap();
    }
}

fn log(text: &str) -> FromKeeper {
    FromKeeper::Log(text.into())
}

fn logged(job: &dyn Job) -> Option<Vec<u8>> {
    match job.next_event()?.event {
        JobEvent::Log(text) => Some(text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_descriptor_shows_whether_a_job_has_events() {
    let scene = Scene::new();
    let (one, keeper, first) = scene.start_first();
    let two = scene.start();
    let second = keeper.hear_start();
    assert_eq!(one.descriptor().as_raw_fd(), two.descriptor().as_raw_fd());
    assert!(!Scene::is_readable(&*one));
    keeper.say(first, log("a"));
    keeper.say(second, log("b"));
    assert!(Scene::is_readable(&*one));
    // A call for the first job reads the messages about both; those about the second are kept.
    assert_eq!(logged(&*one).as_deref(), Some(&b"a"[..]));
    assert_eq!(logged(&*one), None);
    assert!(Scene::is_readable(&*one), "the other one has an event");
    assert_eq!(logged(&*two).as_deref(), Some(&b"b"[..]));
    assert!(!Scene::is_readable(&*one));
    keeper.say(first, FromKeeper::Done);
    assert!(Scene::is_readable(&*one) && one.result().is_none());
    assert_eq!(one.next_event().unwrap().event, JobEvent::Done);
    assert!(matches!(one.result(), Some(Ok(()))));
    assert!(!Scene::is_readable(&*two), "one that is over does not keep the host awake");
    // Nor does a job that is dropped with untaken events.
    keeper.say(second, log("c"));
    keeper.say(second, log("d"));
    while two.next_event().is_none() {}
    drop(two);
    assert!(matches!(keeper.hear(), About(number, FromLink::Cancel) if number == second));
    assert!(!Scene::is_readable(&*one));
}

#[test]
fn a_job_with_which_no_keeper_has_begun_goes_to_the_next_one() {
    let scene = Scene::new();
    let (job, first, number) = scene.start_first();
    first.say(number, FromKeeper::Retires);
    let second = thread::scope(|scope| {
        let keeper = scope.spawn(|| scene.keeper());
        assert!(job.next_event().is_none());
        keeper.join().unwrap()
    });
    assert_eq!(second.hear_start(), number);
    assert!(receive::<FromClient>(&mut &first.0).is_err(), "the first has no jobs, and is left");
    drop(second);
    let third = thread::scope(|scope| {
        let keeper = scope.spawn(|| scene.keeper());
        assert!(job.next_event().is_none());
        keeper.join().unwrap()
    });
    assert_eq!(third.hear_start(), number);
    third.say(number, FromKeeper::Accepted);
    third.say(number, FromKeeper::Done);
    assert!(job.wait(SOON));
    assert!(matches!(job.result(), Some(Ok(()))));
}

#[test]
fn a_keeper_that_dies_fails_what_it_has_begun() {
    let scene = Scene::new();
    let (job, keeper, number) = scene.start_first();
    keeper.say(number, FromKeeper::Accepted);
    assert!(!job.wait(Duration::from_millis(50)));
    drop(keeper);
    assert!(Scene::is_readable(&*job));
    assert!(job.wait(SOON));
    let error = job.result().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.class().exit_status()), (ErrorKind::Unavailable, 1), "{error}");
    assert!(error.to_string().starts_with("the keeper ended: "), "{error}");
    // The next job gets another keeper.
    let (next, keeper, number) = scene.start_first();
    keeper.say(number, FromKeeper::Failed(Error::new(ErrorKind::BuildFailed, "it failed")));
    assert!(next.wait(SOON));
    assert_eq!(next.result().unwrap().unwrap_err().kind(), ErrorKind::BuildFailed);
}

#[test]
fn a_keeper_that_makes_no_sense_is_left() {
    let scene = Scene::new();
    let (job, keeper, number) = scene.start_first();
    keeper.say(number, FromKeeper::Accepted);
    keeper.say(number, FromKeeper::Welcome);
    assert!(job.wait(SOON));
    let error = job.result().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}

#[test]
fn what_comes_for_a_cancelled_job_touches_nothing() {
    let scene = Scene::new();
    let (job, keeper, number) = scene.start_first();
    keeper.say(number, FromKeeper::Accepted);
    job.cancel();
    assert!(job.wait(Duration::ZERO));
    assert_eq!(job.result().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(job.next_event().unwrap().event, JobEvent::Done);
    assert!(matches!(keeper.hear(), About(_, FromLink::Cancel)));
    let directory = scene.link.directories.store.parse(&format!("/gnu/store/{}-x", "b".repeat(32))).unwrap();
    keeper.say(number, FromKeeper::MakeValid { directory, items: Vec::new() });
    assert!(job.next_event().is_none());
    let About(_, said) = keeper.hear();
    assert!(matches!(&said, FromLink::MadeValid(Err(error)) if error.kind() == ErrorKind::Cancelled), "{said:?}");
}

/// There is no database here, so making outputs valid fails. What matters is which call tries to.
#[test]
fn outputs_are_made_valid_in_a_call_for_their_job() {
    let scene = Scene::new();
    let (one, keeper, _) = scene.start_first();
    let two = scene.start();
    let second = keeper.hear_start();
    let directory = scene.link.directories.store.parse(&format!("/gnu/store/{}-x", "b".repeat(32))).unwrap();
    for look in
        [|two: &dyn Job| assert!(two.next_event().is_none()), |two: &dyn Job| assert!(!two.wait(Duration::ZERO))]
    {
        keeper.say(second, FromKeeper::MakeValid { directory: directory.clone(), items: Vec::new() });
        assert!(one.next_event().is_none());
        keeper.0.set_nonblocking(true).unwrap();
        assert!(receive::<About<FromLink>>(&mut &keeper.0).is_err(), "not in a call for another job");
        keeper.0.set_nonblocking(false).unwrap();
        assert!(Scene::is_readable(&*two), "the host is to call");
        look(&*two);
        assert!(!Scene::is_readable(&*two));
        assert!(matches!(keeper.hear(), About(number, FromLink::MadeValid(Err(_))) if number == second));
    }
}

#[test]
fn the_keeper_hears_how_much_of_a_log_was_taken() {
    let scene = Scene::new();
    let (job, keeper, number) = scene.start_first();
    let piece = "x".repeat(TELL_TAKEN / 4);
    let mut taken = 0;
    for _ in 0..4 {
        keeper.say(number, log(&piece));
        while let Some(text) = logged(&*job) {
            taken += text.len();
        }
    }
    assert_eq!(taken, TELL_TAKEN);
    assert!(matches!(keeper.hear(), About(_, FromLink::Taken(bytes)) if bytes == TELL_TAKEN));
}

#[test]
fn threads_that_wait_read_for_each_other() {
    let scene = Scene::new();
    let (one, keeper, first) = scene.start_first();
    let (two, three) = (scene.start(), scene.start());
    let (second, third) = (keeper.hear_start(), keeper.hear_start());
    thread::scope(|scope| {
        let waiting: Vec<_> = [&one, &two, &three].map(|job| scope.spawn(|| job.wait(SOON))).into();
        for number in [third, first, second] {
            thread::sleep(Duration::from_millis(20));
            keeper.say(number, FromKeeper::Done);
        }
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
    });
    // A cancellation also wakes a thread that sleeps.
    let job = scene.start();
    keeper.hear_start();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| job.wait(SOON));
        thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        job.cancel();
        assert!(waiting.join().unwrap() && begun.elapsed() < SOON / 2);
    });
}

#[test]
fn a_message_that_the_socket_does_not_hold_is_sent_bit_by_bit() {
    let scene = Scene::new();
    let (_first, keeper, _) = scene.start_first();
    let store = &scene.link.directories.store;
    let inputs: Vec<_> =
        (0..30_000).map(|n| store.parse(&format!("/gnu/store/{}-{n}", "c".repeat(32))).unwrap()).collect();
    let machine = machine("m");
    let requirements = Requirements { system: machine.systems[0].clone(), features: Vec::new() };
    let derivation = store.parse(&format!("/gnu/store/{}-x.drv", "a".repeat(32))).unwrap();
    let work = Work { inputs: inputs.clone(), outputs: Vec::new(), options: BuildOptions::default() };
    let Started::Running(job) =
        scene.link.start(&[machine], Request { requirements, derivation, is_patient: true }, work, None).unwrap()
    else {
        panic!("not started")
    };
    let heard = thread::scope(|scope| {
        let hearing = scope.spawn(|| keeper.hear());
        let begun = Instant::now();
        while !hearing.is_finished() {
            assert!(begun.elapsed() < SOON);
            // The descriptor is readable when the socket takes more.
            if Scene::is_readable(&*job) {
                assert!(job.next_event().is_none());
            }
        }
        hearing.join().unwrap()
    });
    assert!(matches!(heard, About(_, FromLink::Start { inputs: all, .. }) if all == inputs));
    assert!(!Scene::is_readable(&*job), "an empty socket is not waited for");
}
