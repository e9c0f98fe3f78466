// SPDX-License-Identifier: GPL-3.0-or-later
//! Random trees of files, and what shrinks from them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// A tree of files.
#[derive(Clone, Debug)]
pub enum Tree {
    File(bool, Vec<u8>),
    Link(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

/// Random trees whose files are often equal, and often large enough to be deduplicated.
pub fn trees(name: BoxedStrategy<Vec<u8>>) -> impl Strategy<Value = Tree> {
    let small = vec(any::<u8>(), 0..40);
    let large = (any::<bool>(), 8180usize..8200).prop_map(|(byte, size)| vec![byte.into(); size]);
    let leaf = prop_oneof![
        (any::<bool>(), small).prop_map(|(executable, contents)| Tree::File(executable, contents)),
        (any::<bool>(), large).prop_map(|(executable, contents)| Tree::File(executable, contents)),
        "[a-z./]{1,20}".prop_map(|target| Tree::Link(target.into())),
        Just(Tree::Directory(BTreeMap::new())),
    ];
    leaf.prop_recursive(4, 24, 6, move |inner| btree_map(name.clone(), inner, 0..6).prop_map(Tree::Directory))
}

/// Names of a few characters.
pub fn text_names() -> BoxedStrategy<Vec<u8>> {
    "[a-cA-C.é ~-]{1,6}".prop_map(String::into_bytes).prop_filter("a name", is_name).boxed()
}

/// Can a file be called that?
pub fn is_name(name: &Vec<u8>) -> bool {
    name != b"." && name != b".." && !name.contains(&b'/')
}

/// Makes the files of a tree.
pub fn write(tree: &Tree, path: &Path) {
    match tree {
        Tree::File(executable, contents) => {
            fs::write(path, contents).unwrap();
            fs::set_permissions(path, Permissions::from_mode(if *executable { 0o755 } else { 0o644 })).unwrap();
        }
        Tree::Link(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
        Tree::Directory(entries) => {
            fs::create_dir(path).unwrap();
            entries.iter().for_each(|(name, inner)| write(inner, &path.join(OsStr::from_bytes(name))));
        }
    }
}
