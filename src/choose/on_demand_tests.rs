// SPDX-License-Identifier: GPL-3.0-or-later
//! Real programs, and a listener in place of a machine.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::*;
use crate::choose::slot::LockDirectory;
use crate::ground::clock::{Clock, SystemClock};
use crate::ground::directories::tests::below;
use crate::machine::tests::machine;

const SOON: Duration = Duration::from_secs(20);

struct Scene {
    root: tempfile::TempDir,
    on_demand: OnDemand,
    histories: Histories,
    machine: BuildMachine,
    listener: Mutex<Option<TcpListener>>,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let directories = below(root.path());
        let clock = Arc::new(SystemClock) as Arc<dyn Clock>;
        let histories = Histories::new(&directories, &clock);
        // A port at which nobody listens.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let machine = BuildMachine { port, ..machine("127.0.0.1") };
        fs::create_dir_all(directories.configuration.join("offload")).unwrap();
        let on_demand = OnDemand::new(&directories, &histories);
        Scene { root, on_demand, histories, machine, listener: Mutex::default() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Makes a program, whose `$1` is the machine and which appends a line to "ran" first.
    fn program(&self, suffix: &str, script: &str) {
        let file = self.on_demand.programs.join(format!("127.0.0.1.{suffix}"));
        let ran = self.at("ran");
        fs::write(&file, format!("#!/bin/sh\necho {suffix} $1 >>{}\n{script}\n", ran.display())).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn ran(&self) -> String {
        fs::read_to_string(self.at("ran")).unwrap_or_default()
    }

    /// Has the machine's port accept connections, once its program runs.
    fn comes_up(&self) {
        let begun = Instant::now();
        while self.ran().is_empty() {
            assert!(begun.elapsed() < SOON);
            std::thread::sleep(Duration::from_millis(1));
        }
        self.listen();
    }

    fn listen(&self) {
        *self.listener.lock() = Some(TcpListener::bind(("127.0.0.1", self.machine.port)).unwrap());
    }

    /// Starts the machine, which is up a moment later.
    fn start(&self) {
        self.on_demand.start(&self.machine).unwrap().unwrap();
        self.comes_up();
        self.finish();
    }

    /// Waits until no program runs.
    fn finish(&self) {
        let begun = Instant::now();
        while self.on_demand.is_under_way(&self.machine).is_some() {
            assert!(begun.elapsed() < SOON);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn set_back(&self) {
        let away = Error::new(ErrorKind::Unavailable, "no route");
        self.histories.note_setback(&self.machine, SetbackKind::Away, &away);
    }

    fn setback(&self) -> Option<String> {
        self.histories.of(&self.machine).setback().map(|setback| setback.reason.to_string())
    }

    fn mark(&self) -> PathBuf {
        self.on_demand.directory().path("127.0.0.1")
    }

    fn has_mark(&self) -> bool {
        self.mark().exists()
    }

    /// Makes the machine's last build as old as that.
    fn grow_old(&self) {
        let then = SystemTime::now() - 2 * STOP_AFTER;
        for file in [self.mark(), self.on_demand.state.join(self.machine.label()).join(history::NAME)] {
            fs::File::options().write(true).open(file).unwrap().set_modified(then).unwrap();
        }
    }

    fn stop_idle(&self) -> (bool, Vec<String>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell: Tell = Arc::new({
            let told = Arc::clone(&told);
            move |error| told.lock().push(error.to_string())
        });
        let any = self.on_demand.stop_idle(&tell);
        self.finish();
        let told = told.lock().clone();
        (any, told)
    }
}

#[test]
fn a_machine_is_started_once_for_all_that_ask_and_is_used_at_once() {
    let scene = Scene::new();
    assert!(scene.on_demand.start(&scene.machine).is_none(), "there is no program");
    scene.program("start", "sleep 0.3");
    scene.set_back();
    for _ in 0..3 {
        let told = scene.on_demand.start(&scene.machine).unwrap().unwrap();
        assert!(told.to_string().contains("127.0.0.1.start' starts or stops it"), "{told}");
    }
    assert!(scene.on_demand.is_under_way(&scene.machine).is_some() && scene.on_demand.is_running());
    scene.comes_up();
    scene.finish();
    assert_eq!(scene.ran(), "start 127.0.0.1\n");
    assert_eq!(scene.setback(), None);
    assert!(scene.has_mark());
}

#[test]
fn a_machine_that_is_up_is_not_started_nor_stopped() {
    let scene = Scene::new();
    scene.program("start", "");
    scene.listen();
    scene.set_back();
    scene.on_demand.start(&scene.machine).unwrap().unwrap();
    scene.finish();
    assert!(scene.ran().is_empty() && !scene.has_mark());
    assert_eq!(scene.setback().as_deref(), Some("no route"), "what is wrong with it is not forgotten");
}

#[test]
fn a_start_that_fails_is_the_machines_failure() {
    let scene = Scene::new();
    scene.program("start", "echo out of quota; echo >&2; exit 3");
    scene.on_demand.start(&scene.machine).unwrap().unwrap();
    scene.finish();
    let said = scene.setback().unwrap();
    assert!(said.contains("127.0.0.1.start' failed with exit status 3: out of quota"), "{said}");
    scene.program("start", "kill -KILL $$");
    scene.on_demand.start(&scene.machine).unwrap().unwrap();
    scene.finish();
    assert!(scene.setback().unwrap().contains("failed with exit status 137"));
}

#[test]
fn a_machine_that_was_started_is_stopped_when_it_had_no_build_for_a_while() {
    let scene = Scene::new();
    scene.program("start", "");
    scene.program("stop", "");
    assert_eq!(scene.stop_idle(), (false, vec![]), "it was not started");
    scene.program("start", "sleep 0.2");
    scene.start();
    assert_eq!(scene.stop_idle(), (true, vec![]));
    scene.histories.note_build(&scene.machine, SOON);
    scene.grow_old();
    // Of another port of the same machine.
    let other = BuildMachine { port: 1, ..scene.machine.clone() };
    let mut slots = LockDirectory::slots(&scene.on_demand.state, &other).unwrap();
    let slot = slots.try_take().unwrap().unwrap();
    assert_eq!(scene.stop_idle(), (true, vec![]), "it builds");
    drop(slot);
    assert_eq!(scene.ran(), "start 127.0.0.1\n");
    assert_eq!(scene.stop_idle(), (true, vec![]));
    assert_eq!(scene.ran(), "start 127.0.0.1\nstop 127.0.0.1\n");
    assert_eq!(scene.stop_idle(), (false, vec![]));
}

#[test]
fn a_stop_that_fails_is_told_and_tried_again_as_late() {
    let scene = Scene::new();
    scene.program("start", "sleep 0.2");
    scene.program("stop", "echo it is needed; exit 1");
    scene.start();
    scene.set_back();
    scene.grow_old();
    let (any, told) = scene.stop_idle();
    assert!(any && told.len() == 1 && told[0].contains("failed with exit status 1: it is needed"), "{told:?}");
    assert_eq!(scene.stop_idle(), (true, vec![]), "not yet");
}
