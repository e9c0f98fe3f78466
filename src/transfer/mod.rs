// SPDX-License-Identifier: GPL-3.0-or-later
//! Moving store items: to a machine before a build, from it afterwards.

mod retrieve;
mod send;

pub use retrieve::retrieve_files;
pub use send::{import_files, send_files};
