// SPDX-License-Identifier: GPL-3.0-or-later
//! The text of a machine file, and the places in it.

use std::rc::Rc;

use super::value::SourceLocation;

/// A text that knows the places of its bytes.
pub(super) struct Source<'a> {
    file: Rc<str>,
    text: &'a str,
    /// Offset of the first byte of each line.
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    /// Makes the source of `text`, the content of `file`.
    pub fn new(file: Rc<str>, text: &'a str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Source { file, text, line_starts }
    }

    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Returns the offset of the byte that lexpr says is at `line` and `column`: both count from 1, the column in
    /// bytes.
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        start + column.saturating_sub(1)
    }

    /// Returns the place of the byte at `offset`. Takes time in proportion to its column.
    pub fn place(&self, offset: usize) -> SourceLocation {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.line_starts[line - 1]..offset).unwrap_or_default();
        let column =
            before.chars().fold(0, |column, char| if char == '\t' { (column / 8 + 1) * 8 } else { column + 1 });
        SourceLocation { file: self.file.clone(), line: line as u32, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_of_guile() {
        let source = Source::new("m.scm".into(), "a\n\tb \u{e9}c\n");
        let shown = |offset| source.place(offset).to_string();
        assert_eq!(shown(0), "m.scm:1:0");
        assert_eq!(shown(3), "m.scm:2:8");
        assert_eq!(shown(source.offset(2, 6)), "m.scm:2:11", "after a character of two bytes");
        assert_eq!(shown(9), "m.scm:3:0");
        assert_eq!(shown(1000), "m.scm:3:0");
    }
}
