// SPDX-License-Identifier: GPL-3.0-or-later
//! An exported item: its archive is restored into a directory, its signature verified, and all of it removed again.
//!
//! Nothing outside that directory may change. What was restored must, written as an archive again, be the archive that
//! was read: there is one way to write a tree.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use guix_offload::archive::{Acl, ExportedItem, Visitor, read_item, verify};
use guix_offload::ground::error::{Error, ErrorKind, Result};
use guix_offload::ground::store_path::StoreDir;
use guix_offload::store::{Dump, Links, Restorer, remove_tree};
use tempfile::TempDir;

use super::request::assert_printable;
use super::tree;

/// The keys that have signed the seeds.
const ACL: &[u8] = include_bytes!("../../../tests/fixtures/archive/acl");

/// Two items that they have signed, framed as a bundle. Nobody can have made another one.
const BUNDLE: &[u8] = include_bytes!("../../../tests/fixtures/archive/two-items.bundle");

/// What an item is called while it is here.
const NAME: &str = "00000000000000000000000000000000-x";

/// Files that say they are larger, in bytes, are left alone: their room is taken on the disk at once.
const MAX_FILE: u64 = 1 << 20;

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// A store, and beside it what an archive may not touch.
struct World {
    scratch: TempDir,
    store: File,
    acl: Acl,
    /// The hashes that were signed.
    signed: Vec<[u8; 32]>,
    before: Vec<(String, [u64; 4])>,
}

pub fn run(data: &[u8]) {
    WORLD.with(|world| drop(world.get_or_init(World::new).restore(data)));
}

impl World {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("store")).unwrap();
        fs::create_dir(scratch.path().join("outside")).unwrap();
        fs::write(scratch.path().join("outside/file"), "kept").unwrap();
        fs::write(scratch.path().join("acl"), ACL).unwrap();
        let store = File::open(scratch.path().join("store")).unwrap();
        let acl = Acl::load(&scratch.path().join("acl")).unwrap();
        let before = outside(scratch.path());
        let mut world = World { scratch, store, acl, signed: Vec::new(), before };
        let items = [&BUNDLE[8..], &BUNDLE[672..]];
        world.signed = items.map(|bytes| world.restore(bytes).unwrap().signed_hash).to_vec();
        world
    }

    fn restore(&self, data: &[u8]) -> Option<ExportedItem> {
        let directory = StoreDir::new("/gnu/store").unwrap();
        let mut links = Links::open(self.store.as_fd()).unwrap();
        let restorer = Restorer::new(self.store.as_fd(), NAME, &mut links).unwrap();
        let mut reader = data;
        let result = read_item(&mut reader, &directory, &mut Bounded(restorer));
        assert_eq!(outside(self.scratch.path()), self.before);
        let found = tree::names(self.store.as_fd());
        assert!(found.iter().all(|name| name == b".links" || name == NAME.as_bytes()), "{found:?}");
        let item = match result {
            Ok(item) => {
                let nar = tree::nar(self.store.as_fd(), NAME.as_bytes());
                assert!(data.starts_with(&nar) && nar.len() as u64 == item.nar_size);
                let mut dumped = Vec::new();
                let name = directory.parse(&format!("/gnu/store/{NAME}")).unwrap();
                Dump::new(self.store.as_fd(), &name).unwrap().read_to_end(&mut dumped).unwrap();
                assert!(dumped == nar);
                if verify(item.signature.as_deref(), &item.signed_hash, &self.acl, &item.path).is_ok() {
                    assert!(self.signed.is_empty() || self.signed.contains(&item.signed_hash), "{}", item.path);
                }
                Some(item)
            }
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Store), "{error}");
                assert_printable(&error.to_string());
                None
            }
        };
        remove_tree(self.store.as_fd(), NAME.as_bytes()).unwrap();
        links.remove_unused();
        assert_eq!(tree::names(self.store.as_fd()), [b".links"]);
        assert_eq!(fs::read_dir(self.scratch.path().join("store/.links")).unwrap().count(), 0);
        item
    }
}

/// Name, mode, size and times of everything but the store's inside.
fn outside(scratch: &Path) -> Vec<(String, [u64; 4])> {
    let look = |name: &str| {
        let data = fs::symlink_metadata(scratch.join(name)).unwrap();
        (name.to_string(), [data.mode().into(), data.size(), data.mtime() as u64, data.mtime_nsec() as u64])
    };
    let mut found: Vec<_> = ["", "outside"]
        .iter()
        .flat_map(|name| fs::read_dir(scratch.join(name)).unwrap().map(move |entry| (name, entry.unwrap())))
        .map(|(name, entry)| look(&Path::new(name).join(entry.file_name()).to_string_lossy()))
        .filter(|(name, _)| name != "store")
        .collect();
    found.sort();
    found
}

/// Refuses large files.
struct Bounded<'a>(Restorer<'a>);

impl Visitor for Bounded<'_> {
    fn directory(&mut self) -> Result<()> {
        self.0.directory()
    }

    fn entry(&mut self, name: &[u8]) -> Result<()> {
        self.0.entry(name)
    }

    fn end_directory(&mut self) -> Result<()> {
        self.0.end_directory()
    }

    fn file(&mut self, executable: bool, size: u64) -> Result<()> {
        if size > MAX_FILE {
            return Err(Error::new(ErrorKind::Store, "too large for this test"));
        }
        self.0.file(executable, size)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.data(bytes)
    }

    fn end_file(&mut self) -> Result<()> {
        self.0.end_file()
    }

    fn symlink(&mut self, target: &[u8]) -> Result<()> {
        self.0.symlink(target)
    }
}
