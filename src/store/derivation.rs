// SPDX-License-Identifier: GPL-3.0-or-later
//! Reading whether a derivation's outputs are fixed (`parseDerivation` in Guix's `nix/libstore/derivations.cc`).
//!
//! ```text
//! Derive([OUTPUT,...],[INPUT,...],...)
//! OUTPUT = ("NAME","FILE NAME","HASH ALGORITHM","HASH"), the last two empty unless the output is fixed
//! ```
//!
//! In a string, a backslash precedes each quotation mark and each backslash that is part of it.

/// Returns whether all outputs of the derivation with this text are fixed: their contents are known beforehand, as
/// those of a download are. Returns `false` for a text that is no derivation.
pub fn has_fixed_output(text: &str) -> bool {
    let Some(mut rest) = text.strip_prefix("Derive([") else { return false };
    loop {
        let Some((fields, after)) = output(rest) else { return false };
        if fields[3].is_empty() {
            return false;
        }
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return after.starts_with(']'),
        }
    }
}

/// Returns the fields of the output that `text` begins with, with their backslashes, and the text after the output.
fn output(text: &str) -> Option<([&str; 4], &str)> {
    let mut rest = text.strip_prefix('(')?;
    let mut fields = [""; 4];
    for (index, field) in fields.iter_mut().enumerate() {
        if index > 0 {
            rest = rest.strip_prefix(',')?;
        }
        rest = rest.strip_prefix('"')?;
        let mut escaped = false;
        let end = rest.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        })?;
        *field = &rest[..end];
        rest = &rest[end + 1..];
    }
    Some((fields, rest.strip_prefix(')')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_every_output_has_a_hash_is_the_output_fixed() {
        let text = |outputs: &str| format!("Derive([{outputs}],[],[],\"x86_64-linux\",\"b\",[],[])");
        let (free, fixed) = (r#"("out","/gnu/store/x","","")"#, r#"("a\"","/gnu/store/\\","r:sha256","ab")"#);
        assert!(has_fixed_output(&text(fixed)));
        assert!(has_fixed_output(&text(&format!("{fixed},{fixed}"))));
        assert!(!has_fixed_output(&text(free)));
        assert!(!has_fixed_output(&text(&format!("{fixed},{free}"))));
    }

    #[test]
    fn what_is_no_derivation_has_no_fixed_output() {
        for text in [
            "",
            "Derive(",
            "Derive([",
            "Derive([]",
            "Derive([(\"a\",\"b\",\"c\",\"d\")",
            "derive",
            "Derive([(\"a\\\"])",
        ] {
            assert!(!has_fixed_output(text), "{text}");
        }
    }
}
