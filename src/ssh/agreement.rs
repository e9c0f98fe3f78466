// SPDX-License-Identifier: GPL-3.0-or-later
//! Explaining a failed key exchange: which of the lists that the two sides exchange have nothing in common.
//!
//! Each side begins with lines of text, the last of which starts with `SSH-`. A packet follows that is not encrypted
//! yet (RFC 4253, sections 4.2, 6 and 7.1):
//!
//! ```text
//! u32 length, u8 padding, then the payload: u8 20, 16 random bytes, 10 lists (u32 length, names with commas), ...
//! ```
//!
//! libssh2 does not say which lists these are. So the start of both streams is kept, and read here.

use crate::ground::error::{Error, ErrorKind};

/// `SSH_MSG_KEXINIT` of RFC 4253, section 12.
const KEXINIT: u8 = 20;
/// `SSH_MSG_NEWKEYS`: all later packets are encrypted.
const NEWKEYS: u8 = 21;

/// The lists that must have something in common. For each: the name of an element, the list's position, an element that
/// everybody has, and the setting of OpenSSH's server that lists the elements.
const LISTS: [(&str, usize, &str, &str); 6] = [
    ("key exchange method", 0, "curve25519-sha256", "KexAlgorithms"),
    ("type of host key", 1, "", ""),
    ("cipher", 2, CIPHER, "Ciphers"),
    ("cipher", 3, CIPHER, "Ciphers"),
    ("message authentication code", 4, MAC, "MACs"),
    ("message authentication code", 5, MAC, "MACs"),
];
const CIPHER: &str = "chacha20-poly1305@openssh.com";
const MAC: &str = "hmac-sha2-256-etm@openssh.com";

/// A key exchange that libssh2 only has with an OpenSSL that implements its part of it.
const POST_QUANTUM: &str = "mlkem768x25519-sha256";

/// Returns the lines before the one that starts with `SSH-`, and whether that line is there.
pub fn greeting(stream: &[u8]) -> (String, bool) {
    let mut said = Vec::new();
    for line in stream.split(|byte| *byte == b'\n') {
        if line.starts_with(b"SSH-") {
            return (said.join(" "), true);
        }
        said.push(String::from_utf8_lossy(line).trim().to_string());
    }
    said.retain(|line| !line.is_empty());
    (said.join(" "), false)
}

/// Returns what follows the lines of text.
fn packets(stream: &[u8]) -> Option<&[u8]> {
    let mut rest = stream;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')? + 1;
        let (line, after) = rest.split_at(end);
        rest = after;
        if line.starts_with(b"SSH-") {
            return Some(rest);
        }
    }
}

/// Returns whether the side that has sent `stream` has the keys, and has sent something encrypted: a client then asks
/// for the service of logging in.
pub fn requests_service(stream: &[u8]) -> bool {
    let mut rest = packets(stream).unwrap_or_default();
    while let Some((length, packet)) = rest.split_first_chunk::<4>() {
        let Some((packet, after)) = packet.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
        if packet.get(1) == Some(&NEWKEYS) {
            return !after.is_empty();
        }
        rest = after;
    }
    false
}

/// Returns the lists that one side offers, from the start of its stream.
fn offers(stream: &[u8]) -> Option<Vec<Vec<&str>>> {
    let rest = packets(stream)?;
    let (_, payload) = rest.split_at_checked(5)?;
    let (start, mut lists) = payload.split_at_checked(17)?;
    if start[0] != KEXINIT {
        return None;
    }
    let mut all = Vec::new();
    for _ in LISTS {
        let (length, after) = lists.split_first_chunk::<4>()?;
        let (list, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let names = std::str::from_utf8(list).ok()?.split(',').filter(|name| !name.is_empty());
        // These are signals, not methods.
        all.push(names.filter(|name| !name.starts_with("ext-info-") && !name.starts_with("kex-strict-")).collect());
        lists = after;
    }
    Some(all)
}

/// Returns why no keys can be exchanged with the machine `name`, if that is because nothing is in common. `theirs` is
/// the start of what the machine sent, `ours` of what was sent to it. `pinned` is the type of its host key in the
/// machine file.
pub fn disagreement(name: &str, port: u16, pinned: &str, theirs: &[u8], ours: &[u8]) -> Option<Error> {
    let (theirs, ours) = (offers(theirs)?, offers(ours)?);
    let (what, at, known, setting) =
        LISTS.into_iter().find(|(_, at, ..)| !theirs[*at].iter().any(|name| ours[*at].contains(name)))?;
    let (theirs, ours) = (&theirs[at], &ours[at]);
    if setting.is_empty() {
        let message = format!("'{name}' has no host key of type {pinned}, which the machine file gives for it");
        return Some(
            Error::new(ErrorKind::HostKey, format!("{message}, but {}", theirs.join(", ")))
                .hint(format!("compare with 'ssh-keyscan -p {port} {name}'")),
        );
    }
    let message = format!(
        "'{name}' and this library have no {what} in common: its SSH server offers {}; this library has {}",
        theirs.join(", "),
        ours.join(", ")
    );
    let line = theirs.iter().copied().chain([known]).collect::<Vec<_>>().join(",");
    let mut hint = format!("put the line '{setting} {line}' into sshd_config on '{name}'");
    if theirs.contains(&POST_QUANTUM) {
        hint += &format!(", or use a libguix_offload that was built with OpenSSL 3.5 or later: it has {POST_QUANTUM}");
    }
    Some(Error::new(ErrorKind::Configuration, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::tests::flooding::kexinit;

    fn stream(kex: &str, cipher: &str, mac: &str) -> Vec<u8> {
        let lists = [kex, "ssh-ed25519", cipher, cipher, mac, mac, "none", "none", "", ""];
        [b"Hello\r\nSSH-2.0-test\r\n".to_vec(), kexinit(lists)].concat()
    }

    fn said(theirs: &[u8], ours: &[u8]) -> Option<(String, String)> {
        let error = disagreement("w1", 22, "ssh-ed25519", theirs, ours)?;
        Some((error.to_string(), error.hint_text().unwrap().to_string()))
    }

    #[test]
    fn the_list_that_has_nothing_in_common_is_named() {
        let ours = stream("curve25519-sha256,ext-info-c", "aes256-ctr", "hmac-sha2-256");
        let cases = [
            (stream(&format!("{POST_QUANTUM},ext-info-c"), "aes256-ctr", "x"), "key exchange method", "OpenSSL 3.5"),
            (stream("curve25519-sha256", "none,rot13", "x"), "cipher", "'Ciphers none,rot13,chacha20-poly1305@"),
            (stream("curve25519-sha256", "aes256-ctr", "umac"), "authentication", "'MACs umac,hmac-sha2-256-etm@"),
        ];
        for (theirs, what, hint) in cases {
            let (message, advice) = said(&theirs, &ours).unwrap();
            assert!(message.contains(what) && advice.contains(hint), "{message}: {advice}");
        }
        assert_eq!(said(&ours, &ours), None);
    }

    #[test]
    fn what_is_no_beginning_of_ssh_says_nothing() {
        let good = stream("a", "b", "c");
        for end in 0..good.len() - 40 {
            let _ = said(&good[..end], &good);
        }
        assert_eq!(said(b"", &good), None);
        assert_eq!(said(b"HTTP/1.0 400\r\n\r\n", &good), None);
        assert_eq!(said(&[b"SSH-2.0-x\n".to_vec(), vec![255; 100]].concat(), &good), None);
    }

    #[test]
    fn what_follows_new_keys_is_seen() {
        let packet = |kind| [0, 0, 0, 4, 2, kind, 0, 0];
        let before = [b"SSH-2.0-x\r\n".as_slice(), &packet(KEXINIT), &packet(30)].concat();
        let keys = [before.clone(), packet(NEWKEYS).to_vec()].concat();
        let all = [keys.clone(), vec![200]].concat();
        assert!(requests_service(&all));
        (0..=keys.len()).for_each(|end| assert!(!requests_service(&all[..end]), "{end}"));
        assert!(!requests_service(&[before, packet(0).to_vec(), vec![255; 9]].concat()));
    }

    #[test]
    fn words_before_ssh_are_told_from_the_version() {
        assert_eq!(greeting(b"Exceeded MaxStartups\r\n"), ("Exceeded MaxStartups".into(), false));
        assert_eq!(greeting(b"Hello\nSSH-2.0-x\r\n\0\0"), ("Hello".into(), true));
        assert_eq!(greeting(b""), (String::new(), false));
    }
}
