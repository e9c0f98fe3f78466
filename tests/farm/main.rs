// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests on real Guix hosts. They run inside a farm and fail without one, so `cargo test` leaves them out (`test =
//! false` in Cargo.toml); `make check` runs them, in several farms at once, and so does `tests/lab/lab with-farm --
//! cargo test --offline --test farm -- --test-threads=1`.

mod abi;
mod administration;
mod broken;
mod builds;
mod collected;
mod commands;
mod concurrency;
mod guile;
mod hashes;
mod hook_by_hand;
mod hosts;
mod in_guix_daemon;
mod inputs;
mod jobs;
mod keeper;
mod killed;
mod large;
mod linked;
mod machine_file;
mod many;
mod on_demand;
mod outcomes;
mod pooled;
mod protocol;
mod round_trips;
mod servers;
mod stock;
mod store;
mod substitutes;
mod trust;
mod unusable;
mod upkeep;
mod waiting;

#[path = "../support/farm/mod.rs"]
mod harness;

use harness::{invariants, lab, machines, memory, publisher, slots};
