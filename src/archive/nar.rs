// SPDX-License-Identifier: GPL-3.0-or-later
//! The nar format, in which a file, a directory tree or a symbolic link travels (Guix's `nix/libutil/archive.cc`).
//!
//! The format, in the words of `ground::words`; quoted text is a string:
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
//! Only the spelling that Guix writes is accepted. Names are bytes, in strictly ascending order. The limits are those
//! of Linux: 255 bytes for a name, 4095 for a target. Directories nest at most 2047 deep, because the longest file name
//! that a program can use has 4095 bytes, and so at most 2048 components.

use super::word_reader::WordReader;
use crate::ground::error::Result;
use crate::ground::words::{Words, padding, put_number, put_string};

/// Longest name of a file in an archive, in bytes: as in Linux (`NAME_MAX`).
const MAX_NAME: u64 = 255;
/// Longest target of a symbolic link, in bytes: as in Linux (`PATH_MAX`, with its NUL byte).
const MAX_TARGET: u64 = 4095;
/// Deepest nesting of directories: no file system path to a deeper file is possible.
const MAX_DEPTH: usize = 2047;

/// Size of the pieces in which contents are passed on, in bytes: small enough for the processor's caches.
const PIECE: usize = 128 << 10;

/// Receives the contents of an archive, in the order of the archive. An error stops the reading.
pub trait Visitor {
    /// Begins a directory. For each entry, [`Visitor::entry`] and a node follow, and at the end
    /// [`Visitor::end_directory`].
    fn directory(&mut self) -> Result<()>;

    /// Names the node that follows, in the innermost directory.
    fn entry(&mut self, name: &[u8]) -> Result<()>;

    /// Ends the innermost directory.
    fn end_directory(&mut self) -> Result<()>;

    /// Begins a regular file of `size` bytes, which follow in [`Visitor::data`], then [`Visitor::end_file`].
    fn file(&mut self, executable: bool, size: u64) -> Result<()>;

    /// Continues the contents of the file.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;

    /// Ends the file.
    fn end_file(&mut self) -> Result<()>;

    /// Receives a symbolic link.
    fn symlink(&mut self, target: &[u8]) -> Result<()>;
}

/// A visitor that ignores the contents of an archive.
pub struct NullVisitor;

impl Visitor for NullVisitor {
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

/// Reads one nar, and nothing after its last byte.
pub fn read(input: &mut WordReader, visitor: &mut dyn Visitor) -> Result<()> {
    // The name of the last entry that was read in each open directory, outermost first.
    let mut directories: Vec<Vec<u8>> = Vec::new();
    let mut buffer = Vec::new();
    input.read_words(&["nix-archive-1"])?;
    loop {
        // A node begins.
        input.read_words(&["(", "type"])?;
        let start = input.offset();
        let mut complete = true;
        match input.read_one_of(&["directory", "regular", "symlink"])? {
            "directory" => {
                if directories.len() == MAX_DEPTH {
                    return Err(input.malformed(start, format!("more than {MAX_DEPTH} directories in one another")));
                }
                visitor.directory()?;
                directories.push(Vec::new());
                complete = false;
            }
            "regular" => read_file(input, visitor, &mut buffer)?,
            _ => visitor.symlink(&read_target(input)?)?,
        }
        // Closes what is complete, up to the next node.
        loop {
            let Some(last) = directories.last_mut() else { return Ok(()) };
            if complete {
                input.read_words(&[")"])?; // of its entry
            }
            if input.read_one_of(&["entry", ")"])? == "entry" {
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

fn read_file(input: &mut WordReader, visitor: &mut dyn Visitor, buffer: &mut Vec<u8>) -> Result<()> {
    let executable = input.read_one_of(&["contents", "executable"])? == "executable";
    if executable {
        input.read_words(&["", "contents"])?;
    }
    let start = input.offset();
    let size = input.read_number()?;
    if size > i64::MAX as u64 {
        return Err(input.malformed(start, format!("a file of {size} bytes")));
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
    input.read_padding(size)?;
    input.read_words(&[")"])?;
    visitor.end_file()
}

fn read_target(input: &mut WordReader) -> Result<Vec<u8>> {
    input.read_words(&["target"])?;
    let start = input.offset();
    let target = input.read_string("target of a symbolic link", MAX_TARGET)?;
    if target.is_empty() || target.contains(&0) {
        return Err(input.malformed(start, "a symbolic link cannot have this target"));
    }
    input.read_words(&[")"])?;
    Ok(target)
}

/// Reads the name of an entry, which must sort after `last`, and the words between the name and its node.
fn read_name(input: &mut WordReader, last: &[u8]) -> Result<Vec<u8>> {
    input.read_words(&["(", "name"])?;
    let start = input.offset();
    let name = input.read_string("file name", MAX_NAME)?;
    let shown = name.escape_ascii();
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(input.malformed(start, format!("a file cannot be called '{shown}'")));
    }
    if *name <= *last {
        return Err(input.malformed(start, format!("'{shown}' comes after '{}'", last.escape_ascii())));
    }
    input.read_words(&["node"])?;
    Ok(name)
}

/// Returns the bytes before and after the contents in the nar of a lone file. The hash of that nar is the file's name
/// in `.links`.
pub fn file_nar_frame(executable: bool, size: u64) -> (Vec<u8>, Vec<u8>) {
    let kind: &[&[u8]] = if executable { &[b"executable", b"", b"contents"] } else { &[b"contents"] };
    let (mut before, mut after) = (Vec::new(), vec![0; padding(size)]);
    let words: [&[u8]; 4] = [b"nix-archive-1", b"(", b"type", b"regular"];
    words.iter().chain(kind).for_each(|word| put_string(&mut before, word));
    put_number(&mut before, size);
    put_string(&mut after, ")");
    (before, after)
}

#[cfg(test)]
#[path = "nar_tests.rs"]
pub(super) mod tests;
