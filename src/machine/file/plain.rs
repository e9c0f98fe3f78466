// SPDX-License-Identifier: GPL-3.0-or-later
//! Finds out whether Guile and lexpr surely read a text alike.
//!
//! lexpr reads some texts differently from Guile, without an error: `1/2` is two data, `#true` is `#t` and `rue`, `.5`
//! and `1e3` are not numbers, a form feed is part of a symbol, `"\x41;"` is `A` and not `A;`. So this scan accepts only
//! what is known to be the same for both; everything else is left to Guile. Grammar:
//!
//! ```text
//! text    = *(blank / datum / "#;" *blank datum)   ; after an atom or a string: a blank, a bracket, or the end
//! datum   = ["'"] (string / atom / "(" text ")")
//! blank   = " " / TAB / LF / CR LF / ";" *(any but LF, no lone CR) LF
//! string  = DQUOTE *(any but control characters, "\" and DQUOTE / TAB / LF / "\\" / "\" DQUOTE / "\n" / "\t") DQUOTE
//! atom    = "#t" / "#f" / "@" / number / symbol
//! number  = ["-"] ("0" / 1-9 *digit) ["." *digit]         ; of 15 characters at most
//! symbol  = (letter / "%" / "*" / "<" / "!") *(letter / digit / any of "-_%*!?<>/=+")
//! ```
//!
//! Limits, which also bound the stack that lexpr needs: lists nest 31 deep, a list has 256 elements, a line 8192 bytes.
//! A text beyond them is not wrong, but left to Guile.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

/// Deepest nesting of brackets and quotes.
const MAX_DEPTH: usize = 32;
/// Most elements of a list, here and in what `guile.scm` prints as a list.
pub(super) const MAX_ELEMENTS: usize = 256;
/// Longest line, in bytes: finding a column takes time in proportion to its line.
const MAX_LINE: usize = 8192;
/// Most characters of a number: as an integer it fits an `i64`, as a decimal it keeps all its digits.
const MAX_NUMBER: usize = 15;

/// Why a text is left to Guile.
#[derive(Debug, PartialEq)]
pub(super) struct NotPlain {
    /// Offset, in bytes, of what is not understood.
    pub offset: usize,
    /// What it is: a clause.
    pub what: String,
}

/// A text as lexpr can read it.
#[derive(Debug, PartialEq)]
pub(super) struct Readable<'a> {
    /// The text, with blanks for what is commented out by `#;`, and for the point of `2.`.
    pub text: Cow<'a, str>,
    /// Offsets of the numbers that end in a point: they are no integers.
    pub reals: HashSet<usize>,
}

/// Checks that `text` keeps to the grammar and the limits above, and that its brackets match.
pub(super) fn check(text: &str) -> Result<Readable<'_>, NotPlain> {
    // Each `#;` whose datum is not complete yet, and how many lists are open around it.
    let mut pending: Vec<(usize, usize)> = Vec::new();
    let mut blanks: Vec<Range<usize>> = Vec::new();
    let mut reals = HashSet::new();
    // How many elements each open list has so far; the first counts the forms of the file, which are not limited.
    let mut lists: Vec<usize> = vec![0];
    let mut at = 0;
    let reject = |offset: usize, what: String| Err(NotPlain { offset, what });
    if has_other_coding(text) {
        return reject(0, "a 'coding' declaration is left to Guile".into());
    }
    if let Some(line) = text.split('\n').find(|line| line.len() > MAX_LINE) {
        let offset = line.as_ptr().addr() - text.as_ptr().addr();
        return reject(offset, format!("a line of more than {MAX_LINE} bytes is left to Guile"));
    }
    while let Some(&first) = text.as_bytes().get(at) {
        let rest = &text[at..];
        let length = match first {
            b' ' | b'\t' | b'\n' => 1,
            b'\r' if rest.starts_with("\r\n") => 2,
            b';' => match comment(rest) {
                Some(length) => length,
                None => return reject(at, "a carriage return in a comment is left to Guile".into()),
            },
            b'\'' if rest.starts_with("'#;") => return reject(at, "a '#;' after a quote is left to Guile".into()),
            b'\'' if rest[1..].starts_with(|next| !ends_atom(next) && next != '\'' || next == '(') => 1,
            b'(' => {
                lists.push(0);
                1
            }
            b'#' if rest.starts_with("#;") => {
                if pending.last().is_some_and(|(_, depth)| *depth == lists.len()) {
                    return reject(at, "a '#;' after another one is left to Guile".into());
                }
                pending.push((at, lists.len()));
                at += 2;
                continue;
            }
            b')' if pending.last().is_some_and(|(_, depth)| *depth == lists.len()) => {
                return reject(at, "a '#;' before a closing bracket is left to Guile".into());
            }
            b')' if lists.len() == 1 => return reject(at, "this bracket closes nothing".into()),
            b')' => {
                lists.pop();
                1
            }
            b'"' => match string(rest) {
                Ok(length) => length,
                Err(inside) => return reject(at + inside, "a string with this in it is left to Guile".into()),
            },
            _ => match atom(rest) {
                atom if matches!(atom, "#t" | "#f" | "@") || is_number(atom) || is_symbol(atom) => {
                    if atom.ends_with('.') {
                        reals.insert(at);
                        blanks.push(at + atom.len() - 1..at + atom.len());
                    }
                    atom.len()
                }
                atom => {
                    let shown: String = rest.chars().take(atom.chars().count().clamp(1, 40)).collect();
                    return reject(at, format!("{shown:?} is left to Guile"));
                }
            },
        };
        if lists.len() > MAX_DEPTH {
            return reject(at, format!("more than {MAX_DEPTH} brackets within each other are left to Guile"));
        }
        let ends_datum = !matches!(first, b' ' | b'\t' | b'\n' | b'\r' | b';' | b'\'' | b'(');
        let is_comment = ends_datum && pending.last().is_some_and(|(_, depth)| *depth == lists.len());
        if let Some((start, _)) = is_comment.then(|| pending.pop()).flatten() {
            blanks.push(start..at + length);
        } else if let Some(elements) = lists.last_mut().filter(|_| ends_datum) {
            *elements += 1;
            if *elements > MAX_ELEMENTS && lists.len() > 1 {
                return reject(at, format!("a list of more than {MAX_ELEMENTS} elements is left to Guile"));
            }
        }
        at += length;
    }
    if lists.len() > 1 {
        return reject(text.len(), "the file ends before its brackets are closed".into());
    }
    if let Some((start, _)) = pending.first() {
        return reject(*start, "a '#;' without a datum is left to Guile".into());
    }
    Ok(Readable { text: blanked(text, &blanks), reals })
}

/// Returns `text` with a blank for each byte of `ranges` that ends no line.
fn blanked<'a>(text: &'a str, ranges: &[Range<usize>]) -> Cow<'a, str> {
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut bytes = text.as_bytes().to_vec();
    for range in ranges {
        bytes[range.clone()].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    // Whole characters are replaced, so the text is still UTF-8.
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns whether the text declares a coding other than UTF-8, as `coding: latin-1` does. Guile looks for that in the
/// first 500 bytes.
fn has_other_coding(text: &str) -> bool {
    let start = text.as_bytes()[..text.len().min(512)].to_ascii_lowercase();
    let mut positions = start.windows(6).enumerate().filter(|(_, window)| window == b"coding");
    positions.any(|(at, _)| match &start[at + 6..] {
        [b':' | b'=', name @ ..] => !name.trim_ascii_start().starts_with(b"utf-8"),
        _ => false,
    })
}

/// Returns the length of the comment that `rest` starts with; `None` if lexpr may see its end elsewhere.
fn comment(rest: &str) -> Option<usize> {
    let length = rest.find('\n').map_or(rest.len(), |end| end + 1);
    let line = rest[..length].trim_end_matches('\n');
    (!line.strip_suffix('\r').unwrap_or(line).contains('\r')).then_some(length)
}

/// Returns the length of the string that `rest` starts with, or the offset of what is not understood in it.
fn string(rest: &str) -> Result<usize, usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '"' if rest[at + 1..].starts_with(|next| !ends_atom(next)) => return Err(at),
            '"' => return Ok(at + 1),
            '\\' => match chars.next() {
                Some((_, '\\' | '"' | 'n' | 't')) => {}
                _ => return Err(at),
            },
            '\t' | '\n' => {}
            char if char.is_control() => return Err(at),
            _ => {}
        }
    }
    Err(0)
}

fn ends_atom(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r' | '(' | ')' | ';')
}

/// Returns the start of `rest`, up to where an atom ends.
fn atom(rest: &str) -> &str {
    &rest[..rest.find(ends_atom).unwrap_or(rest.len())]
}

fn is_number(atom: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let magnitude = atom.strip_prefix('-').unwrap_or(atom);
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, ""));
    digits(whole)
        && (fraction.is_empty() || digits(fraction))
        && (whole == "0" || !whole.starts_with('0'))
        && atom.len() <= MAX_NUMBER
}

fn is_symbol(atom: &str) -> bool {
    let starts = |byte: u8| byte.is_ascii_alphabetic() || b"%*<!".contains(&byte);
    let goes_on = |byte: u8| starts(byte) || byte.is_ascii_digit() || b"-_?>/=+".contains(&byte);
    atom.bytes().next().is_some_and(starts) && atom.bytes().all(goes_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset_of_trouble(text: &str) -> Option<usize> {
        check(text).err().map(|trouble| trouble.offset)
    }

    #[test]
    fn plain_text_is_let_through() {
        for text in [
            "",
            "; only a comment",
            ";; -*- mode: scheme; coding: utf-8 -*-",
            "; an encoding is not declared here",
            "; one\r\n(list)\r\n",
            "(define %m* '(a \"b\" #t #f))",
            "(list 0 -1 0.5 12.25 -0.0 a->b (c)(d)'e \"\\\"\\\\\\n\\t\u{e9}\nnew line\")",
            "((@ (a b) c) d)",
        ] {
            assert_eq!(check(text), Ok(Readable { text: text.into(), reals: HashSet::new() }), "{text:?}");
        }
    }

    #[test]
    fn what_lexpr_cannot_read_is_made_readable_in_its_place() {
        for (text, readable, reals) in [
            ("(a 2. b)", "(a 2  b)", &[3][..]),
            ("(-0.)3.", "(-0 )3 ", &[1, 5]),
            ("(a #;b c)", "(a     c)", &[]),
            ("(a #; ; x\n (b 2. \"\u{e9}\")'c)", "(a       \n            'c)", &[14]),
            ("#;'(a #;b c)(d #;e)", "            (d    )", &[]),
            ("#;(a #;(b) c) d", "              d", &[]),
            ("(a)#;b", "(a)   ", &[]),
        ] {
            let expected = Readable { text: readable.into(), reals: reals.iter().copied().collect() };
            assert_eq!(check(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_lexpr_may_misread_is_left_to_guile() {
        for atom in [
            "1/2",
            "#true",
            "#false",
            ".5",
            "1e3",
            "1+",
            "+1",
            "-",
            "...",
            "007",
            "#x10",
            "#\\a",
            "#:key",
            ":key",
            "#(1)",
            "#~x",
            "#$x",
            "#!eof",
            "\u{3bb}",
            "a.b",
            "a:b",
            "a|b",
            "|a|",
            "[a]",
            "{a}",
            "`a",
            ",a",
            "a'b",
            "''a",
            "' a",
            "#;",
            "a #;",
            "#;#;a b",
            "#; #;a b",
            "'#;a b",
            "a#;b",
            "1#;b",
            "\"a\"#;b",
            "#;.5 a",
            "#;(1/2) a",
            "..5",
            ".",
            "-.",
            "2..",
            "1.2.",
            "@a",
            "a@b",
            "@@",
            "#|a|#",
            "1234567890123456",
            "a\u{c}b",
            "\u{feff}a",
            "a\"b\"",
            "\"a\"b",
            "\"a\"\"b\"",
            "\"\\x41;\"",
            "\"\\\n  a\"",
            "\"\\a\"",
            "\"\u{7}\"",
            "\"\r\n\"",
            ";a\rb",
        ] {
            assert!(offset_of_trouble(&format!("(list {atom} )")).is_some(), "{atom:?}");
        }
        assert_eq!(offset_of_trouble(";; -*- coding: latin-1 -*-\n()"), Some(0));
    }

    #[test]
    fn trouble_is_where_it_starts() {
        assert_eq!(offset_of_trouble("(list 1/2)"), Some(6));
        assert_eq!(offset_of_trouble("(list \"ab\\c\")"), Some(9));
        assert_eq!(offset_of_trouble("(list (a)"), Some(9));
        assert_eq!(offset_of_trouble("(list))"), Some(6));
        assert_eq!(offset_of_trouble("(a)(\"b"), Some(4));
        assert_eq!(offset_of_trouble("(a ')"), Some(3));
    }

    #[test]
    fn long_lists_and_lines_and_deep_nesting_are_left_to_guile() {
        let list = |elements: usize| format!("(list{})", " 1".repeat(elements - 1));
        assert!(check(&list(MAX_ELEMENTS)).is_ok());
        assert!(check(&list(MAX_ELEMENTS + 1)).is_err());
        assert!(check(&(list(2) + "\n").repeat(10_000)).is_ok(), "the file itself may be long");
        let nested = |depth: usize| "(".repeat(depth) + &")".repeat(depth);
        assert!(check(&nested(MAX_DEPTH - 1)).is_ok());
        assert!(check(&nested(MAX_DEPTH)).is_err());
        assert_eq!(offset_of_trouble(&format!("()\n{}", " ".repeat(MAX_LINE + 1))), Some(3));
    }
}
