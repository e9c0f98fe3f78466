// SPDX-License-Identifier: GPL-3.0-or-later
//! Gives the shared library the name by which programs find it (its SONAME).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libguix_offload.so.0");
}
