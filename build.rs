// SPDX-License-Identifier: GPL-3.0-or-later
//! Tells the linker the shared library's name and where libgcrypt is.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libguix_offload.so.0");
}
