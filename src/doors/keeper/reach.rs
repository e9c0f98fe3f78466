// SPDX-License-Identifier: GPL-3.0-or-later
//! How clients reach the keeper: they start it if there is none, and do not wait for one that hangs.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::build::explain::Explanation;
use crate::doors::keeper::activity::KeeperReport;
use crate::doors::keeper::message::{FromClient, FromKeeper};
use crate::doors::keeper::place::{self, KeeperDir};
use crate::doors::keeper::socket::{Socket, receive, send};
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::machine::{BuildMachine, Requirements};

/// How long the keeper may take to answer the first message of a hook or another client.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take if it has not answered another client in time, and has not answered any since.
const UNANSWERED_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a client tries to be served by a keeper: one that is just ending hangs up, and another one takes its place.
pub(super) const CHANGE_OVER: Duration = Duration::from_secs(1);

/// Pause between a client's attempts to be served by a keeper.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

/// Asks the keeper of `directories` what it is doing; `None`: there is no keeper.
pub fn inspect(directories: &Directories) -> Result<Option<KeeperReport>> {
    match tell(directories, &FromClient::Inspect)? {
        None => Ok(None),
        Some(FromKeeper::Report(report)) => Ok(Some(report)),
        Some(other) => Err(unexpected(&other)),
    }
}

/// Asks the keeper of `directories` what would become of a build, for which it knows what machines have. Returns `None`
/// if there is no keeper.
pub fn explain(
    directories: &Directories,
    machines: &[BuildMachine],
    requirements: &Requirements,
    derivation: Option<&StorePath>,
) -> Result<Option<Explanation>> {
    let (machines, requirements) = (machines.to_vec(), requirements.clone());
    match tell(directories, &FromClient::Explain { machines, requirements, derivation: derivation.cloned() })? {
        None => Ok(None),
        Some(FromKeeper::Explained(explanation)) => Ok(Some(explanation)),
        Some(FromKeeper::Failed(error)) => Err(error),
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

/// Connects to the keeper of `directories`, and starts `program` as the keeper if there is none. If the keeper does not
/// answer, only the first client waits for long.
pub(super) fn connect(directories: &Directories, program: &Path, cancel: &Cancel) -> Result<UnixStream> {
    let (hello, begun) = (FromClient::Hello(place::identity(directories, program)?), Instant::now());
    loop {
        let (stream, greeting) = meet(directories, program, cancel)?;
        let greeted = greet(&stream, &hello, greeting.until, cancel);
        cancel.check()?;
        match greeted.map_err(|error| greeting.judge(error, &stream)) {
            Ok(()) => {
                greeting.is_answered();
                return Ok(stream);
            }
            Err(Refusal::HungUp(_)) if begun.elapsed() < CHANGE_OVER => std::thread::sleep(PAUSE),
            Err(Refusal::HungUp(error) | Refusal::Final(error)) => return Err(error),
        }
    }
}

/// Connects to the keeper, or starts `program` as the keeper and connects to it, but says nothing.
pub(super) fn meet(directories: &Directories, program: &Path, cancel: &Cancel) -> Result<(UnixStream, Greeting)> {
    let place = KeeperDir::of(directories);
    let stream = place.connect_or_start(program, directories, cancel)?;
    let noted = place.is_unanswering();
    let patience = if noted { UNANSWERED_TIMEOUT } else { WELCOME_TIMEOUT };
    Ok((stream, Greeting { place, noted, until: Instant::now() + patience }))
}

/// What is known of a keeper that has not welcomed this client yet.
pub(super) struct Greeting {
    place: KeeperDir,
    /// Whether it has not answered another client.
    noted: bool,
    /// When it must have answered.
    pub(super) until: Instant,
}

/// Why a keeper does not serve a client.
pub(super) enum Refusal {
    /// It is just ending: another one takes its place.
    HungUp(Error),
    /// It serves no client like this one, or does not answer.
    Final(Error),
}

impl Greeting {
    /// Notes that the keeper has answered.
    pub(super) fn is_answered(&self) {
        if self.noted {
            self.place.note_unanswering(false);
        }
    }

    /// Returns what it means that the first answer from `stream` failed with `error`.
    pub(super) fn judge(&self, error: Error, stream: &UnixStream) -> Refusal {
        if self.until <= Instant::now() {
            self.place.note_unanswering(true);
            Refusal::Final(does_not_answer(stream))
        } else if error.kind() == ErrorKind::Configuration {
            Refusal::Final(error) // it is of another mount namespace, and stays
        } else {
            Refusal::HungUp(error)
        }
    }
}

fn greet(stream: &UnixStream, hello: &FromClient, until: Instant, cancel: &Cancel) -> Result<()> {
    let doing = || "the keeper's socket";
    let cut = stream.try_clone().io_context(ErrorKind::Exhausted, doing)?;
    let _guard = cancel.guard(move |_| drop(cut.shutdown(Shutdown::Both)));
    let patience = until.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
    stream.set_read_timeout(Some(patience)).io_context(ErrorKind::Unavailable, doing)?;
    send(&mut Socket(stream), hello)?;
    expect_welcome(receive(&mut &*stream)?)?;
    stream.set_read_timeout(None).io_context(ErrorKind::Unavailable, doing)
}

/// Fails unless the first message of a keeper is a welcome.
pub(super) fn expect_welcome(message: FromKeeper) -> Result<()> {
    match message {
        FromKeeper::Welcome => Ok(()),
        FromKeeper::Elsewhere => {
            let message = "the keeper of this state directory is in another mount or user namespace";
            Err(Error::new(ErrorKind::Configuration, message)
                .hint("a minute after its last build it ends, and makes room for another"))
        }
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(message: &FromKeeper) -> Error {
    Error::new(ErrorKind::Protocol, format!("the keeper says {message:?} where that makes no sense"))
}

#[cfg(test)]
#[path = "reach_tests.rs"]
mod tests;
