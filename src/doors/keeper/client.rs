// SPDX-License-Identifier: GPL-3.0-or-later
//! The hook's side: a builder that has the keeper decide about builds and do them.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::build::engine::Engine;
use crate::build::request::{Inquiry, Work};
use crate::doors::hook::{Builder, Decision, InProcess};
use crate::doors::keeper::activity::KeeperReport;
use crate::doors::keeper::message::{FromClient, FromKeeper};
use crate::doors::keeper::place::{self, KeeperDir};
use crate::doors::keeper::socket::{Socket, receive, send};
use crate::ground::cancel::{Cancel, Guard};
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::report::{Observer, lines, told};
use crate::store::{self, Database, ValidPath};

/// How long the keeper may take to answer the first message of a hook or another client.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take if it has not answered another client in time, and has not answered any since.
const UNANSWERED_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a hook tries to be served by a keeper: one that is just ending hangs up, and another one takes its place.
const CHANGE_OVER: Duration = Duration::from_secs(1);

/// Pause between a hook's attempts to be served by a keeper.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks the keeper of `directories` what it is doing; `None`: there is no keeper.
pub fn inspect(directories: &Directories) -> Result<Option<KeeperReport>> {
    match tell(directories, &FromClient::Inspect)? {
        None => Ok(None),
        Some(FromKeeper::Report(report)) => Ok(Some(report)),
        Some(other) => Err(unexpected(&other)),
    }
}

/// Tells the keeper of `directories` to end once the builds that it has accepted are done. Returns `false` if there is
/// no keeper.
pub fn retire(directories: &Directories) -> Result<bool> {
    match tell(directories, &FromClient::Retire)? {
        None => Ok(false),
        Some(FromKeeper::Retires) => Ok(true),
        Some(other) => Err(unexpected(&other)),
    }
}

/// Sends one message to the keeper and returns the answer; `None`: there is no keeper.
fn tell(directories: &Directories, message: &FromClient) -> Result<Option<FromKeeper>> {
    let doing = || "asking the keeper";
    let stream = match KeeperDir::of(directories).connect_to_look_after() {
        Ok(stream) => stream,
        Err(error) if place::is_absence(&error) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let hint = "do that as root, or as the user that guix-daemon runs as";
            return Err(error).io_context(ErrorKind::Unavailable, doing).map_err(|error| error.hint(hint));
        }
        Err(error) => return Err(error).io_context(ErrorKind::Unavailable, doing),
    };
    stream.set_read_timeout(Some(WELCOME_TIMEOUT)).io_context(ErrorKind::Unavailable, doing)?;
    let answer = send(&mut Socket(&stream), message).and_then(|()| receive(&mut &stream));
    answer.map(Some).map_err(|error| match error.kind() {
        ErrorKind::Unavailable => does_not_answer(&stream),
        _ => error.hint("it may be of another version: it ends by itself once its builds are done"),
    })
}

/// Returns the error for a keeper that does not answer. It is the same for all who meet that keeper.
fn does_not_answer(stream: &UnixStream) -> Error {
    let process = sockopt::socket_peercred(stream).map_or_else(|_| "?".into(), |peer| peer.pid.to_string());
    let message = format!("the keeper, process {process}, does not answer within {} s", WELCOME_TIMEOUT.as_secs());
    Error::new(ErrorKind::Unavailable, message).hint(format!("if that lasts, end it: kill -KILL {process}"))
}

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
            self.connection = Some(Connection(connect(&self.directories, &self.program, cancel)?));
        }
        self.connection.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "no connection"))
    }
}

/// Connects to the keeper of `directories`, and starts `program` as the keeper if there is none. If the keeper does not
/// answer, only the first client waits for long.
pub(super) fn connect(directories: &Directories, program: &Path, cancel: &Cancel) -> Result<UnixStream> {
    let (place, begun) = (KeeperDir::of(directories), Instant::now());
    let hello = FromClient::Hello(place::identity(directories, program)?);
    loop {
        let stream = place.connect_or_start(program, directories, cancel)?;
        let (noted, asked) = (place.is_unanswering(), Instant::now());
        let patience = if noted { UNANSWERED_TIMEOUT } else { WELCOME_TIMEOUT };
        let greeted = greet(&stream, &hello, patience, cancel);
        cancel.check()?;
        match greeted {
            Ok(()) => {
                if noted {
                    place.note_unanswering(false);
                }
                return Ok(stream);
            }
            Err(_) if asked.elapsed() >= patience => {
                place.note_unanswering(true);
                return Err(does_not_answer(&stream));
            }
            // It is of another mount namespace, and stays.
            Err(error) if error.kind() == ErrorKind::Configuration => return Err(error),
            Err(_) if begun.elapsed() < CHANGE_OVER => std::thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
}

fn greet(stream: &UnixStream, hello: &FromClient, patience: Duration, cancel: &Cancel) -> Result<()> {
    let doing = || "the keeper's socket";
    let cut = stream.try_clone().io_context(ErrorKind::Exhausted, doing)?;
    let _guard = cancel.guard(move |_| drop(cut.shutdown(Shutdown::Both)));
    stream.set_read_timeout(Some(patience)).io_context(ErrorKind::Unavailable, doing)?;
    send(&mut Socket(stream), hello)?;
    match receive(&mut &*stream)? {
        FromKeeper::Welcome => {}
        FromKeeper::Elsewhere => {
            let message = "the keeper of this state directory is in another mount or user namespace";
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("a minute after its last build it ends, and makes room for another"));
        }
        other => return Err(unexpected(&other)),
    }
    stream.set_read_timeout(None).io_context(ErrorKind::Unavailable, doing)
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
                other => return Err(Failure::OfKeeper(unexpected(&other))),
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
                other => return Err(Failure::OfKeeper(unexpected(&other))),
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

pub(super) fn unexpected(message: &FromKeeper) -> Error {
    Error::new(ErrorKind::Protocol, format!("the keeper says {message:?} where that makes no sense"))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
