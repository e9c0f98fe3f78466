// SPDX-License-Identifier: GPL-3.0-or-later
//! Bundles: items one after the other, as the daemon's `import-paths` reads them.
//!
//! ```text
//! bundle = { number (1) item } number (0)
//! ```

/// Comes before each item.
pub const ITEM: [u8; 8] = 1u64.to_le_bytes();
/// Comes after the last item.
pub const END: [u8; 8] = 0u64.to_le_bytes();

/// Returns the bundle of one item.
pub fn of_one(item: &[u8]) -> Vec<u8> {
    [&ITEM, item, &END].concat()
}
