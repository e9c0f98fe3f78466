// SPDX-License-Identifier: GPL-3.0-or-later
//! The file of the journal, `STATE/offload/.journal/builds`, and the one before it, `builds.old`.
//!
//! The first line has the [`Totals`] of all builds before; each other line is an [`Entry`], in JSON. Once the file has
//! [`MAX_SIZE`], it becomes `builds.old`, and the totals of all of it begin a new one. So the totals of all builds are
//! those in the first line and the entries below, whichever process ends when.
//!
//! Writers hold `lock`. A reader needs no lock: lines are written whole, and files are renamed whole. Nothing waits for
//! the disk: a crash of the host may cost the last entries, but no build.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock, fstat, ftruncate};
use rustix::io::Errno;

use super::Entry;
use super::totals::Totals;
use crate::ground::directories::for_daemons_user;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::state_dir::{OpenStateDir, StateDir};

const DIRECTORY: &str = ".journal";
const FILE: &str = "builds";
const OLD: &str = "builds.old";
const LOCK: &str = "lock";

/// Size from which on the file is replaced by a new one, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// Longest line of an entry, in bytes.
const MAX_LINE: usize = 4000;
/// Longest reason for a failure that is kept, in bytes.
const MAX_REASON: usize = 1000;
/// Most that is read of a file, in bytes: more than totals and entries have.
const MAX_READ: u64 = 8 << 20;
/// Most tries to open both files while another process replaces them.
const MAX_TRIES: usize = 10;
/// How long a build waits for others that write to the journal, before it goes without an entry.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two looks at whether another one still writes.
const PAUSE: Duration = Duration::from_millis(2);

/// What the journal has.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The last builds, the oldest first.
    pub builds: Vec<Entry>,
    /// The totals of all builds, also of those that are no longer kept; `None`: there was no build yet.
    pub totals: Option<Totals>,
}

/// Adds `entry` to the journal in `state`, the directory of the offloading state.
pub fn append(state: &Path, entry: Entry) -> io::Result<()> {
    append_within(state, entry, MAX_SIZE, PATIENCE)
}

fn append_within(state: &Path, entry: Entry, max_size: u64, patience: Duration) -> io::Result<()> {
    let named = StateDir::named(state, DIRECTORY);
    let directory = named.open().or_else(|_| named.create().and_then(|()| named.open()))?;
    let since = entry.ended;
    let line = line(entry)?;
    // Held until the end.
    let _lock = locked(&directory, patience)?;
    let file = current(&directory)?;
    let size = file.as_ref().map(fstat).transpose()?.map_or(0, |status| status.st_size as u64);
    let mut file = match file {
        Some(file) if size > 0 && size + line.len() as u64 <= max_size => file,
        // There is none, or the host crashed before the disk had the first line.
        _ if size == 0 => begin(&directory, before(&directory, since)?)?,
        file => {
            let old = opened(&directory, OLD)?.map(parse).transpose()?;
            let content = file.map(parse).transpose()?.unwrap_or_default();
            let totals = content.totals(old.as_ref()).ok_or_else(|| unreadable(FILE))?;
            directory.rename(FILE, OLD)?;
            begin(&directory, totals)?
        }
    };
    let before = fstat(&file)?.st_size as u64;
    file.write_all(line.as_bytes()).inspect_err(|_| {
        let _ = ftruncate(&file, before); // half a line would spoil the next one
    })
}

/// Returns the line of an entry, shortened if it is too long.
fn line(mut entry: Entry) -> io::Result<String> {
    if let Some(reason) = &mut entry.reason {
        let mut length = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(length) {
            length -= 1;
        }
        reason.truncate(length);
    }
    let mut text = serde_json::to_string(&entry)?;
    if text.len() >= MAX_LINE {
        entry.reason = None;
        text = serde_json::to_string(&entry)?;
    }
    if text.len() >= MAX_LINE {
        return Err(io::Error::other("an entry of the journal is too long"));
    }
    Ok(text + "\n")
}

fn locked(directory: &OpenStateDir, patience: Duration) -> io::Result<File> {
    let lock = directory.open(LOCK, OFlags::RDWR | OFlags::CREATE)?;
    let begun = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < patience => std::thread::sleep(PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens the file for another entry; `None`: there is none.
fn current(directory: &OpenStateDir) -> io::Result<Option<File>> {
    match directory.open(FILE, OFlags::RDWR | OFlags::APPEND | OFlags::NONBLOCK) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the totals of the file before; without one, none since `since`.
fn before(directory: &OpenStateDir, since: u64) -> io::Result<Totals> {
    match opened(directory, OLD)? {
        Some(old) => parse(old)?.totals(None).ok_or_else(|| unreadable(OLD)),
        None => Ok(Totals { since, ..Totals::default() }),
    }
}

/// The totals in the file are not lost as long as it is not replaced.
fn unreadable(name: &str) -> io::Error {
    io::Error::other(format!("the first line of '{name}' has no totals that can be read: rename it to begin anew"))
}

/// Begins a file with the totals of those before.
fn begin(directory: &OpenStateDir, totals: Totals) -> io::Result<File> {
    directory.replace(FILE, (serde_json::to_string(&totals)? + "\n").as_bytes())?;
    current(directory)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Returns what the journal in `state` has.
pub fn read(state: &Path) -> Result<Kept> {
    let named = StateDir::named(state, DIRECTORY);
    let read = || match named.open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
        Err(error) => Err(error),
        Ok(directory) => read_in(&directory),
    };
    read().map_err(|error| {
        let place = named.path("");
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        let error = Error::io(ErrorKind::Unavailable, format!("reading the journal in '{}'", place.display()), error);
        match denied {
            true => {
                error.hint(for_daemons_user("read it", |user| format!("setfacl -R -m u:{user}:rX {}", place.display())))
            }
            false => error,
        }
    })
}

fn read_in(directory: &OpenStateDir) -> io::Result<Kept> {
    for _ in 0..MAX_TRIES {
        let current = opened(directory, FILE)?;
        let old = opened(directory, OLD)?;
        if let (Some(current), Some(old)) = (&current, &old) {
            let (one, other) = (fstat(current)?, fstat(old)?);
            if (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) {
                continue; // it was replaced between the two
            }
        }
        let (old, current) = (old.map(parse).transpose()?, current.map(parse).transpose()?);
        let (last, before) = if current.is_some() { (current, old) } else { (old, None) };
        let Some(last) = last else { return Ok(Kept::default()) };
        let totals = last.totals(before.as_ref()).unwrap_or_else(|| last.counted(Totals::default()));
        let builds = before.unwrap_or_default().builds.into_iter().chain(last.builds).collect();
        return Ok(Kept { builds, totals: Some(totals) });
    }
    Err(io::Error::other(format!("'{FILE}' and '{OLD}' are the same file: remove one of the two")))
}

/// Opens a file to read it; `None`: it does not exist.
fn opened(directory: &OpenStateDir, name: &str) -> io::Result<Option<File>> {
    match directory.open(name, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What one file has.
#[derive(Default)]
struct Content {
    /// The totals in the first line, if that can be read.
    first: Option<Totals>,
    builds: Vec<Entry>,
}

impl Content {
    /// Returns the totals of all builds up to the last one here. If the first line cannot be read, the file `before`
    /// still has what was there; `None`: it cannot be made out.
    fn totals(&self, before: Option<&Content>) -> Option<Totals> {
        let first = self.first.clone().or_else(|| before?.totals(None))?;
        Some(self.counted(first))
    }

    /// Adds the builds here to `totals`.
    fn counted(&self, mut totals: Totals) -> Totals {
        if totals.since == 0 {
            totals.since = self.builds.first().map_or(0, |entry| entry.ended);
        }
        self.builds.iter().for_each(|entry| totals.add(entry));
        totals
    }
}

/// Reads a file. Skips damaged lines.
fn parse(file: File) -> io::Result<Content> {
    let mut text = Vec::new();
    file.take(MAX_READ).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    Ok(Content {
        first: serde_json::from_str(first).ok(),
        builds: rest.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
    })
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
