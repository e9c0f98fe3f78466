// SPDX-License-Identifier: GPL-3.0-or-later
//! S-expressions, of which keys, signatures and the list of authorized keys are made.
//!
//! Two forms are read: the canonical one, `(3:tag4:data)`, which has one spelling for each value, and the advanced one,
//! `(tag #64617461#)`, in which Guix stores them.
//!
//! ```text
//! list   = "(" *(blank / list / datum) ")"
//! datum  = number ":" that many bytes / token / "#" *(two digits of base 16 / blank) "#" / DQUOTE *char DQUOTE
//! number = 1-9 *digit
//! token  = (letter / any of "-./_:*+=") *(letter / digit / any of "-./_:*+=")
//! char   = any but DQUOTE and "\" / "\" (any of "btvnfr" / DQUOTE / "'" / "\" / "x" two digits / three octal digits)
//! ```
//!
//! libgcrypt, which reads them in Guix, is not used for that. It ends the process over a list or a datum of more than
//! 64 KiB, and its output in the advanced form grows with the square of the depth; any machine could send such data.
//! Here time and memory are in proportion to the text, and the stack does not grow with the depth.

use std::borrow::Cow;

use crate::ground::error::{Error, ErrorKind, Result};

/// A list, in canonical form: equal bytes mean equal lists.
#[derive(Clone, PartialEq, Eq)]
pub struct Sexp(Vec<u8>);

impl Sexp {
    /// Reads a list in either form.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let error = |why: String| Error::new(ErrorKind::InvalidArgument, format!("not an s-expression: {why}"));
        let (mut canonical, mut depth, mut at) = (Vec::with_capacity(text.len()), 0usize, 0);
        while let Some(&first) = text.get(at) {
            let length = match first {
                b if is_blank(b) => 1,
                _ if depth == 0 && !canonical.is_empty() => return Err(error(format!("it goes on at byte {at}"))),
                b'(' => {
                    depth += 1;
                    canonical.push(b'(');
                    1
                }
                b')' if depth > 0 => {
                    depth -= 1;
                    canonical.push(b')');
                    1
                }
                _ if depth == 0 => return Err(error(format!("no list begins at byte {at}"))),
                _ => {
                    let datum =
                        datum(&text[at..]).ok_or_else(|| error(format!("neither a list nor a datum at byte {at}")))?;
                    canonical.extend(canonical_datum(&datum.0));
                    datum.1
                }
            };
            at += length;
        }
        match (depth, canonical.is_empty()) {
            (0, true) => Err(error("it is empty".into())),
            (0, false) => Ok(Sexp(canonical)),
            _ => Err(error("it ends before its brackets are closed".into())),
        }
    }

    /// Returns the elements, each in canonical form. The first is the tag.
    pub fn elements(&self) -> impl Iterator<Item = &[u8]> {
        let (mut tokens, mut depth) = (Tokens { bytes: &self.0, at: 1 }, 0usize);
        std::iter::from_fn(move || {
            let start = tokens.at;
            loop {
                match tokens.next()? {
                    Token::Open => depth += 1,
                    Token::Close => depth = depth.checked_sub(1)?,
                    Token::Datum(_) => {}
                }
                if depth == 0 {
                    return Some(&self.0[start..tokens.at]);
                }
            }
        })
    }

    /// Returns the bytes of element `number`, if there is one and it is no list. Number 0 is the tag.
    pub fn data(&self, number: usize) -> Option<&[u8]> {
        let bytes = self.elements().nth(number)?;
        match (Tokens { bytes, at: 0 }).next()? {
            Token::Datum(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns element `number`, if there is one and it is a list.
    pub fn list(&self, number: usize) -> Option<Sexp> {
        self.elements().nth(number).and_then(Self::of_element)
    }

    /// Returns `element` as a list, if it is one.
    pub fn of_element(element: &[u8]) -> Option<Sexp> {
        element.starts_with(b"(").then(|| Sexp(element.into()))
    }

    /// Returns the canonical form.
    pub fn canonical(&self) -> &[u8] {
        &self.0
    }

    /// Returns the list as ASCII text, in the advanced form on one line: words as they are, all else in hexadecimal.
    pub fn text(&self) -> String {
        let is_word = |datum: &[u8]| {
            datum.first().is_some_and(u8::is_ascii_alphabetic)
                && datum.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        };
        let mut text = String::with_capacity(2 * self.0.len());
        for token in (Tokens { bytes: &self.0, at: 0 }) {
            if !matches!(token, Token::Close) && !text.is_empty() && !text.ends_with('(') {
                text.push(' ');
            }
            match token {
                Token::Open => text.push('('),
                Token::Close => text.push(')'),
                Token::Datum(datum) if is_word(datum) => text.extend(datum.iter().map(|byte| char::from(*byte))),
                Token::Datum(datum) => {
                    let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
                    text.push('#');
                    datum.iter().for_each(|byte| text.extend([digit(byte >> 4), digit(byte & 15)]));
                    text.push('#');
                }
            }
        }
        text
    }
}

/// Returns the datum `bytes` in canonical form.
pub fn canonical_datum(bytes: &[u8]) -> Vec<u8> {
    [format!("{}:", bytes.len()).as_bytes(), bytes].concat()
}

/// Returns the list of `elements` in canonical form. The elements are in canonical form, too.
pub fn canonical_list(elements: &[u8]) -> Vec<u8> {
    [b"(", elements, b")"].concat()
}

/// A token of a canonical form.
enum Token<'a> {
    Open,
    Close,
    Datum(&'a [u8]),
}

/// The tokens of a canonical form, from `at` on.
struct Tokens<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = &self.bytes[self.at..];
        let (token, length) = match rest.first()? {
            b'(' => (Token::Open, 1),
            b')' => (Token::Close, 1),
            _ => {
                let (datum, length) = counted(rest)?;
                (Token::Datum(datum), length)
            }
        };
        self.at += length;
        Some(token)
    }
}

/// Returns the datum that `text` begins with, and the length of its spelling.
fn datum(text: &[u8]) -> Option<(Cow<'_, [u8]>, usize)> {
    match text.first()? {
        b'1'..=b'9' => counted(text).map(|(datum, length)| (datum.into(), length)),
        b'#' => in_hexadecimal(text),
        b'"' => quoted(text),
        first if is_of_token(*first) && !first.is_ascii_digit() => {
            let length = text.iter().position(|byte| !is_of_token(*byte)).unwrap_or(text.len());
            Some((text[..length].into(), length))
        }
        _ => None,
    }
}

/// Returns the datum that is written as `number ":" bytes`, and the length of its spelling.
fn counted(text: &[u8]) -> Option<(&[u8], usize)> {
    // No datum has a length of more than 9 digits.
    let colon = text.iter().take(10).position(|byte| *byte == b':')?;
    let digits = std::str::from_utf8(&text[..colon]).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    let end = digits.parse::<usize>().ok()?.checked_add(colon + 1)?;
    Some((text.get(colon + 1..end)?, end))
}

fn in_hexadecimal(text: &[u8]) -> Option<(Cow<'_, [u8]>, usize)> {
    let digits = &text[1..1 + text[1..].iter().position(|byte| *byte == b'#')?];
    let values = digits.iter().filter(|byte| !is_blank(**byte)).map(|byte| digit(*byte, 16));
    let values: Vec<u8> = values.collect::<Option<_>>()?;
    let pairs = values.chunks_exact(2);
    let is_whole = pairs.remainder().is_empty();
    let datum: Vec<u8> = pairs.map(|pair| pair[0] << 4 | pair[1]).collect();
    is_whole.then(|| (datum.into(), digits.len() + 2))
}

fn quoted(text: &[u8]) -> Option<(Cow<'_, [u8]>, usize)> {
    let (mut datum, mut at) = (Vec::new(), 1);
    loop {
        let (byte, length) = match text.get(at)? {
            b'"' => return Some((datum.into(), at + 1)),
            b'\\' => match *text.get(at + 1)? {
                b'b' => (0x08, 2),
                b't' => (b'\t', 2),
                b'v' => (0x0b, 2),
                b'n' => (b'\n', 2),
                b'f' => (0x0c, 2),
                b'r' => (b'\r', 2),
                plain @ (b'"' | b'\'' | b'\\') => (plain, 2),
                b'x' => (digit(*text.get(at + 2)?, 16)? << 4 | digit(*text.get(at + 3)?, 16)?, 4),
                first @ b'0'..=b'3' => {
                    let rest = digit(*text.get(at + 2)?, 8)? << 3 | digit(*text.get(at + 3)?, 8)?;
                    ((first - b'0') << 6 | rest, 4)
                }
                _ => return None,
            },
            byte => (*byte, 1),
        };
        datum.push(byte);
        at += length;
    }
}

fn digit(byte: u8, base: u32) -> Option<u8> {
    char::from(byte).to_digit(base)?.try_into().ok()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | b'\n' | b'\r' | 0x0c)
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-./_:*+=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Sexp {
        Sexp::parse(text).unwrap()
    }

    #[test]
    fn both_forms_of_a_list_are_equal() {
        let advanced = parse(b"(tag  #00 fF\n62#\n (inner \"value\"))");
        let canonical = parse(b"(3:tag3:\0\xffb(5:inner5:value))");
        assert_eq!(advanced.canonical(), b"(3:tag3:\0\xffb(5:inner5:value))");
        assert_eq!(advanced.canonical(), canonical.canonical());
        assert_eq!(canonical.text(), "(tag #00FF62# (inner value))");
        assert_eq!(parse(canonical.text().as_bytes()).canonical(), canonical.canonical());
    }

    #[test]
    fn strings_are_read_as_they_are_printed_by_libgcrypt() {
        let list = parse(b"(a \"\\b\\t\\v\\n\\f\\r\\\"\\'\\\\\\x7f\\377\\001 \xb4(\")");
        assert_eq!(list.data(1).unwrap(), b"\x08\t\x0b\n\x0c\r\"'\\\x7f\xff\x01 \xb4(");
        for bad in [&b"(\"a)"[..], b"(\"\\", b"(\"\\y\")", b"(\"\\x1\")", b"(\"\\47\")", b"(\"\\400\")"] {
            assert!(Sexp::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_list_is_taken_apart() {
        let list = parse(b"(a b (c d (e f)) (g))");
        let elements: Vec<_> = list.elements().collect();
        assert_eq!(elements, [&b"1:a"[..], b"1:b", b"(1:c1:d(1:e1:f))", b"(1:g)"]);
        assert_eq!(list.data(0), Some(&b"a"[..]));
        assert_eq!(list.data(2), None);
        assert_eq!(list.data(4), None);
        assert_eq!(list.list(2).unwrap().list(2).unwrap().data(1), Some(&b"f"[..]));
        assert!(list.list(1).is_none() && list.list(4).is_none());
        assert_eq!(parse(b"(())").list(0).unwrap().elements().count(), 0);
    }

    #[test]
    fn what_is_no_list_is_rejected() {
        for bad in [
            &b""[..],
            b" ",
            b"(",
            b"(a",
            b"a)",
            b")",
            b"a",
            b"1:a",
            b"(3:ab)",
            b"(#6#)",
            b"(#6g#)",
            b"(#66)",
            b"(a)(b)",
            b"(a) b",
            b"(a))",
            b"(0:)",
            b"(01:a)",
            b"(1a)",
            b"(99999999999:a)",
            b"(18446744073709551615:a)",
            b"([a]b)",
            b"({YQ==})",
            b"(|YQ==|)",
            b"(a,b)",
            b"(a\0)",
            b"(\xe9)",
        ] {
            let Err(error) = Sexp::parse(bad) else { panic!("{:?}", bad.escape_ascii().to_string()) };
            assert!(error.to_string().starts_with("not an s-expression: "), "{error}");
        }
    }

    /// libgcrypt would end the process over each of these.
    #[test]
    fn lists_may_be_long_and_deep() {
        let long = parse(format!("(a (b {}) (c))", "x ".repeat(70_000)).as_bytes());
        assert_eq!(long.list(1).unwrap().elements().count(), 70_001);
        assert_eq!(long.list(2).unwrap().data(0), Some(&b"c"[..]));
        assert_eq!(parse(format!("(a #{}#)", "41".repeat(70_000)).as_bytes()).data(1).unwrap().len(), 70_000);
        let deep = parse(format!("({}{})", "(".repeat(200_000), ")".repeat(200_000)).as_bytes());
        assert_eq!(deep.list(0).unwrap().text().len(), 400_000);
    }
}
