// SPDX-License-Identifier: GPL-3.0-or-later
//! What a derivation requires of the machine that builds it, read from its file:
//!
//! ```text
//! Derive([OUTPUT,...],[DERIVATION,...],[SOURCE,...],SYSTEM,BUILDER,[ARGUMENT,...],[(VARIABLE,VALUE),...])
//! ```
//!
//! Each word is a string in double quotes, with `\n`, `\r`, `\t` and backslashes before other characters.

use super::derivation::{self, Reader};
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::machine::Requirements;

/// What a derivation requires.
#[derive(Debug, PartialEq, Eq)]
pub struct Needs {
    /// What it requires of a machine.
    pub requirements: Requirements,
    /// Whether guix-daemon does it itself, without asking its hook, if this host is of the right type.
    pub prefers_local: bool,
}

/// Reads the file of `derivation`. Fails with [`ErrorKind::InvalidArgument`] if it cannot be read or is none.
pub fn needs_of(derivation: &StorePath) -> Result<Needs> {
    let kind = ErrorKind::InvalidArgument;
    let doing = || format!("reading the derivation '{derivation}'");
    let text = derivation::text_of(derivation).io_context(kind, doing)?;
    parse(&text).ok_or_else(|| Error::new(kind, format!("'{derivation}' is no derivation that can be understood")))
}

fn parse(text: &str) -> Option<Needs> {
    let (_, mut reader) = derivation::inputs_and_rest(text)?;
    reader.skip(",")?;
    let system = reader.string()?;
    reader.skip(",")?;
    reader.string()?;
    reader.skip(",")?;
    reader.list(Reader::string)?;
    reader.skip(",")?;
    let variables = reader.list(|reader| {
        reader.skip("(")?;
        let name = reader.string()?;
        reader.skip(",")?;
        let value = reader.string()?;
        reader.skip(")")?;
        Some((name, value))
    })?;
    reader.skip(")")?;
    let value = |name: &str| variables.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value);
    let features = value("requiredSystemFeatures").split_ascii_whitespace().map(str::to_string).collect();
    Some(Needs { requirements: Requirements { system, features }, prefers_local: value("preferLocalBuild") == "1" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DERIVATION: &str = r#"Derive([("out","/gnu/store/a-x","","")],[("/gnu/store/b-y.drv",["out","lib"])],
["/gnu/store/c-z"],"x86_64-linux","/gnu/store/d/bin/guile",["--no-auto-compile","]),(\"["],
[("out","/gnu/store/a-x"),("requiredSystemFeatures","kvm big-parallel"),("x","a\nb\\\"")])"#;

    fn read(text: &str) -> Option<Needs> {
        parse(&text.replace(",\n", ","))
    }

    #[test]
    fn system_and_features_are_found() {
        let features = vec!["kvm".to_string(), "big-parallel".to_string()];
        let requirements = Requirements { system: "x86_64-linux".into(), features };
        assert_eq!(read(DERIVATION), Some(Needs { requirements, prefers_local: false }));
        let local = DERIVATION.replace("requiredSystemFeatures\",\"kvm big-parallel", "preferLocalBuild\",\"1");
        let needs = read(&local).unwrap();
        assert!(needs.prefers_local && needs.requirements.features.is_empty());
        assert!(!read(&local.replace("\"1\"", "\"\"")).unwrap().prefers_local);
    }

    #[test]
    fn what_is_no_derivation_is_refused() {
        let whole = DERIVATION.replace(",\n", ",");
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{}", &whole[..length]);
        }
        assert_eq!(read("Derive(]],[],[],\"s\",\"b\",[],[])"), None);
        assert_eq!(read("Derive(x,[],[],\"s\",\"b\",[],[])"), None);
    }
}
