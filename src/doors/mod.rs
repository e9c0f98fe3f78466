// SPDX-License-Identifier: GPL-3.0-or-later
//! How builds come in: as guix-daemon's hook, or as jobs of a program; and the look at all machines at once.

pub mod farm;
pub mod hook;
pub mod job;
pub mod keeper;
mod parent;
