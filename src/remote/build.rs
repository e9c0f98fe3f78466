// SPDX-License-Identifier: GPL-3.0-or-later
//! A build on a machine: its log, its limits of time, and what came of it.

use std::time::{Duration, Instant};

use super::Remote;
use super::blame::{self, Tail};
use crate::daemon::BuildOptions;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;

/// How much longer than the daemon there we wait before we enforce a build's time limits ourselves.
const LIMIT_SLACK: Duration = Duration::from_secs(10);

/// How long a machine, whose daemon does not enforce a limit, has for a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// When a build is over at the latest.
struct Allowed {
    silence: Option<Duration>,
    end: Option<Instant>,
}

impl Allowed {
    fn new(options: &BuildOptions) -> Self {
        let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds).saturating_add(LIMIT_SLACK));
        // What does not fit an `Instant` is no limit.
        let end = limit(options.timeout).and_then(|limit| Instant::now().checked_add(limit));
        Allowed { silence: limit(options.max_silent_time), end }
    }

    /// The deadline of a build that has just been heard of.
    fn deadline(&self) -> Option<Instant> {
        let silence = self.silence.and_then(|limit| Instant::now().checked_add(limit));
        self.end.into_iter().chain(silence).min()
    }

    /// The build was held up from here for so long.
    fn extend(&mut self, time: Duration) {
        self.end = self.end.and_then(|end| end.checked_add(time));
    }
}

impl Remote {
    /// Builds `derivation`, all inputs of which the machine has, handing the log to `log` as it comes.
    ///
    /// The time limits of `options` are enforced by the daemon there, and a little later here, should it be stuck. The
    /// time that `log` takes does not count here.
    ///
    /// Fails with [`ErrorKind::BuildFailed`] if it failed by itself, and [`ErrorKind::TimedOut`] if it exceeded a
    /// limit; any other error is the machine's, or one of `log`.
    pub fn build(
        &mut self,
        derivation: &StorePath,
        options: &BuildOptions,
        log: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.be_patient();
        let client = &mut self.link.client;
        let prepared = client.set_options_later(options, self.offloads);
        // What goes before the build is to be answered as any question.
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
            limits.extend(begun.elapsed());
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

    /// Does the machine still answer?
    fn is_alive(&self) -> bool {
        let channel = self.session.exec("true");
        let deadline = Instant::now() + SIGN_OF_LIFE;
        channel.set_deadline(Some(deadline));
        // Whoever refuses it has answered, too.
        (channel.wait_open().is_ok() || Instant::now() < deadline) && self.session.failure().is_none()
    }
}
