// SPDX-License-Identifier: GPL-3.0-or-later
//! What programs that run on a farm share: the hosts, machine files, and what must hold after each scenario.

pub mod invariants;
pub mod lab;
pub mod machines;
pub mod memory;
pub mod publisher;
pub mod slots;
