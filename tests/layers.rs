// SPDX-License-Identifier: GPL-3.0-or-later
//! The layers of the library: a file imports from its own layer and from those below it, never from one above. So there
//! is no circle among them either.

#[path = "support/sources.rs"]
mod sources;

use std::fs;
use std::path::Path;

use sources::{rust_files, without_tests};

/// From top to bottom, as in the table of `src/lib.rs`.
const LAYERS: [&str; 12] =
    ["ffi", "doors", "build", "choose", "remote", "ssh", "store", "daemon", "archive", "machine", "report", "ground"];

fn height(layer: &str) -> Option<usize> {
    LAYERS.iter().rev().position(|one| *one == layer)
}

/// Tests may look anywhere.
fn is_test(file: &Path) -> bool {
    file.iter().any(|part| matches!(part.to_str(), Some("tests" | "tests.rs")))
        || file.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_tests.rs"))
}

/// The layers that `source` names, each with its line.
fn imports(source: &str) -> Vec<(usize, String)> {
    let code = without_tests(source).lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    let name = |rest: &str| {
        let end = rest.find(|char: char| !char.is_ascii_lowercase() && char != '_').unwrap_or(rest.len());
        rest[..end].to_string()
    };
    code.flat_map(|(at, line)| {
        let from_root = line.split("crate::").skip(1).map(name);
        // From a file of a layer's folder, this is the root, too. Deeper, it may be a module that is no layer.
        let from_above = line.split("super::super::").skip(1).map(name).filter(|name| height(name).is_some());
        from_root.chain(from_above).map(move |name| (at + 1, name)).collect::<Vec<_>>()
    })
    .collect()
}

/// What `file`, of the layer `layer`, imports from above.
fn upward(layer: &str, file: &Path, source: &str) -> Vec<String> {
    let own = height(layer).unwrap_or_else(|| panic!("{} is in no layer", file.display()));
    let above = imports(source).into_iter().filter(|(_, name)| height(name).is_none_or(|height| height > own));
    above.map(|(line, name)| format!("{}:{line}: {layer} imports {name}", file.display())).collect()
}

#[test]
fn no_file_imports_from_a_floor_above_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in rust_files(&root) {
        let below = file.strip_prefix(&root).unwrap();
        if below == Path::new("lib.rs") || is_test(below) {
            continue;
        }
        let layer = below.iter().next().unwrap().to_str().unwrap();
        found.extend(upward(layer, below, &fs::read_to_string(&file).unwrap()));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_floor_is_a_folder_and_on_the_map() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = fs::read_to_string(root.join("lib.rs")).unwrap();
    for layer in LAYERS {
        assert!(root.join(layer).join("mod.rs").exists(), "{layer}");
        assert!(map.contains(&format!("| [`{layer}`]")), "{layer} is not in the table of src/lib.rs");
        assert!(map.contains(&format!("pub mod {layer};")), "{layer}");
    }
    let rooms = fs::read_dir(&root).unwrap().count();
    assert_eq!(rooms, LAYERS.len() + 1, "there is something else in src/");
}

#[test]
fn an_import_from_above_is_found() {
    let file = Path::new("store/dump.rs");
    assert_eq!(upward("store", file, "use crate::ground::error::Error;\nuse crate::archive::nar;\n"), [""; 0]);
    let source = [
        "// crate::ffi\nfn f() { crate::choose::history::now() }\n#[cfg(test)]\nfn of_a_test() {}\n",
        "use super::super::doors;\nuse super::super::entry;\n#[cfg(test)]\nmod tests {\n use crate::ffi;\n}\n",
    ];
    let above = upward("store", file, &source.concat());
    assert_eq!(above, ["store/dump.rs:2: store imports choose", "store/dump.rs:5: store imports doors"]);
    assert_eq!(upward("store", file, "use crate::nowhere;").len(), 1);
}
