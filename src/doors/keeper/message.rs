// SPDX-License-Identifier: GPL-3.0-or-later
//! The messages between a hook and the keeper. Both are of one version, so the format may change with every version.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::SendFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::daemon::BuildOptions;
use crate::doors::keeper::report::KeeperReport;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::machine::{BuildMachine, Requirements};
use crate::report::{Event, Observer};
use crate::store::ValidPath;

/// Longest message on the keeper's socket, in bytes: a message may have two lists of items, each as long as a hook
/// accepts.
const MAX_MESSAGE: u32 = 256 << 20;

/// A message from a hook, or from another client of the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromClient {
    /// The client's identity. A keeper that differs in anything does not serve it.
    Hello(Identity),
    /// A build to decide about, and the machines that may do it.
    Ask {
        /// All machines of the machine file.
        machines: Vec<BuildMachine>,
        /// What the build requires of a machine.
        requirements: Requirements,
        /// What is to be built.
        derivation: StorePath,
        /// Limits and trace.
        options: BuildOptions,
    },
    /// The answer to [`FromKeeper::CouldBuildHere`].
    BuildsHere(bool),
    /// The inputs and outputs of a build that was accepted.
    Work {
        /// The closure of all that the build needs.
        inputs: Vec<StorePath>,
        /// The outputs that are to become valid.
        outputs: Vec<StorePath>,
    },
    /// Which outputs were made valid.
    MadeValid(Result<Vec<StorePath>>),
    /// Not from a hook: the client is a process with jobs. From now on it sends [`FromLink`].
    Link,
    /// Not from a hook: asks what the keeper is doing.
    Inspect,
    /// Not from a hook: tells the keeper to end once the builds that it has accepted are done.
    Retire,
}

/// A message from the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromKeeper {
    /// The keeper has the hook's identity, and serves it.
    Welcome,
    /// Something happened to the build.
    Event(OwnedEvent),
    /// A piece of the build's log.
    Log(Vec<u8>),
    /// A line for the user, beside events.
    Aside(String),
    /// The question whether guix-daemon could do the build as well.
    CouldBuildHere,
    /// No machine can ever do this build, or none can now and this host can.
    Declined,
    /// No machine can do the build now.
    Postponed,
    /// The build will be done.
    Accepted,
    /// Outputs were received into the store; the hook is to make them valid.
    MakeValid {
        /// The directory of the store where they are.
        directory: StorePath,
        /// What the database is to record of them.
        items: Vec<ValidPath>,
    },
    /// The build is done.
    Done,
    /// The keeper could not decide, or the build failed.
    Failed(Error),
    /// What the keeper is doing.
    Report(KeeperReport),
    /// The keeper ends soon, and takes no new jobs.
    Retires,
}

/// A message from a process about one of its jobs.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromLink {
    /// The start of a job.
    Start {
        /// All machines there are.
        machines: Vec<BuildMachine>,
        /// What the build requires of a machine.
        requirements: Requirements,
        /// What is to be built.
        derivation: StorePath,
        /// Whether the job waits while no machine can be reached or has room.
        is_patient: bool,
        /// The closure of all that the build needs.
        inputs: Vec<StorePath>,
        /// The outputs that are to become valid.
        outputs: Vec<StorePath>,
        /// Limits and trace.
        options: BuildOptions,
    },
    /// The number of bytes of its log that were taken since the last such message.
    Taken(usize),
    /// Which outputs were made valid.
    MadeValid(Result<Vec<StorePath>>),
    /// The job is not wanted any more.
    Cancel,
}

/// A message about a job of a link: the number that the process gave the job, and the message.
#[derive(Debug, Serialize, Deserialize)]
pub struct About<M>(pub u64, pub M);

/// What a hook and its keeper must have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of the library.
    pub version: String,
    /// The program that is started as the keeper. It stands beside the library: another library has another one.
    pub program: PathBuf,
    /// Store, state, database, configuration, and the daemon's socket.
    pub directories: [PathBuf; 5],
    /// The mount namespace and the user namespace, as the kernel names them.
    pub namespaces: [PathBuf; 2],
    /// The environment variables that matter to a keeper, and their values.
    pub variables: Vec<(String, OsString)>,
}

/// An [`Event`] that owns its data.
#[allow(missing_docs)] // see there
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum OwnedEvent {
    SlotTaken(PathBuf),
    Load(String, f64),
    ClockBehind(String, u64),
    PassedOver(String, Error),
    BuiltHere(StorePath),
    Queued(bool),
    Chosen(String),
    Sending(String, usize, u64),
    Building(String, StorePath),
    Built,
    Retrieving(String, usize, u64),
    Transferred(u64),
    Verified(StorePath),
    Received,
    Retrying(String, Error),
    Done(StorePath),
}

impl From<&Event<'_>> for OwnedEvent {
    fn from(event: &Event<'_>) -> Self {
        match *event {
            Event::SlotTaken { slot } => OwnedEvent::SlotTaken(slot.into()),
            Event::Load { machine, load } => OwnedEvent::Load(machine.into(), load),
            Event::ClockBehind { machine, seconds } => OwnedEvent::ClockBehind(machine.into(), seconds),
            Event::PassedOver { machine, reason } => OwnedEvent::PassedOver(machine.into(), reason.clone()),
            Event::BuiltHere { derivation } => OwnedEvent::BuiltHere(derivation.clone()),
            Event::Queued { away } => OwnedEvent::Queued(away),
            Event::Chosen { machine } => OwnedEvent::Chosen(machine.into()),
            Event::Sending { machine, items, bytes } => OwnedEvent::Sending(machine.into(), items, bytes),
            Event::Building { machine, derivation } => OwnedEvent::Building(machine.into(), derivation.clone()),
            Event::Built => OwnedEvent::Built,
            Event::Retrieving { machine, items, bytes } => OwnedEvent::Retrieving(machine.into(), items, bytes),
            Event::Transferred { bytes } => OwnedEvent::Transferred(bytes),
            Event::Verified { item } => OwnedEvent::Verified(item.clone()),
            Event::Received => OwnedEvent::Received,
            Event::Retrying { machine, reason } => OwnedEvent::Retrying(machine.into(), reason.clone()),
            Event::Done { derivation } => OwnedEvent::Done(derivation.clone()),
        }
    }
}

impl OwnedEvent {
    /// Passes the event to `observer`.
    pub fn to(&self, observer: &mut dyn Observer) {
        observer.event(&match self {
            OwnedEvent::SlotTaken(slot) => Event::SlotTaken { slot },
            OwnedEvent::Load(machine, load) => Event::Load { machine, load: *load },
            OwnedEvent::ClockBehind(machine, seconds) => Event::ClockBehind { machine, seconds: *seconds },
            OwnedEvent::PassedOver(machine, reason) => Event::PassedOver { machine, reason },
            OwnedEvent::BuiltHere(derivation) => Event::BuiltHere { derivation },
            OwnedEvent::Queued(away) => Event::Queued { away: *away },
            OwnedEvent::Chosen(machine) => Event::Chosen { machine },
            OwnedEvent::Sending(machine, items, bytes) => Event::Sending { machine, items: *items, bytes: *bytes },
            OwnedEvent::Building(machine, derivation) => Event::Building { machine, derivation },
            OwnedEvent::Built => Event::Built,
            OwnedEvent::Retrieving(machine, items, bytes) => {
                Event::Retrieving { machine, items: *items, bytes: *bytes }
            }
            OwnedEvent::Transferred(bytes) => Event::Transferred { bytes: *bytes },
            OwnedEvent::Verified(item) => Event::Verified { item },
            OwnedEvent::Received => Event::Received,
            OwnedEvent::Retrying(machine, reason) => Event::Retrying { machine, reason },
            OwnedEvent::Done(derivation) => Event::Done { derivation },
        });
    }
}

const SOCKET: &str = "the keeper's socket";

/// A socket that raises no SIGPIPE when the other end is gone: threads of the host may not block that signal.
pub struct Socket<'a>(pub &'a UnixStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends one message.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> Result<()> {
    to.write_all(&encode(message)?).io_context(ErrorKind::Unavailable, || SOCKET)
}

/// Encodes a message as it is sent: its length, four bytes in native order, then its postcard encoding.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let encoded = postcard::to_extend(message, vec![0; 4])
        .map_err(|error| Error::new(ErrorKind::Internal, format!("a message cannot be encoded: {error}")));
    let mut encoded = encoded?;
    let length = u32::try_from(encoded.len() - 4).ok().filter(|length| *length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| Error::new(ErrorKind::Exhausted, "a message to the keeper is too long"))?;
    encoded[..4].copy_from_slice(&length.to_ne_bytes());
    Ok(encoded)
}

/// Receives one message.
pub fn receive<M: DeserializeOwned>(from: &mut impl Read) -> Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => closed(),
        _ => Error::io(ErrorKind::Unavailable, SOCKET, error),
    })?;
    let mut encoded = Vec::new();
    from.take(checked(length)?).read_to_end(&mut encoded).io_context(ErrorKind::Unavailable, || SOCKET)?;
    decode(&encoded)
}

/// Decodes the message that begins after the first `taken` bytes of `received`, and adds its length to `taken`. `None`:
/// the message is not complete yet.
pub fn take<M: DeserializeOwned>(received: &[u8], taken: &mut usize) -> Result<Option<M>> {
    let rest = &received[*taken..];
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let length = checked(*length)? as usize;
    let Some(encoded) = rest.get(..length) else { return Ok(None) };
    *taken += 4 + length;
    decode(encoded).map(Some)
}

/// Returns the error that says that the other end is gone.
pub fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the keeper's socket was closed")
}

fn checked(length: [u8; 4]) -> Result<u64> {
    let length = u32::from_ne_bytes(length);
    if length > MAX_MESSAGE {
        let message = format!("a message of {length} bytes came from the keeper's socket");
        return Err(Error::new(ErrorKind::Protocol, message));
    }
    Ok(length.into())
}

fn decode<M: DeserializeOwned>(encoded: &[u8]) -> Result<M> {
    postcard::from_bytes(encoded).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("a message on the keeper's socket is malformed: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::store_path::StoreDir;
    use crate::machine::tests::machine;

    fn through<M: Serialize + DeserializeOwned>(message: &M) -> M {
        let mut bytes = Vec::new();
        send(&mut bytes, message).unwrap();
        receive(&mut &bytes[..]).unwrap()
    }

    fn item(name: &str) -> StorePath {
        StoreDir::new("/other/store").unwrap().parse(&format!("/other/store/{}-{name}", "a".repeat(32))).unwrap()
    }

    /// An observer that records what it is told.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Observer for Notes {
        fn event(&mut self, event: &Event<'_>) {
            self.0.push(format!("{event:?}"));
        }

        fn log(&mut self, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_event_is_told_as_it_was() {
        let (machine, item) = ("m", &item("x"));
        let reason = &Error::new(ErrorKind::HostKey, "why").context("where").on_machine("m").hint("what to do");
        let events = [
            Event::SlotTaken { slot: "/slot".as_ref() },
            Event::Load { machine, load: 0.25 },
            Event::ClockBehind { machine, seconds: 3 },
            Event::PassedOver { machine, reason },
            Event::BuiltHere { derivation: item },
            Event::Queued { away: true },
            Event::Chosen { machine },
            Event::Sending { machine, items: 2, bytes: 5 },
            Event::Building { machine, derivation: item },
            Event::Built,
            Event::Retrieving { machine, items: 1, bytes: u64::MAX },
            Event::Transferred { bytes: 7 },
            Event::Verified { item },
            Event::Received,
            Event::Retrying { machine, reason },
            Event::Done { derivation: item },
        ];
        for event in &events {
            let mut notes = Notes::default();
            through(&OwnedEvent::from(event)).to(&mut notes);
            assert_eq!(notes.0, [format!("{event:?}")]);
        }
    }

    #[test]
    fn a_machine_arrives_as_it_was() {
        let machines = vec![BuildMachine { overload_threshold: None, speed: 0.1, ..machine("m") }, machine("::1")];
        let (requirements, options) = (
            Requirements { system: "s".into(), features: vec!["kvm".into()] },
            BuildOptions { cores: Some(3), ..BuildOptions::default() },
        );
        let ask = FromClient::Ask {
            machines: machines.clone(),
            requirements: requirements.clone(),
            derivation: item("x.drv"),
            options: options.clone(),
        };
        let FromClient::Ask { machines: m, requirements: r, derivation, options: o } = through(&ask) else { panic!() };
        assert_eq!((m, r, derivation, o), (machines, requirements, item("x.drv"), options));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let mut bytes = Vec::new();
        send(&mut bytes, &FromKeeper::Aside("a line".into())).unwrap();
        let refused = |bytes: &[u8]| receive::<FromKeeper>(&mut &bytes[..]).unwrap_err().kind();
        assert_eq!(refused(&bytes[..3]), ErrorKind::Unavailable, "cut in its length");
        assert_eq!(refused(&bytes[..bytes.len() - 1]), ErrorKind::Protocol, "cut");
        assert_eq!(refused(&u32::MAX.to_ne_bytes()), ErrorKind::Protocol, "too long");
        let mut other = bytes.clone();
        other[4] = 200;
        assert_eq!(refused(&other), ErrorKind::Protocol, "no kind of message");
        // An invalid name of a store item.
        let mut invalid = Vec::new();
        send(&mut invalid, &"not a store item").unwrap();
        assert_eq!(receive::<StorePath>(&mut &invalid[..]).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
