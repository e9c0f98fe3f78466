// SPDX-License-Identifier: GPL-3.0-or-later
//! Removing a tree without ever leaving it: no link is followed, and a tree of any depth takes two descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, fstat, openat, unlinkat};
use rustix::io::Errno;

use crate::ground::error::{Error, ErrorKind, IoContext, Result};

/// Flags with which every directory is opened, here and in the modules beside this one.
pub(super) const OPEN_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that is being removed. All it holds besides `directories` is gone.
struct Level {
    name: Vec<u8>,
    /// Device and inode, by which the directory is recognized on the way up.
    identity: (u64, u64),
    directories: Vec<Vec<u8>>,
}

/// Removes `name` in `parent`: a file, a link, or a directory with all that it holds, even if it is read-only.
/// Succeeds if there is nothing of that name.
pub fn remove_tree(parent: BorrowedFd, name: &[u8]) -> Result<()> {
    if remove_file(parent, name)? {
        return Ok(());
    }
    let (mut here, level) = enter(parent, name)?;
    let mut levels = vec![level];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.directories.pop() {
            let (inner, level) = enter(here.as_fd(), &name)?;
            here = inner;
            levels.push(level);
            continue;
        }
        let name = levels.pop().map(|level| level.name).unwrap_or_default();
        match levels.last() {
            Some(above) => {
                here = leave(here, above.identity, &name)?;
                remove_directory(here.as_fd(), &name)?;
            }
            None => remove_directory(parent, &name)?,
        }
    }
    Ok(())
}

/// Opens a directory, and removes everything from it except directories.
fn enter(parent: BorrowedFd, name: &[u8]) -> Result<(OwnedFd, Level)> {
    let what = || format!("removing directory '{}'", name.escape_ascii());
    let directory = openat(parent, name, OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
    let stat = fstat(&directory).io_context(ErrorKind::Store, what)?;
    if Mode::from_raw_mode(stat.st_mode) & Mode::RWXU != Mode::RWXU {
        fchmod(&directory, Mode::RWXU).io_context(ErrorKind::Store, what)?;
    }
    let mut directories = Vec::new();
    for entry in Dir::read_from(&directory).io_context(ErrorKind::Store, what)? {
        let entry = entry.io_context(ErrorKind::Store, what)?;
        let name = entry.file_name().to_bytes();
        let inner = name != b"." && name != b"..";
        if inner && (entry.file_type() == FileType::Directory || !remove_file(directory.as_fd(), name)?) {
            directories.push(name.to_vec());
        }
    }
    Ok((directory, Level { name: name.to_vec(), identity: (stat.st_dev, stat.st_ino), directories }))
}

/// Goes from the directory `here`, called `name`, up to the directory that it was entered from. Fails if somebody has
/// moved it in the meantime: `..` would then lead out of the tree.
fn leave(here: OwnedFd, above: (u64, u64), name: &[u8]) -> Result<OwnedFd> {
    let what = || format!("leaving directory '{}', which is being removed", name.escape_ascii());
    let parent = openat(&here, "..", OPEN_DIRECTORY, Mode::empty()).io_context(ErrorKind::Store, what)?;
    let stat = fstat(&parent).io_context(ErrorKind::Store, what)?;
    if (stat.st_dev, stat.st_ino) != above {
        return Err(Error::new(ErrorKind::Store, format!("{}: somebody moved it", what())));
    }
    Ok(parent)
}

/// Removes what is called `name`. Returns `false`, and removes nothing, if it is a directory.
fn remove_file(parent: BorrowedFd, name: &[u8]) -> Result<bool> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error).io_context(ErrorKind::Store, || format!("removing '{}'", name.escape_ascii())),
    }
}

fn remove_directory(parent: BorrowedFd, name: &[u8]) -> Result<()> {
    unlinkat(parent, name, AtFlags::REMOVEDIR)
        .io_context(ErrorKind::Store, || format!("removing directory '{}'", name.escape_ascii()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::{File, Permissions, create_dir, create_dir_all, read_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Limits this process to 1024 descriptors, the usual limit. The deep trees of these tests have more levels.
    pub fn limit_descriptors() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum }).unwrap();
    }

    #[test]
    fn a_read_only_tree_goes_and_what_its_links_point_to_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        create_dir_all(at("tree/a/b")).unwrap();
        create_dir_all(at("tree/c")).unwrap();
        create_dir(at("outside")).unwrap();
        write(at("outside/kept"), "x").unwrap();
        write(at("tree/a/b/file"), "x").unwrap();
        symlink(at("outside"), at("tree/a/link")).unwrap();
        symlink("nowhere", at("tree/dangling")).unwrap();
        for directory in ["tree/a/b", "tree/a", "tree"] {
            set_permissions(at(directory), Permissions::from_mode(0o555)).unwrap();
        }
        let parent = File::open(scratch.path()).unwrap();
        remove_tree(parent.as_fd(), b"tree").unwrap();
        assert!(!at("tree").exists());
        assert!(at("outside/kept").exists());

        symlink("outside", at("link")).unwrap();
        remove_tree(parent.as_fd(), b"link").unwrap();
        remove_tree(parent.as_fd(), b"nothing").unwrap();
        assert_eq!(read_dir(scratch.path()).unwrap().count(), 1);
        assert!(at("outside/kept").exists());
    }

    #[test]
    fn a_tree_deeper_than_there_are_descriptors_goes() {
        limit_descriptors();
        let scratch = tempfile::tempdir().unwrap();
        let top = File::open(scratch.path()).unwrap();
        let mut here: OwnedFd = top.try_clone().unwrap().into();
        for _ in 0..1200 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = openat(&here, "d", OPEN_DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(top.as_fd(), b"d").unwrap();
        assert_eq!(read_dir(scratch.path()).unwrap().count(), 0);
    }
}
