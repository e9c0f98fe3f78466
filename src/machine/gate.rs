// SPDX-License-Identifier: GPL-3.0-or-later
//! The requirements on a machine, whether the machine file, C or Guile describes it.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::{BuildMachine, name};
use crate::ground::error::{Error, ErrorKind, Result};

impl BuildMachine {
    /// The range of `port`.
    pub const PORTS: RangeInclusive<u16> = 1..=u16::MAX;
    /// The range of `compression_level`.
    pub const COMPRESSION_LEVELS: RangeInclusive<u8> = 0..=9;

    /// Validates the machine, wherever its description comes from. Returns the machine, with its name as it is looked
    /// up (an IPv6 address without brackets), or the first field that is wrong.
    pub fn admit(mut self) -> Result<Self, Flaw> {
        // The name becomes part of a file name and of lines that tools read.
        self.name = name::parse(&self.name)?;
        number("port", self.port, Self::PORTS)?;
        check_text("user", &self.user)?;
        check_text("compression", &self.compression)?;
        // An empty file name means that there is no key yet.
        let key = self.private_key.as_os_str().to_string_lossy();
        if !key.is_empty() {
            key_file(&key)?;
        }
        check_texts("systems", &self.systems)?;
        check_texts("features", &self.features)?;
        number("compression-level", self.compression_level, Self::COMPRESSION_LEVELS)?;
        check_text("daemon-socket", &self.daemon_socket)?;
        if !self.daemon_socket.starts_with('/') {
            return Err(Flaw::new("daemon-socket", "an absolute file name", quoted(&self.daemon_socket)));
        }
        let is_measure = |number: f64| number.is_finite() && number >= 0.0;
        if !is_measure(self.speed) {
            return Err(Flaw::new("speed", "a number that is not negative", format!("{:?}", self.speed)));
        }
        match self.overload_threshold {
            Some(load) if !is_measure(load) => {
                Err(Flaw::new("overload-threshold", "a number that is not negative, or #f", format!("{load:?}")))
            }
            _ => Ok(self),
        }
    }
}

/// Longest text of a machine, in bytes.
pub(super) const MAX_TEXT: usize = 4096;

/// Fails unless `text`, the value of `field`, can be part of a line, of a file name and of a protocol with limits.
/// `expected` and `got` are for the error.
fn check(field: &'static str, text: &str, expected: &str, got: impl Fn() -> String) -> Result<(), Flaw> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err(Flaw::new(field, expected, got()));
    }
    if text.len() > MAX_TEXT {
        return Err(Flaw::new(field, format!("at most {MAX_TEXT} bytes in a string"), got()));
    }
    Ok(())
}

fn check_text(field: &'static str, text: &str) -> Result<(), Flaw> {
    check(field, text, "a string that is not empty and has no control characters", || quoted(text))
}

fn check_texts(field: &'static str, texts: &[String]) -> Result<(), Flaw> {
    let expected = "a list of strings that are not empty and have no control characters";
    for (i, text) in texts.iter().enumerate() {
        check(field, text, expected, || format!("a list whose element {} is {}", i + 1, quoted(text)))?;
    }
    Ok(())
}

/// Returns `text` as the file name of a private key, if it can be one.
pub fn key_file(text: &str) -> Result<PathBuf, Flaw> {
    check_text("private-key", text).map(|()| text.into())
}

/// Returns `value` as the number of the field `field`. Fails if it is not in `range`.
pub fn number<T>(
    field: &'static str,
    value: impl TryInto<T> + Copy + fmt::Display,
    range: RangeInclusive<T>,
) -> Result<T, Flaw>
where
    T: PartialOrd + fmt::Display,
{
    let number = value.try_into().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| Flaw::new(field, integers(&range), value.to_string()))
}

/// Returns the phrase for a number in `range`, for messages.
pub fn integers(range: &RangeInclusive<impl fmt::Display>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

/// Most characters of a text that a message shows.
const MAX_SHOWN: usize = 60;

/// Returns the phrase for the value `text`, for messages: `the string "22"`.
pub fn quoted(text: &str) -> String {
    format!("the string {}", shown(text))
}

/// Returns `text` in quotes, or its beginning if it is long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Returns the phrase for the machine `name`, for messages, whatever `name` contains: `machine 'w1'`.
pub fn title(name: &str) -> String {
    match name.char_indices().nth(name::MAX_HOST) {
        Some((end, _)) => format!("machine '{}...'", name[..end].escape_debug()),
        None => format!("machine '{}'", name.escape_debug()),
    }
}

/// A field of a machine that is wrong. Shown as `expected EXPECTED, got GOT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The field's name in the machine file.
    pub field: &'static str,
    /// What was expected there: a noun phrase.
    pub expected: String,
    /// What is there: a noun phrase.
    pub got: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Flaw {
    /// Returns a flaw without a hint.
    pub fn new(field: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Flaw { field, expected: expected.into(), got: got.into(), hint: None }
    }

    /// Returns the error for a machine called `name` that no machine file describes.
    pub fn error(self, name: &str) -> Error {
        let message = format!("{}, field '{}': {self}", title(name), self.field);
        let error = Error::new(ErrorKind::InvalidArgument, message).on_machine(name);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, got {}", self.expected, self.got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn the_gate_refuses_what_a_machine_cannot_be() {
        let m = || machine("m");
        for (machine, field) in [
            (machine("w1\n# decline\n@ build-succeeded x"), "name"),
            (BuildMachine { user: String::new(), ..m() }, "user"),
            (BuildMachine { user: "a\n# accept".into(), ..m() }, "user"),
            (BuildMachine { port: 0, ..m() }, "port"),
            (BuildMachine { private_key: "/k\n".into(), ..m() }, "private-key"),
            (BuildMachine { systems: vec![String::new()], ..m() }, "systems"),
            (BuildMachine { features: vec!["a\x1b".into()], ..m() }, "features"),
            (BuildMachine { features: vec!["a".repeat(MAX_TEXT + 1)], ..m() }, "features"),
            (BuildMachine { compression: "zlib\n".into(), ..m() }, "compression"),
            (BuildMachine { compression_level: 10, ..m() }, "compression-level"),
            (BuildMachine { daemon_socket: "relative".into(), ..m() }, "daemon-socket"),
            (BuildMachine { speed: -1.0, ..m() }, "speed"),
            (BuildMachine { speed: f64::NAN, ..m() }, "speed"),
            (BuildMachine { overload_threshold: Some(f64::INFINITY), ..m() }, "overload-threshold"),
        ] {
            let name = machine.name.clone();
            let flaw = machine.admit().expect_err(field);
            assert_eq!(flaw.field, field);
            let error = flaw.error(&name);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("field '{field}': expected ")), "{error}");
        }
        assert_eq!(m().admit(), Ok(m()));
        assert_eq!(machine("[::1]").admit(), Ok(machine("::1")));
        assert_eq!(m().unknown_systems().count(), 0);
    }
}
