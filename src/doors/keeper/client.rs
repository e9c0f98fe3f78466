// SPDX-License-Identifier: GPL-3.0-or-later
//! The hook's side: a builder that has the keeper decide about builds and do them.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use crate::build::engine::Engine;
use crate::build::request::{Inquiry, Work};
use crate::doors::hook::{Builder, Decision, InProcess};
use crate::doors::keeper::message::{FromClient, FromKeeper};
use crate::doors::keeper::reach;
use crate::doors::keeper::socket::{Socket, receive, send};
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::report::{Observer, lines, told};
use crate::store::{self, Database, ValidPath};

/// A builder that uses the keeper or, if that fails, the hook's own process. For one build.
pub struct WithKeeper {
    /// The program to start as the keeper.
    program: PathBuf,
    here: InProcess,
    directories: Directories,
    connection: Option<Connection>,
    failed: bool,
}

impl WithKeeper {
    /// Makes a builder, without starting anything yet. If there is no keeper, it will start `program`. If the keeper
    /// fails, `engine` does the build.
    pub fn new(program: PathBuf, engine: Arc<Engine>) -> Self {
        let directories = engine.directories().clone();
        WithKeeper { program, here: InProcess::new(engine), directories, connection: None, failed: false }
    }

    fn connection(&mut self, cancel: &Cancel) -> Result<&Connection> {
        if self.connection.is_none() {
            self.connection = Some(Connection(reach::connect(&self.directories, &self.program, cancel)?));
        }
        self.connection.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "no connection"))
    }
}

impl Builder for WithKeeper {
    fn directories(&self) -> &Directories {
        &self.directories
    }

    fn ask(&mut self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Decision> {
        if !self.failed {
            let asked = self
                .connection(cancel)
                .map_err(Failure::OfKeeper)
                .and_then(|keeper| keeper.ask(inquiry, cancel, observer));
            match asked {
                Ok(answer) => return Ok(answer),
                Err(Failure::OfBuild(error)) => return Err(error),
                Err(Failure::OfKeeper(error)) => {
                    cancel.check()?;
                    (self.connection, self.failed) = (None, true);
                    let warning = error.context("this build goes on without the keeper");
                    let is_due = || told::is_due(&self.directories.offload_state(), &warning);
                    if let Some(say) = observer.aside().filter(|_| is_due()) {
                        lines::of_warning(&warning).iter().for_each(|line| say(line));
                    }
                }
            }
        }
        self.here.ask(inquiry, cancel, observer)
    }

    fn run(&mut self, work: Work, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        let Some(keeper) = self.connection.take() else {
            return self.here.run(work, cancel, observer);
        };
        keeper.run(work, &self.directories, cancel, observer).map_err(|failure| match failure {
            Failure::OfBuild(error) => error,
            Failure::OfKeeper(error) => cancel
                .check()
                .err()
                .unwrap_or_else(|| error.context("the keeper ended").hint("run the same command again")),
        })
    }
}

/// A failure, of the build or of the keeper.
enum Failure {
    OfBuild(Error),
    OfKeeper(Error),
}

/// A connection to the keeper that has welcomed this hook.
struct Connection(UnixStream);

impl Connection {
    fn say(&self, message: &FromClient) -> Result<(), Failure> {
        send(&mut Socket(&self.0), message).map_err(Failure::OfKeeper)
    }

    /// Passes messages for the user to `observer`, and returns the next other one.
    fn hear(&self, observer: &mut dyn Observer) -> Result<FromKeeper, Failure> {
        loop {
            match receive(&mut &self.0).map_err(Failure::OfKeeper)? {
                FromKeeper::Event(event) => event.to(observer),
                FromKeeper::Log(text) => observer.log(&text).map_err(Failure::OfBuild)?,
                FromKeeper::Aside(line) => {
                    if let Some(say) = observer.aside() {
                        say(&line);
                    }
                }
                FromKeeper::Failed(error) => return Err(Failure::OfBuild(error)),
                other => return Ok(other),
            }
        }
    }

    /// Hangs up when cancelled, as long as the guard lives.
    fn cut_when_cancelled(&self, cancel: &Cancel) -> Result<Guard, Failure> {
        let stream = self.0.try_clone().io_context(ErrorKind::Exhausted, || "duplicating the keeper's socket");
        let stream = stream.map_err(Failure::OfKeeper)?;
        Ok(cancel.guard(move |_| {
            let _ = stream.shutdown(Shutdown::Both);
        }))
    }

    fn ask(&self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Decision, Failure> {
        let Inquiry { machines, request, options, could_build_here } = *inquiry;
        let _guard = self.cut_when_cancelled(cancel)?;
        self.say(&FromClient::Ask {
            machines: machines.to_vec(),
            requirements: request.requirements.clone(),
            derivation: request.derivation.clone(),
            options: options.clone(),
        })?;
        loop {
            match self.hear(observer)? {
                FromKeeper::CouldBuildHere => self.say(&FromClient::BuildsHere(could_build_here()))?,
                FromKeeper::Declined => return Ok(Decision::Decline),
                FromKeeper::Postponed => return Ok(Decision::Postpone),
                FromKeeper::Accepted => return Ok(Decision::Accept),
                other => return Err(Failure::OfKeeper(reach::unexpected(&other))),
            }
        }
    }

    fn run(
        &self,
        Work { inputs, outputs, .. }: Work,
        directories: &Directories,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<(), Failure> {
        let _guard = self.cut_when_cancelled(cancel)?;
        self.say(&FromClient::Work { inputs, outputs })?;
        loop {
            let (directory, items) = match self.hear(observer)? {
                FromKeeper::MakeValid { directory, items } => (directory, items),
                FromKeeper::Done => return Ok(()),
                other => return Err(Failure::OfKeeper(reach::unexpected(&other))),
            };
            let made = make_valid(directories, &directory, &items, cancel);
            let all_is_done = made.is_ok();
            let said = self.say(&FromClient::MadeValid(made));
            if all_is_done {
                // What was made valid stays so, whatever becomes of the keeper.
                let _ = said.and_then(|()| self.hear(observer));
                return Ok(());
            }
            said?; // The keeper may try another machine.
        }
    }
}

/// Moves received outputs to their places and makes them valid. The caller holds the locks on them.
pub(super) fn make_valid(
    directories: &Directories,
    directory: &StorePath,
    items: &[ValidPath],
    cancel: &Cancel,
) -> Result<Vec<StorePath>> {
    let mut database = Database::open(directories, cancel)?;
    store::install(directories, directory, items, &mut database)
}
