// SPDX-License-Identifier: GPL-3.0-or-later
//! The messages between the keeper and its clients: hooks, and processes with jobs. All are of one version, so the
//! format may change with every version.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::build::explain::Explanation;
use crate::daemon::BuildOptions;
use crate::doors::keeper::activity::KeeperReport;
use crate::doors::keeper::owned_event::OwnedEvent;
use crate::ground::error::{Error, Result};
use crate::ground::store_path::StorePath;
use crate::machine::{BuildMachine, Requirements};
use crate::store::ValidPath;

/// A message from a hook, or from another client of the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromClient {
    /// The client's identity. The keeper serves it as [`Identity::serves`] says.
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
    /// Not from a hook: asks what would become of a build.
    Explain {
        /// All machines of the machine file.
        machines: Vec<BuildMachine>,
        /// What the build requires of a machine.
        requirements: Requirements,
        /// What is to be built, if that is known.
        derivation: Option<StorePath>,
    },
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
    /// The keeper is in other namespaces than the client, and does not serve it.
    Elsewhere,
    /// What would become of a build.
    Explained(Explanation),
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

/// What a hook and its keeper should have in common.
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
    /// How nice it is to other processes: from -20 to 19. What else a keeper inherits, such as its control group, it
    /// keeps.
    pub nice: i32,
}

/// Whether a keeper serves a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// It does.
    Given,
    /// It does not, and stays: keepers of two namespaces would replace each other for ever.
    Elsewhere,
    /// It makes room for a keeper that does.
    Replaced,
}

impl Identity {
    /// Returns whether a keeper with this identity serves `client`. It must not be nicer than the client: it would do
    /// all builds as slowly as those of a client that was told to be nice, and cannot change that.
    pub fn serves(&self, client: &Identity) -> Service {
        if client.namespaces != self.namespaces {
            return Service::Elsewhere;
        }
        let nice = self.nice.max(client.nice);
        if (Identity { nice, ..client.clone() }) == (Identity { nice, ..self.clone() }) && client.nice >= self.nice {
            Service::Given
        } else {
            Service::Replaced
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::keeper::socket::encode;
    use crate::doors::keeper::socket::tests::{item, through};
    use crate::machine::tests::machine;

    /// A keeper of another version is told to end, and says that it is elsewhere: those messages must not change.
    #[test]
    fn what_other_versions_understand_has_its_number() {
        let first = |message: Vec<u8>| message[4];
        let said = [FromClient::Inspect, FromClient::Retire].map(|message| first(encode(&message).unwrap()));
        assert_eq!(said, [6, 7]);
        let said = [FromKeeper::Welcome, FromKeeper::Retires, FromKeeper::Elsewhere];
        assert_eq!(said.map(|message| first(encode(&message).unwrap())), [0, 12, 13]);
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
}
