// SPDX-License-Identifier: GPL-3.0-or-later
//! The targets: each `run` takes any bytes, and panics if something is wrong with what the library makes of them.

pub mod abi;
mod abi_world;
mod bytes;
pub mod forged;
pub mod machine_file;
pub mod replies;
pub mod request;
pub mod restore;
pub mod signature;
mod tree;

/// What a target does with an input.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const ALL: [(&str, Target); 7] = [
    ("restore", restore::run),
    ("replies", replies::run),
    ("machine_file", machine_file::run),
    ("signature", signature::run),
    ("forged", forged::run),
    ("request", request::run),
    ("abi", abi::run),
];
