// SPDX-License-Identifier: GPL-3.0-or-later
//! Warnings that are shown once a day, by the first hook of this host that meets them.
//!
//! `STATE/offload/.told/warnings` has a line `SECONDS HASH` for each warning: when it was shown, in seconds since the
//! epoch, and the SHA-256 of its text. The file is replaced as a whole. If it cannot be read or written, warnings are
//! shown each time.

use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use crate::ground::error::Error;
use crate::ground::gcrypt;
use crate::ground::state_dir::StateDir;
use crate::ground::store_path::base16;

/// How long a warning about the machine file is not shown again, in seconds.
const SILENCE: u64 = 24 * 60 * 60;
/// Most warnings that are remembered.
const MAX_LINES: usize = 1000;
/// Most that is read of the file of warnings that were shown, in bytes: more than the longest one has.
const MAX_SIZE: u64 = 128 << 10;

/// Returns whether `warning` is to be shown now, because it was not shown for a day. If so, records that it is. `state`
/// is the directory of the offloading state (`STATE/offload`).
pub fn is_due(state: &Path, warning: &Error) -> bool {
    let Ok(hash) = gcrypt::sha256(warning.to_string().as_bytes()) else { return true };
    let hash = base16(&hash);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let directory = StateDir::named(state, ".told");
    let mut lines = read(&directory).unwrap_or_default();
    lines.retain(|(told, _)| now.abs_diff(*told) < SILENCE);
    if lines.iter().any(|(_, other)| *other == hash) {
        return false;
    }
    lines.push((now, hash));
    let kept = &lines[lines.len().saturating_sub(MAX_LINES)..];
    let text: String = kept.iter().map(|(told, hash)| format!("{told} {hash}\n")).collect();
    let _ = directory.create().and_then(|()| directory.open()?.replace("warnings", text.as_bytes()));
    true
}

fn read(directory: &StateDir) -> Option<Vec<(u64, String)>> {
    let file = directory.open().ok()?.open("warnings", OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    let mut text = String::new();
    file.take(MAX_SIZE).read_to_string(&mut text).ok()?;
    let line = |line: &str| line.split_once(' ').and_then(|(told, hash)| Some((told.parse().ok()?, hash.to_string())));
    Some(text.lines().filter_map(line).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::ground::error::ErrorKind;

    #[test]
    fn a_warning_is_due_once_a_day() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path().join("offload");
        let [one, other] = ["one", "other"].map(|text| Error::new(ErrorKind::Configuration, text));
        assert!(is_due(&state, &one) && !is_due(&state, &one));
        assert!(is_due(&state, &other) && !is_due(&state, &one) && !is_due(&state, &other));

        let file = state.join(".told/warnings");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        let (first, second) = text.split_once('\n').unwrap();
        let (told, hash) = first.split_once(' ').unwrap();
        let yesterday = told.parse::<u64>().unwrap() - SILENCE;
        std::fs::write(&file, format!("{yesterday} {hash}\n{second}damage\n")).unwrap();
        assert!(is_due(&state, &one) && !is_due(&state, &one) && !is_due(&state, &other));
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_no_reason_for_silence() {
        let scratch = tempfile::tempdir().unwrap();
        let warning = Error::new(ErrorKind::Configuration, "one");
        std::fs::create_dir(scratch.path().join("offload")).unwrap();
        symlink("/tmp", scratch.path().join("offload/.told")).unwrap();
        let state = scratch.path().join("offload");
        assert!(is_due(&state, &warning) && is_due(&state, &warning));
    }
}
