// SPDX-License-Identifier: GPL-3.0-or-later
//! `docs/limits.md` lists every limit of the code. It is generated: `UPDATE_LIMITS=1 cargo test --test limits`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const HEAD: &str = "# Limits\n\nEvery limit of the code, as its documentation there says it. This file is generated: \
                    `UPDATE_LIMITS=1 cargo test\n--test limits`.\n\n";

/// What a constant limits.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Time,
    Size,
}

struct Limit {
    kind: Kind,
    name: String,
    value: String,
    file: String,
    what: String,
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let files = entries.into_iter().flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("tests.rs")
}

/// What may stand before a constant.
const VISIBILITIES: [&str; 4] = ["", "pub ", "pub(crate) ", "pub(super) "];

/// The constants of `source` that are times, or whose documentation gives their unit.
fn limits(file: &str, source: &str) -> Vec<Limit> {
    let (mut found, mut documentation) = (Vec::new(), String::new());
    for line in source.lines().map(str::trim).take_while(|line| !line.starts_with("#[cfg(test)]")) {
        if let Some(text) = line.strip_prefix("///") {
            documentation.push_str(text);
            continue;
        }
        let what = std::mem::take(&mut documentation).trim().to_string();
        let declared = line.split_once("const ").filter(|(before, _)| VISIBILITIES.contains(before));
        let Some((_, constant)) = declared else { continue };
        let Some((name, rest)) = constant.split_once(": ") else { continue };
        let Some((kind, value)) = rest.strip_suffix(';').and_then(|rest| rest.split_once(" = ")) else { continue };
        let says = |words: &[&str]| words.iter().any(|word| what.contains(word));
        let kind = match kind {
            "Duration" => Kind::Time,
            "u64" | "u32" | "usize" | "i64" if says(&["in seconds"]) => Kind::Time,
            "u64" | "u32" | "usize" if says(&["in bytes", " bytes.", " bytes ", " bytes,"]) => Kind::Size,
            _ => continue,
        };
        let value = value.replace("Duration::from_secs", "seconds").replace("Duration::from_millis", "milliseconds");
        found.push(Limit { kind, name: name.to_string(), value, file: file.to_string(), what });
    }
    found
}

fn page(limits: &[Limit]) -> String {
    let mut page = HEAD.to_string();
    for (kind, title) in [(Kind::Time, "Time"), (Kind::Size, "Size, in bytes")] {
        write!(page, "## {title}\n\n| where | limit | value | what it is |\n|---|---|---|---|\n").unwrap();
        for Limit { name, value, file, what, .. } in limits.iter().filter(|limit| limit.kind == kind) {
            let what = what.replace('|', "\\|");
            writeln!(page, "| `{file}` | `{name}` | `{value}` | {what} |").unwrap();
        }
        page.push('\n');
    }
    page.trim_end().to_string() + "\n"
}

#[test]
fn the_page_of_limits_is_what_the_code_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = sources(&root.join("src")).into_iter().flat_map(|path| {
        let file = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
        if is_test(&file) { Vec::new() } else { limits(&file, &fs::read_to_string(&path).unwrap()) }
    });
    let limits: Vec<Limit> = files.collect();
    let undocumented = limits.iter().filter(|limit| limit.what.is_empty()).map(|limit| &limit.name);
    let undocumented: Vec<_> = undocumented.collect();
    assert!(undocumented.is_empty(), "not documented: {undocumented:?}");
    let (path, page) = (root.join("docs/limits.md"), page(&limits));
    if std::env::var_os("UPDATE_LIMITS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/limits.md is old: UPDATE_LIMITS=1 cargo test --test limits");
}

#[test]
fn a_limit_is_found_with_its_documentation() {
    let source = [
        "/// How long,\n/// at most.\npub(super) const LONG: Duration = Duration::from_secs(2);\n",
        "/// Largest, in bytes.\nconst LARGE: u64 = 1 << 20;\n/// How many.\nconst MANY: usize = 3;\n",
        "#[cfg(test)]\nconst SHORT: Duration = Duration::ZERO;\n",
    ];
    let source = source.concat();
    let found = limits("src/a.rs", &source);
    let seen: Vec<_> = found.iter().map(|limit| (&*limit.name, &*limit.value, &*limit.what)).collect();
    assert_eq!(seen, [("LONG", "seconds(2)", "How long, at most."), ("LARGE", "1 << 20", "Largest, in bytes.")]);
    assert!(page(&found).contains("| `src/a.rs` | `LARGE` | `1 << 20` | Largest, in bytes. |\n"));
}
