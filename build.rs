// SPDX-License-Identifier: GPL-3.0-or-later
//! Gives the shared library the name by which programs find it (its SONAME).

const ABI: &str = "src/ffi/version.rs";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={ABI}");
    let source = std::fs::read_to_string(ABI).unwrap_or_else(|error| panic!("{ABI}: {error}"));
    let rest = source.split("GUIX_OFFLOAD_ABI_VERSION: u32 = ").nth(1).unwrap_or_default();
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    assert!(!number.is_empty(), "{ABI} does not say which ABI this is");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libguix_offload.so.{number}");
}
