// SPDX-License-Identifier: GPL-3.0-or-later
//! Archives of store items, as they travel between stores, and the signatures that vouch for them.
//!
//! Nothing here touches a file system, except to read keys from their files: archives are read from any
//! [`Read`](std::io::Read), and their contents are passed to a [`Visitor`].

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
pub use nar::{NullVisitor, Visitor};
pub use signature::verify;
pub use word_reader::WordReader;
