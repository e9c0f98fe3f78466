// SPDX-License-Identifier: GPL-3.0-or-later
//! The sources of the library, for tests of how they are written.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the files of Rust below `directory`, sorted.
pub fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let files = entries.into_iter().flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Returns `source` without its module of tests, which comes last.
pub fn without_tests(source: &str) -> &str {
    let marks = source.match_indices("#[cfg(test)]\n").map(|(at, mark)| (at, &source[at + mark.len()..]));
    let is_module = |rest: &str| rest.starts_with("#[path") || rest.split('\n').next().unwrap().contains("mod ");
    let end = marks.filter(|(_, rest)| is_module(rest)).map(|(at, _)| at).next();
    &source[..end.unwrap_or(source.len())]
}
