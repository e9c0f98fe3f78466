// SPDX-License-Identifier: GPL-3.0-or-later
//! What a hook and the keeper say to each other. Both are of one version, so no form of it is for ever.

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

/// Longest message, in bytes: the items of a build may have as many as a hook accepts, twice.
const MAX_MESSAGE: u32 = 256 << 20;

/// What a hook says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromHook {
    /// Who it is. A keeper that differs in anything is not its keeper.
    Hello(Identity),
    /// What is to be built, and where that may be.
    Ask {
        /// All that the machine file has.
        machines: Vec<BuildMachine>,
        /// What the build requires of one.
        requirements: Requirements,
        /// What is to be built.
        derivation: StorePath,
        /// Limits and trace.
        options: BuildOptions,
    },
    /// Whether guix-daemon could do the build as well.
    BuildsHere(bool),
    /// What belongs to a build that was accepted.
    Work {
        /// The closure of all that the build needs.
        inputs: Vec<StorePath>,
        /// The outputs that are to become valid.
        outputs: Vec<StorePath>,
    },
    /// Which outputs were made valid.
    MadeValid(Result<Vec<StorePath>>),
    /// Not of a hook: from now on this is the link of a process that has jobs, which says [`FromLink`].
    Link,
    /// Not of a hook: what is the keeper doing?
    Inspect,
    /// Not of a hook: the keeper ends once the builds that it has accepted are done.
    Retire,
}

/// What the keeper says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromKeeper {
    /// It is the hook's keeper.
    Welcome,
    /// Something happened to the build.
    Told(Told),
    /// A piece of the build's log.
    Log(Vec<u8>),
    /// A line for the user, beside events.
    Aside(String),
    /// A question: could guix-daemon do the build as well?
    CouldBuildHere,
    /// No machine can ever do this build, or none can now and this host can.
    Declined,
    /// No machine can do it now.
    Postponed,
    /// It will be done.
    Accepted,
    /// Outputs were received in this directory of the store.
    MakeValid {
        /// Where they are.
        directory: StorePath,
        /// What is known of them.
        items: Vec<ValidPath>,
    },
    /// The build is done.
    Done,
    /// There is no answer, or the build failed.
    Failed(Error),
    /// What it is doing.
    Report(KeeperReport),
    /// It ends soon.
    Retires,
}

/// What a process says of one of its jobs, which it has given a number.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromLink {
    /// There is a job.
    Start {
        /// All machines there are.
        machines: Vec<BuildMachine>,
        /// What the build requires of one.
        requirements: Requirements,
        /// What is to be built.
        derivation: StorePath,
        /// Whether it waits when no machine can be reached.
        is_patient: bool,
        /// The closure of all that the build needs.
        inputs: Vec<StorePath>,
        /// The outputs that are to become valid.
        outputs: Vec<StorePath>,
        /// Limits and trace.
        options: BuildOptions,
    },
    /// So many more bytes of its log were taken.
    Taken(usize),
    /// Which outputs were made valid.
    MadeValid(Result<Vec<StorePath>>),
    /// It is not wanted any more.
    Cancel,
}

/// A message about a job of a link: its number, and what is said.
#[derive(Debug, Serialize, Deserialize)]
pub struct About<M>(pub u64, pub M);

/// What a hook and its keeper have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of the library.
    pub version: String,
    /// The program that is started as the keeper: another one beside another library.
    pub program: PathBuf,
    /// Store, state, database, configuration, socket of the daemon.
    pub directories: [PathBuf; 5],
    /// The mount namespace and the user namespace, as the kernel names them.
    pub namespaces: [PathBuf; 2],
    /// Those variables of the environment that matter, and their values.
    pub variables: Vec<(String, OsString)>,
}

/// An [`Event`], with all that it borrows.
#[allow(missing_docs)] // see there
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
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

impl From<&Event<'_>> for Told {
    fn from(event: &Event<'_>) -> Self {
        match *event {
            Event::SlotTaken { slot } => Told::SlotTaken(slot.into()),
            Event::Load { machine, load } => Told::Load(machine.into(), load),
            Event::ClockBehind { machine, seconds } => Told::ClockBehind(machine.into(), seconds),
            Event::PassedOver { machine, reason } => Told::PassedOver(machine.into(), reason.clone()),
            Event::BuiltHere { derivation } => Told::BuiltHere(derivation.clone()),
            Event::Queued { away } => Told::Queued(away),
            Event::Chosen { machine } => Told::Chosen(machine.into()),
            Event::Sending { machine, items, bytes } => Told::Sending(machine.into(), items, bytes),
            Event::Building { machine, derivation } => Told::Building(machine.into(), derivation.clone()),
            Event::Built => Told::Built,
            Event::Retrieving { machine, items, bytes } => Told::Retrieving(machine.into(), items, bytes),
            Event::Transferred { bytes } => Told::Transferred(bytes),
            Event::Verified { item } => Told::Verified(item.clone()),
            Event::Received => Told::Received,
            Event::Retrying { machine, reason } => Told::Retrying(machine.into(), reason.clone()),
            Event::Done { derivation } => Told::Done(derivation.clone()),
        }
    }
}

impl Told {
    /// Tells `observer`.
    pub fn to(&self, observer: &mut dyn Observer) {
        observer.event(&match self {
            Told::SlotTaken(slot) => Event::SlotTaken { slot },
            Told::Load(machine, load) => Event::Load { machine, load: *load },
            Told::ClockBehind(machine, seconds) => Event::ClockBehind { machine, seconds: *seconds },
            Told::PassedOver(machine, reason) => Event::PassedOver { machine, reason },
            Told::BuiltHere(derivation) => Event::BuiltHere { derivation },
            Told::Queued(away) => Event::Queued { away: *away },
            Told::Chosen(machine) => Event::Chosen { machine },
            Told::Sending(machine, items, bytes) => Event::Sending { machine, items: *items, bytes: *bytes },
            Told::Building(machine, derivation) => Event::Building { machine, derivation },
            Told::Built => Event::Built,
            Told::Retrieving(machine, items, bytes) => Event::Retrieving { machine, items: *items, bytes: *bytes },
            Told::Transferred(bytes) => Event::Transferred { bytes: *bytes },
            Told::Verified(item) => Event::Verified { item },
            Told::Received => Event::Received,
            Told::Retrying(machine, reason) => Event::Retrying { machine, reason },
            Told::Done(derivation) => Event::Done { derivation },
        });
    }
}

const SOCKET: &str = "the keeper's socket";

/// A socket that raises no SIGPIPE when the other end is gone, in a thread of the host that does not block that.
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

/// A message as it is sent: its length, as four bytes in the processor's order, and what postcard makes of it.
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

/// Takes the first message off `received`, whose first `taken` bytes were taken before; `None`: it is not all there.
pub fn take<M: DeserializeOwned>(received: &[u8], taken: &mut usize) -> Result<Option<M>> {
    let rest = &received[*taken..];
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let length = checked(*length)? as usize;
    let Some(encoded) = rest.get(..length) else { return Ok(None) };
    *taken += 4 + length;
    decode(encoded).map(Some)
}

/// The other end is gone.
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

    /// Writes down what it is told.
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
            through(&Told::from(event)).to(&mut notes);
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
        let ask = FromHook::Ask {
            machines: machines.clone(),
            requirements: requirements.clone(),
            derivation: item("x.drv"),
            options: options.clone(),
        };
        let FromHook::Ask { machines: m, requirements: r, derivation, options: o } = through(&ask) else { panic!() };
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
        // A name of an item that is none.
        let mut invalid = Vec::new();
        send(&mut invalid, &"not a store item").unwrap();
        assert_eq!(receive::<StorePath>(&mut &invalid[..]).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
