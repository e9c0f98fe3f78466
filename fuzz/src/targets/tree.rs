// SPDX-License-Identifier: GPL-3.0-or-later
//! A nar writer of our own, to see what was restored: independent of the reader, and of how long file names get.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};

/// The nar of what is called `name` in `parent`, which must look as things in the store do.
pub fn nar(parent: BorrowedFd, name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    word(b"nix-archive-1", &mut bytes);
    node(parent, name, &mut bytes);
    bytes
}

fn word(word: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(&(word.len() as u64).to_le_bytes());
    to.extend_from_slice(word);
    to.resize(to.len().next_multiple_of(8), 0);
}

fn node(parent: BorrowedFd, name: &[u8], to: &mut Vec<u8>) {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (1, 0));
    let open = |flags| openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mode = stat.st_mode & 0o7777;
    word(b"(", to);
    word(b"type", to);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            assert!(matches!(mode, 0o444 | 0o555), "{mode:o}");
            word(b"regular", to);
            if mode == 0o555 {
                word(b"executable", to);
                word(b"", to);
            }
            word(b"contents", to);
            let mut contents = Vec::new();
            std::fs::File::from(open(OFlags::RDONLY)).read_to_end(&mut contents).unwrap();
            word(&contents, to);
        }
        FileType::Symlink => {
            word(b"symlink", to);
            word(b"target", to);
            word(readlinkat(parent, name, Vec::new()).unwrap().as_bytes(), to);
        }
        FileType::Directory => {
            assert_eq!(mode, 0o555);
            word(b"directory", to);
            let directory = open(OFlags::RDONLY | OFlags::DIRECTORY);
            for name in names(directory.as_fd()) {
                word(b"entry", to);
                word(b"(", to);
                word(b"name", to);
                word(&name, to);
                word(b"node", to);
                node(directory.as_fd(), &name, to);
                word(b")", to);
            }
        }
        other => panic!("restored something that is {other:?}"),
    }
    word(b")", to);
}

/// What is in a directory, sorted.
pub fn names(directory: BorrowedFd) -> Vec<Vec<u8>> {
    let names = Dir::read_from(directory).unwrap().map(|entry| entry.unwrap().file_name().to_bytes().to_vec());
    let mut names: Vec<_> = names.filter(|name| name != b"." && name != b"..").collect();
    names.sort();
    names
}
