// SPDX-License-Identifier: GPL-3.0-or-later
//! Who does the builds: an engine in this process or, with the environment variable `HOSTILE_KEEPER`, a keeper that has
//! this engine, and that is asked as hooks ask it.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use guix_offload::build::engine::Engine;
use guix_offload::build::request::{Inquiry, Reply, Request, Work};
use guix_offload::daemon::BuildOptions;
use guix_offload::doors::hook::{Builder as _, Decision};
use guix_offload::doors::keeper::client::WithKeeper;
use guix_offload::doors::keeper::place::Given;
use guix_offload::doors::keeper::{reach, server};
use guix_offload::ground::cancel::Cancel;
use guix_offload::ground::error::Result;
use guix_offload::ground::store_path::StorePath;
use guix_offload::machine::{BuildMachine, Requirements};
use guix_offload::report::{Aside, Event, Observer};

use crate::fixture::Scene;

pub enum Builder {
    Here(Engine),
    Keeper(Option<JoinHandle<Result<()>>>, Arc<Engine>),
}

impl Builder {
    pub fn new(engine: Engine) -> Self {
        if std::env::var_os("HOSTILE_KEEPER").is_none() {
            return Builder::Here(engine);
        }
        // Hooks have an engine of their own, for a keeper that fails.
        let of_hooks = Arc::new(Engine::new(engine.directories().clone(), Duration::ZERO).unwrap());
        let place = engine.directories().offload_state().join(".keeper");
        std::fs::create_dir_all(&place).unwrap();
        let listener = UnixListener::bind(place.join("socket")).unwrap().into();
        let given = Given { listener, lock: std::fs::File::create(place.join("lock")).unwrap().into() };
        let keeper = thread::spawn(move || server::serve(given, engine, program(), None, Duration::from_secs(3600)));
        Builder::Keeper(Some(keeper), of_hooks)
    }

    /// Has a build done on one of `machines`, which act by themselves.
    pub fn build_on(
        &self,
        scene: &Scene,
        machines: &[BuildMachine],
        inputs: Vec<StorePath>,
        options: BuildOptions,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let requirements = Requirements { system: "x86_64-linux".into(), features: Vec::new() };
        let request = Request { requirements, derivation: scene.path("asked.drv"), is_patient: true };
        let inquiry = Inquiry { machines, request: &request, options: &options.clone(), could_build_here: &|| false };
        let (cancel, work) = (Cancel::default(), Work { inputs, outputs: vec![scene.path("output")], options });
        match self {
            Builder::Here(engine) => engine.ask(&inquiry, &cancel, observer).and_then(|reply| match reply {
                Reply::Accept(accepted) => engine.run(*accepted, work, &cancel, observer),
                _ => Ok(()),
            }),
            Builder::Keeper(_, of_hooks) => {
                let mut hook = WithKeeper::new(program(), Arc::clone(of_hooks));
                let observer = &mut Witness(observer);
                hook.ask(&inquiry, &cancel, observer).and_then(|decision| match decision {
                    Decision::Accept => hook.run(work, &cancel, observer),
                    _ => Ok(()),
                })
            }
        }
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if let Builder::Keeper(keeper, engine) = self {
            let retired = reach::retire(engine.directories());
            let ended = keeper.take().map(JoinHandle::join);
            if !thread::panicking() {
                assert!(retired.unwrap(), "the keeper is gone");
                ended.unwrap().unwrap().unwrap();
            }
        }
    }
}

/// The program of the keeper, which is never started: the keeper is a thread.
fn program() -> PathBuf {
    "/nonexistent".into()
}

/// An observer that sees to it that a build does not go on without the keeper.
struct Witness<'a>(&'a mut dyn Observer);

impl Observer for Witness<'_> {
    fn event(&mut self, event: &Event<'_>) {
        self.0.event(event);
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.0.log(text)
    }

    fn aside(&self) -> Option<Aside> {
        let others = self.0.aside();
        Some(Arc::new(move |line| {
            assert!(!line.contains("without the keeper"), "{line}");
            if let Some(say) = &others {
                say(line);
            }
        }))
    }
}
