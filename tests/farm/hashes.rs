// SPDX-License-Identifier: GPL-3.0-or-later
//! Do Guix and we mean the same tree by the same hash? Random trees, hashed by `guix hash`, by guix-daemon and here,
//! and exported by the daemon.

use std::fs::{self, File};
use std::os::fd::AsFd;

use guix_offload::archive::{WordReader, nar, read_item};
use guix_offload::ground::store_path::StoreDir;
use guix_offload::store::{Links, Restorer, remove_tree};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::lab::Host;

#[path = "../support/trees.rs"]
mod trees;

const HEAD: Host = Host("head");
const DIRECTORY: &str = "/var/guix/trees";
const TREES: usize = 100;

/// Adds each file that it is told of to the store, and says which item that is and what hash the daemon has for it.
const ADD: &str = "
(use-modules (guix store) (guix base16) (ice-9 match))
(with-store store
  (for-each (lambda (file)
              (let ((item (add-to-store store \"tree\" #t \"sha256\" file)))
                (format #t \"~a ~a~%\" item (bytevector->base16-string (query-path-hash store item)))))
            (cdr (command-line))))";

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn guix_and_we_hash_the_same_trees_alike() {
    let directory = HEAD.file(DIRECTORY);
    fs::create_dir(&directory).unwrap();
    let here = File::open(&directory).unwrap();
    let mut links = Links::open(here.as_fd()).unwrap();
    let (mut runner, strategy) = (TestRunner::deterministic(), trees::trees(trees::text_names()));

    // Written as it comes, and restored from an archive.
    let (mut files, mut hashes) = (Vec::new(), Vec::new());
    for number in 0..TREES {
        let tree = strategy.new_tree(&mut runner).unwrap().current();
        let original = directory.join(number.to_string());
        trees::write(&tree, &original);
        let mut archive = Vec::new();
        nix_archive::nar::encode_path(&mut archive, &original, nix_archive::nar::CaseHack::Disabled).unwrap();
        let restored = format!("restored-{number}");
        let mut reader = &archive[..];
        let mut input = WordReader::new(&mut reader).unwrap();
        nar::read(&mut input, &mut Restorer::new(here.as_fd(), &restored, &mut links).unwrap()).unwrap();
        hashes.push(hex(&input.digest().unwrap()));
        files.extend([format!("{DIRECTORY}/{number}"), format!("{DIRECTORY}/{restored}")]);
    }
    assert!(hashes.iter().collect::<std::collections::HashSet<_>>().len() > TREES / 2, "they are all alike");

    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let hash = ["env", "LC_ALL=C.UTF-8", "guix", "hash", "--serializer=nar", "--format=hex"];
    let by_guix = HEAD.sh(&[&hash[..], &files].concat());
    let twice: Vec<&str> = hashes.iter().flat_map(|hash| [hash.as_str(); 2]).collect();
    assert_eq!(by_guix.lines().collect::<Vec<_>>(), twice);

    // The daemon's own hash, of the restored ones; and what it exports.
    fs::write(directory.join("add.scm"), ADD).unwrap();
    let restored: Vec<&str> = files.iter().skip(1).step_by(2).copied().collect();
    let add = ["env", "LC_ALL=C.UTF-8", "guix", "repl", "--", &format!("{DIRECTORY}/add.scm")];
    let added = HEAD.sh(&[&add[..], &restored].concat());
    let added: Vec<(&str, &str)> = added.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(added.iter().map(|(_, hash)| *hash).collect::<Vec<_>>(), hashes);

    let items: Vec<&str> = added.iter().map(|(item, _)| *item).collect();
    let export = format!("guix archive --export \"$@\" >{DIRECTORY}/bundle");
    HEAD.sh(&[&["sh", "-c", &export, "sh"], &items[..]].concat());
    let bundle = fs::read(directory.join("bundle")).unwrap();
    let mut rest = &bundle[..];
    let mut exported = 0;
    while let Some(item) = rest.strip_prefix(&1u64.to_le_bytes()) {
        rest = item;
        let mut restorer = Restorer::new(here.as_fd(), "exported", &mut links).unwrap();
        let item = read_item(&mut rest, &StoreDir::new("/gnu/store").unwrap(), &mut restorer).unwrap();
        let expected = added.iter().find(|(name, _)| *name == item.path.as_str()).unwrap().1;
        assert_eq!(hex(&item.nar_hash), expected, "{}", item.path);
        remove_tree(here.as_fd(), b"exported").unwrap();
        exported += 1;
    }
    assert_eq!(rest, 0u64.to_le_bytes());
    // Equal trees are one item.
    assert_eq!(exported, items.iter().collect::<std::collections::HashSet<_>>().len());
    remove_tree(File::open(directory.parent().unwrap()).unwrap().as_fd(), b"trees").unwrap();
}
