// SPDX-License-Identifier: GPL-3.0-or-later
//! `docs/limits.md` lists every limit of the code. It is generated: `UPDATE_LIMITS=1 cargo test --test limits`.

#[path = "support/sources.rs"]
mod sources;

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use sources::{rust_files, without_tests};

const HEAD: &str = "# Limits\n\nEvery limit of the code, as its documentation there says it. This file is generated: \
                    `UPDATE_LIMITS=1 cargo test\n--test limits`.\n\n";

/// What a constant limits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Time,
    Size,
    Number,
}

#[derive(Debug)]
struct Limit {
    kind: Kind,
    name: String,
    value: String,
    file: String,
    what: String,
}

/// What was found in a source: its limits, and what looks like one but is none.
#[derive(Default)]
struct Found {
    limits: Vec<Limit>,
    stray: Vec<String>,
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("tests.rs") || file.ends_with("/double.rs")
}

/// What may stand before a constant or a field.
const VISIBILITIES: [&str; 4] = ["pub ", "pub(crate) ", "pub(super) ", ""];

fn bare(line: &str) -> &str {
    VISIBILITIES.iter().find_map(|visibility| line.strip_prefix(visibility)).unwrap_or(line)
}

/// Returns what a value of this type with this documentation limits.
fn kind(of: &str, what: &str) -> Option<Kind> {
    let says = |words: &[&str]| words.iter().any(|word| what.contains(word));
    let begins = |words: &[&str]| words.iter().any(|word| what.starts_with(word));
    let is_integer = ["u8", "u16", "u32", "u64", "usize", "i32", "i64"].contains(&of);
    if of.contains("Duration") || (is_integer || of == "f64") && says(&["in seconds"]) {
        return Some(Kind::Time);
    }
    if is_integer && begins(&["Time limit "]) {
        return Some(Kind::Time); // a multiple of another one
    }
    if is_integer && says(&["in bytes", " bytes.", " bytes ", " bytes,"]) {
        return Some(Kind::Size);
    }
    (is_integer && begins(&["Most ", "Highest ", "Deepest ", "Longest ", "Largest ", "Fewest "]))
        .then_some(Kind::Number)
}

/// Returns whether a constant is a limit by its looks, so that its documentation must say of what.
fn looks_like_a_limit(name: &str, of: &str, value: &str) -> bool {
    let is_number = ["u8", "u16", "u32", "u64", "usize", "i32", "i64"].contains(&of);
    let is_named_so = name.starts_with("MAX_") || name.starts_with("MOST_") || name.ends_with("_LIMIT");
    is_number && (is_named_so || value.contains("<< 1") || value.contains("<< 2") || value.contains("1024"))
}

/// Returns whether `code` has a time in it, as a number.
fn has_a_time(code: &str) -> bool {
    let units = ["from_secs(", "from_secs_f64(", "from_millis(", "from_micros(", "from_mins("];
    let after =
        |unit: &&str| code.split(*unit).skip(1).any(|rest| rest.starts_with(|char: char| char.is_ascii_digit()));
    units.iter().any(after)
}

/// The constants of `source` that limit something, and the fields of its constant structs.
fn limits(file: &str, source: &str) -> Found {
    let mut found = Found::default();
    // By struct and field: type and documentation.
    let mut fields: HashMap<(String, String), (String, String)> = HashMap::new();
    let (mut documentation, mut inside) = (String::new(), None);
    let mut lines = without_tests(source).lines().map(str::trim);
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("///") {
            documentation.push_str(text);
            continue;
        }
        let what = std::mem::take(&mut documentation).trim().to_string();
        if let Some(name) = bare(line).strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {")) {
            inside = Some(name.to_string());
        } else if line.starts_with('}') {
            inside = None;
        } else if let (Some(name), Some((field, of))) = (&inside, bare(line).split_once(": ")) {
            let of = of.trim_end_matches(',').to_string();
            fields.insert((name.clone(), field.to_string()), (of, what.clone()));
        }
        let Some(declared) = bare(line).strip_prefix("const ").filter(|rest| !rest.starts_with("fn ")) else {
            if has_a_time(line.split("//").next().unwrap()) {
                found.stray.push(format!("{file}: {line}"));
            }
            continue;
        };
        let mut constant = declared.to_string();
        while !constant.ends_with(';') && !constant.contains("; //") {
            constant = constant + " " + lines.next().expect("a constant ends");
        }
        let constant = constant.split("; //").next().unwrap().trim_end_matches(';');
        let Some((name, (of, value))) =
            constant.split_once(": ").and_then(|(name, rest)| Some((name, rest.split_once(" = ")?)))
        else {
            continue;
        };
        let mut add = |name: &str, of: &str, value: &str, what: &str| match kind(of, what) {
            Some(kind) => {
                let value = value.replace("Duration::from_", "").replace("secs(", "seconds(");
                let value = value.replace("millis(", "milliseconds(").replace("micros(", "microseconds(");
                let (name, what) = (name.to_string(), what.to_string());
                found.limits.push(Limit { kind, name, value, file: file.to_string(), what });
            }
            None if looks_like_a_limit(name, of, value) => found.stray.push(format!("{file}: {name}: {what}")),
            None => {}
        };
        let parts = value.strip_prefix(of).and_then(|rest| rest.trim().strip_prefix('{')?.strip_suffix('}'));
        let Some(parts) = parts else {
            add(name, of, value.trim(), &what);
            continue;
        };
        for (field, value) in parts.split(',').filter_map(|part| part.trim().split_once(": ")) {
            if let Some((of_field, what)) = fields.get(&(of.to_string(), field.to_string())) {
                add(&format!("{of}::{field}"), of_field, value, what);
            }
        }
    }
    found
}

fn page(limits: &[Limit]) -> String {
    let mut page = HEAD.to_string();
    for (kind, title) in [(Kind::Time, "Time"), (Kind::Size, "Size, in bytes"), (Kind::Number, "Number")] {
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
    let mut found = Found::default();
    for path in rust_files(&root.join("src")) {
        let file = path.strip_prefix(root).unwrap().to_str().unwrap();
        if !is_test(file) {
            let Found { limits, stray } = limits(file, &fs::read_to_string(&path).unwrap());
            found.limits.extend(limits);
            found.stray.extend(stray);
        }
    }
    let stray = found.stray.join("\n");
    assert!(stray.is_empty(), "a time is a constant, and a limit's documentation says `in bytes` or `Most`:\n{stray}");
    let undocumented = found.limits.iter().filter(|limit| limit.what.is_empty()).map(|limit| &limit.name);
    let undocumented: Vec<_> = undocumented.collect();
    assert!(undocumented.is_empty(), "not documented: {undocumented:?}");
    let (path, page) = (root.join("docs/limits.md"), page(&found.limits));
    if std::env::var_os("UPDATE_LIMITS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/limits.md is old: UPDATE_LIMITS=1 cargo test --test limits");
}

fn seen(found: &Found) -> Vec<(&str, &str, &str)> {
    found.limits.iter().map(|limit| (&*limit.name, &*limit.value, &*limit.what)).collect()
}

#[test]
fn a_limit_is_found_with_its_documentation() {
    let source = [
        "/// How long,\n/// at most.\npub(super) const LONG: Duration = Duration::from_secs(2);\n",
        "/// Largest, in bytes.\nconst LARGE: u64 = 1 << 20;\n/// Most of them.\nconst MANY: usize = 3; // or four\n",
        "#[cfg(test)]\nfn only_in_tests() {}\n/// Pauses.\nconst PAUSES: [Duration; 2] =\n    \
         [Duration::from_millis(1), Duration::from_secs(1)];\n/// A word.\nconst WORD: u32 = 3;\n",
        "#[cfg(test)]\nmod tests {\nconst SHORT: Duration = Duration::from_secs(1);\n}\n",
    ];
    let found = limits("src/a.rs", &source.concat());
    let expected = [
        ("LONG", "seconds(2)", "How long, at most."),
        ("LARGE", "1 << 20", "Largest, in bytes."),
        ("MANY", "3", "Most of them."),
        ("PAUSES", "[milliseconds(1), seconds(1)]", "Pauses."),
    ];
    assert_eq!(seen(&found), expected);
    assert!(found.stray.is_empty(), "{:?}", found.stray);
    assert!(page(&found.limits).contains("| `src/a.rs` | `LARGE` | `1 << 20` | Largest, in bytes. |\n"));
}

#[test]
fn the_fields_of_a_constant_struct_are_limits() {
    let source = [
        "pub struct Limits {\n/// For each step.\npub step: Duration,\n/// Rate, in bytes a second.\nrate: u64,\n",
        "/// A flag.\nflag: bool,\n}\nimpl Limits {\n/// The limits.\npub const DEFAULT: Limits = Limits {\n",
        "step: Duration::from_secs(15),\nrate: 5 << 20,\nflag: true,\n};\n}\n",
    ];
    let found = limits("src/a.rs", &source.concat());
    let expected =
        [("Limits::step", "seconds(15)", "For each step."), ("Limits::rate", "5 << 20", "Rate, in bytes a second.")];
    assert_eq!(seen(&found), expected);
    assert!(found.stray.is_empty());
}

#[test]
fn what_looks_like_a_limit_is_not_passed_over() {
    for (source, stray) in [
        ("fn a() {\n    sleep(Duration::from_secs(3));\n}\n", "src/a.rs: sleep(Duration::from_secs(3));"),
        ("/// How much.\nconst WINDOW: usize = 8 << 20;\n", "src/a.rs: WINDOW: How much."),
        ("const MAX_DEPTH: u32 = 5;\n", "src/a.rs: MAX_DEPTH: "),
    ] {
        assert_eq!(limits("src/a.rs", source).stray, [stray]);
    }
}
