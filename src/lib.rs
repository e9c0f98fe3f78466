// SPDX-License-Identifier: GPL-3.0-or-later
//! Build offloading for GNU Guix: the library behind `include/guix-offload.h`.
//!
//! It has four operations: *choose* a machine, *send* files, *build*, and *retrieve* files. Its layers, from top to
//! bottom, are these. Each uses only the layers below it; `tests/layers.rs` checks that.
//!
//! | layer | what is there, among others |
//! |---|---|
//! | [`ffi`] | the functions of the C header: a file for each of its sections |
//! | [`doors`] | entry points: [`doors::hook`], [`doors::keeper`], [`doors::job`]; [`doors::farm`] checks machines |
//! | [`build`] | one build: [`build::engine`], [`build::site`], [`build::transfer`] (send, fetch, retrieve) |
//! | [`choose`] | choosing a machine: [`choose::order`], [`choose::queue`], [`choose::slot`], [`choose::history`] |
//! | [`remote`] | a connected machine: probing it, speaking to its daemon, judging its failures |
//! | [`ssh`] | SSH connections, and the streams in them |
//! | [`store`] | dumping and exporting items; restoring, deduplicating and registering outputs |
//! | [`daemon`] | the worker protocol, which all daemons speak |
//! | [`archive`] | what is sent and retrieved: nar, bundle, signature, ACL |
//! | [`machine`] | [`machine::BuildMachine`]; [`machine::file`] reads `machines.scm` |
//! | [`report`] | events: [`report::Observer`] receives, [`report::console`] prints, [`report::phases`] times them |
//! | [`ground`] | errors, cancellation, threads, names of store items, directories, libgcrypt |
//!
//! `unsafe` is allowed in [`ffi`], [`ssh`], `choose::slot::lock` and the binding to libgcrypt, `ground::gcrypt`, and
//! nowhere else.
#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, clippy::exit))]
#![warn(missing_docs)]

// Unit tests include files of tests/support, which call this crate `guix_offload`.
#[cfg(test)]
extern crate self as guix_offload;

pub mod archive;
pub mod build;
pub mod choose;
pub mod daemon;
pub mod doors;
pub mod ffi;
pub mod ground;
pub mod machine;
pub mod remote;
pub mod report;
pub mod ssh;
pub mod store;
