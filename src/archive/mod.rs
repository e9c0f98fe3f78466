// SPDX-License-Identifier: GPL-3.0-or-later
//! What travels between stores: archives of store items, and who vouches for them.
//!
//! Nothing here touches a file system, but for the ACL being read from its file: archives are read from any
//! [`Read`](std::io::Read), and what they hold is told to a [`Visitor`].

mod acl;
mod bundle;
pub(crate) mod input;
pub mod nar;
mod signature;

pub use acl::{Acl, PublicKey};
pub use bundle::{ExportedItem, read_item};
pub use input::Input;
pub use nar::Visitor;
pub use signature::verify;
