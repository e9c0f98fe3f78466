// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds, from request to outcome.

pub mod engine;
pub mod local_guix;
pub mod output_locks;
pub mod refusals;
pub mod request;
mod run;
pub mod site;
#[cfg(test)]
mod tests;
pub mod transfer;
