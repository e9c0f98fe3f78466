// SPDX-License-Identifier: GPL-3.0-or-later
//! No line of a source, a script or a page has more than 120 columns: rustfmt leaves comments and strings as they are,
//! and formats Rust alone.

use std::fs;
use std::path::{Path, PathBuf};

/// As `max_width` in rustfmt.toml.
const WIDEST: usize = 120;

/// What is written by hand and has an extension.
const KINDS: [&str; 16] =
    ["rs", "c", "h", "cc", "hh", "scm", "sh", "bash", "zsh", "fish", "mk", "pl", "py", "toml", "md", "in"];

/// Directories of what is compiled or recorded.
const LEFT_OUT: [&str; 4] = [".git", "target", "corpus", "artifacts"];

/// Returns the files below `path` that are written by hand, by their extension, or as scripts by their first line.
fn sources(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap().to_str().unwrap();
    if path.is_dir() {
        if LEFT_OUT.contains(&name) {
            return Vec::new();
        }
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        return entries.flat_map(|path| sources(&path)).collect();
    }
    let is_source = match path.extension() {
        Some(extension) => KINDS.iter().any(|kind| extension == *kind),
        None => name == "Makefile" || fs::read(path).is_ok_and(|text| text.starts_with(b"#!")),
    };
    if is_source { vec![path.to_path_buf()] } else { Vec::new() }
}

/// Returns the numbers of the lines of `text` that are too wide. A row of a table in Markdown cannot be broken.
fn too_wide(file: &Path, text: &str) -> Vec<usize> {
    let is_page = file.extension().is_some_and(|extension| extension == "md");
    let columns = |line: &str| line.chars().map(|char| if char == '\t' { 8 } else { 1 }).sum::<usize>();
    let wide = text.lines().enumerate().filter(|(_, line)| columns(line) > WIDEST);
    wide.filter(|(_, line)| !(is_page && line.starts_with('|'))).map(|(at, _)| at + 1).collect()
}

#[test]
fn no_line_is_wider_than_120_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = sources(root);
    for one in ["Makefile", "Cargo.toml", "README.md", "tests/lab/lab", "tests/lab/wire.pl", "c-tests/arguments.py"] {
        assert!(files.contains(&root.join(one)), "{one} is not looked at");
    }
    assert!(files.len() > 300, "{} files are not all", files.len());
    let wide = files.iter().flat_map(|file| {
        let lines = too_wide(file, &fs::read_to_string(file).unwrap());
        lines.into_iter().map(move |line| format!("{}:{line}", file.strip_prefix(root).unwrap().display()))
    });
    let wide: Vec<String> = wide.collect();
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

#[test]
fn a_wide_line_is_found() {
    let widest = "\u{e9}".repeat(WIDEST);
    let text = format!("{widest}\n{widest}x\n| {widest} |\n\t{}\n", "x".repeat(WIDEST - 7));
    assert_eq!(too_wide(Path::new("a.scm"), &text), [2, 3, 4]);
    assert_eq!(too_wide(Path::new("a.md"), &text), [2, 4]);
}
