// SPDX-License-Identifier: GPL-3.0-or-later
//! What the value of a machine file depends on, and whether that has changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::statfs;

/// How long a result is good for while nothing changes that is known, and if something may be unknown.
const LIFETIME: Duration = Duration::from_secs(600);
const VOLATILE_LIFETIME: Duration = Duration::from_secs(5);

/// How long after a change of a file another one may leave no trace, as its times are known in whole seconds.
const RESOLUTION: Duration = Duration::from_secs(2);

const SECOND: i128 = 1_000_000_000;

/// Kinds of file systems (`f_type` of statfs(2)) on which a change of a file always shows in its times: ext2 to ext4,
/// XFS, Btrfs, tmpfs, ramfs, overlayfs, ZFS, F2FS, bcachefs.
const HONEST: [u32; 9] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x8584_58f6, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];

/// What tells one state of a file from another without reading it. Not the time of its content's last change, which can
/// be set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device and inode, size in bytes.
    numbers: [u64; 3],
    /// Time of the last change, of the content or of the inode, in nanoseconds since the epoch.
    changed: i128,
}

impl FileIdentity {
    /// That of the file at `path`; `None` if there is none, or it cannot be seen.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::from(&metadata))
    }

    /// What somebody saw who knows the time in whole seconds only.
    pub(super) fn seen(numbers: [u64; 3], seconds: i64) -> Self {
        FileIdentity { numbers, changed: i128::from(seconds) * SECOND }
    }

    fn in_seconds(self) -> Self {
        FileIdentity { changed: self.changed.div_euclid(SECOND) * SECOND, ..self }
    }

    /// Might a change in the future, or one just now, look like this?
    fn is_recent(&self, now: SystemTime) -> bool {
        let changed = Duration::from_nanos(self.changed.clamp(0, i128::from(u64::MAX)) as u64);
        SystemTime::UNIX_EPOCH + changed + RESOLUTION > now
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        let changed = i128::from(metadata.ctime()) * SECOND + i128::from(metadata.ctime_nsec());
        FileIdentity { numbers: [metadata.dev(), metadata.ino(), metadata.size()], changed }
    }
}

/// What the value of a machine file depended on when it was evaluated.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The machine file itself, as it was; `None`: it was not there.
    pub(super) file: (PathBuf, Option<FileIdentity>),
    /// The files that it reads or asks for, as they were, with times in whole seconds.
    pub(super) files: Vec<(PathBuf, Option<FileIdentity>)>,
    /// Does it depend on other things, which nobody knows?
    pub(super) volatile: bool,
    /// When it was evaluated.
    pub(super) at: SystemTime,
}

impl Inputs {
    /// Those of a machine file that depends on nothing but itself, or is not there, and was like that.
    pub fn of_file(path: &Path, identity: Option<FileIdentity>) -> Self {
        Inputs { file: (path.into(), identity), files: Vec::new(), volatile: false, at: SystemTime::now() }
    }

    /// Would the file have the same value now? That is assumed for 5 seconds if it depends on what
    /// is not known, else for ten minutes.
    pub fn are_current(&self) -> bool {
        let elsewhere = |(path, _): &(PathBuf, Option<FileIdentity>)| path.exists() && !is_honest(path);
        let volatile = self.volatile || self.files.iter().any(elsewhere);
        let lifetime = if volatile { VOLATILE_LIFETIME } else { LIFETIME };
        // A clock that was set back makes it old.
        self.at.elapsed().is_ok_and(|age| age < lifetime)
            && FileIdentity::of(&self.file.0) == self.file.1
            && self.files.iter().all(|(path, seen)| FileIdentity::of(path).map(FileIdentity::in_seconds) == *seen)
    }

    /// Is none of the files that the machine file reads so new that another change of it might go unnoticed?
    pub(super) fn are_settled(&self) -> bool {
        self.files.iter().filter_map(|(_, identity)| *identity).all(|identity| !identity.is_recent(self.at))
    }
}

fn is_honest(path: &Path) -> bool {
    statfs(path).is_ok_and(|system| HONEST.contains(&(system.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn inputs(path: &Path) -> Inputs {
        Inputs::of_file(path, FileIdentity::of(path))
    }

    #[test]
    fn every_change_of_a_file_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, other) = (directory.path().join("m.scm"), directory.path().join("key"));
        let missing = inputs(&file);
        assert!(missing.are_current());
        fs::write(&file, "(list)").unwrap();
        assert!(!missing.are_current());

        let mut written = inputs(&file);
        written.files.push((other.clone(), None));
        assert!(written.are_current());
        fs::write(&other, "key").unwrap();
        assert!(!written.are_current(), "a file that was missing has come");

        let replaced = inputs(&file);
        fs::copy(&file, directory.path().join("new")).unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        assert!(!replaced.are_current(), "another file has its place");

        let touched = inputs(&file);
        std::thread::sleep(Duration::from_millis(20));
        let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
        assert!(!touched.are_current());

        let removed = inputs(&file);
        fs::remove_file(&file).unwrap();
        assert!(!removed.are_current());
    }

    #[test]
    fn what_is_not_known_is_assumed_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("m.scm");
        fs::write(&file, "(list)").unwrap();
        let aged = |volatile, age: Duration| {
            let at = SystemTime::now() - age;
            Inputs { volatile, at, ..inputs(&file) }.are_current()
        };
        assert!(aged(true, Duration::from_secs(3)) && !aged(true, Duration::from_secs(6)));
        assert!(aged(false, Duration::from_secs(500)) && !aged(false, Duration::from_secs(601)));
        let future = Inputs { at: SystemTime::now() + Duration::from_secs(60), ..inputs(&file) };
        assert!(!future.are_current());

        // The content of such a file changes without a sign.
        let mut virtual_file = Inputs { at: SystemTime::now() - Duration::from_secs(10), ..inputs(&file) };
        assert!(virtual_file.are_current());
        virtual_file
            .files
            .push(("/proc/version".into(), FileIdentity::of(Path::new("/proc/version")).map(FileIdentity::in_seconds)));
        assert!(!virtual_file.are_current());
    }

    #[test]
    fn a_file_that_was_just_changed_is_not_settled() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("m.scm");
        fs::write(&file, "(list)").unwrap();
        let mut inputs = inputs(&file);
        assert!(inputs.are_settled(), "the machine file's own text is compared");
        inputs.files.push((file.clone(), FileIdentity::of(&file).map(FileIdentity::in_seconds)));
        assert!(!inputs.are_settled());
        assert!(Inputs { at: SystemTime::now() + 2 * RESOLUTION, ..inputs }.are_settled());
    }
}
