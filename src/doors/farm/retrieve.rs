// SPDX-License-Identifier: GPL-3.0-or-later
//! Retrieving a small item by way of the local daemon. The caller has no locks on outputs, and may not be able to write
//! to the store: perhaps only the daemon can.

use std::io::Read;

use crate::archive::{self, NullVisitor, bundle};
use crate::build::local_guix::LocalGuix;
use crate::ground::directories::Directories;
use crate::ground::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::remote::Remote;

/// Largest item that a test retrieves from a machine, in bytes of its exported form.
const MAX_ITEM: usize = 1 << 20;

/// Retrieves `item`, which has no references, from `remote` into the local store.
///
/// Verifies the archive here too, as [`crate::build::transfer::retrieve_files`] does.
pub fn retrieve_through_daemon(
    directories: &Directories,
    local: &mut LocalGuix,
    remote: &mut Remote,
    item: &StorePath,
) -> Result<()> {
    let retrieving = || format!("retrieving '{item}'");
    let acl = local.acl()?;
    let mut archive = Vec::new();
    let mut export = remote.export(item).context(retrieving)?;
    let length = (&mut export)
        .take(MAX_ITEM as u64 + 1)
        .read_to_end(&mut archive)
        .io_context(ErrorKind::Protocol, retrieving)?;
    if length > MAX_ITEM {
        return Err(Error::new(ErrorKind::Protocol, format!("'{item}' is larger than {MAX_ITEM} bytes")));
    }
    let mut rest = &*archive;
    let found = archive::read_item(&mut rest, &directories.store, &mut NullVisitor).context(retrieving)?;
    archive::verify(found.signature.as_deref(), &found.signed_hash, &acl, &found.path)?;
    if found.path != *item || !rest.is_empty() {
        return Err(Error::new(ErrorKind::Untrusted, format!("'{}' came instead of '{item}'", found.path)));
    }
    local.import(item, &bundle::of_one(&archive))
}
