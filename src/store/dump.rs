// SPDX-License-Identifier: GPL-3.0-or-later
//! The nar of a store item, produced while it is read (`dump` in Guix's `nix/libutil/archive.cc`; the format is in
//! [`crate::archive::nar`]). The counterpart of [`super::restore`].
//!
//! Every name is used relative to the descriptor of the directory that it was found in, and no link is followed. Only
//! one directory is open at a time, however deep the tree.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};

use super::remove::OPEN_DIRECTORY;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::ground::words::{padding, put_number, put_string};

/// The nar of an item being read. All its errors are of kind [`ErrorKind::Store`], wrapped in an [`io::Error`].
pub struct Dump {
    item: StorePath,
    here: OwnedFd,
    /// For each directory that is being dumped, the names that are still to come; the next one is last.
    levels: Vec<Vec<Vec<u8>>>,
    /// The open file, how many bytes of its contents are still to come, and its size.
    file: Option<(File, u64, u64)>,
    /// Bytes of the archive that are ready; those from `position` on come next.
    pending: Vec<u8>,
    position: usize,
}

impl Dump {
    /// Begins to dump `item`, which is in the directory `store`.
    pub fn new(store: BorrowedFd, item: &StorePath) -> Result<Self> {
        let here =
            openat(store, ".", OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, || "opening the store")?;
        let (levels, file, pending, position) = (Vec::new(), None, Vec::new(), 0);
        let mut dump = Dump { item: item.clone(), here, levels, file, pending, position };
        dump.words(&[b"nix-archive-1"]);
        dump.node(item.base_name().as_bytes())?;
        Ok(dump)
    }

    fn words(&mut self, words: &[&[u8]]) {
        words.iter().for_each(|word| put_string(&mut self.pending, word));
    }

    /// Begins the node called `name` in the current directory.
    fn node(&mut self, name: &[u8]) -> Result<()> {
        let what = || format!("reading '{}' in {}", name.escape_ascii(), self.item);
        let kind = statat(&self.here, name, AtFlags::SYMLINK_NOFOLLOW).io_context(ErrorKind::Store, what)?;
        match FileType::from_raw_mode(kind.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = openat(&self.here, name, flags, Mode::empty()).io_context(ErrorKind::Store, what)?;
                let status = fstat(&file).io_context(ErrorKind::Store, what)?;
                if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
                    return Err(self.changed());
                }
                self.words(&[b"(", b"type", b"regular"]);
                if Mode::from_raw_mode(status.st_mode).contains(Mode::XUSR) {
                    self.words(&[b"executable", b""]);
                }
                let size = status.st_size as u64;
                self.words(&[b"contents"]);
                put_number(&mut self.pending, size);
                self.file = Some((file.into(), size, size));
            }
            FileType::Directory => {
                let directory =
                    openat(&self.here, name, OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
                let mut names = Vec::new();
                for entry in Dir::read_from(&directory).io_context(ErrorKind::Store, what)? {
                    let name = entry.io_context(ErrorKind::Store, what)?.file_name().to_bytes().to_vec();
                    if name != b"." && name != b".." {
                        names.push(name);
                    }
                }
                names.sort_unstable_by(|a, b| b.cmp(a));
                self.here = directory;
                self.levels.push(names);
                self.words(&[b"(", b"type", b"directory"]);
            }
            FileType::Symlink => {
                let target = readlinkat(&self.here, name, Vec::new()).io_context(ErrorKind::Store, what)?;
                self.words(&[b"(", b"type", b"symlink", b"target", target.as_bytes(), b")"]);
                self.end_entry();
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Store,
                    format!("{}: it is of a kind that no archive can hold", what()),
                ));
            }
        }
        Ok(())
    }

    /// Ends the entry whose node is complete. The first node of an archive has no entry around it.
    fn end_entry(&mut self) {
        if !self.levels.is_empty() {
            self.words(&[b")"]);
        }
    }

    /// Adds the next words to `pending`. Returns `false` at the end of the archive.
    fn advance(&mut self) -> Result<bool> {
        if let Some((_, _, size)) = self.file.take() {
            self.pending.resize(padding(size), 0);
            self.words(&[b")"]);
            self.end_entry();
            return Ok(true);
        }
        let Some(names) = self.levels.last_mut() else { return Ok(false) };
        match names.pop() {
            Some(name) => {
                self.words(&[b"entry", b"(", b"name", &name, b"node"]);
                self.node(&name)?;
            }
            None => {
                let what = || format!("leaving a directory of {}", self.item);
                self.here =
                    openat(&self.here, "..", OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
                self.levels.pop();
                self.words(&[b")"]);
                self.end_entry();
            }
        }
        Ok(true)
    }

    fn changed(&self) -> Error {
        Error::new(ErrorKind::Store, format!("{} changes while it is read", self.item))
    }
}

impl Read for Dump {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.position < self.pending.len() {
                let length = buffer.len().min(self.pending.len() - self.position);
                buffer[..length].copy_from_slice(&self.pending[self.position..][..length]);
                self.position += length;
                return Ok(length);
            }
            self.pending.clear();
            self.position = 0;
            if let Some((file, left @ 1.., _)) = &mut self.file {
                let most = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let length = file
                    .read(&mut buffer[..most])
                    .io_context(ErrorKind::Store, || format!("reading a file of {}", self.item))?;
                if length == 0 && most > 0 {
                    return Err(self.changed().into());
                }
                *left -= length as u64;
                return Ok(length);
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::ground::store_path::StoreDir;

    fn dump(tree: impl FnOnce(&std::path::Path)) -> Result<Vec<u8>> {
        let store = tempfile::tempdir().unwrap();
        let item = StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{}-x", "0".repeat(32))).unwrap();
        tree(&store.path().join(item.base_name()));
        let mut bytes = Vec::new();
        let directory = File::open(store.path()).unwrap();
        Dump::new(directory.as_fd(), &item)?.read_to_end(&mut bytes).io_context(ErrorKind::Store, || "dumping")?;
        Ok(bytes)
    }

    /// Compares with `nix_nar`, an independent implementation.
    #[test]
    fn a_tree_is_dumped_as_by_others() {
        let mut expected = Vec::new();
        let bytes = dump(|top| {
            std::fs::create_dir_all(top.join("directory/empty")).unwrap();
            std::fs::write(top.join("directory/file"), b"0123456789").unwrap();
            std::fs::write(top.join("a-run"), vec![7; 100_000]).unwrap();
            std::fs::set_permissions(top.join("a-run"), PermissionsExt::from_mode(0o555)).unwrap();
            std::fs::write(top.join("directory.file"), b"").unwrap(); // '.' is before '/'
            symlink("/nowhere", top.join("link")).unwrap();
            nix_nar::Encoder::new(top).unwrap().read_to_end(&mut expected).unwrap();
        })
        .unwrap();
        assert!(bytes == expected);
    }

    #[test]
    fn a_lone_file_and_a_lone_link_are_dumped() {
        let (before, after) = crate::archive::nar::file_nar_frame(false, 5);
        assert_eq!(
            dump(|top| std::fs::write(top, b"hello").unwrap()).unwrap(),
            [&before, &b"hello"[..], &after].concat()
        );
        let link = dump(|top| symlink("target", top).unwrap()).unwrap();
        let mut expected = Vec::new();
        [&b"nix-archive-1"[..], b"(", b"type", b"symlink", b"target", b"target", b")"]
            .iter()
            .for_each(|word| put_string(&mut expected, word));
        assert_eq!(link, expected);
    }

    #[test]
    fn what_no_archive_can_hold_or_is_not_there_is_an_error() {
        let error = dump(|top| rustix::fs::mkfifoat(rustix::fs::CWD, top, Mode::RUSR).unwrap()).unwrap_err();
        assert!(error.kind() == ErrorKind::Store && error.to_string().contains("no archive can hold"), "{error}");
        let error = dump(|_| ()).unwrap_err();
        assert!(error.kind() == ErrorKind::Store && error.to_string().contains("No such file"), "{error}");
    }
}
