// SPDX-License-Identifier: GPL-3.0-or-later
//! Bringing the outputs of a build into the store.

use std::io::{self, Read};

use super::Counted;
use crate::archive::Acl;
use crate::cancel::Cancel;
use crate::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::local::Local;
use crate::observer::{Event, Observer};
use crate::remote::Remote;
use crate::store::{Directories, Staging, StorePath};

/// Most that comes beside the nar of an item, in bytes: its name, references and signature.
const MAX_BESIDE_NAR: u64 = 8 << 20;

/// Brings `outputs` of `derivation`, which `remote` built, into the store and makes them valid, all of them or none.
///
/// Whoever calls holds the locks on the outputs, as guix-daemon does for its hook.
pub fn retrieve_files(
    local: &mut Local,
    remote: &mut Remote,
    derivation: &StorePath,
    outputs: &[StorePath],
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<()> {
    let machine = remote.machine().name.clone();
    let blame = |error: Error| if is_ours(&error) { error } else { error.on_machine(&machine) };
    let directories = local.directories().clone();
    let acl = Acl::load(&directories.acl_file())?;
    let mut sizes = Vec::new();
    for output in outputs {
        sizes.push(remote.path_info(output).context(|| format!("looking up '{output}'"))?.nar_size);
    }
    let bytes = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    require_space(&directories, bytes)?;
    observer.event(&Event::Retrieving { machine: &machine, items: outputs.len(), bytes });
    let mut staging = Staging::new(&directories, &mut |path| local.add_temp_root(path))?;
    let mut received = 0;
    for (output, size) in outputs.iter().zip(sizes) {
        let archive = remote.export(output).context(|| format!("retrieving '{output}'"))?;
        let mut archive = Counted { inner: archive, bytes: &mut received, observer };
        let mut archive = Announced { inner: &mut archive, size, left: size.saturating_add(MAX_BESIDE_NAR) };
        staging
            .receive(&mut archive, &acl, output, Some(derivation))
            .map_err(blame)
            .context(|| format!("retrieving '{output}'"))?;
        // What the daemon says after the item: that it is complete.
        let rest = archive.read(&mut [0; 1]).io_context(ErrorKind::Protocol, || format!("retrieving '{output}'"));
        if rest.map_err(blame)? != 0 {
            return Err(
                Error::new(ErrorKind::Protocol, format!("'{machine}' sent bytes after '{output}'")).on_machine(machine)
            );
        }
        observer.event(&Event::Verified { item: output });
    }
    observer.event(&Event::Received);
    // Whoever cancels may have lost the locks on the outputs.
    cancel.check()?;
    staging
        .commit(local.database())
        .map(|_| ())
        .map_err(blame)
        .context(|| format!("registering the outputs of '{derivation}'"))
}

/// Is this host, not the machine at the other end, to blame?
fn is_ours(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Store | ErrorKind::Exhausted | ErrorKind::Configuration | ErrorKind::Internal)
}

/// Refuses early what could only fill the disk.
fn require_space(directories: &Directories, bytes: u64) -> Result<()> {
    let store = directories.store.as_str();
    let free = fs2::available_space(store).io_context(ErrorKind::Store, || format!("free space of '{store}'"))?;
    if free < bytes {
        return Err(Error::new(
            ErrorKind::Store,
            format!("{} MiB are free in '{store}', but the outputs take {} MiB", free >> 20, bytes >> 20),
        )
        .hint("free some space, for instance with 'guix gc'"));
    }
    Ok(())
}

/// A stream that may be no longer than announced: nobody shall fill the disk.
struct Announced<R: Read> {
    inner: R,
    size: u64,
    left: u64,
}

impl<R: Read> Read for Announced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| {
            let message = format!("more than the {} bytes came that it announced", self.size);
            Error::new(ErrorKind::Protocol, message)
        })?;
        Ok(length)
    }
}
