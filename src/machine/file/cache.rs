// SPDX-License-Identifier: GPL-3.0-or-later
//! Guile's results for machine files, kept for later hooks. Each hook is a new process, and starting Guile takes longer
//! than all else that a hook does for a build that it declines.
//!
//! `STATE/offload/.machines/HASH`, where HASH is the hash of the machine file's name, begins with a line
//!
//! ```text
//! guix-offload-machines KEY MILLISECONDS        ; when it was evaluated, since the epoch
//! ```
//!
//! The output of the child follows, which includes the files that the result depends on. KEY is the SHA-256 of all that
//! is known before: text and identity of the file, the evaluating program, the library's version, the interpreters, the
//! environment, the working directory. A file is read only if this user owns it and nobody else may write it. Failures
//! are never kept.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::ground::gcrypt;
use crate::ground::state_dir::StateDir;
use crate::ground::store_path::base16;

/// Longest output of Guile that is kept, in bytes.
const MAX_SIZE: usize = 1 << 20;

const MAGIC: &str = "guix-offload-machines";

/// The file in which the result of one machine file is kept.
pub(super) struct CacheEntry {
    directory: StateDir,
    name: String,
    key: String,
}

impl CacheEntry {
    /// Returns the entry of the machine file `file`. `state` is where offloading keeps its state (`STATE/offload`);
    /// `facts` are all that is known before the evaluation. `None`: they cannot be hashed.
    pub fn new(state: &Path, file: &str, facts: &[&[u8]]) -> Option<Self> {
        let lengths: Vec<u8> = facts.iter().flat_map(|fact| fact.len().to_le_bytes()).collect();
        let key = hash(&[&lengths[..], &facts.concat()].concat())?;
        let name = hash(file.as_bytes())?[..32].to_string();
        Some(CacheEntry { directory: StateDir::named(state, ".machines"), name, key })
    }

    /// Returns when the file was evaluated, and what the child printed.
    pub fn read(&self) -> Option<(SystemTime, Vec<u8>)> {
        let file = self.directory.open().ok()?.open(&self.name, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let metadata = file.metadata().ok()?;
        let is_ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
        if !is_ours || !metadata.is_file() {
            return None;
        }
        let mut content = Vec::new();
        file.take(2 * MAX_SIZE as u64).read_to_end(&mut content).ok()?;
        let end = content.iter().position(|byte| *byte == b'\n')?;
        let header = std::str::from_utf8(&content[..end]).ok()?.strip_prefix(MAGIC)?;
        let at = header.strip_prefix(' ')?.strip_prefix(&*self.key)?.strip_prefix(' ')?.parse().ok()?;
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(at))?;
        Some((at, content.split_off(end + 1)))
    }

    /// Keeps `output`. A failure to write it is no error.
    pub fn write(&self, at: SystemTime, output: &[u8]) {
        let Ok(at) = at.duration_since(UNIX_EPOCH) else { return };
        if output.len() <= MAX_SIZE {
            let header = format!("{MAGIC} {} {}\n", self.key, at.as_millis());
            let content = [header.as_bytes(), output].concat();
            let _ = self.directory.create().and_then(|()| self.directory.open()?.replace(&self.name, &content));
        }
    }
}

fn hash(bytes: &[u8]) -> Option<String> {
    Some(base16(&gcrypt::sha256(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn what_is_kept_is_private_and_ours() {
        let scratch = tempfile::tempdir().unwrap();
        let state = scratch.path().join("offload");
        let entry = CacheEntry::new(&state, "m.scm", &[b"text"]).unwrap();
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert!(entry.read().is_none());
        entry.write(now, b"(end 0)\n");
        assert_eq!(entry.read(), Some((now, b"(end 0)\n".to_vec())));
        entry.write(now, b"(end 1)\n");
        assert_eq!(entry.read(), Some((now, b"(end 1)\n".to_vec())));
        assert_eq!(fs::read_dir(state.join(".machines")).unwrap().count(), 1);

        let file = state.join(".machines").join(&entry.name);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        // The test runs as root.
        chown(&file, Some(65534), None).unwrap();
        assert!(entry.read().is_none(), "somebody else's");
        chown(&file, Some(0), None).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o620)).unwrap();
        assert!(entry.read().is_none(), "somebody else may have written it");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert!(entry.read().is_some());
        fs::rename(&file, scratch.path().join("kept")).unwrap();
        symlink(scratch.path().join("kept"), &file).unwrap();
        assert!(entry.read().is_none(), "a link");
    }

    #[test]
    fn every_fact_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let entry = |facts: &[&[u8]]| CacheEntry::new(scratch.path(), "m.scm", facts).unwrap();
        entry(&[b"a", b"b"]).write(SystemTime::now(), b"");
        assert!(entry(&[b"a", b"b"]).read().is_some());
        for facts in [&[&b"a"[..], b"c"][..], &[b"ab", b""], &[b"a", b"b", b""], &[]] {
            assert!(entry(facts).read().is_none(), "{facts:?}");
        }
    }

    #[test]
    fn what_is_too_long_or_damaged_is_not_read() {
        let scratch = tempfile::tempdir().unwrap();
        let entry = CacheEntry::new(scratch.path(), "m.scm", &[b"text"]).unwrap();
        entry.write(SystemTime::now(), &vec![b' '; MAX_SIZE + 1]);
        assert!(entry.read().is_none());
        entry.write(SystemTime::now(), b"(end 0)\n");
        let file = scratch.path().join(".machines").join(&entry.name);
        let content = fs::read(&file).unwrap();
        for damaged in [&b""[..], b"\n", b"guix-offload-machines", &content[..30], &content[1..]] {
            fs::write(&file, damaged).unwrap();
            assert!(entry.read().is_none());
        }
    }
}
