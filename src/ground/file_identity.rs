// SPDX-License-Identifier: GPL-3.0-or-later
//! Detection of changed files.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Time after a change of a file in which another change may go unnoticed: some readers know times in whole seconds
/// only.
const CHANGE_TIME_RESOLUTION: Duration = Duration::from_secs(2);

const SECOND: i128 = 1_000_000_000;

/// The identity of one state of a file, found without reading the file. A file that is changed or replaced, or gets
/// another mode or owner, gets another identity. The modification time is not part of it, as that can be set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device and inode, size in bytes.
    numbers: [u64; 3],
    /// Time of the last change, of the content or of the inode, in nanoseconds since the epoch.
    changed: i128,
}

impl FileIdentity {
    /// Returns the identity of the file at `path`, or of the file that it links to; `None` if there is none, or it
    /// cannot be seen.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::from(&metadata))
    }

    /// Returns the identity that was seen with a time in whole seconds.
    pub fn seen(numbers: [u64; 3], seconds: i64) -> Self {
        FileIdentity { numbers, changed: i128::from(seconds) * SECOND }
    }

    /// Returns this identity with its time in whole seconds.
    pub fn in_seconds(self) -> Self {
        FileIdentity { changed: self.changed.div_euclid(SECOND) * SECOND, ..self }
    }

    /// Returns whether the last change is so near to `now`, or after it, that another one may go unnoticed.
    pub fn is_recent_at(&self, now: SystemTime) -> bool {
        let changed = Duration::from_nanos(self.changed.clamp(0, i128::from(u64::MAX)) as u64);
        SystemTime::UNIX_EPOCH + changed + CHANGE_TIME_RESOLUTION > now
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        let changed = i128::from(metadata.ctime()) * SECOND + i128::from(metadata.ctime_nsec());
        FileIdentity { numbers: [metadata.dev(), metadata.ino(), metadata.size()], changed }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn every_change_of_a_file_changes_its_identity() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("acl");
        let mut seen = vec![FileIdentity::of(&file)];
        assert_eq!(seen[0], None);
        let mut differs = |what: &str| {
            // On some file systems, times move only with the clock's ticks.
            std::thread::sleep(Duration::from_millis(20));
            let now = FileIdentity::of(&file);
            assert!(now.is_some() && now == FileIdentity::of(&file) && !seen.contains(&now), "{what}");
            seen.push(now);
        };
        fs::write(&file, "(acl)").unwrap();
        differs("it has come");
        fs::write(&file, "(ACL)").unwrap();
        differs("other contents of the same length");
        fs::copy(&file, directory.path().join("new")).unwrap();
        fs::rename(directory.path().join("new"), &file).unwrap();
        differs("another file has its place");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        differs("another mode");
        let times = fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
        differs("its time was set back");
        let link = directory.path().join("link");
        symlink(&file, &link).unwrap();
        assert_eq!(FileIdentity::of(&link), FileIdentity::of(&file));
    }

    #[test]
    fn a_change_of_this_moment_is_recent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = FileIdentity::of(file.path()).unwrap();
        assert!(identity.is_recent_at(SystemTime::now()) && identity.in_seconds().is_recent_at(SystemTime::now()));
        assert!(!identity.is_recent_at(SystemTime::now() + 2 * CHANGE_TIME_RESOLUTION));
        let seconds = i64::try_from(identity.changed / SECOND).unwrap();
        assert_eq!(FileIdentity::seen(identity.numbers, seconds), identity.in_seconds());
    }
}
