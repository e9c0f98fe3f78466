// SPDX-License-Identifier: GPL-3.0-or-later
//! A signature that Guix made, changed: parts are moved, doubled, wrapped, or exchanged.
//!
//! Whatever comes of it vouches for what was signed or for nothing. Our verdict is compared with that of libgcrypt on a
//! `data` that is built anew, with the value and the key that it finds itself.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

use guix_offload::archive::{Acl, verify};
use guix_offload::ground::error::ErrorKind;
use guix_offload::ground::store_path::StoreDir;

use super::request::assert_printable;

/// Both keys are on it.
const ACL: &[u8] = include_bytes!("../../../tests/fixtures/archive/acl");

/// Signatures, and how the hash is made a number for each.
const HONEST: [(&str, &str); 4] = [
    (include_str!("../../../tests/fixtures/archive/ecdsa.signature"), "rfc6979"),
    (include_str!("../../../tests/fixtures/archive/rsa.signature"), "pkcs1"),
    (include_str!("../../../tests/fixtures/archive/ecdsa-short-r.signature"), "rfc6979"),
    (include_str!("../../../tests/fixtures/archive/ecdsa-short-s.signature"), "rfc6979"),
];

/// Never signed by anybody.
const WANTED: [u8; 32] = [0x11; 32];

/// Words that libgcrypt knows, or that are in signatures.
const WORDS: [&[u8]; 20] = [
    b"signature",
    b"data",
    b"flags",
    b"hash",
    b"sha256",
    b"sha512",
    b"value",
    b"raw",
    b"pkcs1",
    b"rfc6979",
    b"eddsa",
    b"ecdsa",
    b"rsa",
    b"sig-val",
    b"public-key",
    b"r",
    b"s",
    b"hash-algo",
    b"",
    &WANTED,
];

/// Most changes made to one.
const MAX_EDITS: usize = 12;

#[derive(Clone, PartialEq)]
enum Node {
    Datum(Vec<u8>),
    /// A display hint.
    Hint(Vec<u8>),
    List(Vec<Node>),
}

thread_local! {
    static AUTHORIZED: Acl = {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ACL).unwrap();
        Acl::load(file.path()).unwrap()
    };
}

/// Which signature, then changes: what, where, and with what.
pub fn run(data: &[u8]) {
    let Some((&first, edits)) = data.split_first() else { return };
    let (text, flags) = HONEST[first as usize % HONEST.len()];
    let honest = read(&mut tokens(text).into_iter().peekable());
    let signed = datum_of_hash(&honest);
    let mut tree = honest.clone();
    for edit in edits.chunks_exact(3).take(MAX_EDITS) {
        change(&mut tree, edit[0], edit[1] as usize, edit[2] as usize);
    }
    let mut text = Vec::new();
    write(&tree, &mut text);

    let item = StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{}-x", "0".repeat(32))).unwrap();
    let mut hashes = vec![signed, WANTED];
    hashes_in(&tree, &mut hashes);
    hashes.sort();
    hashes.dedup(); // a part that is doubled again and again has the same ones
    for hash in hashes {
        match AUTHORIZED.with(|acl| verify(Some(&text), &hash, acl, &item)) {
            Ok(()) => {
                assert!(hash == signed, "nobody signed that: {}", text.escape_ascii());
                assert!(judge(&text, flags, &hash), "libgcrypt thinks otherwise of {}", text.escape_ascii());
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Untrusted);
                assert_printable(&error.to_string());
                assert!(tree != honest || hash != signed, "{error}");
            }
        }
    }
}

/// The words of a text of Guix's.
fn tokens(text: &str) -> Vec<String> {
    text.replace('(', " ( ").replace(')', " ) ").split_ascii_whitespace().map(str::to_string).collect()
}

fn read(tokens: &mut std::iter::Peekable<std::vec::IntoIter<String>>) -> Node {
    let token = tokens.next().expect("a token");
    if token != "(" {
        return Node::Datum(match token.strip_prefix('#').and_then(|digits| digits.strip_suffix('#')) {
            Some(digits) => (0..digits.len()).step_by(2).map(|at| byte(&digits[at..at + 2])).collect(),
            None => token.into_bytes(),
        });
    }
    let mut nodes = Vec::new();
    while tokens.peek().is_some_and(|token| token != ")") {
        nodes.push(read(tokens));
    }
    tokens.next();
    Node::List(nodes)
}

fn byte(digits: &str) -> u8 {
    u8::from_str_radix(digits, 16).expect("hexadecimal")
}

fn write(node: &Node, text: &mut Vec<u8>) {
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    match node {
        Node::Datum(bytes) => text.extend(format!("#{}# ", digits(bytes)).bytes()),
        Node::Hint(bytes) => text.extend(format!("[#{}#] ", digits(bytes)).bytes()),
        Node::List(nodes) => {
            text.push(b'(');
            nodes.iter().for_each(|node| write(node, text));
            text.push(b')');
        }
    }
}

/// The hash of an honest signature.
fn datum_of_hash(node: &Node) -> [u8; 32] {
    let mut hashes = Vec::new();
    hashes_in(node, &mut hashes);
    hashes[0]
}

/// All that could be a SHA-256, in order.
fn hashes_in(node: &Node, hashes: &mut Vec<[u8; 32]>) {
    match node {
        Node::Datum(bytes) | Node::Hint(bytes) => hashes.extend(<[u8; 32]>::try_from(&bytes[..]).ok()),
        Node::List(nodes) => nodes.iter().for_each(|node| hashes_in(node, hashes)),
    }
}

/// Node `number`, in the order in which they are written.
fn find<'n>(node: &'n mut Node, number: &mut usize) -> Option<&'n mut Node> {
    if *number == 0 {
        return Some(node);
    }
    *number -= 1;
    match node {
        Node::List(nodes) => nodes.iter_mut().find_map(|node| find(node, number)),
        _ => None,
    }
}

fn change(tree: &mut Node, what: u8, at: usize, with: usize) {
    let other = find(tree, &mut with.clone()).cloned();
    let word = Node::Datum(WORDS[with % WORDS.len()].to_vec());
    let Some(node) = find(tree, &mut at.clone()) else { return };
    let before = node.clone();
    match (what % 10, node, other) {
        (0, node, Some(other)) => *node = other,
        (1, node, _) => *node = word,
        (2, Node::List(nodes), Some(other)) => nodes.insert(1.min(nodes.len()), other),
        (3, Node::List(nodes), Some(other)) => nodes.push(other),
        (4, Node::List(nodes), _) => nodes.insert(with % (nodes.len() + 1), word),
        (5, Node::List(nodes), _) if !nodes.is_empty() => drop(nodes.remove(with % nodes.len())),
        (6, Node::List(nodes), _) if !nodes.is_empty() => {
            let copy = nodes[with % nodes.len()].clone();
            nodes.insert(with % nodes.len(), copy);
        }
        (7, node, _) => *node = Node::List(vec![word, before]),
        (8, Node::Datum(bytes), _) => *find(tree, &mut at.clone()).unwrap() = Node::Hint(bytes.clone()),
        (9, Node::List(nodes), _) if !nodes.is_empty() => {
            let last = with % nodes.len();
            nodes.swap(0, last);
        }
        _ => {}
    }
}

#[link(name = "gcrypt")]
unsafe extern "C" {
    fn gcry_sexp_sscan(sexp: *mut *mut c_void, offset: *mut usize, text: *const c_char, length: usize) -> u32;
    fn gcry_sexp_release(sexp: *mut c_void);
    fn gcry_sexp_find_token(list: *mut c_void, token: *const c_char, length: usize) -> *mut c_void;
    fn gcry_pk_verify(signature: *mut c_void, data: *mut c_void, key: *mut c_void) -> u32;
    fn gcry_sexp_length(list: *mut c_void) -> c_int;
}

/// A list of libgcrypt's, or null.
struct Sexp(*mut c_void);

impl Sexp {
    fn parse(text: &[u8]) -> Self {
        let (mut sexp, mut offset) = (null_mut(), 0);
        // SAFETY: the out pointers are valid for writes, and the text is given with its length. libgcrypt has been
        // initialised by `verify` before.
        unsafe { gcry_sexp_sscan(&mut sexp, &mut offset, text.as_ptr().cast(), text.len()) };
        Sexp(sexp)
    }

    fn find(&self, tag: &str) -> Self {
        // SAFETY: the list is alive, and the tag is given with its length.
        Sexp(unsafe { gcry_sexp_find_token(self.0, tag.as_ptr().cast(), tag.len()) })
    }
}

impl Drop for Sexp {
    fn drop(&mut self) {
        // SAFETY: it is ours, or null, which is ignored.
        unsafe { gcry_sexp_release(self.0) }
    }
}

/// Is the value in `text` one of `hash`, made with the key in `text`?
fn judge(text: &[u8], flags: &str, hash: &[u8; 32]) -> bool {
    let digits: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    let data = Sexp::parse(format!("(data (flags {flags}) (hash sha256 #{digits}#))").as_bytes());
    let signature = Sexp::parse(text);
    let (value, key) = (signature.find("sig-val"), signature.find("public-key"));
    // SAFETY: all lists are alive; none of those that are read is null.
    unsafe {
        assert_eq!(gcry_sexp_length(data.0), 3);
        !value.0.is_null() && !key.0.is_null() && gcry_pk_verify(value.0, data.0, key.0) == 0
    }
}
