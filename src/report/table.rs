// SPDX-License-Identifier: GPL-3.0-or-later
//! Tables for people, and the sizes in them.

use std::fmt::Write;

/// Returns `rows` as lines, with columns that are as wide as their widest cell.
pub fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            write!(line, "{cell:width$}  ").unwrap_or_default();
        }
        writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    }
    text
}

/// Returns a number of bytes with a unit, as Guix prints it.
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.2} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let rows = [["a", "\u{e9}\u{e9}\u{e9}", "b"], ["aa", "c", ""]].map(|row| row.map(str::to_string));
        assert_eq!(table(&rows), "a   \u{e9}\u{e9}\u{e9}  b\naa  c\n");
    }
}
