// SPDX-License-Identifier: GPL-3.0-or-later
//! The file with the user's private key: read once, from one descriptor.
//!
//! A file that others can read is no error, as for Guix's own script: `machine::file` warns of it.
//!
//! Formats: OpenSSH's own (`PROTOCOL.key` of OpenSSH: the magic `openssh-key-v1\0`, then the cipher's name as a
//! string with a four-byte length), and those of OpenSSL (PEM and PKCS #8). Limit: [`SIZE_LIMIT`].

use std::fs::File;
use std::io::{ErrorKind::NotFound, ErrorKind::PermissionDenied, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};

use crate::ground::directories::for_daemons_user;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::machine::HostKey;

/// Largest key file, in bytes. A key of 16384 bits takes some 12 KiB.
const SIZE_LIMIT: u64 = 64 << 10;

const OPENSSH_BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const OPENSSH_END: &str = "-----END OPENSSH PRIVATE KEY-----";
const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";

/// Reads the private key in `path`, after checking that it is one, and that it needs no passphrase. All errors are of
/// kind [`ErrorKind::Configuration`], unless this process is out of descriptors.
pub fn read(path: &Path) -> Result<String> {
    let name = path.display();
    let reject = |why: String| Error::new(ErrorKind::Configuration, format!("private key {name} {why}"));
    let user = rustix::process::geteuid().as_raw();

    // Non-blocking: the file may be a FIFO.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|error| {
        let error = std::io::Error::from(error);
        match error.kind() {
            NotFound => reject("does not exist".into()).hint(format!(
                "create it with 'ssh-keygen -t ed25519 -N \"\" -f {name}', or name another in the machine file"
            )),
            PermissionDenied => reject(format!("cannot be read by user {user}, as whom this process runs"))
                .hint(for_daemons_user("read it", |user| format!("chown {user} {name}"))),
            _ => Error::io(ErrorKind::Configuration, format!("opening the private key {name}"), error),
        }
    })?;
    let metadata = file.metadata().map_err(|error| reject(format!("cannot be examined: {error}")))?;
    if !metadata.is_file() || metadata.len() > SIZE_LIMIT {
        return Err(not_a_key(path, "not a regular file of at most 64 KiB"));
    }
    let mut text = String::new();
    match file.take(SIZE_LIMIT).read_to_string(&mut text) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Err(not_a_key(path, "not text")),
        Err(error) => return Err(reject(format!("cannot be read: {error}"))),
        Ok(_) => {}
    }
    if is_public(&text) {
        let private = path.file_stem().filter(|_| path.extension().is_some_and(|extension| extension == "pub"));
        return Err(Error::new(ErrorKind::Configuration, format!("{name} is a public key, not a private one")).hint(
            match private {
                Some(private) => format!("name the private key, {}", path.with_file_name(private).display()),
                None => "name the private key that belongs to it; its public half is for the machine".into(),
            },
        ));
    }
    if is_encrypted(&text).ok_or_else(|| not_a_key(path, "no '-----BEGIN ... PRIVATE KEY-----'"))? {
        return Err(reject("is protected by a passphrase, which nobody is there to type".into())
            .hint(format!("use a key of its own for offloading, or run 'ssh-keygen -p -N \"\" -f {name}'")));
    }
    Ok(text)
}

/// Returns the error for a file that is no private key in a known format, because of `why`.
pub fn not_a_key(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("{} is not a private key that can be used: {why}", path.display()))
        .hint("name the private key itself, not its .pub file; 'ssh-keygen -t ed25519' makes one that works")
}

/// Returns whether it is a public key: `TYPE BASE64 [COMMENT]`, as in a .pub file, or one of OpenSSL or of RFC 4716.
fn is_public(text: &str) -> bool {
    let begins = ["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----", "---- BEGIN SSH2 PUBLIC KEY ----"];
    HostKey::parse(text).is_ok() || begins.iter().any(|begin| text.trim_start().starts_with(begin))
}

/// Returns whether the key, which needs no passphrase, is known to sign in one way only. RSA keys can sign in three.
pub fn has_one_way_of_signing(text: &str) -> bool {
    let Some((_, rest)) = text.split_once(OPENSSH_BEGIN) else {
        return text.contains("-----BEGIN EC PRIVATE KEY-----");
    };
    // Names of cipher and key derivation, options, the number of keys, the length of the public key.
    const BEFORE: usize = OPENSSH_MAGIC.len() + 2 * (4 + "none".len()) + 3 * 4;
    let encoded = rest.split_once(OPENSSH_END).map_or("", |(encoded, _)| encoded).split_ascii_whitespace();
    let decoded = STANDARD.decode(encoded.collect::<String>()).unwrap_or_default();
    let Some((length, rest)) = decoded.get(BEFORE..).and_then(|rest| rest.split_first_chunk::<4>()) else {
        return false;
    };
    let name = rest.get(..u32::from_be_bytes(*length) as usize).unwrap_or_default();
    name == b"ssh-ed25519" || name.starts_with(b"ecdsa-sha2-")
}

/// Returns whether the key needs a passphrase; `None` if it is no key.
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    /// A directory that is removed in the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("guix-offload-key-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Directory(path)
        }

        fn key(&self, options: &[&str]) -> PathBuf {
            let path = self.0.join("key");
            let status = Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(options).status().unwrap();
            assert!(status.success());
            path
        }

        fn file(&self, text: &str) -> PathBuf {
            let path = self.0.join("file");
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Returns the message and the hint for a file that is not accepted.
    fn rejection(path: &Path) -> (String, String) {
        let error = read(path).expect_err("it should not be accepted");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        (error.to_string(), error.hint_text().unwrap().to_string())
    }

    /// Runs `body` in a thread whose effective user is `user`. The test itself must run as root.
    #[allow(unsafe_code)]
    fn as_user<T: Send>(user: u32, body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: the bare system call changes only this thread, which ends here.
                let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) };
                assert_eq!(result, 0, "this test needs root");
                body()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn keys_without_a_passphrase_are_read() {
        for options in [["-t", "ed25519", "-N", "", "-m", "RFC4716"], ["-t", "rsa", "-N", "", "-m", "PEM"]] {
            let directory = Directory::new();
            let path = directory.key(&options);
            assert_eq!(read(&path).unwrap(), fs::read_to_string(&path).unwrap());
        }
    }

    #[test]
    fn keys_that_are_not_rsa_keys_sign_in_one_way() {
        for (kind, format, one_way) in [
            ("ed25519", "RFC4716", true),
            ("ecdsa", "RFC4716", true),
            ("ecdsa", "PEM", true),
            ("rsa", "RFC4716", false),
            ("rsa", "PEM", false),
            ("ecdsa", "PKCS8", false), // its type is not looked for
        ] {
            let text = read(&Directory::new().key(&["-t", kind, "-N", "", "-m", format])).unwrap();
            assert_eq!(has_one_way_of_signing(&text), one_way, "{kind} {format}");
        }
        let text = read(&Directory::new().key(&["-t", "ed25519", "-N", ""])).unwrap();
        for end in 0..text.len() - 300 {
            assert!(!has_one_way_of_signing(&format!("{}{OPENSSH_END}", &text[..end])) || end > 100);
        }
    }

    #[test]
    fn a_passphrase_is_noticed_in_every_format() {
        for format in ["RFC4716", "PEM", "PKCS8"] {
            let directory = Directory::new();
            let path = directory.key(&["-t", "rsa", "-N", "secret", "-m", format]);
            let (message, hint) = rejection(&path);
            assert!(message.contains("is protected by a passphrase"), "{format}: {message}");
            assert!(hint.contains("ssh-keygen -p"), "{hint}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let (message, hint) = rejection(Path::new("/nonexistent/id_ed25519"));
        assert!(message.ends_with("does not exist"), "{message}");
        assert!(hint.contains("ssh-keygen"), "{hint}");
    }

    #[test]
    fn a_file_of_somebody_else_names_the_user() {
        let directory = Directory::new();
        let path = directory.key(&["-t", "ed25519", "-N", ""]);
        let (message, hint) = as_user(65534, || rejection(&path));
        assert!(message.contains("cannot be read by user 65534"), "{message}");
        assert!(hint.contains("if that is user 65534, let it read it") && hint.contains("chown 65534 "), "{hint}");
    }

    #[test]
    fn a_file_that_others_can_read_is_read() {
        let directory = Directory::new();
        let path = directory.key(&["-t", "ed25519", "-N", ""]);
        for (owner, mode) in [(0, 0o644), (0, 0o666), (65534, 0o604), (0, 0o600)] {
            chown(&path, Some(owner), Some(0)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap(), fs::read_to_string(&path).unwrap());
        }
    }

    #[test]
    fn a_public_key_is_called_that() {
        for (kind, format) in
            [("ed25519", None), ("rsa", Some("PEM")), ("rsa", Some("PKCS8")), ("rsa", Some("RFC4716"))]
        {
            let directory = Directory::new();
            let key = directory.key(&["-t", kind, "-N", ""]);
            let public = directory.0.join("key.pub");
            let (message, hint) = rejection(&public);
            assert!(message.ends_with("key.pub is a public key, not a private one"), "{message}");
            assert_eq!(hint, format!("name the private key, {}", key.display()));
            let Some(format) = format else { continue };
            let exported = Command::new("ssh-keygen").args(["-e", "-m", format, "-f"]).arg(&key).output().unwrap();
            let (message, hint) = rejection(&directory.file(&String::from_utf8(exported.stdout).unwrap()));
            assert!(message.ends_with("is a public key, not a private one"), "{format}: {message}");
            assert!(hint.starts_with("name the private key that belongs to it"), "{hint}");
        }
    }

    #[test]
    fn what_is_no_key_is_rejected() {
        let directory = Directory::new();
        let key = fs::read_to_string(directory.key(&["-t", "ed25519", "-N", ""])).unwrap();
        for text in [
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key[..key.len() / 2],
            &key.replace("b3Blbn", "AAAAAA"),
            &"A".repeat(100_000),
        ] {
            let (message, _) = rejection(&directory.file(text));
            assert!(message.contains("is not a private key"), "{message}");
        }
        let path = directory.file("");
        fs::write(&path, [0xff; 100]).unwrap();
        assert!(rejection(&path).0.contains("not text"));
    }

    #[test]
    fn a_fifo_does_not_block() {
        let directory = Directory::new();
        let path = directory.0.join("fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(rejection(&path).0.contains("not a regular file"));
        assert!(rejection(&directory.0).0.contains("not a regular file"));
    }
}
