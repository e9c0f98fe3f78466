// SPDX-License-Identifier: GPL-3.0-or-later
//! The files that processes of this host share, in directories of `STATE/offload`: build slots, histories of machines,
//! the queue, the keeper's socket, cached machine files, warnings that were told.
//!
//! Files are made with mode 0600. From `offload` downwards, no link to a file or a directory is followed: somebody who
//! could plant one must not choose which file is locked or replaced. Directories above may be links, as the
//! administrator likes.
//!
//! What root makes there belongs to the owner of the directory that it is in: guix-daemon may run as another user, and
//! its hooks need the same files.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, fstat, mkdirat, open, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The name of a directory of files. The directory need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    /// `STATE/offload`.
    state: PathBuf,
    name: String,
}

impl StateDir {
    /// Returns the directory called `name`.
    pub fn named(state: &Path, name: impl Into<String>) -> Self {
        StateDir { state: state.into(), name: name.into() }
    }

    /// Returns the path of the file `name` in the directory, or if `name` is empty, of the directory itself.
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.state.join(&self.name) } else { self.state.join(&self.name).join(name) }
    }

    /// Opens the directory.
    pub fn open(&self) -> io::Result<OpenStateDir> {
        let (parent, name) = self.split();
        let state = open(parent, DIRECTORY, Mode::empty())?;
        let state = self.enter(state.as_fd(), name)?;
        self.enter(state.as_fd(), &self.name).map(OpenStateDir)
    }

    /// Creates the directory, and those above it, where they are missing.
    pub fn create(&self) -> io::Result<()> {
        let (parent, name) = self.split();
        std::fs::create_dir_all(parent)?;
        let mut above = open(parent, DIRECTORY, Mode::empty())?;
        for name in [name, &self.name] {
            // Less the umask, as `mkdir -p` does; the files in it have mode 0600.
            match mkdirat(&above, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let below = self.enter(above.as_fd(), name)?;
            give_to_owner(&above, &below)?;
            above = below;
        }
        Ok(())
    }

    fn split(&self) -> (&Path, &str) {
        let name = self.state.file_name().and_then(|name| name.to_str()).unwrap_or(".");
        (self.state.parent().unwrap_or(Path::new("/")), name)
    }

    fn enter(&self, above: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
        openat(above, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => {
                io::Error::other(format!("'{name}' is a link or no directory, and links are not followed there"))
            }
            error => error.into(),
        })
    }
}

/// Gives `made`, if it is root's, to the owner of the directory `above` that it is in. Only root can do that.
fn give_to_owner(above: impl AsFd, made: impl AsFd) -> io::Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (owner, has) = (fstat(above)?, fstat(&made)?);
    if has.st_uid == 0 && owner.st_uid != 0 {
        fchown(made, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)))?;
    }
    Ok(())
}

/// An open directory of files.
pub struct OpenStateDir(OwnedFd);

impl AsFd for OpenStateDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl OpenStateDir {
    /// Opens the file `name` with `flags`. A file that they create gets mode 0600.
    pub fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error {
            Errno::LOOP => io::Error::other("it is a link, and links are not followed there"),
            error => error.into(),
        })?;
        if flags.contains(OFlags::CREATE) {
            give_to_owner(&self.0, &file)?;
        }
        Ok(file.into())
    }

    /// Replaces the whole file `name`, or makes it: writes another file and renames that.
    pub fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let fresh = format!("{name}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let written = self
            .open(&fresh, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| self.rename(&fresh, name));
        if written.is_err() {
            let _ = self.remove(&fresh);
        }
        written
    }

    /// Renames the file `from` to `to`, which it replaces.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes the file `name`.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, rustix::fs::AtFlags::empty())?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn files_are_private() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = StateDir::named(&scratch.path().join("var/offload"), "m:22");
        assert_eq!(directory.open().err().unwrap().kind(), io::ErrorKind::NotFound);
        directory.create().unwrap();
        directory.create().unwrap();
        directory.open().unwrap().open("0", OFlags::RDWR | OFlags::CREATE).unwrap();
        assert_eq!(fs::metadata(directory.path("0")).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_directory_needs_root() {
        assert!(geteuid().is_root(), "this test needs root");
        let scratch = tempfile::tempdir().unwrap();
        let owner = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid())
        };
        for (name, ids) in [("daemons", (30_001, 30_002)), ("roots", (0, 0))] {
            let above = scratch.path().join(name);
            fs::create_dir(&above).unwrap();
            std::os::unix::fs::chown(&above, Some(ids.0), Some(ids.1)).unwrap();
            let directory = StateDir::named(&above.join("offload"), "m:22");
            directory.create().unwrap();
            directory.open().unwrap().open("0", OFlags::RDWR | OFlags::CREATE).unwrap();
            directory.open().unwrap().replace("history", b"").unwrap();
            for made in [above.join("offload"), directory.path(""), directory.path("0"), directory.path("history")] {
                assert_eq!(owner(&made), ids, "{}", made.display());
            }
        }
    }

    #[test]
    fn links_are_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir_all(at("elsewhere/m:22")).unwrap();
        fs::write(at("elsewhere/m:22/0"), "kept").unwrap();
        let refused = |result: io::Result<()>| {
            let error = result.expect_err("a link was followed").to_string();
            assert!(error.contains("links are not followed"), "{error}");
        };
        let try_all = |directory: &StateDir| {
            refused(directory.create());
            refused(directory.open().map(|_| ()));
        };

        fs::create_dir(at("one")).unwrap();
        symlink(at("elsewhere"), at("one/offload")).unwrap();
        try_all(&StateDir::named(&at("one/offload"), "m:22"));
        fs::create_dir_all(at("two/offload")).unwrap();
        symlink(at("elsewhere/m:22"), at("two/offload/m:22")).unwrap();
        try_all(&StateDir::named(&at("two/offload"), "m:22"));

        fs::create_dir_all(at("three/offload/m:22")).unwrap();
        symlink(at("elsewhere/m:22/0"), at("three/offload/m:22/0")).unwrap();
        symlink(at("elsewhere/m:22/new"), at("three/offload/m:22/1")).unwrap();
        let open = StateDir::named(&at("three/offload"), "m:22").open().unwrap();
        for flags in [OFlags::RDONLY, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, OFlags::RDWR | OFlags::CREATE] {
            refused(open.open("0", flags).map(|_| ()));
            refused(open.open("1", flags).map(|_| ()));
        }
        assert_eq!(fs::read(at("elsewhere/m:22/0")).unwrap(), b"kept");
        assert!(!at("elsewhere/m:22/new").exists());

        // A directory above may be a link.
        symlink(at("three"), at("four")).unwrap();
        StateDir::named(&at("four/offload"), "m:22").open().unwrap();
    }
}
