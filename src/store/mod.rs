// SPDX-License-Identifier: GPL-3.0-or-later
//! The local store: file names, directories, and how items get in without the daemon's help.

mod directories;
mod path;

pub use directories::Directories;
pub use path::{StoreDir, StorePath};
