// SPDX-License-Identifier: GPL-3.0-or-later
//! What all other layers use.

pub mod cancel;
pub(crate) mod child;
pub mod clock;
pub mod directories;
pub mod error;
pub(crate) mod event_fd;
pub(crate) mod failpoint;
pub mod file_identity;
pub(crate) mod gcrypt;
pub mod spawn;
pub mod state_dir;
pub mod store_path;
pub(crate) mod thread;
pub mod words;
