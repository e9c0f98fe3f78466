// SPDX-License-Identifier: GPL-3.0-or-later
//! A build on a machine: its log, its time limits, and its result.

use std::time::{Duration, Instant};

use super::Remote;
use super::blame::{self, Tail};
use crate::daemon::BuildOptions;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;

/// Delay after which this host enforces a build's time limit itself, if the machine's daemon has not.
const LIMIT_SLACK: Duration = Duration::from_secs(10);

/// Time that a machine has for a sign of life after its daemon failed to enforce a build's time limit.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Time after which a reader that has not taken a piece of the log holds up the build. Less counts as the build's: a
/// log without end must not extend the limits without end.
const HOLD_UP: Duration = Duration::from_secs(1);

/// The time limits of a build that this host enforces.
struct Allowed {
    silence: Option<Duration>,
    end: Option<Instant>,
}

impl Allowed {
    fn new(options: &BuildOptions) -> Self {
        let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds).saturating_add(LIMIT_SLACK));
        // A limit that does not fit an `Instant` does not count.
        let end = limit(options.timeout).and_then(|limit| Instant::now().checked_add(limit));
        Allowed { silence: limit(options.max_silent_time), end }
    }

    /// Returns the deadline of a build that has just shown a sign of life.
    fn deadline(&self) -> Option<Instant> {
        let silence = self.silence.and_then(|limit| Instant::now().checked_add(limit));
        self.end.into_iter().chain(silence).min()
    }

    /// Extends the limits by `time`, for which this host held up the build.
    fn extend(&mut self, time: Duration) {
        self.end = self.end.and_then(|end| end.checked_add(time));
    }
}

impl Remote {
    /// Builds `derivation`, whose inputs the machine has, and hands the log to `log` as it comes.
    ///
    /// The daemon there enforces the time limits of `options`. If it is stuck, this function does so a little later. It
    /// does not count the time of a call of `log` that holds up the build, which takes [`HOLD_UP`] or more.
    ///
    /// Fails with [`ErrorKind::BuildFailed`] if the build failed by itself, and with [`ErrorKind::TimedOut`] if it
    /// exceeded a limit. Any other error is the machine's, or comes from `log`.
    pub fn build(
        &mut self,
        derivation: &StorePath,
        options: &BuildOptions,
        log: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.be_patient();
        let client = &mut self.link.client;
        let prepared = client.set_options_later(options, self.offloads);
        // The requests before the build have the time limits of any question.
        prepared
            .and_then(|()| client.add_temp_roots_later(std::slice::from_ref(derivation)))
            .and_then(|()| client.begin_build(derivation))
            .map_err(|e| self.on_this_machine(e))?;

        let mut limits = Allowed::new(options);
        let channel = self.link.channel.clone();
        let mut tail = Tail::default();
        let mut deadline = limits.deadline();
        // A build may be silent.
        channel.set_stall_limit(None);
        channel.set_deadline(deadline);
        let result = self.link.client.finish_build(&mut |text| {
            tail.note(text);
            let begun = Instant::now();
            let result = log(text);
            let time = begun.elapsed();
            if time >= HOLD_UP {
                limits.extend(time);
            }
            deadline = limits.deadline();
            channel.set_deadline(deadline);
            result
        });
        let refusal = self.link.client.take_refusal();
        let result = result.map_err(|error| match refusal {
            Some(refusal) if error.kind() == ErrorKind::Daemon => refusal,
            _ => error,
        });
        result.map_err(|error| {
            // A daemon that enforces its limits answers; this one did not.
            let overdue = error.kind() == ErrorKind::Unavailable && deadline.is_some_and(|d| Instant::now() >= d);
            let error = if overdue && self.is_alive() {
                Error::new(ErrorKind::TimedOut, format!("build of '{derivation}' exceeded its time limit"))
            } else {
                blame::find(error, derivation, &tail, self)
            };
            self.on_this_machine(error)
        })
    }

    /// Returns whether the machine still answers.
    fn is_alive(&self) -> bool {
        let channel = self.session.exec("true");
        let deadline = Instant::now() + SIGN_OF_LIFE;
        channel.set_deadline(Some(deadline));
        // A machine that refuses the command has answered, too.
        (channel.wait_open().is_ok() || Instant::now() < deadline) && self.session.failure().is_none()
    }
}
