// SPDX-License-Identifier: GPL-3.0-or-later
//! ChaCha20 for libssh2, in place of its own.
//!
//! libssh2's own cipher is portable C. It takes 0.6 s for 256 MiB, on the one thread of a session, where vector
//! instructions take 0.1 s. The other ciphers of libssh2 are slower still, because it hands them 16 bytes at a time.
//! libssh2 cannot be given another implementation. But its file `chacha.c` defines only the three functions below, and
//! a linker takes a file out of an archive only for a symbol that it has not found yet. Since it finds these first, it
//! leaves that file out. These functions are hidden, like libssh2's. (Cargo.toml pins libssh2: if another version
//! renamed the functions, its own would be used again. Only `--whole-archive` with the static library finds both.)
//!
//! In builds with debug assertions libssh2 keeps its own. The cipher here is generic, so it is compiled with this
//! crate, and is far slower without optimisation. The tests on real hosts have the optimised library. They show that
//! long outputs, too, are ChaCha20.

#![allow(unsafe_code)] // C calls these, and says how many bytes there are

#[cfg(not(debug_assertions))]
use std::arch::global_asm;
use std::ffi::c_uchar;

use chacha20::ChaCha20Legacy;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

#[cfg(not(debug_assertions))]
global_asm!(".hidden chacha_keysetup", ".hidden chacha_ivsetup", ".hidden chacha_encrypt_bytes");

/// Bytes of key stream that the block counter counts.
const BLOCK: usize = 64;

/// `struct chacha_ctx`: 64 bytes that libssh2 holds and only these functions read.
#[repr(C)]
pub struct Context {
    key: [u8; 32],
    nonce: [u8; 8],
    /// The number of the next block, native endian. Bytes, because libssh2's struct has 32-bit integers.
    counter: [u8; 8],
    rest: [u8; 16],
}

/// Sets the key, which always has 256 bits in libssh2.
///
/// # Safety
/// `context` points to 64 bytes, `key` to 32.
#[cfg_attr(not(debug_assertions), unsafe(no_mangle))]
unsafe extern "C" fn chacha_keysetup(context: *mut Context, key: *const [u8; 32], _bits: u32) {
    // SAFETY: as above.
    unsafe { (*context).key = *key };
}

/// Sets the nonce, and the number of the first block, little endian; a null pointer means 0.
///
/// # Safety
/// `context` points to 64 bytes, `nonce` to 8, `counter`, unless null, to 8.
#[cfg_attr(not(debug_assertions), unsafe(no_mangle))]
unsafe extern "C" fn chacha_ivsetup(context: *mut Context, nonce: *const [u8; 8], counter: *const [u8; 8]) {
    // SAFETY: as above.
    unsafe {
        (*context).nonce = *nonce;
        let counter = if counter.is_null() { 0 } else { u64::from_le_bytes(*counter) };
        (*context).counter = counter.to_ne_bytes();
    }
}

/// Encrypts or decrypts `length` bytes of `from` into `to`, which may be the same. The next call begins with a new
/// block; what remains of the last one is not used.
///
/// # Safety
/// `context` was set up; `from` and `to` point to `length` bytes, the same or apart.
#[cfg_attr(not(debug_assertions), unsafe(no_mangle))]
unsafe extern "C" fn chacha_encrypt_bytes(
    context: *mut Context,
    from: *const c_uchar,
    to: *mut c_uchar,
    length: usize,
) {
    // SAFETY: as above; `copy` allows that both are the same.
    let (context, text) = unsafe {
        if !std::ptr::eq(from, to) {
            from.copy_to(to, length);
        }
        (&mut *context, std::slice::from_raw_parts_mut(to, length))
    };
    let counter = u64::from_ne_bytes(context.counter);
    let mut cipher = ChaCha20Legacy::new(&context.key.into(), &context.nonce.into());
    cipher.seek(counter * BLOCK as u64);
    cipher.apply_keystream(text);
    context.counter = (counter + length.div_ceil(BLOCK) as u64).to_ne_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key streams of RFC 8439, appendix A.1, test vectors 1 and 2: blocks 0 and 1 of a key and a nonce of zeros.
    const BLOCKS: [&str; 2] = [
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7\
         da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
         29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ];

    fn context(first: Option<u64>) -> Context {
        let mut context = Context { key: [1; 32], nonce: [1; 8], counter: [1; 8], rest: [0; 16] };
        assert_eq!(size_of::<Context>(), 64);
        let counter = first.map(u64::to_le_bytes);
        let counter = counter.as_ref().map_or(std::ptr::null(), |counter| counter);
        // SAFETY: all are as large as they must be.
        unsafe {
            chacha_keysetup(&mut context, &[0; 32], 256);
            chacha_ivsetup(&mut context, &[0; 8], counter);
        }
        context
    }

    fn encrypt(context: &mut Context, from: &[u8]) -> String {
        let mut to = vec![0; from.len()];
        // SAFETY: both have this length.
        unsafe { chacha_encrypt_bytes(context, from.as_ptr(), to.as_mut_ptr(), from.len()) };
        to.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn blocks_are_those_of_the_rfc_one_after_the_other() {
        let zeros = [0; 64];
        let mut one = context(None);
        assert_eq!([encrypt(&mut one, &zeros), encrypt(&mut one, &zeros)], BLOCKS);
        assert_eq!(encrypt(&mut context(None), &[0; 128]), BLOCKS.concat());
        assert_eq!(encrypt(&mut context(Some(1)), &zeros), BLOCKS[1]);
    }

    #[test]
    fn what_is_left_of_a_block_is_dropped() {
        let mut context = context(None);
        assert_eq!(encrypt(&mut context, &[0; 5]), BLOCKS[0][..10]);
        assert_eq!(encrypt(&mut context, &[0; 5]), BLOCKS[1][..10]);
    }

    #[test]
    fn decrypting_in_place_undoes_encrypting() {
        let mut text = *b"in the same place";
        for _ in 0..2 {
            // SAFETY: the same bytes twice.
            unsafe {
                chacha_encrypt_bytes(&mut context(Some(1)), text.as_ptr(), text.as_mut_ptr(), text.len());
            }
        }
        assert_eq!(&text, b"in the same place");
    }
}
