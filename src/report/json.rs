// SPDX-License-Identifier: GPL-3.0-or-later
//! Writing JSON (RFC 8259).

use serde::Serialize;

/// The version of what the documents mean. It is raised when a member that existed goes away, or its type or meaning
/// changes, but not when one is added.
const SCHEMA: u32 = 1;

/// Returns a whole document: a line with an object, which has the version of its schema first, and these members.
pub fn document(members: &[(&str, String)]) -> String {
    let members = [&[("schema", SCHEMA.to_string())], members].concat();
    object(&members) + "\n"
}

/// Returns a whole document, as [`document`] does, of a value that serializes as an object.
pub fn document_of(members: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Document<'a, T> {
        schema: u32,
        #[serde(flatten)]
        members: &'a T,
    }
    // This fails only for a map whose keys are no words.
    serde_json::to_string(&Document { schema: SCHEMA, members }).unwrap_or_default() + "\n"
}

/// Returns `text` as a string of JSON, quotes included. Control characters are escaped.
pub fn string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\0'..='\u{1f}' | '\u{7f}' => quoted += &format!("\\u{:04x}", u32::from(character)),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns `value`, which is JSON, or `null` if there is none.
pub fn or_null(value: Option<String>) -> String {
    value.unwrap_or_else(|| "null".into())
}

/// Returns an array of `values`, which are JSON.
pub fn array(values: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", values.into_iter().collect::<Vec<_>>().join(", "))
}

/// Returns an object with these members, the values of which are JSON.
pub fn object(members: &[(&str, String)]) -> String {
    let members: Vec<String> = members.iter().map(|(key, value)| format!("{}: {value}", string(key))).collect();
    format!("{{{}}}", members.join(", "))
}

/// Returns an object of a text, and a hint that says what to do about it.
pub fn remark(text: &str, hint: Option<&str>) -> String {
    object(&[("text", string(text)), ("hint", or_null(hint.map(string)))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_a_line_that_says_which_schema_it_has() {
        assert_eq!(document(&[("a", "null".into())]), "{\"schema\": 1, \"a\": null}\n");
    }

    #[test]
    fn strings_are_quoted() {
        assert_eq!(string("a\"b\\c\n\u{e9}\u{200b}"), "\"a\\\"b\\\\c\\u000a\u{e9}\u{200b}\"");
    }
}
