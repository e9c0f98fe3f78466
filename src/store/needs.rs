// SPDX-License-Identifier: GPL-3.0-or-later
//! What a derivation requires of the machine that builds it, read from its file:
//!
//! ```text
//! Derive([OUTPUT,...],[DERIVATION,...],[SOURCE,...],SYSTEM,BUILDER,[ARGUMENT,...],[(VARIABLE,VALUE),...])
//! ```
//!
//! Each word is a string in double quotes, with `\n`, `\r`, `\t` and backslashes before other characters.

use std::fs::File;
use std::io::Read;

use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::machine::Requirements;

/// Longest derivation that is read, in bytes. The largest in Guix have some hundred KiB.
const MAX_SIZE: u64 = 64 << 20;

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
    let mut bytes = Vec::new();
    let file = File::open(derivation.as_str()).io_context(kind, doing)?;
    file.take(MAX_SIZE).read_to_end(&mut bytes).io_context(kind, doing)?;
    parse(&bytes).ok_or_else(|| Error::new(kind, format!("'{derivation}' is no derivation that can be understood")))
}

fn parse(bytes: &[u8]) -> Option<Needs> {
    let mut text = Text(bytes);
    text.skip(b"Derive(")?;
    // Outputs, derivations and sources: only where they end matters.
    for _ in 0..3 {
        text.skip_list()?;
        text.skip(b",")?;
    }
    let system = text.string()?;
    text.skip(b",")?;
    text.string()?;
    text.skip(b",")?;
    text.skip_list()?;
    text.skip(b",[")?;
    let mut needs = Needs { requirements: Requirements { system, features: Vec::new() }, prefers_local: false };
    while text.skip(b"(").is_some() {
        let variable = text.string()?;
        text.skip(b",")?;
        let value = text.string()?;
        text.skip(b")")?;
        match &*variable {
            "requiredSystemFeatures" => {
                needs.requirements.features = value.split_ascii_whitespace().map(str::to_string).collect();
            }
            "preferLocalBuild" => needs.prefers_local = value == "1",
            _ => {}
        }
        let _ = text.skip(b",");
    }
    text.skip(b"])")?;
    Some(needs)
}

/// What is left of a text. Each function returns `None` if something else follows.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn skip(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Reads a string. What is not UTF-8 in it is replaced: no system or feature of Guix is.
    fn string(&mut self) -> Option<String> {
        self.skip(b"\"")?;
        let mut read = Vec::new();
        let mut bytes = self.0.iter();
        loop {
            match bytes.next()? {
                b'"' => break,
                b'\\' => read.push(match bytes.next()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                }),
                other => read.push(*other),
            }
        }
        self.0 = bytes.as_slice();
        Some(String::from_utf8_lossy(&read).into_owned())
    }

    /// Skips a list, with all lists in it.
    fn skip_list(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.0.first()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'[' => depth += 1,
                b']' => depth = depth.checked_sub(1)?,
                b'(' | b')' | b',' => {}
                _ => return None,
            }
            self.0 = &self.0[1..];
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DERIVATION: &str = r#"Derive([("out","/gnu/store/a-x","","")],[("/gnu/store/b-y.drv",["out","lib"])],
["/gnu/store/c-z"],"x86_64-linux","/gnu/store/d/bin/guile",["--no-auto-compile","]),(\"["],
[("out","/gnu/store/a-x"),("requiredSystemFeatures","kvm big-parallel"),("x","a\nb\\\"")])"#;

    fn read(text: &str) -> Option<Needs> {
        parse(text.replace(",\n", ",").as_bytes())
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
            assert_eq!(parse(&whole.as_bytes()[..length]), None, "{}", &whole[..length]);
        }
        assert_eq!(read("Derive(]],[],[],\"s\",\"b\",[],[])"), None);
        assert_eq!(read("Derive(x,[],[],\"s\",\"b\",[],[])"), None);
    }
}
