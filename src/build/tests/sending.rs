// SPDX-License-Identifier: GPL-3.0-or-later
//! What is sent to a machine, how, and in how many round trips.

use super::words::{file, nar};
use super::*;
use crate::build::local_guix::LocalGuix;
use crate::build::site::Common;
use crate::build::transfer::{Circumstances, send_files};
use crate::choose::{Choice, Lease};
use crate::store::{source_path, text_item};

/// Makes a text called `name` valid. Its name follows from its contents, and it refers to nothing.
pub(super) fn text(host: &Host, name: &str, length: usize) -> StorePath {
    let contents = format!("{name}{}", "x".repeat(length));
    let (path, nar) = text_item(&host.scene.directories.store, name, &contents).unwrap();
    host.scene.register_as(&path, contents.as_bytes(), &nar, &[]);
    host.world.doubles.name(std::slice::from_ref(&path));
    path
}

/// Does the same with a source.
pub(super) fn source(host: &Host, name: &str, length: usize) -> StorePath {
    let contents = "x".repeat(length);
    let nar = nar(file(contents.as_bytes()));
    let path = source_path(&host.scene.directories.store, name, &nar);
    host.scene.register_as(&path, contents.as_bytes(), &nar, &[]);
    host.world.doubles.name(std::slice::from_ref(&path));
    path
}

/// Makes an item called `name` valid whose name does not follow from its contents, and which refers to `references`.
pub(super) fn built(host: &Host, name: &str, length: usize, references: &[&StorePath]) -> StorePath {
    let (path, contents) = (host.scene.path(name), "x".repeat(length));
    host.scene.register_as(&path, contents.as_bytes(), &nar(file(contents.as_bytes())), references);
    path
}

/// Returns more texts than one flight asks about.
fn many(host: &Host) -> Vec<StorePath> {
    let long = "long".repeat(45);
    (0..70).map(|number| text(host, &format!("{long}-{number:02}"), 1)).collect()
}

/// The outcome of sending.
pub(super) struct Sent {
    pub result: Result<Vec<StorePath>>,
    notes: Notes,
    pub steps: Vec<Step>,
    /// How many items came at once, for each time that some came.
    batches: Vec<usize>,
    lease: Box<Lease>,
}

impl Sent {
    fn round_trips(&self) -> Vec<Step> {
        self.steps.iter().copied().filter(|step| step.is_round_trip()).collect()
    }
}

/// Sends `items` to the host's machine.
fn send(host: &Host, items: &[StorePath]) -> Sent {
    send_at(None, host, items)
}

/// Does the same over a link that moves `rate` bytes a second.
pub(super) fn send_at(rate: Option<f64>, host: &Host, items: &[StorePath]) -> Sent {
    let (cancel, mut notes) = (Cancel::default(), Notes::default());
    let requirements = request(&host.derivation).requirements;
    let choice = host.world.engine.choose(&host.machines, &requirements, None, &cancel, &mut notes).unwrap();
    let Some(Choice::Machine(mut lease)) = choice else { panic!("no machine") };
    let mut local = LocalGuix::connect(&host.scene.directories, &cancel).unwrap();
    let doubles = &host.world.doubles;
    doubles.take_steps(|_| true);
    let Common { in_flight, substitutes, .. } = &*host.world.engine.common;
    let result = send_files(
        &mut local,
        &mut *lease.remote,
        items,
        &[],
        &Circumstances { in_flight, substitutes: Some(substitutes), is_new: &|_| false, rate, cancel: &cancel },
        &mut notes,
    );
    let result = result.map(|sent| sent.items);
    let steps = doubles.take_steps(|_| true).into_iter().map(|(_, step)| step).collect();
    Sent { result, notes, steps, batches: doubles.take_batches(), lease }
}

#[test]
fn what_a_machine_has_is_asked_for_in_one_round_trip_and_not_sent() {
    let host = Host::new(&["m"]);
    let items: Vec<_> = (0..20).map(|number| text(&host, &format!("t{number}"), 10)).collect();
    host.world.doubles.give("m", &items);
    let sent = send(&host, &items);
    assert!(sent.result.unwrap().is_empty() && sent.notes.sending.is_empty() && sent.batches.is_empty());
    assert_eq!(sent.steps, [Step::AddTempRoots, Step::AddTempRoots, Step::Missing]);
}

#[test]
fn a_large_closure_takes_one_question_unless_much_of_it_is_missing() {
    for (missing, questions) in [(0, 1), (1, 1), (16, 1), (17, 2)] {
        let host = Host::new(&["m"]);
        let items = many(&host);
        host.world.doubles.give("m", &items[missing..]);
        let sent = send(&host, &items);
        let asked = sent.round_trips().iter().filter(|step| **step == Step::Missing).count();
        assert_eq!(asked, questions, "{missing} are missing");
        assert_eq!(sent.result.unwrap(), items[..missing]);
    }
}

#[test]
fn of_two_builds_that_need_the_same_one_sends_it() {
    let mut host = Host::new(&["m"]);
    host.machines[0].parallel_builds = 2;
    let large = built(&host, "large", 2 << 20, &[]);
    // The first import takes until the second build has asked, and a moment longer.
    let (asked, begun) = (Arc::new(std::sync::Barrier::new(2)), parking_lot::Mutex::new((0, 0)));
    host.world.doubles.act(move |_, step, _| {
        let count = |of: fn(&mut (u32, u32)) -> &mut u32| {
            let mut begun = begun.lock();
            let count = of(&mut begun);
            *count += 1;
            *count
        };
        match step {
            Step::Import if count(|begun| &mut begun.0) == 1 => {
                asked.wait();
                std::thread::sleep(Duration::from_millis(100));
            }
            Step::Missing if count(|begun| &mut begun.1) == 2 => drop(asked.wait()),
            _ => {}
        }
        Ok(())
    });
    let host = &host;
    let build = || {
        let work = Work { inputs: vec![large.clone()], outputs: Vec::new(), options: BuildOptions::default() };
        host.world.engine.run(host.accept(), work, &Cancel::default(), &mut Notes::default()).unwrap();
    };
    std::thread::scope(|scope| [scope.spawn(build), scope.spawn(build)].map(|one| one.join().unwrap()));
    assert_eq!(host.world.doubles.take_machines(Step::Import), ["m"]);
    assert_eq!(host.world.doubles.take_batches(), [2], "the derivation and what it reads");
}

#[test]
fn what_a_collector_takes_of_a_large_closure_the_build_shows_and_it_is_sent_again() {
    let host = Host::new(&["m"]);
    let items = many(&host);
    host.world.doubles.give("m", &items);
    let (doubles, eaten, eats) =
        (Arc::clone(&host.world.doubles), items[3].clone(), Arc::new(parking_lot::Mutex::new(true)));
    host.world.doubles.act(move |_, step, _| match step {
        // It is protected too late.
        Step::AddTempRoots if std::mem::take(&mut *eats.lock()) => {
            doubles.take("m", &eaten);
            Ok(())
        }
        Step::Build if !doubles.has("m", &eaten) => {
            Err(Error::new(ErrorKind::Daemon, format!("path `{eaten}' is not valid")))
        }
        _ => Ok(()),
    });
    let work = Work { inputs: items.clone(), outputs: vec![host.output.clone()], options: BuildOptions::default() };
    let mut notes = Notes::default();
    host.world.engine.run(host.accept(), work, &Cancel::default(), &mut notes).unwrap();
    assert!(host.take_output() && notes.retried.is_empty());
    assert_eq!(host.world.doubles.take_machines(Step::Build).len(), 2);
}

#[test]
fn what_an_earlier_build_saw_over_the_connection_is_not_asked_about_again() {
    let host = Host::new(&["m"]);
    let known: Vec<_> = (0..3).map(|number| text(&host, &format!("t{number}"), 10)).collect();
    let build = |inputs: &[&StorePath]| {
        host.world.doubles.take_steps(|_| true);
        let inputs = inputs.iter().copied().chain(&known).cloned().collect();
        let work = Work { inputs, outputs: vec![host.output.clone()], options: BuildOptions::default() };
        host.world.engine.run(host.accept(), work, &Cancel::default(), &mut Notes::default()).unwrap();
        assert!(host.take_output());
        let steps = host.world.doubles.take_steps(|_| true);
        steps.iter().filter(|(_, step)| *step == Step::Missing).count()
    };
    assert_eq!(build(&[]), 1, "all is new");
    assert_eq!(build(&[]), 0, "all is known");
    let (derivation, source) = (text(&host, "new.drv", 10), text(&host, "new", 10));
    assert_eq!(build(&[&derivation]), 0, "a derivation is sent unasked");
    assert!(host.world.doubles.has("m", &derivation));
    assert_eq!(build(&[&source]), 1, "another new item may be there");
    let pool = &host.world.engine.common.resources.pool;
    let (mut idle, _) = pool.take(|_| true).expect("an idle connection");
    idle.drop_temp_roots().unwrap();
    pool.put(idle);
    assert_eq!(build(&[]), 1, "the connection to the daemon is another one");
}

#[test]
fn what_another_machine_has_just_made_is_sent_unasked() {
    let host = Host::new(&["m"]);
    let known = text(&host, "known", 10);
    let build = |inputs: &[&StorePath]| {
        host.world.doubles.take_steps(|_| true);
        let inputs = inputs.iter().copied().chain([&known]).cloned().collect();
        let work = Work { inputs, outputs: vec![host.output.clone()], options: BuildOptions::default() };
        host.world.engine.run(host.accept(), work, &Cancel::default(), &mut Notes::default()).unwrap();
        assert!(host.take_output());
        let steps = host.world.doubles.take_steps(|_| true);
        steps.iter().filter(|(_, step)| *step == Step::Missing).count()
    };
    build(&[]);
    let holdings = &host.world.engine.common.resources.holdings;
    let (made, large) = (built(&host, "made", 10, &[&known]), built(&host, "large", 3 << 20, &[]));
    holdings.note_made(&[made.clone(), large.clone()]);
    assert_eq!(build(&[&made]), 0);
    assert!(host.world.doubles.has("m", &made));
    assert_eq!(build(&[&large]), 1, "much is not sent in vain");
    let (here, other) = (built(&host, "here", 10, &[]), built(&host, "other", 10, &[]));
    holdings.note_made(std::slice::from_ref(&here));
    holdings.add(&host.machines[0], std::slice::from_ref(&here));
    assert_eq!(build(&[&here]), 1, "it was there");
    assert_eq!(build(&[&other]), 1, "it may be there");
}

#[test]
fn what_a_machine_has_lost_all_the_same_is_asked_for_and_sent_again() {
    let host = Host::new(&["m"]);
    let item = text(&host, "t", 10);
    let build = || {
        let work =
            Work { inputs: vec![item.clone()], outputs: vec![host.output.clone()], options: BuildOptions::default() };
        host.world.engine.run(host.accept(), work, &Cancel::default(), &mut Notes::default()).unwrap();
        assert!(host.take_output());
    };
    build();
    host.world.doubles.take("m", &item);
    let (doubles, lost) = (Arc::clone(&host.world.doubles), item.clone());
    host.world.doubles.act(move |_, step, _| match step {
        Step::Build if !doubles.has("m", &lost) => Err(Error::new(ErrorKind::Daemon, "it is not valid")),
        _ => Ok(()),
    });
    host.world.doubles.take_steps(|_| true);
    build();
    assert!(host.world.doubles.has("m", &item));
    let steps: Vec<_> =
        host.world.doubles.take_steps(|step| step != Step::AddTempRoots).into_iter().map(|(_, s)| s).collect();
    use Step::*;
    let expected =
        [Probe, Trust, Build, Missing, Missing, PrepareToReceive, BeginAdding, FinishAdding, Build, Info, Export];
    assert_eq!(steps, expected, "over the same connection");
}

#[test]
fn a_closure_that_a_collector_eats_meanwhile_is_given_up() {
    let host = Host::new(&["m"]);
    let items = many(&host);
    host.world.doubles.give("m", &items[17..]);
    let (doubles, eaten, count) =
        (Arc::clone(&host.world.doubles), items.clone(), Arc::new(parking_lot::Mutex::new(17)));
    host.world.doubles.act(move |_, step, _| {
        if step == Step::Missing {
            let mut count = count.lock();
            doubles.take("m", &eaten[*count]);
            *count += 1;
        }
        Ok(())
    });
    let sent = send(&host, &items);
    let error = sent.result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Collected, "{error}");
    assert_eq!(sent.steps.iter().filter(|step| **step == Step::Missing).count(), 10, "five times two");
}

#[test]
fn small_items_are_made_again_in_batches() {
    let host = Host::new(&["m"]);
    let items: Vec<_> = (0..13).map(|number| text(&host, &format!("t{number}"), 100 << 10)).collect();
    let sent = send(&host, &items);
    assert_eq!(sent.batches, [6, 6, 1], "until there are 512 KiB");
    use Step::*;
    // A batch is sent before the answer to the previous one is waited for.
    let trips =
        [Missing, PrepareToReceive, BeginAdding, BeginAdding, FinishAdding, BeginAdding, FinishAdding, FinishAdding];
    assert_eq!(sent.steps[2..], trips);
    assert_eq!(sent.result.unwrap(), items);
    assert!(items.iter().all(|item| host.world.doubles.has("m", item)));
}

#[test]
fn large_sources_are_made_again_whole_where_there_is_the_memory() {
    let sizes = [600 << 10, 700 << 10];
    let host = Host::new(&["m"]);
    let items = sizes.map(|size| source(&host, &format!("s{size}"), size));
    let sent = send(&host, &items);
    assert_eq!(sent.round_trips(), [Step::Missing, Step::AddNar, Step::AddNar]);
    assert_eq!((sent.result.unwrap(), sent.batches), (items.to_vec(), vec![1, 1]));
    let host = Host::new(&["small"]);
    let items = sizes.map(|size| source(&host, &format!("s{size}"), size));
    let sent = send(&host, &items);
    assert_eq!((sent.round_trips(), sent.batches), (vec![Step::Missing, Step::Import], vec![2]));
    assert_eq!(sent.result.unwrap().len(), 2);
}

#[test]
fn a_link_that_shows_to_be_slow_has_the_rest_imported_and_is_remembered() {
    let host = Host::new(&["slow"]);
    let items = [600 << 10, 700 << 10].map(|size| source(&host, &format!("s{size}"), size));
    let sent = send(&host, &items);
    // All is asked for again, since the temporary roots ended with the previous connection.
    use Step::*;
    let expected = [
        AddTempRoots,
        AddTempRoots,
        Missing,
        AddNar,
        AddTempRoots,
        AddTempRoots,
        Missing,
        AddNar,
        AddNar,
        PrepareToReceive,
    ];
    assert_eq!(sent.steps, expected);
    assert_eq!(sent.lease.remote.slow_link(), Some(1e6));
    assert_eq!(sent.result.unwrap().len(), 2);
    drop(sent.lease);
    let histories = host.world.engine.histories();
    assert_eq!(histories.of(&host.machines[0]).slow_link(), None, "nobody built there yet");
    let work = Work {
        inputs: vec![source(&host, "more", 800 << 10)],
        outputs: vec![host.output.clone()],
        options: BuildOptions::default(),
    };
    host.world.engine.run(host.accept(), work, &Cancel::default(), &mut Notes::default()).unwrap();
    assert_eq!(histories.of(&host.machines[0]).slow_link(), Some(1e6));
}

#[test]
fn what_does_not_follow_from_its_contents_is_imported_in_one_bundle_after_what_it_refers_to() {
    let host = Host::new(&["m"]);
    let library = built(&host, "library", 1000, &[]);
    let program = built(&host, "program", 1000, &[&library]);
    // A text that refers to an imported item can only come after it.
    let contents = format!("run {program}");
    let bytes = nar(file(contents.as_bytes()));
    let script = host.scene.path("script");
    host.scene.register_as(&script, contents.as_bytes(), &bytes, &[&program]);
    let alone = text(&host, "alone", 1000);
    let items = [script.clone(), program.clone(), alone.clone(), library.clone()];
    let sent = send(&host, &items);
    assert_eq!(sent.round_trips(), [Step::Missing, Step::FinishAdding, Step::Import]);
    assert_eq!(sent.batches, [1, 3]);
    assert_eq!(sent.result.unwrap(), [alone, library, program, script]);
}

#[test]
fn before_much_is_sent_it_is_seen_whether_it_is_let_in() {
    for (length, welcomed) in [((8 << 20) - 1000, false), (8 << 20, true)] {
        let host = Host::new(&["m"]);
        let items = [built(&host, "large", length, &[])];
        let sent = send(&host, &items);
        let imports = sent.steps.iter().filter(|step| **step == Step::Import).count();
        assert_eq!(imports, 1 + usize::from(welcomed), "{length}");
        sent.result.unwrap();
    }
    // If it is not accepted, nothing of it is sent.
    let host = Host::new(&["m"]);
    let items = [built(&host, "large", 8 << 20, &[])];
    host.world.doubles.act(|_, step, _| match step {
        Step::Import => Err(Error::new(ErrorKind::Daemon, "unauthorized public key: (public-key)")),
        _ => Ok(()),
    });
    let sent = send(&host, &items);
    assert_eq!(sent.result.unwrap_err().kind(), ErrorKind::Untrusted);
    assert!(sent.batches.is_empty());
}

#[test]
fn what_is_gone_when_what_refers_to_it_comes_is_sent_again_once() {
    for times in 1..=3 {
        let host = Host::new(&["m"]);
        let items: Vec<_> = ["one", "two", "three"].iter().map(|name| built(&host, name, 10, &[])).collect();
        host.world.doubles.give("m", &items[1..]);
        let (doubles, there, count) =
            (Arc::clone(&host.world.doubles), items.clone(), Arc::new(parking_lot::Mutex::new(0)));
        host.world.doubles.act(move |_, step, _| {
            let mut count = count.lock();
            if step == Step::Import && *count < times {
                *count += 1;
                there.get(*count).inspect(|item| doubles.take("m", item));
                return Err(Error::new(ErrorKind::Daemon, "path is not valid"));
            }
            Ok(())
        });
        let sent = send(&host, &items);
        let imports = sent.steps.iter().filter(|step| **step == Step::Import).count();
        match times {
            1 => {
                assert_eq!(sent.result.unwrap().len(), 2);
                assert_eq!((imports, sent.notes.sending.len()), (2, 2));
            }
            _ => {
                let error = sent.result.unwrap_err();
                assert_eq!((error.kind(), imports), (ErrorKind::Collected, 2), "{error}");
            }
        }
    }
    // The import is refused for another reason, and nothing is gone.
    let host = Host::new(&["m"]);
    let items = [built(&host, "one", 10, &[])];
    host.world.doubles.act(|_, step, _| match step {
        Step::Import => Err(Error::new(ErrorKind::Daemon, "it is full")),
        _ => Ok(()),
    });
    let sent = send(&host, &items);
    assert_eq!(sent.round_trips(), [Step::Missing, Step::Import, Step::Missing]);
    assert_eq!(sent.result.unwrap_err().kind(), ErrorKind::Daemon);
}

#[test]
fn what_is_not_valid_here_is_no_machines_fault() {
    let host = Host::new(&["m"]);
    let sent = send(&host, &[host.scene.path("nowhere")]);
    assert_eq!(sent.result.unwrap_err().kind(), ErrorKind::Store);
    assert!(sent.lease.remote.is_usable());
}
