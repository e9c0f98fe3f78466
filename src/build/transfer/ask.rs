// SPDX-License-Identifier: GPL-3.0-or-later
//! Asking what a machine lacks. What it has must stay there until the build is over.
//!
//! The machine's collector may run at any time, and deletes what nothing protects. A temporary root protects an item,
//! valid or not, until the connection to the daemon ends. So temporary roots are added first, and then the answer stays
//! true. Requests small enough for a [`FLIGHT`] take one round trip in all.
//!
//! For a large closure, the question comes first. Then, of the items that the machine has, those that no other one
//! refers to get temporary roots: an item stays as long as one that refers to it. If much is to be sent, these items
//! are asked about once more. Otherwise the build shows whether one of them has gone meanwhile: the daemon then refuses
//! it, and everything is asked and sent again.
//!
//! Derivations, and small outputs that another machine has just built, are not asked about. They are new, as a rule.

use std::collections::HashSet;
use std::fmt::Display;

use crate::build::local_guix::LocalGuix;
use crate::daemon::{FLIGHT, size_of_asking};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;
use crate::remote::Connection;
use crate::store::ValidPath;

/// Most attempts if the machine's collector takes items before they are protected.
const TRIES: usize = 5;

/// Most items that count as sent within a moment.
const FEW_ITEMS: usize = 16;
/// Most bytes, as nars, that count as sent within a moment.
const FEW_BYTES: u64 = 2 << 20;

/// Returns those of `items`, a closure, that `remote` lacks, or that are better sent than asked about. The others, and
/// `outputs`, which may not exist yet, are protected there until the connection to its daemon ends.
///
/// Unless `warily`, relies on what earlier builds found over the same connection, and counts items that are sent within
/// a moment as protecting their references. `is_new` tells of items that the machine lacks, in all likelihood.
pub fn missing(
    local: &LocalGuix,
    remote: &mut dyn Connection,
    items: &[StorePath],
    outputs: &[StorePath],
    is_new: &dyn Fn(&StorePath) -> bool,
    warily: bool,
) -> Result<Vec<ValidPath>> {
    let infos = |missing: &[StorePath]| missing.iter().map(|item| local.info(item)).collect::<Result<Vec<_>>>();
    if warily {
        remote.held().clear();
    }
    let count = items.len();
    let items: Vec<_> = items.iter().filter(|item| !remote.held().contains(item)).cloned().collect();
    let items = items.as_slice();
    // As a rule, a machine lacks new derivations and outputs. To send one that it has does no harm.
    if items.len() < count.min(FEW_ITEMS) && items.iter().all(|item| item.is_derivation() || is_new(item)) {
        let missing = infos(items)?;
        if bytes_of(&missing) <= FEW_BYTES {
            remote.add_temp_roots_later(outputs)?;
            remote.add_temp_roots_later(items)?;
            return Ok(missing);
        }
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
        // If a reference of an item that is sent within a moment has gone, the daemon refuses the item.
        let soon = !warily && missing.len() <= FEW_ITEMS && bytes_of(&missing) <= FEW_BYTES;
        let heads = local.heads(&present, if soon { &missing } else { &[] })?;
        remote.add_temp_roots_later(outputs)?;
        remote.add_temp_roots_later(&heads)?;
        if soon || remote.missing(&heads)?.is_empty() {
            return Ok(missing);
        }
    }
    Err(collected(remote.machine(), "it takes items faster than they can be protected"))
}

fn bytes_of(items: &[ValidPath]) -> u64 {
    items.iter().map(|item| item.nar_size).sum()
}

/// Returns the error for a collector of `machine` that takes what a build needs. `what`: how that was found.
pub fn collected(machine: &BuildMachine, what: impl Display) -> Error {
    let name = &machine.name;
    let message = format!("the garbage collector of '{name}' takes what the build needs: {what}");
    Error::new(ErrorKind::Collected, message).on_machine(name).hint(format!(
        "see that '{name}' does not collect garbage all the time: when guix gc is run there, and by whom"
    ))
}
