// SPDX-License-Identifier: GPL-3.0-or-later
//! The file with the user's private key: read once, from one descriptor, and judged as OpenSSH would.
//!
//! Formats: OpenSSH's own (`PROTOCOL.key` of OpenSSH: the magic `openssh-key-v1\0`, then the cipher's name as a
//! string with a four-byte length), and those of OpenSSL (PEM and PKCS #8). Limit: [`SIZE_LIMIT`].

use std::fs::File;
use std::io::{ErrorKind::NotFound, ErrorKind::PermissionDenied, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, ErrorKind, Result};

/// A key of 16384 bits takes some 12 KiB.
const SIZE_LIMIT: u64 = 64 << 10;

const OPENSSH_BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const OPENSSH_END: &str = "-----END OPENSSH PRIVATE KEY-----";
const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// Reads the private key in `path`, after checking that it is one, that nobody else can read it, and that it can be
/// used without a passphrase. All errors are of kind [`ErrorKind::Configuration`].
pub fn read(path: &Path) -> Result<String> {
    let name = path.display();
    let reject = |why: String| Error::new(ErrorKind::Configuration, format!("private key {name} {why}"));
    let user = rustix::process::geteuid().as_raw();

    // Not blocking: it may turn out to be a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|error| {
        let error = std::io::Error::from(error);
        match error.kind() {
            NotFound => reject("does not exist".into())
                .hint(format!("create it with 'ssh-keygen -t ed25519 -N \"\" -f {name}', or name another in the machine file")),
            PermissionDenied => reject(format!("cannot be read by user {user}, as whom this process runs"))
                .hint(format!("run 'chown {user} {name}', and let that user search the directories above it")),
            _ => reject(format!("cannot be opened: {error}")),
        }
    })?;
    let metadata = file.metadata().map_err(|error| reject(format!("cannot be examined: {error}")))?;
    if !metadata.is_file() || metadata.len() > SIZE_LIMIT {
        return Err(not_a_key(path, "not a regular file of at most 64 KiB"));
    }
    let too_open = if metadata.uid() == user { 0o077 } else { 0o007 };
    if metadata.mode() & too_open != 0 {
        return Err(reject(format!("can be read by others (its mode is {:04o})", metadata.mode() & 0o7777))
            .hint(format!("run 'chmod 600 {name}'; if others may have seen it, replace it")));
    }

    let mut text = String::new();
    match file.take(SIZE_LIMIT).read_to_string(&mut text) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Err(not_a_key(path, "not text")),
        Err(error) => return Err(reject(format!("cannot be read: {error}"))),
        Ok(_) => {}
    }
    if is_encrypted(&text).ok_or_else(|| not_a_key(path, "no '-----BEGIN ... PRIVATE KEY-----'"))? {
        return Err(reject("is protected by a passphrase, which nobody is there to type".into())
            .hint(format!("use a key of its own for offloading, or run 'ssh-keygen -p -N \"\" -f {name}'")));
    }
    Ok(text)
}

/// The error for a file that is no private key in a known format, because of `why`.
pub fn not_a_key(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("{} is not a private key that can be used: {why}", path.display()))
        .hint("name the private key itself, not its .pub file; 'ssh-keygen -t ed25519' makes one that works")
}

/// Does the key need a passphrase? `None` if it is no key.
fn is_encrypted(text: &str) -> Option<bool> {
    if let Some((_, rest)) = text.split_once(OPENSSH_BEGIN) {
        let encoded: String = rest.split_once(OPENSSH_END)?.0.split_ascii_whitespace().collect();
        let decoded = STANDARD.decode(encoded).ok()?;
        let (length, rest) = decoded.strip_prefix(OPENSSH_MAGIC)?.split_first_chunk::<4>()?;
        return Some(rest.get(..u32::from_be_bytes(*length) as usize)? != b"none");
    }
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (kind, rest) = rest.split_once("PRIVATE KEY-----")?;
    (kind.len() < 32).then(|| kind.contains("ENCRYPTED") || rest.contains("Proc-Type: 4,ENCRYPTED"))
}
