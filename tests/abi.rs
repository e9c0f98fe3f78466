// SPDX-License-Identifier: GPL-3.0-or-later
//! `c-tests/abi-N.txt` describes the ABI with the number N. What it lists stays as long as the number does: a removal
//! or a change breaks programs, and needs the next number. `UPDATE_ABI=1 cargo test --test abi` adds what is new, or
//! writes the description of a new number.

#[path = "support/declarations.rs"]
mod declarations;

use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares what is `declared` with what is `described` of the ABI `number`. Returns what must be done, if anything.
fn verdict(number: u32, declared: &[String], described: &[String]) -> Result<(), String> {
    let without = |ones: &[String], others: &[String]| -> Vec<String> {
        ones.iter().filter(|line| !others.contains(line)).map(|line| format!("  {line}\n")).collect()
    };
    let (gone, new) = (without(described, declared), without(declared, described));
    if !gone.is_empty() {
        return Err(format!(
            "ABI {number} has these, and now they are gone or different:\n{}they must come back; else \
             GUIX_OFFLOAD_ABI_VERSION in src/ffi/version.rs must be {}, which UPDATE_ABI=1 writes a description of",
            gone.concat(),
            number + 1
        ));
    }
    if new.is_empty() {
        return Ok(());
    }
    Err(format!("c-tests/abi-{number}.txt lacks these, which UPDATE_ABI=1 adds:\n{}", new.concat()))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_string).collect()
}

#[test]
fn the_abi_is_what_its_description_says() {
    let header = read("include/guix-offload.h");
    let version = header.split("#define GUIX_OFFLOAD_ABI_VERSION ").nth(1).and_then(|rest| rest.lines().next());
    let number: u32 = version.unwrap().parse().unwrap();
    let name = format!("c-tests/abi-{number}.txt");
    let declared = declarations::description(&header);
    assert!(declared.len() > 150, "{declared:#?}");
    let described = std::fs::read_to_string(file(&name)).map(|text| lines(&text)).unwrap_or_default();
    if std::env::var_os("UPDATE_ABI").is_some() && described.iter().all(|line| declared.contains(line)) {
        std::fs::write(file(&name), declared.join("\n") + "\n").unwrap();
        return;
    }
    verdict(number, &declared, &described).unwrap_or_else(|complaint| panic!("{complaint}"));
}

#[test]
fn the_number_is_said_in_one_place() {
    let source = read("src/ffi/version.rs");
    let number = source.split("GUIX_OFFLOAD_ABI_VERSION: u32 = ").nth(1).unwrap().split(';').next().unwrap();
    // Guile's binding says what it was written for, and refuses any other.
    assert!(read("bindings/guile/guix-offload/foreign.scm").contains(&format!("(define %abi-version {number})")));
    for name in ["build.rs", "Makefile", "install.mk", "c-tests/Makefile", "c-tests/installed.sh", "debian/rules"] {
        assert!(!read(name).contains(&format!("libguix_offload.so.{number}")), "{name} says which ABI this is, too");
    }
    // A Debian package has it in its name.
    assert!(read("debian/control").contains(&format!("\nPackage: libguix-offload{number}\n")));
}

#[test]
fn a_removal_and_a_change_need_the_next_number() {
    let of = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| text.to_string()).collect() };
    let described = of(&["int guix_offload_a(void)", "int guix_offload_b(int32_t)"]);
    assert_eq!(verdict(7, &described, &described), Ok(()));
    let removed = verdict(7, &described[..1], &described).unwrap_err();
    let changed =
        verdict(7, &of(&["int guix_offload_a(void)", "int guix_offload_b(int64_t)"]), &described).unwrap_err();
    for complaint in [&removed, &changed] {
        assert!(
            complaint.contains("  int guix_offload_b(int32_t)\n") && complaint.contains("must be 8"),
            "{complaint}"
        );
    }
    let added = of(&["int guix_offload_a(void)", "int guix_offload_b(int32_t)", "int guix_offload_c(void)"]);
    let complaint = verdict(7, &added, &described).unwrap_err();
    assert!(complaint.contains("  int guix_offload_c(void)\n") && !complaint.contains("must be"), "{complaint}");
}

#[test]
fn a_description_has_types_and_no_names() {
    let header = "extern \"C\" {\n\n/* Things */\n\n/**\n * A thing.\n */\ntypedef struct guix_offload_thing \
                  guix_offload_thing;\n\n/**\n * Kinds.\n */\ntypedef enum {\n    /**\n     * One.\n     */\n    \
                  GUIX_OFFLOAD_ONE = -1,\n} guix_offload_kind;\n\n/**\n * Called.\n */\ntypedef int \
                  (*guix_offload_call)(void *data, size_t n);\n\n/**\n * Makes.\n */\nconst char \
                  *guix_offload_make(guix_offload_thing **made,\n                  uint32_t n);\n";
    let expected = [
        "const char * guix_offload_make(guix_offload_thing **, uint32_t)",
        "guix_offload_kind: GUIX_OFFLOAD_ONE = -1",
        "int (*guix_offload_call)(void *, size_t)",
        "struct guix_offload_thing guix_offload_thing",
    ];
    assert_eq!(declarations::description(header), expected);
}
