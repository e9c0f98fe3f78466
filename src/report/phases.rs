// SPDX-License-Identifier: GPL-3.0-or-later
//! Where the time of a build goes: one line of JSON for each phase, appended to the file that `GUIX_OFFLOAD_TRACE`
//! names.
//!
//! ```text
//! {"pid":12,"derivation":"/gnu/store/…-x.drv","machine":"w1","phase":"send","start_us":1700000000000000,"us":812,
//!  "bytes":4096}
//! ```
//!
//! `start_us` is in microseconds since the epoch, `us` the phase's length, `bytes` what it moved. The phases of a build
//! follow each other: `choose` (until a machine is connected to and has answered), `query` (what the machine lacks),
//! `send`, `build`, `inspect` (what the outputs are), `retrieve` (until all signatures are verified), `register`. If a
//! caller does the steps one by one, the phases of each step follow each other.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags};

use super::json::string;
use crate::ground::error::{ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::report::{Aside, Event, Observer};

/// Environment variable that names the trace file.
pub const VARIABLE: &str = "GUIX_OFFLOAD_TRACE";

/// Opens the trace file, if [`VARIABLE`] is set.
///
/// Creates it with mode 0600, and does not follow a symbolic link in its place: the user who sets the variable may not
/// be root.
pub fn open() -> Result<Option<File>> {
    std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(|name| open_file(Path::new(&name))).transpose()
}

fn open_file(name: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .io_context(ErrorKind::Configuration, || format!("opening '{}', which {VARIABLE} names", name.display()))
        .map_err(|error| error.hint(format!("unset {VARIABLE}, or name a file that can be written")))
}

/// Returns the phase that begins with `event`, if one does. `done` is no phase.
pub fn phase_after(event: &Event<'_>) -> Option<&'static str> {
    Some(match event {
        Event::Chosen { .. } => "query",
        Event::Sending { .. } => "send",
        Event::Building { .. } => "build",
        Event::Built => "inspect",
        Event::Retrieving { .. } => "retrieve",
        Event::Received => "register",
        Event::Retrying { .. } => "choose",
        Event::Done { .. } => "done",
        _ => return None,
    })
}

/// An observer that records the phases of one build, if there is a trace file, and passes events on to another
/// observer.
pub struct PhaseTimer<'a> {
    inner: &'a mut dyn Observer,
    file: Option<&'a File>,
    derivation: &'a StorePath,
    machine: String,
    phase: &'static str,
    begun: Instant,
    begun_at: SystemTime,
    bytes: u64,
}

impl<'a> PhaseTimer<'a> {
    /// Begins the build's first phase now.
    pub fn new(
        inner: &'a mut dyn Observer,
        file: Option<&'a File>,
        derivation: &'a StorePath,
        machine: &str,
        phase: &'static str,
    ) -> Self {
        let (begun, begun_at) = (Instant::now(), SystemTime::now());
        PhaseTimer { inner, file, derivation, machine: machine.to_string(), phase, begun, begun_at, bytes: 0 }
    }

    /// Ends the current phase, after which there is none.
    pub fn end(mut self) {
        self.enter("");
    }

    /// Ends the current phase and begins the next.
    fn enter(&mut self, next: &'static str) {
        let Some(mut file) = self.file.filter(|_| next != self.phase) else { return };
        let start = self.begun_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let line = format!(
            "{{\"pid\":{},\"derivation\":{},\"machine\":{},\"phase\":\"{}\",\"start_us\":{start},\"us\":{},\
             \"bytes\":{}}}\n",
            std::process::id(),
            string(&self.derivation.to_string()),
            string(&self.machine),
            self.phase,
            self.begun.elapsed().as_micros(),
            self.bytes,
        );
        // A trace that cannot be written stops no build.
        let _ = file.write_all(line.as_bytes());
        (self.phase, self.begun, self.begun_at, self.bytes) = (next, Instant::now(), SystemTime::now(), 0);
    }
}

impl Observer for PhaseTimer<'_> {
    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Chosen { machine } => self.machine = machine.to_string(),
            Event::Transferred { bytes } => self.bytes = bytes,
            _ => {}
        }
        if let Some(next) = phase_after(event) {
            self.enter(next);
        }
        self.inner.event(event);
    }

    fn detail(&mut self, text: fmt::Arguments<'_>) {
        self.inner.detail(text);
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.inner.log(text)
    }

    fn aside(&self) -> Option<Aside> {
        self.inner.aside()
    }
}
