// SPDX-License-Identifier: GPL-3.0-or-later
//! What calls of the C ABI are made with: handles that live, and values, right and wrong ones. No pointer is wrong but
//! NULL, as the header promises nothing of others.
//!
//! Nothing leaves this host: machines are at loopback addresses, at ports where nobody listens, and directories are
//! below one that is thrown away.

use std::ffi::{CStr, CString, c_char};
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::ptr::{null, null_mut};

use guix_offload::ffi::error::*;
use tempfile::TempDir;

use super::bytes::Bytes;

/// Live handles of one type.
pub struct Handles<T> {
    live: Vec<*mut T>,
    free: unsafe extern "C" fn(*mut T),
}

/// So many of a type may live at once.
const MAX_HANDLES: usize = 4;

impl<T> Handles<T> {
    pub fn new(free: unsafe extern "C" fn(*mut T)) -> Self {
        Handles { live: Vec::new(), free }
    }

    /// A live one, or NULL.
    pub fn pick(&self, input: &mut Bytes) -> *mut T {
        let index = usize::from(input.byte()) % (MAX_HANDLES + 1);
        self.live.get(index).copied().unwrap_or(null_mut())
    }

    /// Takes what a call gave, and frees the oldest of too many.
    pub fn keep(&mut self, handle: *mut T) {
        if !handle.is_null() {
            self.live.push(handle);
        }
        if self.live.len() > MAX_HANDLES {
            self.free_one(0);
        }
    }

    pub fn free_one(&mut self, index: usize) {
        if index < self.live.len() {
            // SAFETY: it lives, and is forgotten here.
            unsafe { (self.free)(self.live.remove(index)) };
        } else {
            // SAFETY: freeing NULL is fine.
            unsafe { (self.free)(null_mut()) };
        }
    }

    pub fn last(&self) -> *mut T {
        self.live.last().copied().unwrap_or(null_mut())
    }
}

impl<T> Drop for Handles<T> {
    fn drop(&mut self) {
        while !self.live.is_empty() {
            self.free_one(0);
        }
    }
}

/// A line of a `.pub` file.
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI";

pub const DERIVATION: &str = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";

/// Files and texts for one run.
pub struct Files {
    pub scratch: TempDir,
    texts: Vec<CString>,
}

impl Files {
    pub fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("state")).unwrap();
        let machine = "(name \"127.0.0.1\") (port 1) (systems '(\"x86_64-linux\")) (user \"u\")";
        let key = at("key").display().to_string();
        let file = format!("(list (build-machine {machine} (host-key \"{HOST_KEY}\") (private-key {key:?})))\n");
        fs::write(at("machines.scm"), file).unwrap();
        fs::write(at("wrong.scm"), "(list (build-machine (prot 1)))").unwrap();
        // No key, but it is not seen to be none until a machine has answered.
        fs::write(at("key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        fs::set_permissions(at("key"), fs::Permissions::from_mode(0o600)).unwrap();
        Files { scratch, texts: Vec::new() }
    }

    /// `text` as C has it; it lives as long as the run.
    pub fn text(&mut self, text: &[u8]) -> *const c_char {
        let text = CString::new(text.iter().copied().take_while(|byte| *byte != 0).collect::<Vec<_>>()).unwrap();
        self.texts.push(text);
        self.texts.last().unwrap().as_ptr()
    }

    /// NULL, one of `choices`, or what C can have instead: nothing, no UTF-8, far too much.
    pub fn one_of(&mut self, choices: &[&str], input: &mut Bytes) -> *const c_char {
        match input.byte() {
            0 => null(),
            1 => self.text(b""),
            2 => self.text(b"\xff\xfe"),
            3 => self.text(&vec![b'x'; 1 << 20]),
            choice => self.text(choices[usize::from(choice) % choices.len()].as_bytes()),
        }
    }

    /// As [`Files::one_of`], or any text of the input.
    pub fn any_of(&mut self, choices: &[&str], input: &mut Bytes) -> *const c_char {
        if input.flag() {
            return self.one_of(choices, input);
        }
        let length = usize::from(input.byte() % 64);
        self.text(input.take(length))
    }

    /// An address of this host: never a name, which somebody would have to be asked for.
    pub fn address(&mut self, input: &mut Bytes) -> *const c_char {
        self.one_of(&["127.0.0.1", "::1", "127.0.0.1", ".x", "a/b"], input)
    }

    pub fn host_key(&mut self, input: &mut Bytes) -> *const c_char {
        self.any_of(&[HOST_KEY, HOST_KEY, "ssh-ed25519 AAAA", "ssh-rsa x"], input)
    }

    pub fn system(&mut self, input: &mut Bytes) -> *const c_char {
        self.any_of(&["x86_64-linux", "x86_64-linux", "i686-linux"], input)
    }

    pub fn item(&mut self, input: &mut Bytes) -> *const c_char {
        self.any_of(&[DERIVATION, "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x", "/gnu/store/x", "relative"], input)
    }

    /// The name of something below the scratch directory, which may be missing there; or no absolute one.
    pub fn name(&mut self, input: &mut Bytes) -> *const c_char {
        let choice = input.pick(&["machines.scm", "wrong.scm", "key", "state", "missing", "state/new", ""]);
        match input.byte() % 8 {
            0 => null(),
            1 => self.text(b"relative"),
            2 => self.text(b"\xff"),
            _ => {
                let name = self.scratch.path().join(choice);
                self.text(name.as_os_str().as_encoded_bytes())
            }
        }
    }

    /// An unnamed file that holds `bytes`.
    pub fn file(&self, bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile_in(self.scratch.path()).unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }
}

/// Does `call`, which is given where to put its error, succeed? With an error exactly if not, that says the same.
pub fn succeeds(call: impl FnOnce(*mut *mut guix_offload_error) -> guix_offload_status) -> bool {
    let mut error = null_mut();
    let status = call(&mut error);
    // SAFETY: the error is NULL or one that the call gave.
    unsafe {
        let message = read(guix_offload_error_message(error));
        assert_ne!(status, guix_offload_status::GUIX_OFFLOAD_INTERNAL, "{message:?}");
        assert_eq!(guix_offload_error_code(error), status as i32);
        assert_eq!(message.is_none(), status == guix_offload_status::GUIX_OFFLOAD_OK);
        if let Some(message) = message {
            assert!(!message.is_empty());
            assert!([1, 100, 101].contains(&guix_offload_error_exit_status(error)));
            read(guix_offload_error_machine(error));
            read(guix_offload_error_hint(error));
        }
        for lines in [guix_offload_error_lines(error), guix_offload_error_warning_lines(error)].map(read) {
            assert_eq!(lines.is_none(), message.is_none());
            assert!(
                lines.is_none_or(|lines| lines.starts_with("guix offload: ") && lines.ends_with('\n')),
                "{lines:?}"
            );
        }
        guix_offload_error_free(error);
    }
    status == guix_offload_status::GUIX_OFFLOAD_OK
}

/// The text at `pointer`, each byte of which is looked at.
pub fn read<'a>(pointer: *const c_char) -> Option<&'a str> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: it is a text of the library, whose owner lives.
    Some(unsafe { CStr::from_ptr(pointer) }.to_str().unwrap())
}
