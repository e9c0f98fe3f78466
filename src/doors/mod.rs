// SPDX-License-Identifier: GPL-3.0-or-later
//! The entry points of the library: guix-daemon's build hook, jobs of a program, the keeper that serves both, and
//! reports about all machines at once.

pub mod farm;
pub mod hook;
pub mod job;
pub mod keeper;
mod parent;
