// SPDX-License-Identifier: GPL-3.0-or-later
//! No line of code has more than 120 columns: rustfmt leaves comments and strings as they are.

use std::fs;
use std::path::{Path, PathBuf};

/// As `max_width` in rustfmt.toml.
const WIDEST: usize = 120;

const ROOMS: [&str; 9] =
    ["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets", "include", "c-tests", "bindings", "build.rs"];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        return entries.flat_map(|path| sources(&path)).collect();
    }
    let is_source = |extension: &std::ffi::OsStr| ["rs", "c", "h", "cc", "hh"].iter().any(|one| extension == *one);
    if path.extension().is_some_and(is_source) { vec![path.to_path_buf()] } else { Vec::new() }
}

fn too_wide(text: &str) -> Vec<usize> {
    let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDEST);
    wide.map(|(at, _)| at + 1).collect()
}

#[test]
fn no_line_is_wider_than_120_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<PathBuf> = ROOMS.iter().flat_map(|room| sources(&root.join(room))).collect();
    assert!(files.len() > 200, "{} files are not all", files.len());
    let wide = files.iter().flat_map(|file| {
        let lines = too_wide(&fs::read_to_string(file).unwrap());
        lines.into_iter().map(move |line| format!("{}:{line}", file.strip_prefix(root).unwrap().display()))
    });
    let wide: Vec<String> = wide.collect();
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

#[test]
fn a_wide_line_is_found() {
    let widest = "\u{e9}".repeat(WIDEST);
    assert_eq!(too_wide(&format!("{widest}\n{widest}x\n")), [2]);
}
