// SPDX-License-Identifier: GPL-3.0-or-later
//! What a machine lacks, so that what it has stays there until the build is over.
//!
//! A collector there may run at any time, and takes what nobody has protected. A daemon protects what it is told to,
//! valid or not, until the connection ends; so an item that is protected first and asked for then stays what the answer
//! says. It answers what is small enough to be read at once in one round trip ([`FLIGHT`]); a large closure it is asked
//! about first, and of what it has, it protects those items then that no other refers to: an item is there as long as
//! one that refers to it. It is asked about these once more if much is to be sent; else the build is the question: if
//! one of them has gone meanwhile, it is refused, and all is asked and sent again.

use std::collections::HashSet;
use std::fmt::Display;

use crate::build::local_guix::LocalGuix;
use crate::daemon::{FLIGHT, size_of_asking};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;
use crate::remote::Connection;
use crate::store::ValidPath;

/// How often a machine may take items just after it said that it has them.
const TRIES: usize = 5;

/// Most items that are sent in a moment.
const FEW_ITEMS: usize = 16;
/// Most bytes that are sent in a moment, as nars.
const FEW_BYTES: u64 = 2 << 20;

/// Returns those of `items`, a closure, that `remote` lacks, or is better sent than asked about. What it has, and
/// `outputs`, which may come to be, is protected there until the connection to its daemon ends.
///
/// Unless `warily`, relies on what an earlier build has seen over the same connection, and takes items that are sent in
/// a moment to protect what they refer to.
pub fn missing(
    local: &LocalGuix,
    remote: &mut dyn Connection,
    items: &[StorePath],
    outputs: &[StorePath],
    warily: bool,
) -> Result<Vec<ValidPath>> {
    let infos = |missing: &[StorePath]| missing.iter().map(|item| local.info(item)).collect::<Result<Vec<_>>>();
    if warily {
        remote.held().clear();
    }
    let count = items.len();
    let items: Vec<_> = items.iter().filter(|item| !remote.held().contains(item)).cloned().collect();
    let items = items.as_slice();
    // A new derivation is not there, as a rule, and to add one that is does no harm.
    if items.len() < count.min(FEW_ITEMS) && items.iter().all(StorePath::is_derivation) {
        remote.add_temp_roots_later(outputs)?;
        remote.add_temp_roots_later(items)?;
        return infos(items);
    }
    if size_of_asking(items) + size_of_asking(outputs) <= FLIGHT {
        remote.add_temp_roots_later(outputs)?;
        remote.add_temp_roots_later(items)?;
        return infos(&remote.missing(items)?);
    }
    for _ in 0..TRIES {
        let lacking = remote.missing(items)?;
        let missing = infos(&lacking)?;
        let absent: HashSet<_> = lacking.iter().collect();
        let present: Vec<_> = items.iter().filter(|item| !absent.contains(item)).cloned().collect();
        // What is sent within a moment comes with its references, or is refused.
        let soon =
            !warily && missing.len() <= FEW_ITEMS && missing.iter().map(|item| item.nar_size).sum::<u64>() <= FEW_BYTES;
        let heads = local.heads(&present, if soon { &missing } else { &[] })?;
        remote.add_temp_roots_later(outputs)?;
        remote.add_temp_roots_later(&heads)?;
        if soon || remote.missing(&heads)?.is_empty() {
            return Ok(missing);
        }
    }
    Err(collected(remote.machine(), "it takes items faster than they can be protected"))
}

/// The collector of `machine` does not leave a build what it needs: with what can be done about that.
pub fn collected(machine: &BuildMachine, what: impl Display) -> Error {
    let name = &machine.name;
    let message = format!("the garbage collector of '{name}' takes what the build needs: {what}");
    Error::new(ErrorKind::Collected, message).on_machine(name).hint(format!(
        "see that '{name}' does not collect garbage all the time: when guix gc is run there, and by whom"
    ))
}
