// SPDX-License-Identifier: GPL-3.0-or-later
//! Build offloading for GNU Guix: the library behind `include/guix-offload.h`.
//!
//! Four verbs carry it: *choose* a machine, *send* files, *build*, *retrieve* files. The floors of this house, from top
//! to bottom; each uses only those below it, which `tests/layers.rs` checks:
//!
//! | floor | what is there |
//! |---|---|
//! | [`ffi`] | the functions of the C header: a file for each of its nouns |
//! | [`doors`] | how builds come in: [`doors::hook`], [`doors::keeper`], [`doors::job`]; [`doors::farm`] |
//! | [`build`] | one build, from request to outcome: [`build::engine`], [`build::site`], [`build::transfer`] |
//! | [`choose`] | a machine is chosen: [`choose::order`], [`choose::queue`], [`choose::slot`], [`choose::history`] |
//! | [`remote`] | a machine that is connected: it is probed, its daemon is spoken to, its failures are judged |
//! | [`ssh`] | connections, and the streams in them |
//! | [`store`] | items are dumped and exported; outputs are restored, deduplicated, registered |
//! | [`daemon`] | the worker protocol, which all daemons speak |
//! | [`archive`] | what is sent and retrieved: nar, bundle, signature, ACL |
//! | [`machine`] | [`machine::BuildMachine`]; [`machine::file`] reads `machines.scm` |
//! | [`report`] | what goes on is told: [`report::Observer`], [`report::console`] prints, [`report::phases`] times |
//! | [`ground`] | errors, cancellation, threads, names of store items, directories |
//!
//! `unsafe` is allowed in [`ffi`], [`ssh`], `choose::slot::lock` and the binding to libgcrypt, `ground::gcrypt`, and
//! nowhere else.
#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr, clippy::exit))]
#![warn(missing_docs)]

// The tests have what is in tests/support, too.
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
