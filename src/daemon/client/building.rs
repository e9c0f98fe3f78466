// SPDX-License-Identifier: GPL-3.0-or-later
//! Building, and the options of builds.

use serde::{Deserialize, Serialize};

use super::Client;
use crate::daemon::request::{Operation, put_paths};
use crate::ground::error::Result;
use crate::ground::store_path::StorePath;
use crate::ground::words::{put_number, put_string};

/// Modes of building.
const NORMAL: u64 = 0;
const CHECK: u64 = 2;

/// Options of builds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildOptions {
    /// Seconds without output after which a build is killed; 0: no limit.
    pub max_silent_time: u64,
    /// Seconds after which a build is killed; 0: no limit.
    pub timeout: u64,
    /// Whether lines for machines (`@ build-started …`) appear in the log.
    pub print_build_trace: bool,
    /// How many cores a build may use; 0: all. `None`: as the daemon is configured.
    pub cores: Option<u32>,
    /// How often each build is done. All results must be the same. `None`: as the daemon is configured.
    pub rounds: Option<u32>,
    /// Whether valid outputs are built again, and compared with the new ones.
    pub check: bool,
    /// Whether the tree of a build that fails is kept.
    pub keep_failed: bool,
    /// How much the daemon logs, besides the output of builders; 0: errors only.
    pub verbosity: u32,
    /// Whether the daemon builds what it cannot fetch although a server has it.
    pub fallback: bool,
    /// Whether the machine is sent all inputs, even those that it could fetch.
    pub sends_all: bool,
}

impl BuildOptions {
    /// Returns whether each build is done more than once.
    pub fn repeats(&self) -> bool {
        self.rounds.is_some_and(|rounds| rounds > 1)
    }

    /// Returns whether options stay in force for later builds of the connection, which cannot take them back.
    pub fn stay(&self) -> bool {
        self.cores.is_some() || self.rounds.is_some()
    }
}

impl Client {
    /// Sets the options of this connection's builds, and whether the daemon may hand them on to other machines. If it
    /// may, it starts its build hook for every build. That takes some 100 ms even if there are no other machines.
    pub fn set_options(&mut self, options: &BuildOptions, offload: bool) -> Result<()> {
        self.set_options_later(options, offload)?;
        self.settle()
    }

    /// Does the same as [`Client::set_options`], but the request travels with the next one, which fails if it fails.
    pub fn set_options_later(&mut self, options: &BuildOptions, offload: bool) -> Result<()> {
        self.checks = options.check;
        let settings = Settings { offload, ..Settings::default() };
        self.postpone(Operation::SetOptions, &options_arguments(options, &settings))
    }

    /// Begins to build `derivation`, and reads the answers to the requests that travelled along.
    /// [`Client::finish_build`] must follow.
    pub fn begin_build(&mut self, derivation: &StorePath) -> Result<()> {
        let mut arguments = Vec::new();
        put_paths(&mut arguments, std::slice::from_ref(derivation));
        put_number(&mut arguments, if self.checks { CHECK } else { NORMAL });
        self.begin(Operation::BuildPaths, &arguments)
    }

    /// Waits for the build that was begun, and hands its log to `log` as it comes. An error of `log` makes the
    /// connection unusable.
    pub fn finish_build(&mut self, log: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.wait(log)?;
        self.acknowledge()
    }
}

/// Settings that no caller of a build chooses.
#[derive(Default)]
pub(super) struct Settings<'a> {
    /// Whether the daemon may hand builds on to other machines.
    pub offload: bool,
    /// Whether the daemon goes on when one of several things fails.
    pub keep_going: bool,
    /// More settings, by name.
    pub more: &'a [(&'a str, u64)],
}

pub(super) fn options_arguments(options: &BuildOptions, settings: &Settings) -> Vec<u8> {
    let mut arguments = Vec::new();
    for value in [
        u64::from(options.keep_failed),
        u64::from(settings.keep_going),
        u64::from(options.fallback),
        u64::from(options.verbosity),
        // A machine that the build is handed on to would not be told how often to do it.
        u64::from(settings.offload && !options.repeats()),
        0, // verbosity of builds
        0, // type of log
        u64::from(options.print_build_trace),
        u64::from(!options.repeats()), // use substitutes, which nobody built here
    ] {
        put_number(&mut arguments, value);
    }
    let mut named = vec![("build-max-silent-time", options.max_silent_time), ("build-timeout", options.timeout)];
    named.extend(options.cores.map(|cores| ("build-cores", cores.into())));
    named.extend(options.rounds.map(|rounds| ("build-repeat", u64::from(rounds).saturating_sub(1))));
    named.extend(settings.more);
    put_number(&mut arguments, named.len() as u64);
    for (name, value) in named {
        put_string(&mut arguments, name);
        put_string(&mut arguments, value.to_string());
    }
    arguments
}
