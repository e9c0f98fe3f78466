// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines from C and machines from a file are validated alike.

use std::ffi::CStr;
use std::path::Path;
use std::ptr::{null, null_mut};

use super::super::error::{guix_offload_error_free, guix_offload_error_message, guix_offload_status};
use super::*;
use crate::machine::file::read_plain;
use crate::machine::tests::KEY;

/// Calls a function of the ABI; returns its status and message.
fn call(function: impl FnOnce(*mut *mut guix_offload_error) -> guix_offload_status) -> Option<String> {
    let mut error = null_mut();
    if function(&mut error) == guix_offload_status::GUIX_OFFLOAD_OK {
        return None;
    }
    // SAFETY: the call failed, so there is an error with a message; it is freed once.
    unsafe {
        let message = CStr::from_ptr(guix_offload_error_message(error)).to_str().unwrap().to_string();
        guix_offload_error_free(error);
        Some(message)
    }
}

/// Makes a machine with these texts.
fn make(name: &str, system: &str, user: &str, key: &str) -> Result<*mut guix_offload_machine, String> {
    let texts = [name, system, user, key].map(for_c);
    let [name, system, user, key] = texts.each_ref().map(|text| text.as_ptr());
    let mut machine = null_mut();
    // SAFETY: all pointers live longer than the call.
    match call(|error| unsafe { guix_offload_machine_new(&mut machine, name, system, user, key, error) }) {
        None => Ok(machine),
        Some(message) => Err(message),
    }
}

/// Calls a setter for a new machine.
fn set(
    setter: impl FnOnce(*mut guix_offload_machine, *mut *mut guix_offload_error) -> guix_offload_status,
) -> Option<String> {
    let machine = make("m", "x86_64-linux", "u", KEY).unwrap();
    let message = call(|error| setter(machine, error));
    // SAFETY: it was made above, and is freed once.
    unsafe { guix_offload_machine_free(machine) };
    message
}

fn set_text(
    setter: unsafe extern "C" fn(
        *mut guix_offload_machine,
        *const c_char,
        *mut *mut guix_offload_error,
    ) -> guix_offload_status,
    text: &str,
) -> Option<String> {
    let text = for_c(text);
    // SAFETY: all pointers live longer than the call.
    set(|machine, error| unsafe { setter(machine, text.as_ptr(), error) })
}

/// Returns the error of a machine file about a machine with these fields.
fn in_file(name: &str, fields: &str) -> Option<String> {
    let defaults =
        [("systems", "'(\"x86_64-linux\")".into()), ("user", "\"u\"".into()), ("host-key", format!("{KEY:?}"))];
    let defaults = defaults.into_iter().filter(|(name, _)| !fields.contains(&format!("({name} ")));
    let defaults: String = defaults.map(|(name, value)| format!("({name} {value})")).collect();
    let file = format!("(list (build-machine (name {}) {defaults} {fields}))", scheme(name));
    let mut loaded = read_plain(Path::new("m.scm"), file.as_bytes()).unwrap();
    assert_eq!(loaded.machines.len() + loaded.left_out.len(), 1, "{file}");
    loaded.left_out.pop().map(|error| error.to_string())
}

/// Returns `text` as a string of Scheme.
fn scheme(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[test]
fn a_c_program_and_a_file_are_told_the_same_of_a_machine() {
    let nasty = ["", "a\n# accept", "a\tb", "\n"].map(str::to_string).to_vec();
    let texts = [nasty, vec!["x".repeat(4097)]].concat();
    let mut both = Vec::new();
    for text in &texts {
        let quoted = scheme(text);
        both.push((make(text, "x86_64-linux", "u", KEY).err(), in_file(text, "")));
        both.push((make("m", "x86_64-linux", text, KEY).err(), in_file("m", &format!("(user {quoted})"))));
        both.push((make("m", text, "u", KEY).err(), in_file("m", &format!("(systems '({quoted}))"))));
        both.push((make("m", "x86_64-linux", "u", text).err(), in_file("m", &format!("(host-key {quoted})"))));
        for (setter, field, value) in [
            (guix_offload_machine_set_private_key as unsafe extern "C" fn(_, _, _) -> _, "private-key", quoted.clone()),
            (guix_offload_machine_set_daemon_socket, "daemon-socket", quoted.clone()),
            (guix_offload_machine_add_feature, "features", format!("'({quoted})")),
            (guix_offload_machine_add_system, "systems", format!("'(\"x86_64-linux\" {quoted})")),
        ] {
            both.push((set_text(setter, text), in_file("m", &format!("({field} {value})"))));
        }
        let methods = for_c(text);
        // SAFETY: all pointers live longer than the call.
        let ours =
            set(|machine, error| unsafe { guix_offload_machine_set_compression(machine, methods.as_ptr(), 3, error) });
        both.push((ours, in_file("m", &format!("(compression {quoted})"))));
    }
    let key = "ssh-\u{2603} AAAA";
    both.push((make("m", "s", "u", key).err(), in_file("m", &format!("(host-key {})", scheme(key)))));
    both.push((set_text(guix_offload_machine_set_daemon_socket, "x"), in_file("m", "(daemon-socket \"x\")")));
    for port in [0, 65536, u32::MAX] {
        // SAFETY: the machine lives longer than the call.
        let ours = set(|machine, error| unsafe { guix_offload_machine_set_port(machine, port, error) });
        both.push((ours, in_file("m", &format!("(port {port})"))));
    }
    // SAFETY: all pointers live longer than the call.
    let ours =
        set(|machine, error| unsafe { guix_offload_machine_set_compression(machine, c"zlib".as_ptr(), 10, error) });
    both.push((ours, in_file("m", "(compression-level 10)")));
    // SAFETY: the machine lives longer than the call.
    let ours = set(|machine, error| unsafe { guix_offload_machine_set_speed(machine, -0.5, error) });
    both.push((ours, in_file("m", "(speed -0.5)")));

    for (ours, file) in both {
        let (ours, file) = (ours.unwrap_or_default(), file.unwrap_or_default());
        assert!(!ours.is_empty(), "taken from C, refused in a file: {file}");
        assert!(file.strip_prefix("m.scm:").is_some_and(|file| file.ends_with(&ours)), "C: {ours}\nfile: {file}");
        assert!(!ours.contains(char::is_control) && ours.len() < 1000, "{ours}");
    }
}

#[test]
fn no_text_has_a_control_character() {
    // The last is a host key with a control character in its type.
    for text in ["w1\x1b[2J", "w1\u{9b}", "w1\x7f", "w1\r# decline", "ssh-\x1bx AAAABnNzaC0beAAAAAF4"] {
        assert!(make(text, "s", "u", KEY).is_err() && make("m", text, "u", KEY).is_err());
        assert!(make("m", "s", text, KEY).is_err() && make("m", "s", "u", text).is_err());
        assert!(set_text(guix_offload_machine_set_private_key, text).is_some());
        assert!(set_text(guix_offload_machine_set_daemon_socket, text).is_some());
        assert!(set_text(guix_offload_machine_add_feature, text).is_some());
        assert!(set_text(guix_offload_machine_add_system, text).is_some());
    }
}

#[test]
fn numbers_that_no_file_can_hold_are_refused_too() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        // SAFETY: the machine lives longer than the call.
        let speed = set(|machine, error| unsafe { guix_offload_machine_set_speed(machine, number, error) });
        assert!(speed.is_some_and(|text| text.contains("field 'speed': expected a number that is not negative")));
        // SAFETY: as above.
        let load = set(|machine, error| unsafe { guix_offload_machine_set_overload_threshold(machine, number, error) });
        // Negative: any load is fine.
        assert_eq!(load.is_some(), number.is_nan() || number > 0.0);
    }
    // SAFETY: NULL is what is tried.
    let none = call(|error| unsafe { guix_offload_machine_new(null_mut(), null(), null(), null(), null(), error) });
    assert!(none.is_some_and(|text| text.contains("NULL")));
}
