// SPDX-License-Identifier: GPL-3.0-or-later
//! The machine file, as far as it is read without Guile.

use std::path::Path;

use guix_offload::machine::file::read_plain;

use super::request::assert_printable;

pub fn run(data: &[u8]) {
    let Some(loaded) = read_plain(Path::new("machines.scm"), data) else { return };
    // Of a machine that the file describes, no more is asked than of one that C describes.
    for machine in &loaded.machines {
        assert_eq!(machine.clone().admit().as_ref(), Ok(machine));
    }
    for error in loaded.left_out.iter().chain(&loaded.warnings) {
        assert!(error.to_string().starts_with("machines.scm:"), "{error}");
        assert_printable(&error.to_string());
        assert_printable(error.hint_text().expect("what to do"));
    }
}
