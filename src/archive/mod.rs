// SPDX-License-Identifier: GPL-3.0-or-later
//! What travels between stores: archives of store items, and who vouches for them.
//!
//! Nothing here touches a file system, but for keys being read from their files: archives are read from any
//! [`Read`](std::io::Read), and what they hold is told to a [`Visitor`].

mod acl;
pub mod bundle;
mod item;
mod key_pair;
pub mod nar;
mod signature;
mod word_reader;

pub use acl::{Acl, PublicKey};
pub use item::{ExportedItem, encode_metadata, encode_signature, read_item};
pub use key_pair::KeyPair;
pub use nar::{Unseen, Visitor};
pub use signature::verify;
pub use word_reader::WordReader;
