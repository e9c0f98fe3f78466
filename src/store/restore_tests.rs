// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of restoring and deduplicating.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::archive::WordReader;
use crate::store::remove_tree;

/// Describes a tree as others see it: a line for each file with its name, mode, time, and contents or target.
pub fn look(tree: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![tree.to_path_buf()];
    while let Some(path) = pending.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let what = if data.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if data.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "/".into()
        } else {
            format!("{} bytes, {} links", data.len(), data.nlink())
        };
        let name = path.strip_prefix(tree).unwrap().display();
        lines.push(format!("{name} {:o} {}.{} {what}", data.mode() & 0o7777, data.mtime(), data.mtime_nsec()));
        assert_eq!(data.uid(), rustix::process::geteuid().as_raw());
    }
    lines.sort();
    lines
}

/// A store directory for a test.
struct Store(tempfile::TempDir);

impl Store {
    fn new() -> Self {
        let store = Store(tempfile::tempdir().unwrap());
        fs::create_dir(store.at("staging")).unwrap();
        store
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Restores a nar as `staging/NAME`.
    fn restore(&self, nar: &[u8], name: &str) -> Result<()> {
        let store = File::open(self.0.path()).unwrap();
        let staging = File::open(self.at("staging")).unwrap();
        let mut links = Links::open(store.as_fd())?;
        let mut restorer = Restorer::new(staging.as_fd(), name, &mut links)?;
        let mut bytes = nar;
        nar::read(&mut WordReader::new(&mut bytes)?, &mut restorer)
    }

    /// Names of the entries of `.links`.
    fn links(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at(".links")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Ordinary users cannot remove a read-only tree as `TempDir` does.
impl Drop for Store {
    fn drop(&mut self) {
        let _ = remove_tree(File::open(self.0.path()).unwrap().as_fd(), b"staging");
    }
}

fn nar_of_file(contents: &[u8], executable: bool) -> Vec<u8> {
    let (before, after) = nar::file_nar_frame(executable, contents.len() as u64);
    [&before, contents, &after].concat()
}

/// Returns a nar of `depth` nested directories.
fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |text: &str| text.split(' ').for_each(|word| crate::ground::words::put_string(&mut bytes, word));
    put("nix-archive-1 ( type directory");
    (1..depth).for_each(|_| put("entry ( name d node ( type directory"));
    put(")");
    (1..depth).for_each(|_| put(") )"));
    bytes
}

#[test]
fn a_tree_looks_as_guix_daemon_left_it() {
    // What guix-daemon had in its store when it exported this.
    let expected = [
        " 555 1.0 /",
        "bin 555 1.0 /",
        "bin/hi 555 1.0 8 bytes, 1 links",
        "empty 555 1.0 /",
        "link 777 1.0 -> bin/hi",
        "nothing 444 1.0 0 bytes, 1 links",
        "ref 444 1.0 55 bytes, 1 links",
        "self 444 1.0 52 bytes, 1 links",
        "zeros 444 1.0 8192 bytes, 2 links",
    ];
    const SECOND_ITEM: usize = 672;
    let bundle = &include_bytes!("../../tests/fixtures/archive/two-items.bundle")[SECOND_ITEM..];
    let store = Store::new();
    store.restore(bundle, "item").unwrap();
    assert_eq!(look(&store.at("staging/item")), expected);
    assert_eq!(store.links(), ["1b8r8plrjzf5l2dhxbs5n4l2dy9fl7yj5lvwl3ilpjxp3pv4lnlc"]);
    assert_eq!(fs::read(store.at("staging/item/bin/hi")).unwrap(), b"echo hi\n");
    assert_eq!(fs::metadata(store.at(".links")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn equal_files_share_an_inode_and_executables_do_not_share_with_others() {
    let store = Store::new();
    let inode = |name: &str| fs::metadata(store.at(name)).unwrap().ino();
    let contents = [7; 8192];
    store.restore(&nar_of_file(&contents, false), "a").unwrap();
    store.restore(&nar_of_file(&contents, false), "b").unwrap();
    store.restore(&nar_of_file(&contents, true), "x").unwrap();
    store.restore(&nar_of_file(&contents[1..], false), "small").unwrap();
    assert_eq!(inode("staging/a"), inode("staging/b"));
    assert_ne!(inode("staging/a"), inode("staging/x"));
    assert_eq!(store.links().len(), 2);
    assert_eq!(fs::metadata(store.at("staging/small")).unwrap().nlink(), 1);
    assert_eq!(fs::metadata(store.at("staging/a")).unwrap().nlink(), 3);
    assert_eq!(fs::read_dir(store.at("staging")).unwrap().count(), 4, "no temporary link is left");
    assert_eq!(fs::read(store.at("staging/b")).unwrap(), contents);
}

#[test]
fn an_entry_of_links_that_looks_wrong_is_not_shared() {
    let nar = nar_of_file(&[7; 8192], false);
    type Spoil = fn(&Path);
    let ways: [(&str, Spoil); 4] = [
        ("truncated", |entry| File::options().write(true).open(entry).unwrap().set_len(8191).unwrap()),
        ("writable", |entry| fs::set_permissions(entry, fs::Permissions::from_mode(0o644)).unwrap()),
        ("newer", |entry| File::open(entry).unwrap().set_modified(std::time::SystemTime::now()).unwrap()),
        ("a link", |entry| {
            fs::remove_file(entry).unwrap();
            symlink("/etc/hostname", entry).unwrap();
        }),
    ];
    for (how, spoil) in ways {
        let store = Store::new();
        store.restore(&nar, "first").unwrap();
        let entry = store.at(".links").join(&store.links()[0]);
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o644)).unwrap();
        spoil(&entry);
        store.restore(&nar, "second").unwrap();
        assert_eq!(look(&store.at("staging/second")), [" 444 1.0 8192 bytes, 1 links"], "{how}");
        assert_eq!(fs::read(store.at("staging/second")).unwrap(), [7; 8192], "{how}");
    }
}

#[test]
fn entries_of_links_that_nobody_uses_are_removed_again() {
    let store = Store::new();
    let directory = File::open(store.0.path()).unwrap();
    let mut links = Links::open(directory.as_fd()).unwrap();
    for (name, byte) in [("kept", 1), ("dropped", 2)] {
        let nar = nar_of_file(&[byte; 8192], false);
        let mut restorer = Restorer::new(directory.as_fd(), name, &mut links).unwrap();
        nar::read(&mut WordReader::new(&mut &nar[..]).unwrap(), &mut restorer).unwrap();
    }
    fs::remove_file(store.at("dropped")).unwrap();
    links.remove_unused();
    assert_eq!(store.links().len(), 1);
    assert_eq!(fs::metadata(store.at("kept")).unwrap().nlink(), 2);
}

#[test]
fn nothing_that_exists_is_overwritten_or_followed() {
    let store = Store::new();
    fs::write(store.at("victim"), "safe").unwrap();
    symlink(store.at("victim"), store.at("staging/link")).unwrap();
    symlink(store.at("staging"), store.at("staging/directory")).unwrap();
    for name in ["link", "directory"] {
        for nar in [nar_of_file(b"evil", false), nested(2)] {
            let error = store.restore(&nar, name).unwrap_err();
            assert!(error.to_string().contains("File exists"), "{error}");
        }
    }
    assert_eq!(fs::read(store.at("victim")).unwrap(), b"safe");
    assert_eq!(fs::read_dir(store.at("staging")).unwrap().count(), 2);
}

#[test]
fn a_tree_deeper_than_there_are_descriptors_is_restored_and_removed() {
    crate::store::remove::tests::limit_descriptors();
    let store = Store::new();
    store.restore(&nested(1200), "deep").unwrap();
    let bottom = store.at(&format!("staging/deep{}", "/d".repeat(1199)));
    assert_eq!(fs::metadata(bottom).unwrap().mode() & 0o7777, 0o555);
    remove_tree(File::open(store.at("staging")).unwrap().as_fd(), b"deep").unwrap();
    assert!(!store.at("staging/deep").exists());
}

#[test]
fn a_large_file_comes_in_pieces() {
    // 64 MiB that are never in memory at once: the reader produces them on demand.
    use std::io::Read;
    const SIZE: u64 = 64 << 20;
    let (before, after) = nar::file_nar_frame(false, SIZE);
    let store = Store::new();
    let top = File::open(store.0.path()).unwrap();
    let mut links = Links::open(top.as_fd()).unwrap();
    let mut restorer = Restorer::new(top.as_fd(), "large", &mut links).unwrap();
    let mut reader = before.chain(std::io::repeat(9).take(SIZE)).chain(&after[..]);
    nar::read(&mut WordReader::new(&mut reader).unwrap(), &mut restorer).unwrap();
    assert_eq!(look(&store.at("large")), [format!(" 444 1.0 {SIZE} bytes, 2 links")]);
}

#[test]
fn holes_stay_holes() {
    const BLOCK: usize = 4096;
    let store = Store::new();
    let unwritten = |name: &str| {
        let probe = File::create(store.at(name)).unwrap();
        probe.set_len(1 << 20).unwrap();
        probe.metadata().unwrap().blocks()
    };
    assert_eq!(unwritten("probe"), 0, "this file system knows no holes");
    // `used`: how many bytes of data are not in holes, in so many `pieces`.
    let restored = |name: &str, contents: &[u8], used: usize, pieces: usize| {
        store.restore(&nar_of_file(contents, false), name).unwrap();
        let file = store.at("staging").join(name);
        assert!(fs::read(&file).unwrap() == contents, "{name}");
        let data = fs::metadata(file).unwrap();
        assert_eq!((data.mode() & 0o7777, data.mtime()), (0o444, 1), "{name}");
        // A file of many pieces has blocks that say where they are, once the file system has written it.
        let blocks = data.blocks() as usize * 512;
        let own = if pieces > 1 { 2 * BLOCK } else { 0 };
        assert!((used..=used + own).contains(&blocks), "{name}: {blocks} bytes for {used}");
    };
    let sprinkled = |step: usize, first: usize, size: usize| {
        let mut contents = vec![0; size];
        (first..size).step_by(step).for_each(|at| contents[at] = 1);
        contents
    };
    restored("zeros", &vec![0; 3 << 20], 0, 0);
    restored("few-zeros", &[0; 100], 0, 0);
    restored("a-byte-in-64-KiB", &sprinkled(64 << 10, 0, 8 << 20), 128 * BLOCK, 128);
    restored("elsewhere", &sprinkled(64 << 10, 40_000, (8 << 20) - 123), 128 * BLOCK, 128);
    restored("a-byte-in-each-block", &sprinkled(BLOCK, 17, 1 << 20), 1 << 20, 1);
    restored("the-last-byte", &sprinkled(1 << 30, (1 << 20) - 1, 1 << 20), BLOCK, 1);
    restored("no-zeros", &vec![1; 300_000], 300_000usize.next_multiple_of(BLOCK), 1);
}

#[test]
fn runs_of_zeros_are_found_wherever_the_pieces_end() {
    let run = |bytes: &[u8], position| next_run(bytes, position);
    assert_eq!(run(&[0; 10], 0), (10, true));
    assert_eq!(run(&[0; 3000], 1000), (3000, true));
    let mut bytes = vec![0; 5 * GRAIN];
    bytes[2 * GRAIN] = 1;
    assert_eq!(run(&bytes, 0), (2 * GRAIN, true));
    assert_eq!(run(&bytes[2 * GRAIN..], 2 * GRAIN as u64), (GRAIN, false));
    assert_eq!(run(&bytes[3 * GRAIN..], 3 * GRAIN as u64), (2 * GRAIN, true));
    assert_eq!(run(&bytes[GRAIN..], 10), (GRAIN - 10, true));
    assert_eq!(run(&bytes[2 * GRAIN..], 10), (GRAIN - 10, false));
}

#[test]
fn a_file_that_is_larger_than_the_disk_fits_if_it_is_mostly_holes() {
    use std::io::Read;
    let store = Store::new();
    let room = rustix::fs::statvfs(store.0.path()).unwrap();
    let size = 8 << 20;
    assert!(room.f_bavail * room.f_frsize > size);
    // An announced size takes no space by itself: the disk cannot have this much.
    let (before, _) = nar::file_nar_frame(false, 1 << 43);
    let mut reader = before.chain(std::io::repeat(0).take(size));
    let top = File::open(store.0.path()).unwrap();
    let mut links = Links::open(top.as_fd()).unwrap();
    let mut restorer = Restorer::new(top.as_fd(), "huge", &mut links).unwrap();
    let error = nar::read(&mut WordReader::new(&mut reader).unwrap(), &mut restorer).unwrap_err();
    assert!(error.kind() == ErrorKind::Protocol && error.to_string().contains("cut off"), "{error}");
    assert_eq!(fs::metadata(store.at("huge")).unwrap().blocks(), 0);
}
