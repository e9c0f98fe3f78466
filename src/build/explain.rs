// SPDX-License-Identifier: GPL-3.0-or-later
//! What would become of a build, and why: what [`Engine::ask`] would answer, as far as is known without asking a
//! machine, and how each machine stands.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{Engine, is_candidate, longest_wait, may_wait};
use super::request::usual_options;
use crate::choose::standing::{Outcome, Standing, standing_of_other};
use crate::choose::{Candidates, KnownRoom};
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::ground::thread;
use crate::machine::{BuildMachine, Requirements};

/// How long an explanation waits for a lock on the store's database. Choices wait meanwhile: all of a process use one
/// connection to it. Less than a client waits for the keeper's answer.
const DATABASE_LIMIT: Duration = Duration::from_secs(2);

/// Does something whose waiting for the store's database ends after `limit`. Fails if no thread can be started.
fn within<T>(limit: Duration, act: impl FnOnce(&Cancel) -> Result<T>) -> Result<Result<T>> {
    let cancel = Cancel::default();
    let (done, wait) = mpsc::channel::<()>();
    let late = cancel.clone();
    let watch = thread::spawn("guix-offload-limit", move || {
        if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            late.cancel();
        }
    })?;
    let result = act(&cancel);
    drop(done);
    let _ = watch.join();
    Ok(result.map_err(|error| match error.kind() {
        ErrorKind::Cancelled => {
            let message = format!("the store's database has been locked for {} s", limit.as_secs());
            Error::new(ErrorKind::Store, message).hint("another process is busy with it: ask again later")
        }
        _ => error,
    }))
}

/// The answer to be expected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Foreseen {
    /// It is accepted: a machine that answered a moment ago has a slot.
    Room,
    /// It is accepted if the first of these machines is as was seen last: that with this index among the standings.
    Machine(usize),
    /// It is accepted, and waits for a slot: of the machine with this index, which has the inputs, or of any.
    Waits(Option<usize>),
    /// It is postponed: no slot will be free soon.
    Busy,
    /// It is postponed: machines that could do it are overloaded or full.
    NoRoom,
    /// All machines are away or drained: it is done here, or else postponed.
    Away,
    /// All machines are misconfigured: it is done here, or else fails with this error.
    Misconfigured(Error),
    /// It is declined: no machine can ever do it.
    Never,
}

/// What would become of a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// How each machine stands: first those that would be tried, in that order; then those that are left alone; then
    /// those that cannot do the build.
    pub standings: Vec<Standing>,
    /// How many of them would be tried.
    pub tried: usize,
    /// Why it is not known what the derivation reads.
    pub unknown_inputs: Option<Error>,
    /// The answer to be expected.
    pub foreseen: Foreseen,
}

impl Engine {
    /// Explains what would become of a build of `derivation`, or of some derivation with these `requirements`. Connects
    /// to no machine, and takes no slot.
    pub fn explain(
        &self,
        machines: &[BuildMachine],
        requirements: &Requirements,
        derivation: Option<&StorePath>,
    ) -> Result<Explanation> {
        let resources = &self.common.resources;
        let (able, others): (Vec<_>, Vec<_>) = machines.iter().partition(|machine| is_candidate(machine, requirements));
        let others = others.into_iter().map(|machine| standing_of_other(machine, resources));
        if able.is_empty() {
            let standings = others.collect();
            return Ok(Explanation { standings, tried: 0, unknown_inputs: None, foreseen: Foreseen::Never });
        }
        let mut candidates = Candidates::new(resources, able.into_iter().cloned().collect())?;
        let patience = longest_wait(&usual_options());
        let mut unknown_inputs = None;
        if let Some(derivation) = derivation {
            let set = |cancel: &Cancel| self.set_inputs(&mut candidates, derivation, patience, cancel);
            unknown_inputs = within(DATABASE_LIMIT, set)?.err();
        }
        let (mut standings, outcome) = candidates.standings();
        let foreseen = match outcome {
            _ if candidates.known_room() != KnownRoom::Unknown => Foreseen::Room,
            Outcome::Machine(index) => Foreseen::Machine(index),
            Outcome::Busy(Some(index)) => Foreseen::Waits(Some(index)),
            Outcome::Busy(None) if may_wait(&candidates, patience) => Foreseen::Waits(None),
            Outcome::Busy(None) => Foreseen::Busy,
            Outcome::NoRoom => Foreseen::NoRoom,
            Outcome::Away => Foreseen::Away,
            Outcome::Misconfigured(error) => Foreseen::Misconfigured(error),
        };
        let tried = standings.iter().filter(|standing| standing.left_alone.is_none()).count();
        standings.extend(others);
        Ok(Explanation { standings, tried, unknown_inputs, foreseen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_database_has_an_end() {
        let minute = Duration::from_secs(60);
        let late = within(Duration::from_millis(20), |cancel| cancel.sleep(minute)).unwrap().unwrap_err();
        assert!(late.kind() == ErrorKind::Store && late.to_string().contains("has been locked"), "{late}");
        assert_eq!(within(minute, |_| Ok(1)).unwrap().unwrap(), 1);
        let failed = within(minute, |_| Err::<(), _>(Error::new(ErrorKind::Store, "it is damaged"))).unwrap();
        assert_eq!(failed.unwrap_err().to_string(), "it is damaged");
    }
}
