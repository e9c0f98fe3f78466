// SPDX-License-Identifier: GPL-3.0-or-later
//! The local store: file names, directories, and how items get in and out without the daemon's help.

mod content_address;
mod database;
mod dedup;
mod derivation;
mod directories;
mod dump;
mod export;
mod path;
mod remove;
mod restore;
mod staging;

pub use content_address::{Contents, contents, is_source, text_item};
pub use database::{Database, ValidPath};
pub use dedup::Links;
pub use derivation::has_fixed_output;
pub use directories::{Directories, for_daemons_user};
pub use dump::Dump;
pub use export::{Export, damaged};
pub use path::{StoreDir, StorePath, base16, base32};
pub use remove::remove_tree;
pub use restore::Restorer;
pub use staging::Staging;

#[cfg(test)]
pub(crate) mod tests {
    use rustix::thread::set_thread_res_uid;

    /// Does `what` as a user who may do nothing; root can become that in one thread.
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
