// SPDX-License-Identifier: GPL-3.0-or-later
//! What the value of a machine file depends on, and whether that has changed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::statfs;

use crate::ground::file_identity::FileIdentity;

/// How long the result of a machine file is used if none of its inputs changes.
const LIFETIME: Duration = Duration::from_secs(600);
/// How long the result of a machine file is used if it may depend on unknown inputs.
const VOLATILE_LIFETIME: Duration = Duration::from_secs(5);

/// Kinds of file systems (`f_type` of statfs(2)) on which a change of a file always shows in its times: ext2 to ext4,
/// XFS, Btrfs, tmpfs, ramfs, overlayfs, ZFS, F2FS, bcachefs.
const HONEST: [u32; 9] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x8584_58f6, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];

/// Everything that the value of a machine file depended on when it was evaluated.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The machine file itself, as it was; `None`: it was not there.
    pub(super) file: (PathBuf, Option<FileIdentity>),
    /// The files that it reads or asks for, as they were, with times in whole seconds.
    pub(super) files: Vec<(PathBuf, Option<FileIdentity>)>,
    /// Whether it may depend on other, unknown things.
    pub(super) volatile: bool,
    /// When it was evaluated.
    pub(super) at: SystemTime,
}

impl Inputs {
    /// Returns the inputs of a machine file that depends on nothing but itself and had this identity; `None`: the file
    /// does not exist.
    pub fn of_file(path: &Path, identity: Option<FileIdentity>) -> Self {
        Inputs { file: (path.into(), identity), files: Vec::new(), volatile: false, at: SystemTime::now() }
    }

    /// Returns whether the file would have the same value now. If it depends on unknown things, that is assumed for 5
    /// seconds, else for ten minutes.
    pub fn are_current(&self) -> bool {
        let elsewhere = |(path, _): &(PathBuf, Option<FileIdentity>)| path.exists() && !is_honest(path);
        let volatile = self.volatile || self.files.iter().any(elsewhere);
        let lifetime = if volatile { VOLATILE_LIFETIME } else { LIFETIME };
        // If the clock was set back, the result counts as old.
        self.at.elapsed().is_ok_and(|age| age < lifetime)
            && FileIdentity::of(&self.file.0) == self.file.1
            && self.files.iter().all(|(path, seen)| FileIdentity::of(path).map(FileIdentity::in_seconds) == *seen)
    }

    /// Returns whether all files that the machine file reads are old enough that no further change of them goes
    /// unnoticed.
    pub(super) fn are_settled(&self) -> bool {
        self.files.iter().filter_map(|(_, identity)| *identity).all(|identity| !identity.is_recent_at(self.at))
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

        // The content of a file in /proc changes without a sign.
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
        assert!(Inputs { at: SystemTime::now() + Duration::from_secs(4), ..inputs }.are_settled());
    }
}
