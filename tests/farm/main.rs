// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests on real Guix hosts. They run inside a farm and fail without one, so `cargo test` leaves them out (`test =
//! false` in Cargo.toml); `make check` runs them, in several farms at once, and so does `tests/lab/lab with-farm --
//! cargo test --offline --test farm -- --test-threads=1`.

mod abi;
mod afterwards;
mod builds;
mod by_hand;
mod collected;
mod commands;
mod guile;
mod hashes;
mod hosts;
mod jobs;
mod keeper;
mod killed;
mod lab;
mod large;
mod linked;
mod machine_file;
mod machines;
mod many;
mod memory;
mod outcomes;
mod pooled;
mod protocol;
mod round_trips;
mod seam;
mod servers;
mod slots;
mod stock;
mod store;
mod together;
mod trust;
mod unusable;
mod waiting;
