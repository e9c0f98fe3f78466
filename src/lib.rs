// SPDX-License-Identifier: GPL-3.0-or-later
//! Build offloading for GNU Guix.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod error;
mod gcrypt;
pub mod machine;
pub mod ssh;
pub mod store;
