// SPDX-License-Identifier: GPL-3.0-or-later
//! A non-blocking libssh2 session on a [`SocketBuffer`], which counts the memory that the session holds.
//!
//! libssh2 keeps every packet that it does not handle at once until somebody asks for it. No window limits these
//! packets, so a server could fill the process with them. The `ssh2` crate's own session leaves memory to libssh2. Here
//! it is counted, and the driver of the session checks the sum.
#![allow(unsafe_code)] // Calls into libssh2, and what it calls.

use std::ffi::{CString, c_int, c_void};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libssh2_sys::*;
use ssh2::MethodType;

use super::socket_buffer::SocketBuffer;

/// `SSH_MSG_USERAUTH_PK_OK` of RFC 4252, section 7.
const USERAUTH_PK_OK: u8 = 60;
/// From libssh2_priv.h.
const MAC_CONFIRMED: c_int = 0;

unsafe extern "C" {
    /// Takes a packet for one that the server has sent. Not a part of libssh2's API, but the bundled one has it.
    fn ssh2_packet_add(
        session: *mut LIBSSH2_SESSION,
        data: *mut u8,
        length: usize,
        mac_state: c_int,
        sequence_number: u32,
    ) -> c_int;
}

/// A session, which lives as long as any clone. It belongs to one thread.
#[derive(Clone)]
pub struct RawSession(Rc<Owner>);

struct Owner {
    raw: *mut LIBSSH2_SESSION,
    /// The data that the callbacks work on.
    wire: Arc<SocketBuffer>,
}

impl RawSession {
    /// Makes a session over `wire`, and sends nothing yet.
    pub fn new(wire: &Arc<SocketBuffer>) -> Result<Self, ssh2::Error> {
        ssh2::init();
        let owner = Arc::as_ptr(wire).cast_mut().cast();
        // SAFETY: the callbacks get a pointer to the pointer given last, and use it as the `SocketBuffer` that it is;
        // `Owner` keeps that alive until libssh2 has freed the session.
        let raw = unsafe { libssh2_session_init_ex(Some(allocate), Some(free), Some(reallocate), owner) };
        if raw.is_null() {
            return Err(ssh2::Error::unknown());
        }
        let session = RawSession(Rc::new(Owner { raw, wire: Arc::clone(wire) }));
        // SAFETY: the session is live.
        unsafe {
            libssh2_session_set_blocking(raw, 0);
            super::socket_buffer::carry(raw);
        }
        Ok(session)
    }

    /// Returns the pointer for calls into libssh2 from elsewhere. It is valid as long as `self`.
    pub fn raw(&self) -> *mut LIBSSH2_SESSION {
        self.0.raw
    }

    /// Exchanges keys, without checking the host key.
    pub fn handshake(&self) -> Result<(), ssh2::Error> {
        // SAFETY: the session is live. The descriptor is only passed to the callbacks, which do not use it.
        self.check(unsafe { libssh2_session_handshake(self.0.raw, self.0.wire.as_raw_fd()) })
    }

    /// Sets which methods of this kind may be used, best first. Ignores those that libssh2 does not know; fails if none
    /// is left.
    pub fn prefer(&self, kind: MethodType, methods: &str) -> Result<(), ssh2::Error> {
        let methods = c_string(methods)?;
        // SAFETY: the session is live, the string too.
        self.check(unsafe { libssh2_session_method_pref(self.0.raw, kind as c_int, methods.as_ptr()) })
    }

    /// Returns the host key that the server has shown.
    pub fn host_key(&self) -> Option<Vec<u8>> {
        let (mut length, mut kind) = (0, 0);
        // SAFETY: the session is live; the key, if there is one, has the length that is stored.
        unsafe {
            let key = libssh2_session_hostkey(self.0.raw, &mut length, &mut kind).cast::<u8>();
            (!key.is_null()).then(|| std::slice::from_raw_parts(key, length).to_vec())
        }
    }

    /// Begins to log in, to be continued with [`RawSession::log_in`]. Does not wait for the server to say that it knows
    /// the key, but sends the signature together with the question.
    pub fn log_in_at_once(&self, user: &str, private_key: &str) -> Result<(), ssh2::Error> {
        let asked = self.log_in(user, private_key);
        if asked.as_ref().is_err_and(|error| error.code() == ssh2::ErrorCode::Session(LIBSSH2_ERROR_EAGAIN)) {
            // libssh2 cannot be told to leave out the question. The server's own answer to it goes unnoticed.
            let mut owner = Arc::as_ptr(&self.0.wire).cast_mut().cast();
            let packet = allocate(1, &mut owner).cast::<u8>();
            if !packet.is_null() {
                // SAFETY: `packet` is of that size; the session is live, and frees it as it frees all its memory.
                unsafe {
                    packet.write(USERAUTH_PK_OK);
                    self.check(ssh2_packet_add(self.0.raw, packet, 1, MAC_CONFIRMED, 0))?;
                }
                return self.log_in(user, private_key);
            }
        }
        asked
    }

    /// Logs in with the private key whose file has this text, without a passphrase.
    pub fn log_in(&self, user: &str, private_key: &str) -> Result<(), ssh2::Error> {
        let (user, key) = (c_string(user)?, c_string(private_key)?);
        // SAFETY: the session is live; pointers and lengths are those of live strings; the others may be null.
        self.check(unsafe {
            libssh2_userauth_publickey_frommemory(
                self.0.raw,
                user.as_ptr(),
                user.as_bytes().len(),
                std::ptr::null(),
                0,
                key.as_ptr(),
                key.as_bytes().len(),
                std::ptr::null(),
            )
        })
    }

    /// Tells the server that the session ends.
    pub fn disconnect(&self) -> Result<(), ssh2::Error> {
        // SAFETY: the session is live.
        self.check(unsafe {
            libssh2_session_disconnect_ex(self.0.raw, SSH_DISCONNECT_BY_APPLICATION, c"done".as_ptr(), c"".as_ptr())
        })
    }

    fn check(&self, result: c_int) -> Result<(), ssh2::Error> {
        if result < 0 { Err(ssh2::Error::from_session_error_raw(self.0.raw, result)) } else { Ok(()) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: no clone is left, and so no channel, since each channel has one. The socket was cut off before.
        unsafe { libssh2_session_free(self.raw) };
    }
}

fn c_string(text: &str) -> Result<CString, ssh2::Error> {
    CString::new(text).map_err(ssh2::Error::from)
}

/// Updates the count of the session of `owner`, the pointer that libssh2 hands to every callback.
///
/// # Safety
/// `owner` points to what [`RawSession::new`] gave.
unsafe fn note(owner: *mut *mut c_void, more: *mut c_void, less: usize) {
    // SAFETY: as above; `more` is null or was allocated.
    unsafe {
        let held = &(*(*owner).cast::<SocketBuffer>()).held;
        held.fetch_add(libc::malloc_usable_size(more), Ordering::Relaxed);
        held.fetch_sub(less, Ordering::Relaxed);
    }
}

extern "C" fn allocate(size: usize, owner: *mut *mut c_void) -> *mut c_void {
    // SAFETY: any size will do; libssh2 passes on what `RawSession::new` gave.
    unsafe {
        let new = libc::malloc(size);
        note(owner, new, 0);
        new
    }
}

extern "C" fn reallocate(old: *mut c_void, size: usize, owner: *mut *mut c_void) -> *mut c_void {
    // SAFETY: `old` is null or was allocated here; if no other place is found for it, it stays as it is.
    unsafe {
        let before = libc::malloc_usable_size(old);
        let new = libc::realloc(old, size);
        if !new.is_null() {
            note(owner, new, before);
        }
        new
    }
}

extern "C" fn free(old: *mut c_void, owner: *mut *mut c_void) {
    // SAFETY: `old` is null or was allocated here.
    unsafe {
        note(owner, std::ptr::null_mut(), libc::malloc_usable_size(old));
        libc::free(old);
    }
}
