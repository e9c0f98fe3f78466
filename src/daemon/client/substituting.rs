// SPDX-License-Identifier: GPL-3.0-or-later
//! Substitutes: items that the daemon can fetch from servers whose signatures it accepts.

use super::building::{BuildOptions, Settings, options_arguments};
use super::{Client, MAX_REFERENCES};
use crate::daemon::replies::{MAX_LIST, broken, read_number, read_text};
use crate::daemon::request::{Operation, put_paths};
use crate::ground::error::Result;
use crate::ground::store_path::StorePath;
use crate::ground::words::put_number;

/// The setting that makes the daemon log how many bytes it has fetched: lines that begin with `@ download-`.
const LOGS_PROGRESS: &str = "print-extended-build-trace";

/// What a daemon says of an item that it can fetch. The server has signed this and the hash of the contents; the daemon
/// checks both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitute {
    /// The item.
    pub path: StorePath,
    /// The items that it refers to, itself perhaps among them.
    pub references: Vec<StorePath>,
    /// Size of its nar, in bytes.
    pub nar_size: u64,
    /// How many bytes the daemon downloads for it; 0: that is not known.
    pub download_size: u64,
}

impl Client {
    /// Sends the options of a fetch along with the next request: the daemon goes on when a substitute fails, and logs
    /// its progress.
    pub fn set_substituting_later(&mut self) -> Result<()> {
        let options = BuildOptions { print_build_trace: true, ..BuildOptions::default() };
        let settings = Settings { keep_going: true, more: &[(LOGS_PROGRESS, 1)], ..Settings::default() };
        self.postpone(Operation::SetOptions, &options_arguments(&options, &settings))
    }

    /// Returns which of `paths` the daemon can fetch. The daemon asks its servers, which may take long. If it uses
    /// none, there are none.
    pub fn substitutes(&mut self, paths: &[StorePath]) -> Result<Vec<Substitute>> {
        let mut arguments = Vec::new();
        put_paths(&mut arguments, paths);
        self.begin(Operation::QuerySubstitutablePathInfos, &arguments)?;
        self.wait_quietly()?;
        let count = read_number(&mut self.stream)?;
        if count > (paths.len() as u64).min(MAX_LIST) {
            return Err(broken(format!("the daemon has {count} substitutes for {} items", paths.len())));
        }
        let (mut substitutes, mut left) = (Vec::new(), MAX_LIST);
        for _ in 0..count {
            let path = read_text(&mut self.stream, "a store file name")?;
            let path = self.parse_path(&path)?;
            read_text(&mut self.stream, "a deriver")?;
            let references = self.read_paths(left.min(MAX_REFERENCES))?;
            left -= references.len() as u64;
            let download_size = read_number(&mut self.stream)?;
            let nar_size = read_number(&mut self.stream)?;
            substitutes.push(Substitute { path, references, nar_size, download_size });
        }
        self.finish();
        Ok(substitutes)
    }

    /// Makes the daemon fetch `paths`, and all that they refer to, and hands its log to `log` as it comes. An item that
    /// no server has is no failure. What was fetched is protected from the collector while the connection is open. An
    /// error of `log` makes the connection unusable.
    pub fn substitute(&mut self, paths: &[StorePath], log: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut arguments = Vec::new();
        put_paths(&mut arguments, paths);
        put_number(&mut arguments, 0); // the mode of builds
        let request = self.prepare(Operation::BuildPaths, &arguments)?;
        self.dispatch(&request)?;
        self.finish_build(log)
    }
}
