// SPDX-License-Identifier: GPL-3.0-or-later
//! What others wrote that comes into the library, or that it is built and tested with: known, free in a way that goes
//! with the GPL, and each direct dependency with its reason.
//!
//! `UPDATE_DEPENDENCIES=1 cargo test --test dependencies` writes the list anew. Before it is committed, look for what
//! is new in it in the RustSec database (`cargo audit`).

use std::path::Path;
use std::process::Command;

const LIST: &str = "tests/dependencies.txt";

/// Licences that a work under GPL 3 may be combined with, in the words of SPDX.
const COMPATIBLE: [&str; 10] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "GPL-3.0-or-later",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Name, version and licence of all crates, sorted.
fn tree(edges: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--target=x86_64-unknown-linux-gnu", "--prefix=none"])
        .args([
            "--edges",
            edges,
            "--format={p}|{l}",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(describe).collect();
    lines.sort();
    lines.dedup();
    lines.retain(|line| !line.starts_with("guix-offload "));
    lines
}

/// `NAME VERSION: LICENCE` of `NAME vVERSION [(...)]|LICENCE [(*)]`.
fn describe(line: &str) -> String {
    let (package, licence) = line.trim_end_matches(" (*)").split_once('|').unwrap_or_else(|| panic!("{line}"));
    let words: Vec<&str> = package.split(' ').collect();
    format!("{} {}: {licence}", words[0], words[1].trim_start_matches('v'))
}

/// Can one choose licences that go with the GPL? Of `A OR B` one suffices, of `A AND B` both must; where there are
/// brackets, all that is between two `AND` counts as one choice.
fn is_compatible(licence: &str) -> bool {
    let bare = |part: &str| part.trim_matches([' ', '(', ')']).split(" WITH ").next().unwrap_or_default().to_string();
    let one = |part: &str| COMPATIBLE.contains(&bare(part).as_str());
    let licence = licence.replace('/', " OR ");
    if licence.contains('(') {
        return licence.split(" AND ").all(|choices| choices.split(" OR ").any(one));
    }
    licence.split(" OR ").any(|all| all.split(" AND ").all(one))
}

#[test]
fn licences_are_understood() {
    for licence in ["MIT", "Apache-2.0 / MIT", "MIT/Apache-2.0", "Apache-2.0 WITH LLVM-exception", "X OR (MIT AND ISC)"]
    {
        assert!(is_compatible(licence), "{licence}");
    }
    for licence in ["", "GPL-2.0-only", "MIT AND OpenSSL", "(MIT OR Apache-2.0) AND CDDL-1.0", "BUSL-1.1"] {
        assert!(!is_compatible(licence), "{licence}");
    }
}

#[test]
fn all_dependencies_are_known_and_may_be_used() {
    let library = tree("normal,build");
    let all = tree("normal,build,dev");
    for line in &all {
        assert!(is_compatible(line.split_once(": ").unwrap().1), "{line} does not go with the GPL");
    }
    let marked: Vec<String> =
        all.iter().map(|line| format!("{}{line}\n", if library.contains(line) { "" } else { "(tests) " })).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(LIST);
    if std::env::var_os("UPDATE_DEPENDENCIES").is_some() {
        std::fs::write(&file, marked.concat()).unwrap();
    }
    let known = std::fs::read_to_string(&file).unwrap();
    let new: Vec<&String> = marked.iter().filter(|line| !known.contains(*line)).collect();
    let gone: Vec<&str> = known.lines().filter(|line| !marked.contains(&format!("{line}\n"))).collect();
    assert!(new.is_empty() && gone.is_empty(), "{LIST} lacks {new:?}, and has {gone:?}, which is not used");
}

#[test]
fn each_dependency_has_its_reason() {
    for manifest in [include_str!("../Cargo.toml"), include_str!("../fuzz/Cargo.toml")] {
        let (mut section, mut above) = ("", None);
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]")
                && line.contains('=')
                && !line.starts_with('#')
                && !line.contains("path =")
            {
                let reason = line.split_once("  # ").map(|(_, reason)| reason).or(above);
                assert!(reason.is_some_and(|reason| reason.len() > 10), "no reason for {line}");
            }
            above = line.strip_prefix("# ");
        }
    }
}

/// The three functions that replace libssh2's own are declared as it declares them: no compiler sees both.
#[test]
fn the_cipher_is_declared_as_libssh2_declares_it() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version=1", "--manifest-path", manifest])
        .arg("--filter-platform=x86_64-unknown-linux-gnu")
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata = String::from_utf8(output.stdout).unwrap();
    let end = metadata.find("/libssh2-sys-0.3.4/Cargo.toml").expect("libssh2-sys is a dependency");
    let start = metadata[..end].rfind('"').unwrap() + 1;
    let header = format!("{}/libssh2-sys-0.3.4/libssh2/src/chacha.h", &metadata[start..end]);
    let squeeze =
        |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(").replace(", )", ")");
    let theirs = squeeze(&std::fs::read_to_string(&header).expect(&header));
    let ours = squeeze(include_str!("../src/ssh/chacha20.rs"));
    for (c, rust) in [
        (
            "void chacha_keysetup(struct chacha_ctx *x, const u8 *k, u32 kbits);",
            "fn chacha_keysetup(context: *mut Context, key: *const [u8; 32], _bits: u32)",
        ),
        (
            "void chacha_ivsetup(struct chacha_ctx *x, const u8 *iv, const u8 *counter);",
            "fn chacha_ivsetup(context: *mut Context, nonce: *const [u8; 8], counter: *const [u8; 8])",
        ),
        (
            "void chacha_encrypt_bytes(struct chacha_ctx *x, const u8 *m, u8 *c, size_t bytes);",
            "fn chacha_encrypt_bytes(context: *mut Context, from: *const c_uchar, to: *mut c_uchar, length: usize)",
        ),
    ] {
        assert!(theirs.contains(c), "libssh2 does not declare {c}");
        assert!(ours.contains(rust), "src/ssh/chacha20.rs does not declare {rust}");
    }
}
