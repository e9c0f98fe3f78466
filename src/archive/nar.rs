// SPDX-License-Identifier: GPL-3.0-or-later
//! The nar format, in which a file, a directory tree or a symbolic link travels (Guix's `nix/libutil/archive.cc`).
//!
//! In the words of [`super::input`], where quoted text is a string:
//!
//! ```text
//! nar       = "nix-archive-1" node
//! node      = "(" "type" ( regular | directory | symlink ) ")"
//! regular   = "regular" [ "executable" "" ] "contents" contents
//! directory = "directory" { "entry" "(" "name" name "node" node ")" }
//! symlink   = "symlink" "target" target
//! contents  = number (the size), its bytes, zero bytes up to a multiple of 8
//! ```
//!
//! Only the one spelling that Guix writes is read. Names are bytes, in strictly ascending order. Limits are those of
//! Linux: 255 bytes for a name, 4095 for a target; and 2047 directories one in another, for a file name of 4095
//! bytes, the longest that a program can use, has no more than 2048 components.

use super::input::{Input, encode, padding};
use crate::error::Result;

const MAX_NAME: usize = 255;
const MAX_TARGET: usize = 4095;
const MAX_DEPTH: usize = 2047;

/// Contents are passed on in pieces of this many bytes: small enough for the processor's caches.
const PIECE: usize = 128 * 1024;

/// Is told what an archive holds, in the order of the archive. An error stops the reading.
pub trait Visitor {
    /// The node is a directory. Its entries follow, each as [`Visitor::entry`] and a node, then
    /// [`Visitor::end_directory`].
    fn directory(&mut self) -> Result<()>;

    /// The node that follows is called `name` in the innermost directory.
    fn entry(&mut self, name: &[u8]) -> Result<()>;

    /// The innermost directory is complete.
    fn end_directory(&mut self) -> Result<()>;

    /// The node is a regular file of `size` bytes, which follow in [`Visitor::data`], then [`Visitor::end_file`].
    fn file(&mut self, executable: bool, size: u64) -> Result<()>;

    /// More contents of the file.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;

    /// The file is complete.
    fn end_file(&mut self) -> Result<()>;

    /// The node is a symbolic link.
    fn symlink(&mut self, target: &[u8]) -> Result<()>;
}

/// Takes no notice of what is in an archive.
pub struct Unseen;

impl Visitor for Unseen {
    fn directory(&mut self) -> Result<()> {
        Ok(())
    }

    fn entry(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end_directory(&mut self) -> Result<()> {
        Ok(())
    }

    fn file(&mut self, _: bool, _: u64) -> Result<()> {
        Ok(())
    }

    fn data(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        Ok(())
    }

    fn symlink(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Reads one nar, up to its last byte and no further.
pub fn read(input: &mut Input, visitor: &mut dyn Visitor) -> Result<()> {
    // For each open directory, outermost first, the name of the entry that was read last.
    let mut directories: Vec<Vec<u8>> = Vec::new();
    let mut buffer = Vec::new();
    input.expect(&["nix-archive-1"])?;
    loop {
        // A node begins.
        input.expect(&["(", "type"])?;
        let start = input.offset();
        let mut complete = true;
        match input.tag(&["directory", "regular", "symlink"])? {
            "directory" => {
                if directories.len() == MAX_DEPTH {
                    return Err(Input::malformed(start, format!("more than {MAX_DEPTH} directories in one another")));
                }
                visitor.directory()?;
                directories.push(Vec::new());
                complete = false;
            }
            "regular" => read_file(input, visitor, &mut buffer)?,
            _ => visitor.symlink(&read_target(input)?)?,
        }
        // Up to the next node: close what is complete.
        loop {
            let Some(last) = directories.last_mut() else { return Ok(()) };
            if complete {
                input.expect(&[")"])?; // of its entry
            }
            if input.tag(&["entry", ")"])? == "entry" {
                let name = read_name(input, last)?;
                visitor.entry(&name)?;
                *last = name;
                break;
            }
            visitor.end_directory()?;
            directories.pop();
            complete = true;
        }
    }
}

fn read_file(input: &mut Input, visitor: &mut dyn Visitor, buffer: &mut Vec<u8>) -> Result<()> {
    let executable = input.tag(&["contents", "executable"])? == "executable";
    if executable {
        input.expect(&["", "contents"])?;
    }
    let start = input.offset();
    let size = input.number()?;
    if size > i64::MAX as u64 {
        return Err(Input::malformed(start, format!("a file of {size} bytes")));
    }
    visitor.file(executable, size)?;
    let mut left = size;
    buffer.resize(PIECE, 0);
    while left > 0 {
        let piece = &mut buffer[..left.min(PIECE as u64) as usize];
        input.fill(piece)?;
        visitor.data(piece)?;
        left -= piece.len() as u64;
    }
    input.padding(size)?;
    input.expect(&[")"])?;
    visitor.end_file()
}

fn read_target(input: &mut Input) -> Result<Vec<u8>> {
    input.expect(&["target"])?;
    let start = input.offset();
    let target = input.string("target of a symbolic link", MAX_TARGET)?;
    if target.is_empty() || target.contains(&0) {
        return Err(Input::malformed(start, "a symbolic link cannot have this target"));
    }
    input.expect(&[")"])?;
    Ok(target)
}

/// Reads the name of an entry, which must come after `last`, and what is between it and its node.
fn read_name(input: &mut Input, last: &[u8]) -> Result<Vec<u8>> {
    input.expect(&["(", "name"])?;
    let start = input.offset();
    let name = input.string("file name", MAX_NAME)?;
    let shown = name.escape_ascii();
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(Input::malformed(start, format!("a file cannot be called '{shown}'")));
    }
    if *name <= *last {
        return Err(Input::malformed(start, format!("'{shown}' comes after '{}'", last.escape_ascii())));
    }
    input.expect(&["node"])?;
    Ok(name)
}

/// What comes before and after the contents in the nar of a lone file. The hash of that nar is the file's name in
/// `.links`.
pub fn around_file(executable: bool, size: u64) -> (Vec<u8>, Vec<u8>) {
    let kind: &[&[u8]] = if executable { &[b"executable", b"", b"contents"] } else { &[b"contents"] };
    let (mut before, mut after) = (Vec::new(), vec![0; padding(size)]);
    let words: [&[u8]; 4] = [b"nix-archive-1", b"(", b"type", b"regular"];
    words.iter().chain(kind).for_each(|word| encode(word, &mut before));
    before.extend_from_slice(&size.to_le_bytes());
    encode(b")", &mut after);
    (before, after)
}

#[cfg(test)]
#[path = "nar_tests.rs"]
pub(super) mod tests;
