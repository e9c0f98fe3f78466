// SPDX-License-Identifier: GPL-3.0-or-later
//! What the fuzz targets do. `tests/corpora.rs` of the library does the same with what the fuzzers have found.
pub mod targets;
