// SPDX-License-Identifier: GPL-3.0-or-later
//! The host name or address of a machine, in its field `name`.
//!
//! ```text
//! name    = host / IPv4 / IPv6 / "[" IPv6 "]"
//! host    = label *("." label) ["."]         ; at most 253 bytes
//! label   = 1*(letter / digit / "-" / "_")   ; letters of any alphabet; no "-" at the start
//! IPv6    = address ["%" zone]
//! ```
//!
//! The last label is not a number: resolvers read `5` as the address 0.0.0.5, and `10.1` as 10.0.0.1.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::gate::{Flaw, quoted};

/// Longest host name, in bytes.
pub(super) const MAX_HOST: usize = 253;
/// Longest name of a network interface, in bytes.
const MAX_ZONE: usize = 15;

/// Returns `text` as a host name or an address, without brackets.
pub(super) fn parse(text: &str) -> Result<String, Flaw> {
    if is_host(text) || text.parse::<Ipv4Addr>().is_ok() || is_ipv6(text) {
        return Ok(text.to_string());
    }
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inside) if is_ipv6(inside) => Ok(inside.to_string()),
        _ => {
            let (expected, hint) = explain(text);
            let flaw = Flaw::new("name", format!("a host name or an address{expected}"), quoted(text));
            Err(Flaw { hint: Some(hint), ..flaw })
        }
    }
}

/// Returns what completes the phrase for what is expected in place of `text`, and a hint.
fn explain(text: &str) -> (&'static str, String) {
    let general =
        || "write the name or the address at which its SSH server can be reached, and nothing else".to_string();
    let use_name = |name: &str| parse(name).map_or_else(|_| general(), |name| format!("use (name {name:?})"));
    if text.trim() != text {
        return (" without blanks around it", use_name(text.trim()));
    }
    if let Some((user, host)) = text.split_once('@') {
        let hint = parse(host).map(|host| format!("use (user {user:?}) and (name {host:?})"));
        return (" without an account", hint.unwrap_or_else(|_| general()));
    }
    if let Some((host, port)) = text.rsplit_once(':') {
        let is_port = port.parse::<u16>().is_ok() && !host.ends_with(':');
        if let (true, Ok(host)) = (is_port, parse(host)) {
            return (" without a port", format!("use (port {port}) and (name {host:?})"));
        }
    }
    if let Some(inside) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return ("; only an IPv6 address may stand in brackets", use_name(inside));
    }
    if has_labels(text) {
        let hint = "write the host name, or all four parts of the address, without leading zeros";
        return (", not a number that resolvers take for an address", hint.into());
    }
    ("", general())
}

fn is_host(text: &str) -> bool {
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    has_labels(text) && !is_number(last)
}

fn has_labels(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.chars().all(|char| char.is_alphanumeric() || char == '-' || char == '_')
    };
    text.len() <= MAX_HOST && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

/// Returns whether inet_aton(3) reads `label` as a number: decimal, octal or hexadecimal.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => label.bytes().all(|digit| digit.is_ascii_digit()),
    }
}

fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_zone = |zone: &str| {
        (1..=MAX_ZONE).contains(&zone.len())
            && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(is_zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken() {
        for name in [
            "w1",
            "w1.example.org",
            "w1.example.org.",
            "W-1_a",
            "3com.example",
            "1e100",
            "z\u{fc}rich",
            "10.0.0.2",
            "::1",
            "2001:db8::1",
            "fe80::1%eth0",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(parse(name), Ok(name.to_string()));
        }
        assert_eq!(parse("[2001:db8::1]"), Ok("2001:db8::1".into()));
        assert_eq!(parse("[fe80::1%eth0]"), Ok("fe80::1%eth0".into()));
    }

    #[test]
    fn what_is_more_than_a_name_is_refused_with_the_field_to_use() {
        for (text, hint) in [
            ("root@w1", "use (user \"root\") and (name \"w1\")"),
            ("w1:2222", "use (port 2222) and (name \"w1\")"),
            ("10.0.0.2:22", "use (port 22) and (name \"10.0.0.2\")"),
            ("[2001:db8::1]:2222", "use (port 2222) and (name \"2001:db8::1\")"),
            ("[10.0.0.2]", "use (name \"10.0.0.2\")"),
            (" w1\n", "use (name \"w1\")"),
            ("5", "write the host name, or all four parts"),
            ("0x7f", "write the host name, or all four parts"),
            ("10.1", "write the host name, or all four parts"),
            ("010.0.0.1", "write the host name, or all four parts"),
            ("10.0.0.256", "write the host name, or all four parts"),
            ("<host name>", "write the name or the address"),
            ("host name", "write the name or the address"),
            ("w1/x", "write the name or the address"),
            ("..", "write the name or the address"),
            (".w1", "write the name or the address"),
            ("-w1", "write the name or the address"),
            ("", "write the name or the address"),
            ("w1\n# decline\n@ build-succeeded x", "write the name or the address"),
            ("[::1", "write the name or the address"),
            ("::1%", "write the name or the address"),
            ("::1%../..", "write the name or the address"),
            ("ssh://w1", "write the name or the address"),
        ] {
            let flaw = parse(text).expect_err(text);
            assert!(flaw.hint.as_deref().is_some_and(|said| said.starts_with(hint)), "{text:?}: {:?}", flaw.hint);
            assert!(flaw.field == "name" && flaw.expected.starts_with("a host name or an address"), "{flaw:?}");
        }
    }
}
