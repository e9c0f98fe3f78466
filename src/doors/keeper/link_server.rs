// SPDX-License-Identifier: GPL-3.0-or-later
//! The keeper's side of a link: one thread reads the messages of its process, and each of its jobs has a thread.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::build::request::{Request, Work};
use crate::doors::job::events::MAX_LOG;
use crate::doors::keeper::activity::Activity;
use crate::doors::keeper::hook_server::{Client, admit};
use crate::doors::keeper::message::{About, FromKeeper, FromLink};
use crate::doors::keeper::owned_event::OwnedEvent;
use crate::doors::keeper::server::{Keeper, Role};
use crate::doors::keeper::socket::receive;
use crate::doors::keeper::voice::Voice;
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::ground::thread;
use crate::machine::BuildMachine;
use crate::report::{Aside, Event, Observer};
use crate::store::{Received, Registrar};

/// Handles the messages of a link until it hangs up. Then cancels its jobs and waits until they have ended.
pub(super) fn serve(client: &Client, keeper: &Arc<Keeper>) -> Result<()> {
    keeper.mark_as(client, Role::Link);
    let jobs = Arc::new(Jobs::default());
    let result = listen(client, keeper, &jobs);
    let mut running = jobs.running.lock();
    running.values().for_each(|job| job.cancel());
    while !running.is_empty() {
        jobs.one_ended.wait(&mut running);
    }
    result
}

fn listen(client: &Client, keeper: &Arc<Keeper>, jobs: &Arc<Jobs>) -> Result<()> {
    loop {
        let About(number, said) = receive(&mut &*client.voice.stream)?;
        match said {
            FromLink::Start { machines, requirements, derivation, is_patient, inputs, outputs, options } => {
                let machines = admit(machines)?;
                let activity = keeper.begin(&machines, &requirements, &derivation);
                if !keeper.add_job(client, number, activity) {
                    client.voice.say(&About(number, FromKeeper::Retires))?;
                    continue;
                }
                client.voice.say(&About(number, FromKeeper::Accepted))?;
                let request = Request { requirements, derivation, is_patient };
                let work = Work { inputs, outputs, options };
                start(keeper, jobs, &client.voice, number, machines, request, work)?;
            }
            FromLink::Taken(bytes) => jobs.note(number, |state| state.untaken = state.untaken.saturating_sub(bytes)),
            FromLink::MadeValid(made) => jobs.note(number, |state| state.made = Some(made)),
            FromLink::Cancel => jobs.get(number).iter().for_each(|job| job.cancel()),
        }
    }
}

fn start(
    keeper: &Arc<Keeper>,
    jobs: &Arc<Jobs>,
    voice: &Voice,
    number: u64,
    machines: Vec<BuildMachine>,
    request: Request,
    work: Work,
) -> Result<()> {
    let job = Arc::new(Running::default());
    jobs.running.lock().insert(number, Arc::clone(&job));
    let here = Here { jobs: Arc::clone(jobs), keeper: Arc::clone(keeper), voice: voice.clone(), number };
    let voice = JobVoice { voice: voice.clone(), number, job: Arc::clone(&job) };
    let sender = voice.clone();
    let started = thread::spawn("guix-offload-job", move || {
        let (mut observer, mut registrar) = (voice.clone(), voice.clone());
        let result = catch_unwind(AssertUnwindSafe(|| {
            let engine = &here.keeper.engine;
            engine.run_job(&machines, &request, work, Some(&mut registrar), &job.cancel, &mut observer)
        }))
        .unwrap_or_else(|panic| Err(Error::panicked(&*panic)));
        let _ = voice.say(result.map_or_else(FromKeeper::Failed, |()| FromKeeper::Done));
        drop(here); // not before it is said: a keeper without a job may end
    });
    match started {
        Ok(_) => Ok(()),
        Err(error) => sender.say(FromKeeper::Failed(error)),
    }
}

/// The jobs of a link.
#[derive(Default)]
struct Jobs {
    running: Mutex<HashMap<u64, Arc<Running>>>,
    one_ended: Condvar,
}

impl Jobs {
    /// Returns a job; `None`: it is over.
    fn get(&self, number: u64) -> Option<Arc<Running>> {
        self.running.lock().get(&number).cloned()
    }

    /// Changes the state of a job as a message says, unless the job is over.
    fn note(&self, number: u64, change: impl FnOnce(&mut State)) {
        if let Some(job) = self.get(number) {
            job.note(change);
        }
    }
}

/// Keeps a job among those that run, until dropped.
struct Here {
    jobs: Arc<Jobs>,
    keeper: Arc<Keeper>,
    voice: Voice,
    number: u64,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.jobs.running.lock().remove(&self.number);
        self.voice.activities.lock().remove(&self.number);
        self.jobs.one_ended.notify_all();
        self.keeper.changed.raise();
    }
}

/// A running job: what its thread shares with the thread that reads messages about it.
#[derive(Default)]
struct Running {
    cancel: Cancel,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes of log that were sent and not yet taken.
    untaken: usize,
    /// The answer to the last `MakeValid`.
    made: Option<Result<Vec<StorePath>>>,
    cancelled: bool,
}

impl Running {
    fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }

    fn cancel(&self) {
        self.note(|state| state.cancelled = true);
        self.cancel.cancel();
    }

    /// Waits until `look` finds something. Fails with [`ErrorKind::Cancelled`] once the job is cancelled.
    fn wait_for<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let mut state = self.state.lock();
        loop {
            if state.cancelled {
                return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
            }
            if let Some(found) = look(&mut state) {
                return Ok(found);
            }
            self.changed.wait(&mut state);
        }
    }
}

/// The sender of messages about a job. Any thread may use it.
#[derive(Clone)]
struct JobVoice {
    voice: Voice,
    number: u64,
    job: Arc<Running>,
}

impl JobVoice {
    fn say(&self, message: FromKeeper) -> Result<()> {
        self.voice.say(&About(self.number, message))
    }
}

/// Reports to the process. If that is gone, the thread that reads its messages notices.
impl Observer for JobVoice {
    fn event(&mut self, event: &Event<'_>) {
        if let Some(activity) = self.voice.activities.lock().get_mut(&self.number) {
            Activity::note(activity, event);
        }
        let _ = self.say(FromKeeper::Event(OwnedEvent::from(event)));
    }

    fn aside(&self) -> Option<Aside> {
        let voice = self.clone();
        Some(Arc::new(move |line| {
            let _ = voice.say(FromKeeper::Aside(line.into()));
        }))
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.job.wait_for(|state| (state.untaken < MAX_LOG).then(|| state.untaken += text.len()))?;
        self.say(FromKeeper::Log(text.to_vec())).map_err(|_| Error::new(ErrorKind::Cancelled, "the process ended"))
    }
}

/// Asks the process to make outputs valid, because the process holds the locks on them.
impl Registrar for JobVoice {
    fn make_valid(&mut self, received: &Received<'_>) -> Result<Vec<StorePath>> {
        let (directory, items) = (received.path.clone(), received.items.to_vec());
        self.job.note(|state| state.made = None);
        self.say(FromKeeper::MakeValid { directory, items })?;
        self.job.wait_for(|state| state.made.take())?
    }
}
