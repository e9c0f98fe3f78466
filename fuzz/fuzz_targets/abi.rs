// SPDX-License-Identifier: GPL-3.0-or-later
#![no_main]

use std::ffi::{CStr, c_char};

libfuzzer_sys::fuzz_target!(|data: &[u8]| guix_offload_fuzz::targets::abi::run(data));

/// Threads of the library end by themselves, some a moment after the run whose connections they were for. One that is
/// just ending still has what glibc keeps for its thread-local variables, in memory that LeakSanitizer does not search.
#[unsafe(no_mangle)]
extern "C" fn __lsan_default_suppressions() -> *const c_char {
    const ENDING: &CStr = c"leak:__cxa_thread_atexit_impl";
    ENDING.as_ptr()
}
