// SPDX-License-Identifier: GPL-3.0-or-later
//! Bringing the outputs of a build into the store.

use std::io::{self, Read};

use super::CountingReader;
use super::throttle::ThrottledObserver;
use crate::build::local_guix::LocalGuix;
use crate::ground::cancel::Cancel;
use crate::ground::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::remote::Connection;
use crate::report::{Event, Observer};
use crate::store::{Registrar, Staging};

/// Largest size of what comes beside the nar of an item, in bytes: its name, references and signature.
const MAX_BESIDE_NAR: u64 = 8 << 20;

/// Largest output, holes included, as a multiple of the size of the store's file system.
const LARGEST: u64 = 64;

/// Interval, in bytes received, at which the free space in the store is checked.
const SPACE_CHECK_STEP: u64 = 64 << 20;

/// Free space that must be left in the store's file system while outputs come, in bytes.
const RESERVE: u64 = 64 << 20;

/// Brings `outputs` of `derivation`, which `remote` built, into the store and makes them valid, all of them or none.
///
/// The caller holds the locks on the outputs, as guix-daemon does for its hook. A `registrar`, if given, makes the
/// outputs valid.
pub fn retrieve_files(
    local: &mut LocalGuix,
    remote: &mut dyn Connection,
    derivation: &StorePath,
    outputs: &[StorePath],
    registrar: Option<&mut dyn Registrar>,
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<()> {
    let machine = remote.machine().name.clone();
    let blame = |error: Error| error.blame_machine(&machine);
    let directories = local.directories().clone();
    let acl = local.acl()?;
    let store = directories.store.as_str();
    let mut sizes = Vec::new();
    remote.ask_for_all(outputs).context(|| format!("looking up the outputs of '{derivation}'"))?;
    for output in outputs {
        let looking_up = || format!("looking up '{output}'");
        let size = remote.path_info(output).context(looking_up)?.nar_size;
        require_likely(size, store).map_err(blame).context(looking_up)?;
        sizes.push(size);
    }
    let bytes = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    observer.event(&Event::Retrieving { machine: &machine, items: outputs.len(), bytes });
    let mut staging = Staging::new(&directories, &mut |path| local.add_temp_root(path))?;
    let observer = &mut ThrottledObserver::new(observer);
    let mut received = 0;
    for (output, size) in outputs.iter().zip(sizes) {
        let archive = remote.export(output).context(|| format!("retrieving '{output}'"))?;
        let mut archive = CountingReader { inner: archive, bytes: &mut received, observer };
        let mut archive = SpaceChecker { inner: &mut archive, store, unseen: 0 };
        let mut archive = LimitedReader { inner: &mut archive, size, left: size.saturating_add(MAX_BESIDE_NAR) };
        staging
            .receive(&mut archive, &acl, output, Some(derivation))
            .map_err(blame)
            .context(|| format!("retrieving '{output}'"))?;
        // This reads what the daemon says after the item: that it is complete.
        let rest = archive.read(&mut [0; 1]).io_context(ErrorKind::Protocol, || format!("retrieving '{output}'"));
        if rest.map_err(blame)? != 0 {
            return Err(
                Error::new(ErrorKind::Protocol, format!("'{machine}' sent bytes after '{output}'")).on_machine(machine)
            );
        }
        observer.event(&Event::Verified { item: output });
    }
    observer.event(&Event::Received);
    // After a cancellation, the locks on the outputs may be lost.
    cancel.check()?;
    staging
        .commit(registrar.unwrap_or_else(|| local.database()))
        .map(|_| ())
        .map_err(blame)
        .context(|| format!("registering the outputs of '{derivation}'"))
}

/// Fails if an output cannot have the size that the machine reports.
///
/// The output may be larger than the free space or the disk: it may have holes, and the file system may compress.
fn require_likely(size: u64, store: &str) -> Result<()> {
    let total = fs2::total_space(store).io_context(ErrorKind::Store, || format!("the size of '{store}'"))?;
    if size > i64::MAX as u64 || size / LARGEST > total {
        let message = format!("that it has {size} bytes cannot be true: all of '{store}' has {} MiB", total >> 20);
        return Err(Error::new(ErrorKind::Protocol, message));
    }
    Ok(())
}

/// A reader that fails before its data could fill the disk, on which others depend.
struct SpaceChecker<'a, R: Read> {
    inner: R,
    store: &'a str,
    /// Bytes that came since the free space was last checked.
    unseen: u64,
}

impl<R: Read> Read for SpaceChecker<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.unseen += length as u64;
        if self.unseen >= SPACE_CHECK_STEP {
            self.unseen = 0;
            let store = self.store;
            let free =
                fs2::available_space(store).io_context(ErrorKind::Store, || format!("free space of '{store}'"))?;
            if free < RESERVE {
                let message = format!("only {} MiB are free in '{store}', and more is coming", free >> 20);
                return Err(Error::new(ErrorKind::Store, message)
                    .hint("free some space, for instance with 'guix gc'")
                    .into());
            }
        }
        Ok(length)
    }
}

/// A reader that fails once more bytes come than were announced, so that nobody can fill the disk.
struct LimitedReader<R: Read> {
    inner: R,
    size: u64,
    left: u64,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| {
            let message = format!("more than the {} bytes came that it announced", self.size);
            Error::new(ErrorKind::Protocol, message)
        })?;
        Ok(length)
    }
}
