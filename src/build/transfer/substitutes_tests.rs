// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of what a machine fetches, and of what is sent meanwhile.

use super::*;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StoreDir;
use crate::machine::tests::machine;
use crate::remote::fetch::Shared;

/// The rate of the link, in bytes a second.
const RATE: f64 = 1000.0;

fn path(number: usize) -> StorePath {
    StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{number:032}-x")).unwrap()
}

/// Returns the item with this number and size, which refers to those with the numbers in `references`.
fn item(number: usize, nar_size: u64, references: &[usize]) -> ValidPath {
    let references = references.iter().map(|number| path(*number)).collect();
    ValidPath { path: path(number), nar_hash: [0; 32], nar_size, deriver: None, references }
}

fn offer(item: &ValidPath) -> Substitute {
    let ValidPath { path, references, nar_size, .. } = item.clone();
    Substitute { path, references, nar_size, download_size: 0 }
}

fn numbers<'a>(paths: impl IntoIterator<Item = &'a StorePath>) -> Vec<usize> {
    let number = |path: &StorePath| path.base_name()[..32].parse().unwrap();
    paths.into_iter().map(number).collect()
}

fn chosen(missing: &[ValidPath], offered: &[Substitute]) -> Vec<usize> {
    numbers(choose(missing, offered).iter().map(|one| &one.path))
}

#[test]
fn a_machine_fetches_what_is_the_same_there_and_complete() {
    // 9 is on the machine already.
    let missing = [item(1, 10, &[]), item(2, 20, &[1, 2, 9]), item(3, 30, &[2]), item(4, 40, &[])];
    let offers: Vec<_> = missing.iter().map(offer).collect();
    assert_eq!(chosen(&missing, &offers), [1, 2, 3, 4]);
    assert_eq!(chosen(&missing, &offers[1..]), [4], "what refers to an item that is still to be sent is sent, too");
    assert_eq!(chosen(&missing, &[offer(&item(5, 10, &[]))]), [0usize; 0], "nobody wants it");
    let change = |change: fn(&mut Substitute)| {
        let mut offers = offers.clone();
        change(&mut offers[1]);
        chosen(&missing, &offers)
    };
    assert_eq!(change(|two| two.nar_size = 21), [1, 4]);
    assert_eq!(change(|two| two.references = vec![path(1), path(2)]), [1, 4]);
    assert_eq!(change(|two| two.references = vec![path(9), path(2), path(1), path(1)]), [1, 2, 3, 4]);
}

#[test]
fn a_slice_has_nothing_that_refers_to_what_comes_later() {
    let items = [item(1, 10, &[]), item(2, 500, &[2]), item(3, 10, &[2]), item(4, 10, &[3]), item(5, 10, &[1, 5])];
    let all: Vec<_> = items.iter().collect();
    let slice =
        |later: fn(&ValidPath) -> bool, most| numbers(slice_of(&all, later, most).iter().map(|item| &item.path));
    assert_eq!(slice(|_| false, f64::INFINITY), [1, 2, 3, 4, 5]);
    assert_eq!(slice(|item| item.nar_size > 100, f64::INFINITY), [1, 5]);
    assert_eq!(slice(|item| item.nar_size > 100, 20.0), [1, 5]);
    assert_eq!(slice(|_| false, 20.0), [1]);
    assert_eq!(slice(|_| false, 5.0), [1], "one at least");
    assert_eq!(slice(|_| true, 5.0), [0usize; 0]);
}

/// Notes what is announced.
#[derive(Default)]
struct Notes(Vec<(usize, u64)>);

impl Observer for Notes {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Fetching { machine: "m", items, bytes } = *event {
            self.0.push((items, bytes));
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

struct Scene {
    known: Substitutes,
    items: Vec<ValidPath>,
    notes: Notes,
    wanted: Vec<Substitute>,
    /// How many seconds the stages before the one that is looked at took.
    asked: f64,
}

impl Scene {
    /// The items 0, 1, 2..., which refer to nothing, have these sizes. The machine can fetch those in `fetches`.
    fn new(sizes: &[u64], fetches: &[usize]) -> Scene {
        let items: Vec<_> = sizes.iter().enumerate().map(|(number, size)| item(number, *size, &[])).collect();
        let wanted = fetches.iter().map(|number| offer(&items[*number])).collect();
        Scene { known: Substitutes::default(), items, notes: Notes::default(), wanted, asked: 0.0 }
    }

    fn fetching(&self, begun: Instant) -> Fetching<'_> {
        let fetch = Fetch::new(Shared::new(), ());
        Fetching { all: &self.known, machine: machine("m"), rate: RATE, begun, fetch, announced: false }
    }

    /// Decides when a stage has lasted `passed` seconds, and `bytes` have come, the last of them `silent` seconds ago.
    fn next(&mut self, stage: Stage, passed: f64, bytes: u64, silent: f64) -> Decision {
        let (now, ago) = (Instant::now() + Duration::from_secs(3600), Duration::from_secs_f64);
        let wanted = self.wanted.clone().into();
        let progress = Progress { stage, since: now - ago(passed), wanted, bytes, moved: now - ago(silent) };
        let mut notes = std::mem::take(&mut self.notes);
        let left: Vec<_> = self.items.iter().collect();
        let begun = progress.since - ago(self.asked);
        let decision = match self.fetching(begun).decide(progress, now, &left, &mut notes) {
            Next::Send(items) => Decision::Send(numbers(items.iter().map(|item| &item.path))),
            Next::Wait(time) => Decision::Wait(time),
            Next::Over => Decision::Over,
        };
        self.notes = notes;
        decision
    }

    fn rests(&self) -> bool {
        self.known.0.lock().contains_key(&machine("m").label())
    }
}

/// A [`Next`], with the numbers of the items.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Send(Vec<usize>),
    Wait(Duration),
    Over,
}

#[test]
fn while_the_machine_is_asked_what_takes_no_longer_is_sent() {
    let mut scene = Scene::new(&[500, 400_000, 400, 300], &[]);
    assert_eq!(scene.next(Stage::Asking, 0.1, 0, 0.0), Decision::Send(vec![0, 2]), "no more than a second's worth");
    scene.items.retain(|item| item.nar_size > 1000);
    assert_eq!(scene.next(Stage::Asking, 0.2, 0, 0.0), Decision::Wait(Duration::from_millis(800)));
    assert_eq!(scene.next(Stage::Asking, 1.1, 0, 0.0), Decision::Send(vec![1]), "the answer is late");
    assert!(!scene.rests());
    assert_eq!(scene.next(Stage::Asking, 10.0, 0, 0.0), Decision::Over);
    assert!(scene.rests());
}

#[test]
fn what_the_machine_fetches_is_not_sent() {
    let mut scene = Scene::new(&[10, 20_000, 30_000], &[1, 2]);
    assert_eq!(scene.next(Stage::Fetching, 0.0, 0, 0.0), Decision::Send(vec![0]));
    assert_eq!(scene.notes.0, [(2, 50_000)]);
    scene.items.remove(0);
    assert_eq!(scene.next(Stage::Fetching, 2.9, 0, 2.9), Decision::Wait(INTERVAL), "it is too soon to judge");
    // To send 50,000 bytes takes 50 s; to fetch what is left of them may take twice as long.
    assert_eq!(scene.next(Stage::Fetching, 10.0, 10_000, 0.0), Decision::Wait(INTERVAL));
    assert_eq!(scene.next(Stage::Fetching, 10.0, 5_000, 0.0), Decision::Wait(INTERVAL));
    assert!(!scene.rests());
    assert_eq!(scene.next(Stage::Fetching, 10.0, 4_000, 0.0), Decision::Over);
    assert!(scene.rests());
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let mut scene = Scene::new(&[20_000], &[0]);
    assert_eq!(scene.next(Stage::Fetching, 15.0, 15_000, 9.9), Decision::Wait(INTERVAL));
    assert!(!scene.rests());
    assert_eq!(scene.next(Stage::Fetching, 15.0, 15_000, 10.0), Decision::Over);
    assert!(scene.rests());
}

#[test]
fn the_end_of_a_fetch() {
    let failed = || Stage::Ended(Err(Error::new(ErrorKind::Daemon, "503")));
    let mut nothing = Scene::new(&[10, 20_000], &[]);
    assert_eq!(nothing.next(Stage::Ended(Ok(())), 0.0, 0, 0.0), Decision::Send(vec![0, 1]), "it can fetch nothing");
    assert!(!nothing.rests());
    nothing.asked = 5.0;
    assert_eq!(nothing.next(Stage::Ended(Ok(())), 0.0, 0, 0.0), Decision::Send(vec![0, 1]));
    assert!(nothing.rests(), "it took long to say so");
    let mut some = Scene::new(&[10, 20_000], &[1]);
    assert_eq!(some.next(Stage::Ended(Ok(())), 0.0, 20_000, 0.0), Decision::Over);
    assert_eq!(some.next(failed(), 0.0, 100, 0.0), Decision::Over);
    assert!(!some.rests(), "it could fetch something");
    assert_eq!(some.next(failed(), 0.0, 0, 0.0), Decision::Over);
    assert!(some.rests());
}
