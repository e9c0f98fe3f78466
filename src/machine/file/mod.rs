// SPDX-License-Identifier: GPL-3.0-or-later
//! The machine file, usually `/etc/guix/machines.scm`: which build machines there are.
//!
//! The file is a Scheme program that returns a list of machines. Most files are plain enough to be read here, in no
//! time. Others compute their machines; Guile evaluates those.
//!
//! ```text
//! text --plain: surely understood?--> lexpr --evaluate--> machines --fields--> Vec<BuildMachine>
//!                    |                          |             ^
//!                    +-------- guile: child process ----------+
//! ```
//!
//! Guile's result for a file is kept for later processes. They use it while nothing that it depends on has changed.
//!
//! Only the machines that the file returns are validated. A malformed one is left out, and reported. Errors start with
//! `FILE:LINE:COLUMN: `. As Guile and Guix print them, the line counts from 1 and the column from 0.

mod cache;
mod child;
mod evaluate;
mod fields;
mod guile;
mod inputs;
mod plain;
mod source;
mod value;
mod watched;

use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use self::evaluate::NeedsGuile;
pub use self::inputs::Inputs;
use self::source::Source;
use self::value::{Machine, SourceLocation, Value};
pub use self::watched::Machines;
use crate::ground::cancel::Cancel;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::file_identity::FileIdentity;
use crate::machine::BuildMachine;
use crate::machine::default_key::{default_private_key, home_directory};

/// Longest machine file, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Most left-out machines that are reported one by one.
const MAX_TOLD: usize = 20;

/// How a machine file that needs Guile is evaluated.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How long Guile may take for all its attempts together; a day at most. Default: 30 s.
    pub time_limit: Duration,
    /// The `guile` command, looked up in `PATH` unless it contains a slash. Default: what the environment variable
    /// `GUIX_OFFLOAD_GUILE` says, or `guile`.
    pub guile: PathBuf,
    /// The `guix` command, likewise. Default: what the environment variable `GUIX` says, as for guix-daemon, or `guix`.
    pub guix: PathBuf,
    /// Where Guile's results are kept: the directory in which offloading keeps its state (`STATE/offload`). Default:
    /// nowhere.
    pub cache: Option<PathBuf>,
    /// Ends the wait for Guile. Default: nobody can.
    pub cancel: Cancel,
}

impl LoadOptions {
    /// How long Guile may take to evaluate a machine file, by default.
    const TIME_LIMIT: Duration = Duration::from_secs(30);
}

impl Default for LoadOptions {
    fn default() -> Self {
        let command = |variable, default: &str| std::env::var_os(variable).unwrap_or_else(|| default.into()).into();
        LoadOptions {
            time_limit: LoadOptions::TIME_LIMIT,
            guile: command("GUIX_OFFLOAD_GUILE", "guile"),
            guix: command("GUIX", "guix"),
            cache: None,
            cancel: Cancel::default(),
        }
    }
}

/// The result of a machine file.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The machines that can be used, in the file's order.
    pub machines: Vec<BuildMachine>,
    /// Errors about the machines that are left out, in the file's order, or about a result that is no list of machines.
    /// Each says where in the file it is, and what to do.
    pub left_out: Vec<Error>,
    /// Warnings about machines that are used nevertheless, in the same form.
    pub warnings: Vec<Error>,
    /// The inputs that the result depends on; `None` if it did not come from a file.
    pub inputs: Option<Inputs>,
}

/// Returns the result of the file at `path`; `None` if there is no such file.
///
/// May start a child process, and then takes until that is done, at most [`LoadOptions::time_limit`]. Fails only if the
/// file as a whole cannot be read or evaluated: with [`ErrorKind::Exhausted`] if the system cannot start Guile, with
/// [`ErrorKind::Cancelled`], else with [`ErrorKind::Configuration`]. A malformed machine does not keep the others from
/// being used. As with `guix offload`, a result that is no list has no machines.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Option<Loaded>> {
    let Some((text, identity)) = read(path)? else {
        return Ok(None);
    };
    let (entries, inputs) = match evaluate_plain(path, &text) {
        Ok(entries) => (entries, Inputs::of_file(path, Some(identity))),
        Err(reason) => {
            let program =
                guile::Program { file: &name_of(path), text: &text, identity: Some(identity), reason: &reason };
            guile::evaluate(&program, home_directory().as_deref(), options)?
        }
    };
    let loaded = validate(&name_of(path), entries, &default_private_key);
    Ok(Some(Loaded { inputs: Some(inputs), ..loaded }))
}

/// Returns what [`load`] makes of a file at `path` with this `content`, if the file is plain enough to be read without
/// Guile.
pub fn read_plain(path: &Path, content: &[u8]) -> Option<Loaded> {
    evaluate_plain(path, content).ok().map(|entries| validate(&name_of(path), entries, &default_private_key))
}

/// The elements that a file returns, not yet validated: machines, or the error about what stands in the place of one.
type Entries = Vec<Result<Rc<Machine>>>;

fn validate(file: &str, entries: Entries, default_key: &dyn Fn() -> Result<PathBuf>) -> Loaded {
    let key = OnceCell::new();
    let default_key = || key.get_or_init(default_key).clone();
    let mut loaded = Loaded::default();
    for entry in entries {
        match entry.and_then(|form| Ok((fields::build_machine(&form, &default_key)?, form))) {
            Ok((machine, form)) => {
                loaded.warnings.append(&mut fields::doubts(&form, &machine));
                loaded.machines.push(machine);
            }
            Err(error) => loaded.left_out.push(error.until_then("no build goes there")),
        }
    }
    let untold = loaded.left_out.len().saturating_sub(MAX_TOLD);
    if untold > 0 {
        loaded.left_out.truncate(MAX_TOLD);
        let message = format!("{file}:1:0: {untold} more machines are malformed");
        loaded.left_out.push(Error::new(ErrorKind::Configuration, message).hint("correct those before first"));
    }
    loaded
}

/// Returns the content of the machine file at `path`, if there is one, and its identity before it was read.
fn read(path: &Path) -> Result<Option<(Vec<u8>, FileIdentity)>> {
    let kind = ErrorKind::Configuration;
    let what = || format!("{}: reading the machine file", path.display());
    let reject = |why| Err(Error::new(kind, format!("{}: the machine file {why}", path.display())));
    // Opening a pipe could wait forever, so the kind of the file is checked first.
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return reject("is a directory"),
        Ok(metadata) if !metadata.is_file() => return reject("is not a regular file"),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(kind, what(), error)),
    }
    let file = File::open(path).io_context(kind, what)?;
    let identity = FileIdentity::from(&file.metadata().io_context(kind, what)?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).io_context(kind, what)?;
    if bytes.len() as u64 > MAX_FILE {
        return reject(&format!("has more than {} MiB", MAX_FILE >> 20));
    }
    Ok(Some((bytes, identity)))
}

/// Returns the result of the text, if it is surely understood here.
fn evaluate_plain(path: &Path, bytes: &[u8]) -> Result<Entries, NeedsGuile> {
    let file = name_of(path);
    let (value, place) = match std::str::from_utf8(bytes) {
        Ok(text) => evaluate::evaluate(&Source::new(file, text))?,
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let place = Source::new(file, &valid).place(valid.len());
            return Err(NeedsGuile { place, what: "a byte that is not UTF-8 is left to Guile".into() });
        }
    };
    let Value::List(elements) = &value else {
        return Ok(vec![Err(wrong_result(&place, 0, &value))]);
    };
    let entry = |(i, element): (usize, &Value)| match element {
        Value::Machine(machine) => Ok(machine.clone()),
        other => Err(wrong_result(&place, i + 1, other)),
    };
    Ok(elements.iter().enumerate().map(entry).collect())
}

/// Returns the error for a file that returned `value` or, if `index` is not 0, a list whose element number `index` is
/// `value`.
fn wrong_result(place: &SourceLocation, index: usize, value: &Value) -> Error {
    let got = match index {
        0 => format!("{value}"),
        _ => format!("a list whose element {index} is {value}"),
    };
    let hint = match index {
        0 => "end the file with (list MACHINE ...)",
        _ => "remove this element, or make it a build-machine",
    };
    place
        .error(format_args!("the file must return a list of build machines, but this last form returns {got}"))
        .hint(hint)
}

fn name_of(path: &Path) -> Rc<str> {
    path.to_string_lossy().into()
}

#[cfg(test)]
mod tests;
