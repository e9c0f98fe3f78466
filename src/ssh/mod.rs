// SPDX-License-Identifier: GPL-3.0-or-later
//! SSH: sessions with build machines, and channels over them. The only place that names libssh2.
//!
//! From the caller's side down to the socket:
//!
//! - [`Session`] and [`Channel`] are handles: cheap to clone, blocking, usable from any thread.
//! - `driver` is the one thread of a session. It owns everything below, and shares two queues with each channel.
//! - `connect` makes a logged-in session, with `tcp` and `key_file`; `agreement` explains a failed key exchange.
//! - `raw_session` and `raw_channel` wrap libssh2's, `socket_buffer` holds the bytes between libssh2 and the socket,
//!   `chacha20` encrypts them.

mod agreement;
#[cfg(any(test, not(debug_assertions)))]
mod chacha20;
mod channel;
mod connect;
mod driver;
mod key_file;
mod raw_channel;
mod raw_session;
mod session;
mod socket_buffer;
mod tcp;

#[cfg(test)]
pub(crate) mod tests;

/// Initialises libssh2 and its OpenSSL, once. OpenSSL reads its configuration through a descriptor that is not
/// close-on-exec, so this comes before any thread connects: another thread could fork and execute meanwhile.
pub fn prepare() {
    ssh2::init();
}

pub use channel::{Channel, StallListener};
pub use key_file::read as read_private_key;
pub use session::{STEPS, Session, after, shown_host_key};
