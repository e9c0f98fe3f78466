// SPDX-License-Identifier: GPL-3.0-or-later
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use super::*;
use crate::doors::keeper::message::{About, FromClient, FromKeeper, FromLink};
use crate::doors::keeper::reach::{inspect, retire};
use crate::doors::keeper::socket::{receive, send};
use crate::ground::directories::Directories;
use crate::ground::directories::tests::below;
use crate::ground::error::ErrorKind;

/// A keeper in a thread, with the socket and lock that the first hook would give it.
struct Scene {
    scratch: tempfile::TempDir,
    directories: Directories,
    keeper: Option<JoinHandle<Result<()>>>,
}

impl Scene {
    fn new(idle_limit: Duration) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let directories = below(scratch.path());
        let place = at("state/offload/.keeper");
        std::fs::create_dir_all(&place).unwrap();
        let listener = UnixListener::bind(place.join("socket")).unwrap().into();
        let lock = std::fs::File::create(place.join("lock")).unwrap().into();
        std::fs::write(at("program"), "").unwrap();
        // Written once, because a job may read it at any time.
        std::fs::write(at("key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        std::fs::set_permissions(at("key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let program = at("program");
        let engine = Engine::new(directories.clone(), idle_limit).unwrap();
        let keeper =
            Some(std::thread::spawn(move || serve(Given { listener, lock }, engine, program, None, idle_limit)));
        Scene { scratch, directories, keeper }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.at("state/offload/.keeper/socket")).unwrap()
    }

    fn greet(&self) -> UnixStream {
        let stream = self.connect();
        send(&mut &stream, &FromClient::Hello(identity(&self.directories, &self.at("program")).unwrap())).unwrap();
        assert!(matches!(receive(&mut &stream), Ok(FromKeeper::Welcome)));
        stream
    }

    fn has_socket(&self) -> bool {
        self.at("state/offload/.keeper/socket").exists()
    }

    /// Waits for the keeper to end.
    fn join(&mut self) {
        let keeper = self.keeper.take().unwrap();
        let begun = Instant::now();
        while !keeper.is_finished() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the keeper stays");
            std::thread::sleep(Duration::from_millis(5));
        }
        keeper.join().unwrap().unwrap();
    }
}

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(600);

#[track_caller]
fn await_end(stream: &UnixStream) {
    let ended = receive::<FromKeeper>(&mut &*stream).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Unavailable, "{ended}");
}

/// Returns the question for a build on one of `machines`.
fn ask_for(scene: &Scene, machines: Vec<BuildMachine>) -> FromClient {
    FromClient::Ask {
        machines,
        requirements: Requirements { system: "s".into(), features: Vec::new() },
        derivation: scene.directories.store.parse(&format!("/gnu/store/{}-x.drv", "a".repeat(32))).unwrap(),
        options: crate::daemon::BuildOptions::default(),
    }
}

#[test]
fn it_ends_once_no_hook_has_come_for_a_while() {
    let mut scene = Scene::new(SHORT);
    let hook = scene.greet();
    std::thread::sleep(3 * SHORT);
    assert!(scene.has_socket(), "a hook is there");
    drop(hook);
    scene.join();
    assert!(!scene.has_socket());
}

#[test]
fn it_makes_room_when_its_program_is_replaced_and_finishes_what_has_begun() {
    let mut scene = Scene::new(LONG);
    let old = scene.greet();
    std::fs::write(scene.at("new"), "new").unwrap();
    std::fs::rename(scene.at("new"), scene.at("program")).unwrap();
    // Each connection makes the keeper check its files.
    drop(scene.connect());
    let begun = Instant::now();
    while scene.has_socket() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    // The old hook is still served: its build is declined, as there are no machines.
    send(&mut &old, &ask_for(&scene, Vec::new())).unwrap();
    assert!(matches!(receive(&mut &old), Ok(FromKeeper::Declined)));
    drop(old);
    scene.join();
}

#[test]
fn it_says_what_it_does_and_ends_when_told_to() {
    let mut scene = Scene::new(LONG);
    let hook = scene.greet();
    let report = inspect(&scene.directories).unwrap().unwrap();
    assert_eq!((report.process, report.builds.len(), report.left_alone.len()), (std::process::id(), 0, 0));
    assert!(retire(&scene.directories).unwrap());
    let begun = Instant::now();
    while inspect(&scene.directories).unwrap().is_some() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it lets others in");
    }
    assert!(!retire(&scene.directories).unwrap());
    drop(hook);
    scene.join();
}

#[test]
fn it_ends_with_its_place() {
    let mut scene = Scene::new(LONG);
    drop(scene.greet());
    let begun = Instant::now();
    std::fs::remove_dir_all(scene.at("state")).unwrap();
    scene.join();
    assert!(begun.elapsed() < FILES_CHECK_INTERVAL / 2, "it saw that only after {:?}", begun.elapsed());
    // Also if its place was gone before the keeper first looked.
    let mut scene = Scene::new(LONG);
    std::fs::remove_dir_all(scene.at("state")).unwrap();
    scene.join();
}

#[test]
fn whoever_differs_is_not_served_and_has_it_make_room() {
    let nice: fn(&mut Identity) = |other| other.nice -= 1;
    let program: fn(&mut Identity) = |other| other.program = "/elsewhere/libexec/guix-offload".into();
    for differ in [nice, program] {
        let mut scene = Scene::new(LONG);
        let stream = scene.connect();
        let mut other = identity(&scene.directories, &scene.at("program")).unwrap();
        differ(&mut other);
        send(&mut &stream, &FromClient::Hello(other)).unwrap();
        await_end(&stream);
        scene.join();
        assert!(!scene.has_socket());
    }
}

#[test]
fn whoever_is_nicer_is_served() {
    let scene = Scene::new(LONG);
    let stream = scene.connect();
    let other = identity(&scene.directories, &scene.at("program")).unwrap();
    send(&mut &stream, &FromClient::Hello(Identity { nice: other.nice + 5, ..other })).unwrap();
    assert!(matches!(receive(&mut &stream), Ok(FromKeeper::Welcome)));
}

#[test]
fn a_client_in_another_namespace_is_told_so_and_neither_ends_nor_keeps_the_keeper() {
    let mut scene = Scene::new(LONG);
    let mut other = identity(&scene.directories, &scene.at("program")).unwrap();
    other.namespaces[0] = "mnt:[1]".into();
    let hello = FromClient::Hello(other);
    let refused = |scene: &Scene| {
        let stream = UnixStream::connect(scene.at("state/offload/.keeper/socket"));
        stream.is_ok_and(|stream| {
            send(&mut &stream, &hello).is_ok() && matches!(receive(&mut &stream), Ok(FromKeeper::Elsewhere))
        })
    };
    let own = scene.greet();
    (0..10).for_each(|_| assert!(refused(&scene)));
    drop(own);
    drop(scene.greet());
    assert!(retire(&scene.directories).unwrap());
    scene.join();

    let mut scene = Scene::new(10 * SHORT);
    assert!(refused(&scene));
    let begun = Instant::now();
    while refused(&scene) {
        assert!(begun.elapsed() < Duration::from_secs(30), "it stays for strangers");
    }
    scene.join();
}

#[test]
fn what_makes_no_sense_ends_one_connection() {
    let scene = Scene::new(LONG);
    let malformed = BuildMachine { name: "a\n# accept".into(), ..crate::machine::tests::machine("m") };
    let nonsense: [&dyn Fn(&UnixStream); 4] = [
        &|stream| send(&mut &*stream, &ask_for(&scene, vec![malformed.clone()])).unwrap(),
        &|stream| send(&mut &*stream, &FromClient::BuildsHere(true)).unwrap(),
        &|stream| std::io::Write::write_all(&mut &*stream, &[0xff; 64]).unwrap(),
        &|stream| stream.shutdown(Shutdown::Write).unwrap(),
    ];
    for speak in nonsense {
        let (before, after) = (scene.connect(), scene.greet());
        speak(&before);
        await_end(&before);
        speak(&after);
        await_end(&after);
        scene.greet();
    }
}

/// Returns a job that waits: nobody listens at its machine's address.
fn start_of(scene: &Scene) -> FromLink {
    let FromClient::Ask { requirements, derivation, options, .. } = ask_for(scene, Vec::new()) else { unreachable!() };
    let (name, private_key) = ("127.0.0.1".into(), scene.at("key"));
    let machine = BuildMachine { name, port: 1, private_key, ..crate::machine::tests::machine("m") };
    let requirements = Requirements { system: machine.systems[0].clone(), ..requirements };
    let (inputs, outputs, is_patient) = (vec![], vec![], true);
    FromLink::Start { machines: vec![machine], requirements, derivation, is_patient, inputs, outputs, options }
}

fn link(scene: &Scene) -> UnixStream {
    let stream = scene.greet();
    send(&mut &stream, &FromClient::Link).unwrap();
    stream
}

/// Starts a job, and waits until the keeper has accepted it.
fn start(scene: &Scene, link: &UnixStream, job: u64) {
    send(&mut &*link, &About(job, start_of(scene))).unwrap();
    while !matches!(receive(&mut &*link).unwrap(), About(number, FromKeeper::Accepted) if number == job) {}
}

#[test]
fn a_link_without_jobs_does_not_keep_it() {
    let mut scene = Scene::new(SHORT);
    let link = link(&scene);
    start(&scene, &link, 1);
    std::thread::sleep(3 * SHORT);
    assert!(scene.has_socket(), "there is a job");
    send(&mut &link, &About(1, FromLink::Cancel)).unwrap();
    loop {
        match receive(&mut &link).unwrap() {
            About(1, FromKeeper::Failed(error)) => break assert_eq!(error.kind(), ErrorKind::Cancelled),
            About(1, FromKeeper::Event(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    scene.join();
    await_end(&link);
}

#[test]
fn a_link_that_hangs_up_has_its_jobs_cancelled() {
    let scene = Scene::new(LONG);
    let link = link(&scene);
    (1..=3).for_each(|job| start(&scene, &link, job));
    assert_eq!(inspect(&scene.directories).unwrap().unwrap().builds.len(), 3);
    drop(link);
    let begun = Instant::now();
    while !inspect(&scene.directories).unwrap().unwrap().builds.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "they go on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_keeper_that_makes_room_finishes_the_jobs_of_a_link_and_takes_no_more() {
    let mut scene = Scene::new(LONG);
    let link = link(&scene);
    start(&scene, &link, 1);
    assert!(retire(&scene.directories).unwrap());
    let begun = Instant::now();
    while scene.has_socket() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    send(&mut &link, &About(2, start_of(&scene))).unwrap();
    loop {
        match receive(&mut &link).unwrap() {
            About(2, FromKeeper::Retires) => break,
            About(1, FromKeeper::Event(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    send(&mut &link, &About(1, FromLink::Cancel)).unwrap();
    scene.join();
}
