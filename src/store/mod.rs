// SPDX-License-Identifier: GPL-3.0-or-later
//! The local store: how items get in and out of it without the daemon's help.

mod content_address;
mod database;
mod dedup;
mod derivation;
mod dump;
mod export;
mod needs;
mod remove;
mod restore;
mod staging;

#[cfg(test)]
pub(crate) use content_address::source_path;
pub use content_address::{contents, is_source, text_item};
pub use database::{Closure, Database, ValidPath};
pub use dedup::Links;
pub use derivation::{has_fixed_output, text_of};
pub use dump::Dump;
pub use export::{Export, damaged};
pub use needs::{Needs, needs_of};
pub use remove::remove_tree;
pub use restore::Restorer;
pub use staging::{Received, Registrar, Staging, install};

#[cfg(test)]
pub(crate) mod tests {
    use rustix::thread::set_thread_res_uid;

    /// Runs `what` as an unprivileged user. Needs root, which can become another user in a single thread.
    pub fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
        let nobody = rustix::fs::Uid::from_raw(65534);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                set_thread_res_uid(nobody, nobody, nobody).expect("becoming nobody");
                what()
            });
            thread.join().unwrap()
        })
    }
}
