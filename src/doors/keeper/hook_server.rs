// SPDX-License-Identifier: GPL-3.0-or-later
//! The keeper's side of a connected client, which is a hook unless it says something else first.

use std::sync::Arc;
use std::time::Duration;

use crate::build::request::{Inquiry, Reply, Request, Work};
use crate::doors::keeper::link_server;
use crate::doors::keeper::message::{FromClient, FromKeeper, Service};
use crate::doors::keeper::server::{Keeper, Role};
use crate::doors::keeper::socket::receive;
use crate::doors::keeper::voice::Voice;
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;
use crate::store::{Received, Registrar};

/// Time limit for the first message of a client of the keeper.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected client: a hook, a link, or one that inspects or ends the keeper.
pub(super) struct Client {
    pub(super) number: u64,
    pub(super) voice: Voice,
    pub(super) cancel: Cancel,
}

impl Client {
    pub(super) fn serve(&self, keeper: &Arc<Keeper>) -> Result<()> {
        let doing = || "the keeper's socket";
        self.voice.stream.set_nonblocking(false).io_context(ErrorKind::Unavailable, doing)?;
        self.voice.stream.set_read_timeout(Some(HELLO_TIMEOUT)).io_context(ErrorKind::Unavailable, doing)?;
        match self.hear()? {
            FromClient::Hello(identity) => {
                let service = if keeper.is_current() { keeper.identity().serves(&identity) } else { Service::Replaced };
                match service {
                    Service::Given => keeper.mark_as(self, Role::Hook),
                    Service::Elsewhere => return self.voice.say(&FromKeeper::Elsewhere),
                    Service::Replaced => {
                        keeper.retire();
                        return Ok(());
                    }
                }
            }
            FromClient::Inspect => return self.voice.say(&FromKeeper::Report(keeper.report())),
            FromClient::Explain { machines, requirements, derivation } => {
                let explained = keeper.engine.explain(&admit(machines)?, &requirements, derivation.as_ref());
                return self.voice.say(&explained.map_or_else(FromKeeper::Failed, FromKeeper::Explained));
            }
            FromClient::Retire => {
                keeper.retire();
                return self.voice.say(&FromKeeper::Retires);
            }
            other => return Err(unexpected(&other)),
        }
        self.voice.stream.set_read_timeout(None).io_context(ErrorKind::Unavailable, doing)?;
        self.voice.say(&FromKeeper::Welcome)?;
        let mut accepted = None;
        loop {
            match self.hear()? {
                FromClient::Link => return link_server::serve(self, keeper),
                FromClient::Ask { machines, requirements, derivation, options } => {
                    drop(accepted.take());
                    let machines = admit(machines)?;
                    self.voice.note(Some(keeper.begin(&machines, &requirements, &derivation)));
                    let request = Request { requirements, derivation, is_patient: true };
                    let could_build_here = || self.could_build_here().unwrap_or(false);
                    let could_build_here = &could_build_here;
                    let inquiry =
                        Inquiry { machines: &machines, request: &request, options: &options, could_build_here };
                    let reply = keeper.engine.ask(&inquiry, &self.cancel, &mut self.voice.clone());
                    if !matches!(reply, Ok(Reply::Accept(_))) {
                        self.voice.note(None);
                    }
                    self.voice.say(&match reply {
                        Ok(Reply::Decline) => FromKeeper::Declined,
                        Ok(Reply::Postpone) => FromKeeper::Postponed,
                        Ok(Reply::Accept(ready)) => {
                            accepted = Some((ready, options));
                            FromKeeper::Accepted
                        }
                        Err(error) => FromKeeper::Failed(error),
                    })?;
                }
                FromClient::Work { inputs, outputs } => {
                    let (accepted, options) =
                        accepted.take().ok_or_else(|| Error::new(ErrorKind::Protocol, "no build was accepted"))?;
                    let work = Work { inputs, outputs, options };
                    let mut registrar = AtHook(self);
                    let observer = &mut self.voice.clone();
                    let result = keeper.engine.run_for(*accepted, work, Some(&mut registrar), &self.cancel, observer);
                    self.voice.note(None);
                    self.voice.say(&result.map_or_else(FromKeeper::Failed, |()| FromKeeper::Done))?;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    fn hear(&self) -> Result<FromClient> {
        receive(&mut &*self.voice.stream)
    }

    fn could_build_here(&self) -> Result<bool> {
        self.voice.say(&FromKeeper::CouldBuildHere)?;
        match self.hear()? {
            FromClient::BuildsHere(could) => Ok(could),
            other => Err(unexpected(&other)),
        }
    }
}

/// Validates machines that come from a client, by the rules for all machines.
pub(super) fn admit(machines: Vec<BuildMachine>) -> Result<Vec<BuildMachine>> {
    let admitted = machines.into_iter().map(|machine| {
        let name = machine.name.clone();
        machine.admit().map_err(|flaw| flaw.error(&name).context("the hook names a malformed machine"))
    });
    admitted.collect()
}

/// A registrar that asks the hook to make outputs valid, because the hook holds the locks on them.
struct AtHook<'a>(&'a Client);

impl Registrar for AtHook<'_> {
    fn make_valid(&mut self, received: &Received<'_>) -> Result<Vec<StorePath>> {
        let (directory, items) = (received.path.clone(), received.items.to_vec());
        self.0.voice.say(&FromKeeper::MakeValid { directory, items })?;
        match self.0.hear()? {
            FromClient::MadeValid(made) => made,
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(message: &FromClient) -> Error {
    Error::new(ErrorKind::Protocol, format!("a hook says {message:?} where that makes no sense"))
}
