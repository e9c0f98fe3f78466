// SPDX-License-Identifier: GPL-3.0-or-later
//! The system types that Guix knows, to notice a misspelt one. No build ever asks for a misspelt type.

/// The types of Guix 1.5.0 and its development branches, native or not, and of older versions.
const SYSTEMS: [&str; 14] = [
    "x86_64-linux",
    "i686-linux",
    "armhf-linux",
    "aarch64-linux",
    "powerpc64le-linux",
    "powerpc64-linux",
    "powerpc-linux",
    "riscv64-linux",
    "loongarch64-linux",
    "mips64el-linux",
    "mips64-linux",
    "i586-gnu",
    "i686-gnu",
    "x86_64-gnu",
];

/// Returns whether Guix knows `system`.
pub(super) fn is_known(system: &str) -> bool {
    SYSTEMS.contains(&system)
}

/// Returns the known type that `system` is most like, if it is like any.
pub(super) fn nearest(system: &str) -> Option<&'static str> {
    let near = SYSTEMS.iter().map(|known| (distance(system, known), *known)).min();
    near.filter(|(distance, _)| *distance <= 3).map(|(_, known)| known)
}

/// Returns how many characters have to be changed, added or left out to turn `one` into `other`.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, char) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, expected) in other.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(char != *expected)).min(above.min(row[j]) + 1);
            diagonal = above;
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_system_is_recognised() {
        assert!(is_known("x86_64-linux") && !is_known("x86_64_linux"));
        for (misspelt, meant) in
            [("x86_64_linux", "x86_64-linux"), ("x86-64-linux", "x86_64-linux"), ("i686_linux", "i686-linux")]
        {
            let found = nearest(misspelt);
            assert!(found == Some(meant), "{misspelt}: {found:?}");
        }
        assert_eq!(nearest(""), None);
        assert_eq!(nearest(&"x".repeat(1000)), None);
    }
}
