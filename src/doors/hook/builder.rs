// SPDX-License-Identifier: GPL-3.0-or-later
//! Who decides about a build of a hook, and does it: this process, or the keeper.

use std::sync::Arc;

use crate::build::engine::Engine;
use crate::build::request::{Accepted, Inquiry, Reply, Work};
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::report::Observer;

/// The part of a hook that decides about a build and does it.
pub trait Builder: Send {
    /// Returns where things are on this host.
    fn directories(&self) -> &Directories;

    /// Decides about a build, as [`Engine::ask`] does.
    fn ask(&mut self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Decision>;

    /// Does the build that was accepted, as [`Engine::run`] does.
    fn run(&mut self, work: Work, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()>;
}

/// The reply of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// No machine can ever do this build, or none can now and this host can.
    Decline,
    /// No machine can do the build now.
    Postpone,
    /// The build will be done.
    Accept,
}

/// The builder that works in the hook's own process.
pub struct InProcess {
    engine: Arc<Engine>,
    accepted: Option<Box<Accepted>>,
}

impl InProcess {
    /// Makes a builder that works with `engine`.
    pub fn new(engine: Arc<Engine>) -> Self {
        InProcess { engine, accepted: None }
    }
}

impl Builder for InProcess {
    fn directories(&self) -> &Directories {
        self.engine.directories()
    }

    fn ask(&mut self, inquiry: &Inquiry, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Decision> {
        Ok(match self.engine.ask(inquiry, cancel, observer)? {
            Reply::Decline => Decision::Decline,
            Reply::Postpone => Decision::Postpone,
            Reply::Accept(accepted) => {
                self.accepted = Some(accepted);
                Decision::Accept
            }
        })
    }

    fn run(&mut self, work: Work, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        let accepted = self.accepted.take().ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was accepted"))?;
        self.engine.run(*accepted, work, cancel, observer)
    }
}
