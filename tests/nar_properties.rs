// SPDX-License-Identifier: GPL-3.0-or-later
//! Random trees go through independent writers of the nar format, nix-nar and nix-archive, our reader, and our writer;
//! damaged archives go through our reader and nix-archive's.
//!
//! nix-nar takes names that are UTF-8 only. nix-archive reads no trees of more than 64 directories in one another, and
//! takes targets with zero bytes and of any length, so damage here brings no zero bytes.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use guix_offload::archive::{NullVisitor, WordReader, nar};
use guix_offload::ground::store_path::StoreDir;
use guix_offload::ground::words::Words;
use guix_offload::store::{Dump, Links, Restorer, remove_tree};
use proptest::collection::vec;
use proptest::prelude::*;

#[path = "support/trees.rs"]
mod trees;

use trees::{Tree, is_name, text_names, trees, write};

/// Names of any bytes.
fn byte_names() -> BoxedStrategy<Vec<u8>> {
    vec(1..=255u8, 1..6).prop_filter("a name", is_name).boxed()
}

/// Reads the tree back, which must look as things in the store do.
fn read_back(path: &Path) -> Tree {
    let data = fs::symlink_metadata(path).unwrap();
    assert_eq!((data.mtime(), data.mtime_nsec()), (1, 0), "{path:?}");
    if data.is_symlink() {
        return Tree::Link(fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec());
    }
    let executable = data.mode() & 0o7777 == 0o555;
    assert!(executable || data.is_file() && data.mode() & 0o7777 == 0o444, "{path:?}");
    if data.is_file() {
        let contents = fs::read(path).unwrap();
        assert_eq!(data.nlink() > 1, contents.len() >= 8192, "deduplicated: {path:?}");
        return Tree::File(executable, contents);
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().as_bytes().to_vec(), read_back(&entry.path()))
    });
    Tree::Directory(entries.collect())
}

/// What a tree is called where it is restored.
const NAME: &str = "00000000000000000000000000000000-x";

/// Writes a tree, encodes it, restores the nar, compares, and makes a nar of that again.
fn round_trip(tree: &Tree, encode: impl Fn(&Path) -> Vec<u8>) {
    let scratch = tempfile::tempdir().unwrap();
    let (original, restored) = (scratch.path().join("original"), scratch.path().join(NAME));
    write(tree, &original);
    let bytes = encode(&original);

    let store = File::open(scratch.path()).unwrap();
    let mut links = Links::open(store.as_fd()).unwrap();
    let mut restorer = Restorer::new(store.as_fd(), NAME, &mut links).unwrap();
    let followed = [&bytes[..], b"rest"].concat();
    let mut reader = &followed[..];
    let mut input = WordReader::new(&mut reader).unwrap();
    nar::read(&mut input, &mut restorer).unwrap();
    let hash = input.digest().unwrap();
    assert_eq!(input.offset(), bytes.len() as u64);
    assert_eq!(reader, b"rest");

    assert_eq!(format!("{:?}", read_back(&restored)), format!("{tree:?}"));
    let again = nix_archive::nar::hash_path(&restored, nix_archive::nar::CaseHack::Disabled).unwrap();
    assert_eq!(again.into_parts(), (bytes.len() as u64, hash));
    let item = StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{NAME}")).unwrap();
    let mut dumped = Vec::new();
    Dump::new(store.as_fd(), &item).unwrap().read_to_end(&mut dumped).unwrap();
    assert!(dumped == bytes, "what was restored is dumped as something else");
    remove_tree(store.as_fd(), NAME.as_bytes()).unwrap();
    assert!(!restored.exists());
}

fn by_nix_nar(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    nix_nar::Encoder::new(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn by_nix_archive(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    nix_archive::nar::encode_path(&mut bytes, path, nix_archive::nar::CaseHack::Disabled).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_encoded_by_nix_nar_are_restored(tree in trees(text_names())) {
        round_trip(&tree, by_nix_nar);
    }

    #[test]
    fn trees_with_any_names_are_restored(tree in trees(byte_names())) {
        round_trip(&tree, by_nix_archive);
    }

    #[test]
    fn what_is_read_is_what_nix_archive_reads(
        tree in trees(text_names()),
        damage in vec((any::<prop::sample::Index>(), 1..=255u8), 0..3),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("original");
        write(&tree, &path);
        let mut bytes = by_nix_archive(&path);
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let mut reader = &bytes[..];
        let ours = nar::read(&mut WordReader::new(&mut reader).unwrap(), &mut NullVisitor).is_ok() && reader.is_empty();
        prop_assert_eq!(ours, nix_archive::nar::decode(&bytes).is_ok());
    }
}
