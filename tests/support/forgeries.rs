// SPDX-License-Identifier: GPL-3.0-or-later
//! Signatures that are none of what they are sent with, each with a true signature of something else in it: libgcrypt
//! looks for the parts of a signature by name, at any depth, and so finds them at other places than a reader.

/// A hash as it is written in a signature.
fn written(hash: &[u8; 32]) -> String {
    let digits: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("#{digits}#")
}

/// Made of `signature`, as Guix writes them, which is a true one of `old`, to be taken for one of `new`.
pub fn forgeries(signature: &str, old: &[u8; 32], new: &[u8; 32]) -> Vec<(&'static str, String)> {
    let (old, new) = (written(old), written(new));
    assert!(signature.contains(&old));
    let honest = |hash: &str| signature.replace(&old, hash);
    let flags = if signature.contains("pkcs1") { "pkcs1" } else { "rfc6979" };
    let flagged = |inside: &str| honest(&new).replace(&format!("(flags {flags})"), inside);
    let hashed = |list: &str| signature.replace(&format!("(hash sha256 {old})"), list);
    let data = |hash: &str| format!("(data (flags {flags}) (hash sha256 {hash}))");
    let first = |list: &str| honest(&new).replacen("(signature", &format!("(signature {list}"), 1);
    vec![
        ("another hash in its place", honest(&new)),
        ("a hash before the flag", flagged(&format!("(flags (hash sha256 {old}) {flags})"))),
        ("a hash after the flag", flagged(&format!("(flags {flags} (hash sha256 {old}))"))),
        ("a hash deep in the flags", flagged(&format!("(flags ((x (hash sha256 {old}))) {flags})"))),
        ("flags with a hash, then the flags", flagged(&format!("(flags (hash sha256 {old})) (flags {flags})"))),
        ("a value in the flags", flagged(&format!("(flags raw (value {old}))"))),
        ("flags that are a hash", flagged(&format!("(flags {flags} hash sha256 {old})"))),
        ("the signed hash first", hashed(&format!("(hash sha256 {old}) (hash sha256 {new})"))),
        ("the signed hash last", hashed(&format!("(hash sha256 {new}) (hash sha256 {old})"))),
        ("a hash in the hash", hashed(&format!("(hash sha256 {new} (hash sha256 {old}))"))),
        ("a hash in place of the algorithm", hashed(&format!("(hash (hash sha256 {old}) sha256 {new})"))),
        ("a doubled algorithm", hashed(&format!("(hash sha256 sha256 {new} {old})"))),
        ("a doubled hash", hashed(&format!("(hash sha256 {new} {old})"))),
        ("a hash as display hint", hashed(&format!("(hash sha256 [{old}] {new})"))),
        ("a display hint of the hash", hashed(&format!("(hash sha256 [{new}] {old})"))),
        ("a list as display hint", hashed(&format!("(hash [(hash sha256 {old})] sha256 {new})"))),
        ("a data before it", first(&data(&old))),
        ("a data in a list before it", first(&format!("(x {})", data(&old)))),
        ("a data after it", honest(&new).replacen("(sig-val", &format!("{} (sig-val", data(&old)), 1)),
        ("a data within it", honest(&new).replacen("(data", &format!("(data {}", data(&old)), 1)),
        ("the signed one first", format!("{signature} {}", honest(&new))),
        ("the signed one last", format!("{} {signature}", honest(&new))),
        ("the signed one within", first(signature)),
    ]
}
