// SPDX-License-Identifier: GPL-3.0-or-later
//! What guix-daemon says to its hook, read and parsed.

use std::io::{BufRead, Read};

use crate::build::request::{Request, Work};
use crate::daemon::BuildOptions;
use crate::doors::parent::Parent;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::Requirements;

/// Longest request line of guix-daemon, in bytes.
const MAX_REQUEST: u64 = 64 << 10;
/// Longest list of store items that guix-daemon may send to its hook, in bytes: some half a million items.
pub(super) const MAX_ITEMS: u64 = 64 << 20;

/// A request of guix-daemon.
#[derive(Clone, Debug)]
pub struct Question {
    /// What is to be built.
    pub request: Request,
    /// Whether the daemon could start a build by itself.
    pub wants_local: bool,
}

impl Question {
    /// Returns whether the daemon, this process's `parent`, could do this build by itself, if only after another one.
    pub(super) fn could_build_here(&self, parent: &Parent) -> bool {
        is_native(&self.request.requirements.system) && (self.wants_local || parent.builds())
    }
}

/// Returns whether guix-daemon builds for `system` on this host, if it may.
pub fn is_native(system: &str) -> bool {
    builds_here(system, native_system())
}

/// Returns Guix's name for the system type of this host; empty if Guix has none.
fn native_system() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86_64-linux",
        "x86" => "i686-linux",
        "aarch64" => "aarch64-linux",
        "arm" => "armhf-linux",
        "powerpc64" => "powerpc64le-linux",
        "riscv64" => "riscv64-linux",
        _ => "",
    }
}

/// Returns whether a daemon on a host of the type `native` builds for `system`, as `canBuildLocally` in Guix's
/// `nix/libstore/build.cc` does.
fn builds_here(system: &str, native: &str) -> bool {
    system == native || matches!((system, native), ("i686-linux", "x86_64-linux") | ("armhf-linux", "aarch64-linux"))
}

/// Reads the line of the next request; `None`: there is none.
pub fn read_request(input: &mut impl BufRead) -> Result<Option<String>> {
    read_line(input, MAX_REQUEST)
}

/// Reads what the daemon sends after `# accept`.
pub fn read_work(input: &mut impl BufRead, store: &StoreDir, options: &BuildOptions) -> Result<Work> {
    let mut items = || -> Result<Vec<StorePath>> {
        let line = read_line(input, MAX_ITEMS)?
            .ok_or_else(|| Error::new(ErrorKind::Cancelled, "the daemon hung up after the request was accepted"))?;
        line.split_ascii_whitespace().map(|item| store.parse(item)).collect()
    };
    Ok(Work { inputs: items()?, outputs: items()?, options: options.clone() })
}

/// Reads a line of at most `limit` bytes, without its newline; `None` at the end of the stream.
pub(super) fn read_line(input: &mut impl BufRead, limit: u64) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    input
        .take(limit)
        .read_until(b'\n', &mut bytes)
        .io_context(ErrorKind::InvalidArgument, || "reading a request of the daemon")?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let invalid = |what: &str| Err(invalid(&String::from_utf8_lossy(&bytes), what));
    match bytes.strip_suffix(b"\n").map(std::str::from_utf8) {
        None if bytes.len() as u64 == limit => invalid("it is too long"),
        None => invalid("it has no end"),
        Some(Err(_)) => invalid("it is not UTF-8"),
        Some(Ok(line)) => Ok(Some(line.to_string())),
    }
}

/// The error for a request `line` that cannot be understood.
fn invalid(line: &str, what: &str) -> Error {
    let shown: String = line.chars().take(200).collect();
    Error::new(ErrorKind::InvalidArgument, format!("invalid request line: {shown:?}: {what}"))
}

/// Parses the line of a request.
pub fn parse_request(line: &str, store: &StoreDir) -> Result<Question> {
    let invalid = |what: &str| invalid(line, what);
    let words: Vec<&str> = line.split(' ').collect();
    let [wants_local, system, derivation, features] = words[..] else {
        return Err(invalid("expected 'WANTS-LOCAL SYSTEM DERIVATION FEATURES'"));
    };
    if !matches!(wants_local, "0" | "1") {
        return Err(invalid("WANTS-LOCAL is neither 0 nor 1"));
    }
    if system.is_empty() || !system.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
    {
        return Err(invalid("SYSTEM is not a system type"));
    }
    let derivation = store.parse(derivation).map_err(|error| invalid(&error.to_string()))?;
    if !derivation.is_derivation() {
        return Err(invalid("DERIVATION is not a derivation"));
    }
    let features = features.split(',').filter(|feature| !feature.is_empty()).map(str::to_string).collect();
    let requirements = Requirements { system: system.to_string(), features };
    let request = Request { requirements, derivation, is_patient: true };
    Ok(Question { request, wants_local: wants_local == "1" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRV: &str = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";

    #[test]
    fn a_request_is_taken_apart() {
        let store = StoreDir::new("/gnu/store").unwrap();
        let question = parse_request(&format!("1 x86_64-linux {DRV} kvm,big"), &store).unwrap();
        assert!(question.wants_local);
        let request = question.request;
        assert_eq!(request.requirements.system, "x86_64-linux");
        assert_eq!(request.requirements.features, ["kvm", "big"]);
        assert_eq!(request.derivation.as_str(), DRV);
        let plain = parse_request(&format!("0 i686-linux {DRV} "), &store).unwrap();
        assert!(plain.request.requirements.features.is_empty() && !plain.wants_local);
    }

    #[test]
    fn a_malformed_request_says_what_is_wrong() {
        let store = StoreDir::new("/gnu/store").unwrap();
        for (line, complaint) in [
            ("".to_string(), "expected"),
            (format!("1 x86_64-linux {DRV}"), "expected"),
            (format!("2 x86_64-linux {DRV} "), "WANTS-LOCAL"),
            (format!("1 X86 {DRV} "), "SYSTEM"),
            ("1 x86_64-linux /etc/passwd ".to_string(), "not in /gnu/store"),
            (format!("1 x86_64-linux {} ", DRV.trim_end_matches(".drv")), "not a derivation"),
        ] {
            let error = parse_request(&line, &store).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
        let long = format!("1 {} {DRV} ", "X".repeat(60_000));
        assert!(parse_request(&long, &store).unwrap_err().to_string().len() < 1000);
    }

    #[test]
    fn a_host_builds_for_its_own_system_and_the_smaller_one_that_its_processor_runs() {
        assert!(builds_here("x86_64-linux", "x86_64-linux") && builds_here("i686-linux", "x86_64-linux"));
        assert!(builds_here("armhf-linux", "aarch64-linux") && !builds_here("x86_64-linux", "i686-linux"));
        assert!(!builds_here("aarch64-linux", "x86_64-linux"));
        assert!(native_system().ends_with("-linux"));
    }

    #[test]
    fn lines_are_limited_and_ended() {
        assert_eq!(read_line(&mut &b""[..], 10).unwrap(), None);
        assert_eq!(read_line(&mut &b"ab\ncd"[..], 10).unwrap().as_deref(), Some("ab"));
        for (bytes, complaint) in [(&b"ab"[..], "no end"), (b"abcdefghijk\n", "too long"), (b"\xff\n", "UTF-8")] {
            let error = read_line(&mut &bytes[..], 10).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
