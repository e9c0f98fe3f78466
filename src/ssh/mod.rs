// SPDX-License-Identifier: GPL-3.0-or-later
//! SSH: sessions with build machines, and channels over them. The only place that names libssh2.
//!
//! From the caller's side down to the socket:
//!
//! - [`Session`] and [`Channel`] are handles: cheap to clone, blocking, usable from any thread.
//! - `driver` is the one thread of a session. It owns everything below, and shares two queues with each channel.
//! - `connect` and `key_file` make a session that is logged in.
//! - `raw_channel` is libssh2's channel, `wire` the bytes between libssh2 and the socket, `chacha20` what encrypts them.

#[cfg(any(test, not(debug_assertions)))]
mod chacha20;
mod channel;
mod connect;
mod driver;
mod key_file;
mod raw_channel;
mod session;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub use channel::Channel;
pub use session::{Session, after};
