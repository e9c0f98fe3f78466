// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds with options that take more than one request: several rounds, which are compared, or a tree that is kept.

use super::Connection;
use crate::daemon::BuildOptions;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::store_path::StorePath;

/// Longest part of a line of the log that is looked at, in bytes.
const MAX_LINE: usize = 4 << 10;

/// Makes `remote` build `derivation` as [`Connection::build`] does, with all of `outputs`. With rounds, they are all
/// built now: outputs that the machine already has do not count as a round, but the new ones must be the same.
pub fn build_all_rounds(
    remote: &mut dyn Connection,
    derivation: &StorePath,
    outputs: &[StorePath],
    options: &BuildOptions,
    log: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut notes = Notes::default();
    let mut noting = |text: &[u8]| {
        notes.take(text);
        log(text)
    };
    let check = options.repeats() && !outputs.is_empty() && remote.missing(outputs)?.is_empty();
    let mut result = remote.build(derivation, &BuildOptions { check, ..options.clone() }, &mut noting);
    // Other outputs, which nobody asked for, are missing, so the daemon cannot compare.
    if check && result.as_ref().is_err_and(|error| error.to_string().contains("missing outputs")) {
        result = remote.build(derivation, options, &mut noting);
    }
    result.map_err(|error| notes.explain(error, derivation, &remote.machine().name, options))
}

/// Messages of the daemon in the log of a build.
#[derive(Default)]
struct Notes {
    line: Vec<u8>,
    /// The directory where the daemon keeps the tree of the failed build.
    tree: Option<String>,
    /// The line that says that two rounds differ.
    difference: Option<String>,
}

impl Notes {
    fn take(&mut self, text: &[u8]) {
        if !text.contains(&b'\n') {
            return self.keep(text); // without a look at each byte
        }
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            self.keep(piece);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim().to_string();
                if let Some(tree) = line.strip_prefix("note: keeping build directory `") {
                    self.tree = Some(tree.trim_end_matches('\'').to_string());
                } else if line.contains(" differs from ") && line.ends_with("from previous round") {
                    self.difference = Some(line);
                }
            }
        }
    }

    /// Keeps `piece`, a part of the last line, up to the length that is looked at.
    fn keep(&mut self, piece: &[u8]) {
        self.line.extend_from_slice(&piece[..piece.len().min(MAX_LINE.saturating_sub(self.line.len()))]);
    }

    /// Returns `error`, explained by these messages.
    fn explain(self, error: Error, derivation: &StorePath, name: &str, options: &BuildOptions) -> Error {
        let text = error.to_string();
        let against = options.repeats() && text.contains("may not be deterministic");
        let difference = self.difference.filter(|_| error.kind() != ErrorKind::TimedOut).or(against.then_some(text));
        let error = match difference {
            // The fault is the build's: another machine would find a difference, too.
            Some(difference) => {
                let message = format!("build of '{derivation}' on '{name}' is not the same each time: {difference}");
                Error::new(ErrorKind::BuildFailed, message).on_machine(name)
            }
            None => error,
        };
        match self.tree {
            Some(tree) if options.keep_failed => {
                error.hint(format!("the tree of the failed build is on '{name}': {tree}"))
            }
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::store_path::StoreDir;

    fn explained(log: &[&str], error: Error) -> Error {
        let derivation = StoreDir::new("/gnu/store").unwrap();
        let derivation = derivation.parse("/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv").unwrap();
        let options = BuildOptions { rounds: Some(3), keep_failed: true, ..BuildOptions::default() };
        let mut notes = Notes::default();
        log.iter().for_each(|piece| notes.take(piece.as_bytes()));
        notes.explain(error, &derivation, "w1", &options)
    }

    #[test]
    fn rounds_that_differ_are_the_builds_fault() {
        let failed = || Error::new(ErrorKind::Daemon, "build of `x.drv' failed");
        let said = ["output `/gnu/store/x' of `x.drv' dif", "fers from previous round\n"];
        assert_eq!(explained(&said, failed()).kind(), ErrorKind::BuildFailed);
        assert_eq!(explained(&["a differs from b\n"], failed()).kind(), ErrorKind::Daemon);
        let compared = Error::new(ErrorKind::Daemon, "derivation `x.drv' may not be deterministic: output `x' differs");
        assert_eq!(explained(&[], compared).kind(), ErrorKind::BuildFailed);
    }

    #[test]
    fn a_kept_tree_is_told_with_its_machine() {
        let failed = Error::new(ErrorKind::BuildFailed, "it failed");
        let error = explained(&["note: keeping build directory `/tmp/guix-build-x.drv-0'\n"], failed);
        assert_eq!(error.hint_text(), Some("the tree of the failed build is on 'w1': /tmp/guix-build-x.drv-0"));
    }
}
