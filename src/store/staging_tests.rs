// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of receiving items into a store, from what guix-daemon exported.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::super::database::tests::create;
use super::super::restore::tests::look;
use super::*;
use crate::ground::cancel::Cancel;

/// Two items that guix-daemon exported, framed as a bundle. The second refers to the first and to itself.
const BUNDLE: &[u8] = include_bytes!("../../tests/fixtures/archive/two-items.bundle");
const FIRST: &[u8] = BUNDLE.split_at(664).0.split_at(8).1;
const SECOND: &[u8] = BUNDLE.split_at(672).1.split_at(BUNDLE.len() - 672 - 8).0;
/// Where the signature of the first item begins.
const SIGNATURE: usize = 120 + 8 + 8 + 56 + 8 + 8;

/// A store and its database in a scratch directory. The items are named as if the store were `/gnu/store`.
struct Host {
    scratch: tempfile::TempDir,
    acl: Acl,
    database: Database,
}

impl Host {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("store")).unwrap();
        let directories = create(scratch.path());
        fs::write(directories.acl_file(), include_bytes!("../../tests/fixtures/archive/acl")).unwrap();
        let acl = Acl::load(&directories.acl_file()).unwrap();
        Host { scratch, acl, database: Database::open(&directories, &Cancel::default()).unwrap() }
    }

    fn at(&self, path: &StorePath) -> PathBuf {
        self.scratch.path().join("store").join(path.base_name())
    }

    fn stage_with(&self, add_temp_root: &mut dyn FnMut(&StorePath) -> Result<()>) -> Result<Staging> {
        let store = File::open(self.scratch.path().join("store")).unwrap();
        Staging::in_store(store.into(), StoreDir::new("/gnu/store").unwrap(), add_temp_root)
    }

    fn stage(&self) -> Staging {
        self.stage_with(&mut |_| Ok(())).unwrap()
    }

    /// Asserts that the store holds `items` and `.links`, and that `.links` has this many entries.
    #[track_caller]
    fn assert_holds(&self, items: &[&StorePath], links: usize) {
        let list = |directory: &Path| {
            let entries = fs::read_dir(directory).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let store = self.scratch.path().join("store");
        let mut expected: Vec<_> = items.iter().map(|path| path.base_name()).chain([".links"]).collect();
        expected.sort();
        assert_eq!(list(&store), expected);
        assert_eq!(list(&store.join(".links")).len(), links);
    }
}

/// `TempDir` cannot remove a read-only tree for an ordinary user; `remove_tree` can.
impl Drop for Host {
    fn drop(&mut self) {
        let _ = remove_tree(File::open(self.scratch.path()).unwrap().as_fd(), b"store");
    }
}

fn path(base_name: &str) -> StorePath {
    StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{base_name}")).unwrap()
}

fn first() -> StorePath {
    path("n0rvkfk2c1y6ava4sgvyrvfryn2ywafx-dependency")
}

fn second() -> StorePath {
    path("4z2sh0hiwp1wxck3z2x89ki8n7sqd0h6-fixture")
}

#[test]
fn items_of_the_daemon_become_valid() {
    let mut host = Host::new();
    let mut protected = None;
    let mut staging = host
        .stage_with(&mut |path| {
            protected = Some(path.clone());
            Ok(())
        })
        .unwrap();
    assert!(host.at(&protected.unwrap()).is_dir(), "what is protected is the directory");
    let bytes = [SECOND, b"rest"].concat();
    let mut reader = &bytes[..];
    staging.receive(&mut reader, &host.acl, &second(), None).unwrap();
    assert_eq!(reader, b"rest");
    staging.receive(&mut &FIRST[..], &host.acl, &first(), None).unwrap();
    assert!(!host.at(&second()).exists());

    assert_eq!(staging.commit(&mut host.database).unwrap(), [first(), second()]);
    host.assert_holds(&[&first(), &second()], 1);
    assert!(host.database.is_valid(&first()).unwrap() && host.database.is_valid(&second()).unwrap());
    assert_eq!(look(&host.at(&first())), [" 444 1.0 6 bytes, 1 links"]);
    let tree = look(&host.at(&second()));
    assert_eq!(tree[0], " 555 1.0 /");
    assert_eq!(tree.last().unwrap(), "zeros 444 1.0 8192 bytes, 2 links");
}

#[test]
fn the_directory_is_in_the_store_and_goes_when_dropped() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("store")).unwrap();
    let name = format!("{}/store", scratch.path().display());
    let directories = Directories { store: StoreDir::new(&name).unwrap(), ..create(scratch.path()) };
    let mut made = None;
    let staging = Staging::new(&directories, &mut |path| {
        made = Some(path.clone());
        Ok(())
    });
    let made = made.unwrap();
    assert!(fs::metadata(made.as_str()).unwrap().is_dir());
    drop(staging);
    assert!(!fs::exists(made.as_str()).unwrap());
}

#[test]
fn what_is_dropped_leaves_nothing() {
    let host = Host::new();
    let mut staging = host.stage();
    staging.receive(&mut &FIRST[..], &host.acl, &first(), None).unwrap();
    staging.receive(&mut &SECOND[..], &host.acl, &second(), None).unwrap();
    drop(staging);
    host.assert_holds(&[], 0);
}

#[test]
fn an_item_that_is_cut_off_leaves_nothing_wherever_it_ends() {
    let host = Host::new();
    let mut staging = host.stage();
    let cuts = (0..FIRST.len()).map(|n| (&FIRST[..n], first()));
    for (part, expected) in cuts.chain((0..SECOND.len()).step_by(101).map(|n| (&SECOND[..n], second()))) {
        let error = staging.receive(&mut &part[..], &host.acl, &expected, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("receiving {expected}: archive is cut off after byte {}", part.len())),
            "{text}"
        );
        assert_eq!(fs::read_dir(host.at(&staging.path)).unwrap().count(), 0);
    }
    drop(staging);
    host.assert_holds(&[], 0);
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let host = Host::new();
    let mut staging = host.stage();
    let flips = (0..FIRST.len()).map(|n| (FIRST, n, first()));
    for (item, n, expected) in flips.chain((0..SECOND.len()).step_by(101).map(|n| (SECOND, n, second()))) {
        let mut flipped = item.to_vec();
        flipped[n] ^= 1 << (n % 8);
        let result = staging.receive(&mut &flipped[..], &host.acl, &expected, None);
        // Bits of the signature's layout or letter case may flip; a flip in what is signed must be noticed.
        if result.is_ok() {
            assert!(n >= SIGNATURE, "byte {n} of {expected}");
            staging.received.clear();
            remove_tree(staging.directory.as_fd(), expected.base_name().as_bytes()).unwrap();
        }
        assert_eq!(fs::read_dir(host.at(&staging.path)).unwrap().count(), 0, "byte {n}");
    }
}

#[test]
fn only_what_is_signed_and_asked_for_is_received() {
    let host = Host::new();
    let mut staging = host.stage();
    fs::write(host.scratch.path().join("none"), "(acl)").unwrap();
    let nobody = Acl::load(&host.scratch.path().join("none")).unwrap();
    let unsigned = [&FIRST[..SIGNATURE], &[0; 8]].concat();
    let mut refuse = |bytes: &[u8], acl: &Acl, expected: &StorePath| {
        let error = staging.receive(&mut &bytes[..], acl, expected, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        error.to_string()
    };
    assert!(refuse(FIRST, &nobody, &first()).contains("signed by a key"));
    assert!(refuse(&unsigned, &host.acl, &first()).contains("is not signed"));
    assert!(refuse(FIRST, &host.acl, &second()).ends_with(&format!("{} came instead of it", first())));
    let signature_of_another = [&FIRST[..SIGNATURE], &SECOND[SECOND.len() - 448..]].concat();
    assert!(refuse(&signature_of_another, &host.acl, &first()).contains("not the one that was signed"));

    staging.receive(&mut &FIRST[..], &host.acl, &first(), None).unwrap();
    let again = staging.receive(&mut &FIRST[..], &host.acl, &first(), None).unwrap_err();
    assert!(again.to_string().contains("received already"));
    assert!(host.at(&staging.path).join(first().base_name()).exists(), "the one received before is kept");
}

#[test]
fn nothing_is_in_place_after_a_failed_commit() {
    let mut host = Host::new();
    let mut staging = host.stage();
    // The item that it refers to is missing.
    staging.receive(&mut &SECOND[..], &host.acl, &second(), None).unwrap();
    let error = staging.commit(&mut host.database).unwrap_err();
    assert!(error.to_string().contains(&format!("refers to {}", first())), "{error}");
    host.assert_holds(&[], 0);

    // The first item is in place when the second fails.
    let mut staging = host.stage();
    staging.receive(&mut &FIRST[..], &host.acl, &first(), None).unwrap();
    staging.receive(&mut &SECOND[..], &host.acl, &second(), None).unwrap();
    fs::rename(host.at(&staging.path).join(second().base_name()), host.at(&staging.path).join("gone")).unwrap();
    let error = staging.commit(&mut host.database).unwrap_err();
    assert!(error.to_string().contains(&format!("moving {}", second().base_name())), "{error}");
    host.assert_holds(&[], 0);
    assert!(!host.database.is_valid(&first()).unwrap());
}

#[test]
fn leftovers_are_replaced_and_valid_items_are_not_touched() {
    let mut host = Host::new();
    let mut staging = host.stage();
    staging.receive(&mut &FIRST[..], &host.acl, &first(), None).unwrap();
    staging.commit(&mut host.database).unwrap();
    let inode = fs::metadata(host.at(&first())).unwrap().ino();

    fs::create_dir(host.at(&second())).unwrap();
    fs::write(host.at(&second()).join("leftover"), "of a failed build").unwrap();
    fs::set_permissions(host.at(&second()), fs::Permissions::from_mode(0o555)).unwrap();
    let mut staging = host.stage();
    staging.receive(&mut &FIRST[..], &host.acl, &first(), None).unwrap();
    staging.receive(&mut &SECOND[..], &host.acl, &second(), None).unwrap();
    assert_eq!(staging.commit(&mut host.database).unwrap(), [second()]);
    host.assert_holds(&[&first(), &second()], 1);
    assert_eq!(fs::metadata(host.at(&first())).unwrap().ino(), inode);
    assert!(!host.at(&second()).join("leftover").exists());
}

#[test]
fn the_derivation_that_was_asked_for_is_the_deriver() {
    let host = Host::new();
    let mut staging = host.stage();
    let asked = path("00000000000000000000000000000000-asked.drv");
    staging.receive(&mut &FIRST[..], &host.acl, &first(), Some(&asked)).unwrap();
    staging.receive(&mut &SECOND[..], &host.acl, &second(), None).unwrap();
    assert_eq!(staging.received[0].deriver, Some(asked));
    assert_eq!(staging.received[1].deriver, Some(path("d5zb8bajm7msg9xsg99fk7zj50gfcyda-fixture.drv")));
}

#[test]
fn the_garbage_collector_may_take_the_directory_before_it_is_protected() {
    let host = Host::new();
    let mut names = Vec::new();
    let staging = host.stage_with(&mut |path| {
        names.push(path.clone());
        if names.len() < 3 {
            fs::remove_dir(host.at(path)).unwrap();
        }
        Ok(())
    });
    let staging = staging.unwrap();
    assert_eq!(staging.path, names[2]);
    assert!(names[0] != names[1] && names[1] != names[2]);
    assert_eq!(fs::metadata(host.at(&staging.path)).unwrap().mode() & 0o7777, 0o700);
    drop(staging);

    let refused = host.stage_with(&mut |_| Err(Error::new(ErrorKind::Daemon, "refused")));
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Daemon);
    let taken = host.stage_with(&mut |path| {
        fs::remove_dir(host.at(path)).unwrap();
        Ok(())
    });
    assert!(taken.err().unwrap().to_string().contains("disappear"));
    host.assert_holds(&[], 0);
}
