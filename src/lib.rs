// SPDX-License-Identifier: GPL-3.0-or-later
//! Build offloading for GNU Guix: the library behind `include/guix-offload.h`.
//!
//! Four verbs carry it: *choose* a machine, *send* files, *build*, *retrieve* files. One build takes this way, and
//! nothing in it knows what is above it:
//!
//! | step | where |
//! |---|---|
//! | a request comes in | [`ffi`] (one file for each noun of the header), [`hook`] (guix-daemon's line protocol) |
//! | one build from request to outcome | [`offload`] |
//! | `machines.scm` is read | [`machine_file`] makes [`machine::BuildMachine`]s |
//! | a machine is chosen | [`choose`], by the rules of [`schedule`]; [`slot`] locks its build slot, [`history`] remembers it, both in [`state`] |
//! | it is connected to | [`remote`], through [`ssh`] to the daemon there, in the protocol of [`daemon`] |
//! | items are sent and retrieved | [`transfer`], from and to [`local`]; [`archive`] is their form (nar, bundle, signature, ACL) |
//! | outputs become valid | [`store`]: restored, deduplicated, registered; inputs are dumped and exported |
//!
//! [`farm`] looks at all machines at once: are they usable, and how are they doing?
//!
//! What goes on is told to an [`observer`]; [`progress`] is the one that prints, [`trace`] the one that
//! takes the time. `told` keeps warnings from being told more than once a day. Everything fails with an
//! [`error::Error`].
//!
//! `unsafe` is allowed in [`ffi`], [`ssh`], [`slot`] and the binding to libgcrypt, and nowhere else.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod archive;
pub mod cancel;
pub mod choose;
pub mod daemon;
pub mod error;
pub mod farm;
pub mod ffi;
mod forecast;
mod gcrypt;
pub mod history;
pub mod hook;
pub mod job;
pub mod local;
pub mod machine;
pub mod machine_file;
pub mod observer;
pub mod offload;
mod panic_point;
mod parent;
pub mod pool;
pub mod progress;
pub mod queue;
pub mod remote;
mod said;
pub mod schedule;
pub mod slot;
pub mod ssh;
pub mod state;
pub mod store;
mod thread;
mod told;
pub mod trace;
pub mod transfer;
mod wake;
