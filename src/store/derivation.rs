// SPDX-License-Identifier: GPL-3.0-or-later
//! Reading the first three parts of a derivation (`parseDerivation` in Guix's `nix/libstore/derivations.cc`): its
//! outputs, the outputs of other derivations that it uses, and its sources.
//!
//! ```text
//! Derive([OUTPUT,...],[INPUT,...],[SOURCE,...],...)
//! OUTPUT = ("NAME","FILE NAME","HASH ALGORITHM","HASH"), the last two empty unless the output is fixed
//! INPUT  = ("DERIVATION",["NAME OF AN OUTPUT",...])
//! SOURCE = "FILE NAME"
//! ```
//!
//! In a string, a backslash precedes each quotation mark and each backslash that is part of it.

use std::fs::File;
use std::io::{self, Read};

use crate::ground::store_path::StorePath;

/// Longest text of a derivation that is read, in bytes. What is cut off is no derivation.
const MAX_SIZE: u64 = 64 << 20;

/// Reads the text of a derivation.
pub fn text_of(derivation: &StorePath) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(derivation.as_str())?.take(MAX_SIZE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The things that a derivation reads.
#[derive(Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Other derivations, each with the names of those of its outputs that are used.
    pub derivations: Vec<(String, Vec<String>)>,
    /// Items that are no output of these.
    pub sources: Vec<String>,
}

/// Returns whether all outputs of the derivation with this text are fixed: their contents are known beforehand, as
/// those of a download are. Returns `false` for a text that is no derivation.
pub fn has_fixed_output(text: &str) -> bool {
    outputs(&mut Reader(text)).is_some_and(|hashes| !hashes.is_empty() && hashes.iter().all(|hash| !hash.is_empty()))
}

/// Returns what the derivation with this text reads. Returns `None` for a text that is no derivation.
pub fn inputs(text: &str) -> Option<Inputs> {
    inputs_and_rest(text).map(|(inputs, _)| inputs)
}

/// Returns also the reader of what follows.
pub(super) fn inputs_and_rest(text: &str) -> Option<(Inputs, Reader<'_>)> {
    let mut reader = Reader(text);
    outputs(&mut reader)?;
    reader.skip(",")?;
    let derivations = reader.list(|reader| {
        reader.skip("(")?;
        let derivation = reader.string()?;
        reader.skip(",")?;
        let names = reader.list(Reader::string)?;
        reader.skip(")")?;
        Some((derivation, names))
    })?;
    reader.skip(",")?;
    let sources = reader.list(Reader::string)?;
    Some((Inputs { derivations, sources }, reader))
}

/// Reads the beginning of a derivation, and returns the hash of each output, empty unless it is fixed.
fn outputs(reader: &mut Reader) -> Option<Vec<String>> {
    reader.skip("Derive(")?;
    reader.list(|reader| {
        for before in ["(", ",", ","] {
            reader.skip(before)?;
            reader.string()?;
        }
        reader.skip(",")?;
        let hash = reader.string()?;
        reader.skip(")")?;
        Some(hash)
    })
}

/// The text that has not been read yet.
pub(super) struct Reader<'a>(&'a str);

impl Reader<'_> {
    pub(super) fn skip(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Reads `[ELEMENT,...]`.
    pub(super) fn list<T>(&mut self, element: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.skip("[")?;
        let mut elements = Vec::new();
        while self.skip("]").is_none() {
            if !elements.is_empty() {
                self.skip(",")?;
            }
            elements.push(element(self)?);
        }
        Some(elements)
    }

    pub(super) fn string(&mut self) -> Option<String> {
        self.skip("\"")?;
        let mut string = String::new();
        let mut characters = self.0.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => match characters.next()? {
                    'n' => string.push('\n'),
                    'r' => string.push('\r'),
                    't' => string.push('\t'),
                    other => string.push(other),
                },
                other => string.push(other),
            }
        }
        self.0 = characters.as_str();
        Some(string)
    }
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

    #[test]
    fn inputs_are_outputs_of_derivations_and_sources() {
        let begin = r#"Derive([("out","/s/o","","")],[("/s/a.drv",["lib","out"]),("/s/b.drv",["out"])],["#;
        let read = inputs(&format!(r#"{begin}"/s/\\s","/s/\"t\n"],"x86_64-linux","b",[],[])"#)).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let derivations = [("/s/a.drv".into(), names(&["lib", "out"])), ("/s/b.drv".into(), names(&["out"]))];
        assert_eq!(read, Inputs { derivations: derivations.into(), sources: names(&["/s/\\s", "/s/\"t\n"]) });
        assert_eq!(inputs("Derive([],[],[]"), Some(Inputs { derivations: vec![], sources: vec![] }));
        for cut in 0..begin.len() {
            assert_eq!(inputs(&begin[..cut]), None, "{}", &begin[..cut]);
        }
        assert_eq!(inputs(r#"Derive([],[("/s/a.drv",["out"])("/s/b.drv",["out"])],[],"#), None);
    }
}
