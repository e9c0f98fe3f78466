// SPDX-License-Identifier: GPL-3.0-or-later
//! Evaluates machine files with Guile, in a child process: those that the evaluator of this library leaves to it.
//!
//! The child reads, from standard input, the program `guile.scm` and after it the text of the machine file. It prints
//! data:
//!
//! ```text
//! output    = *(machine / wrong) *input "(end" COUNT ")" / "(exception" place KEY MESSAGE ")"
//! wrong     = "(wrong-result" place INDEX value ")"
//! machine   = "(machine" place *("(" FIELD place value ")") ")"
//! place     = FILE LINE COLUMN                   ; as in `SourceLocation`
//! value     = string / integer / "#t" / "#f" / "(list" *value ")" / "(real" string ")" / "(symbol" string ")"
//!           / "(a-machine)" / "(malformed)" / "(other" string ")"
//! input     = "(file" NAME [DEVICE INODE SIZE SECONDS] ")" / "(volatile)"   ; what the result depends on
//! string    = DQUOTE *(ASCII but control characters, "\" and DQUOTE / "\x" hex ";") DQUOTE
//! ```
//!
//! COUNT is the number of machines and wrong elements. INDEX 0 is the result itself; another INDEX is that of an
//! element, counted from 1. `guix repl -t machine` prints a line `(repl-version ...)` before the output. Limits: 16 MiB
//! of output; lists have 256 elements.
//!
//! # Which Guile
//!
//! `guile` comes first: it starts in 20 ms. There, `(guix scripts offload)` is a module of ours that has
//! `build-machine` in it, whether Guix is installed or not. So is `(guix offload)`, to which Guix may move it. Records
//! of any type called `build-machine` are machines. Some files need other modules of Guix, or modules that were
//! compiled against Guix's own `build-machine`. With them, a module or a variable is missing in `guile`. Then, or if
//! there is no `guile`, comes `guix repl`, which takes 130 ms and has everything that `guix offload` has.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use lexpr::Parser;

use super::LoadOptions;
use super::cache::CacheEntry;
use super::child::{self, Finished, Stopped};
use super::evaluate::NeedsGuile;
use super::inputs::Inputs;
use super::value::{Field, Machine, SourceLocation, Value};
use super::{Entries, wrong_result};
use crate::ground::error::{Error, ErrorKind, Result};
use crate::ground::file_identity::FileIdentity;
use crate::machine::BuildMachine;

/// The program that evaluates a machine file.
const PROGRAM: &str = include_str!("guile.scm");

/// Longest time limit for Guile, so that no sum of times overflows.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest output of the program that evaluates a machine file, in bytes.
const MAX_OUTPUT: usize = 16 << 20;

/// The failure of an interpreter that was started.
struct Failure {
    error: Error,
    cause: Cause,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It ended without a result.
    Crashed,
    /// A module or a variable is missing, which another interpreter may have.
    Lacking,
    /// The file is wrong, or takes too long.
    File,
}

/// A machine file that is left to Guile.
pub(super) struct Program<'a> {
    pub file: &'a Rc<str>,
    pub text: &'a [u8],
    pub identity: Option<FileIdentity>,
    /// Why it is left to Guile.
    pub reason: &'a NeedsGuile,
}

/// Returns what the file returns, and the inputs of that. `home` is the home directory of the user. Uses the result of
/// an earlier call with the same `options.cache` while it is current.
pub(super) fn evaluate(program: &Program, home: Option<&Path>, options: &LoadOptions) -> Result<(Entries, Inputs)> {
    let deadline = Instant::now() + options.time_limit.min(MAX_TIME);
    let (guile, guix) = (find(&options.guile), find(&options.guix));
    let entry = entry(program, [&guile, &guix], home, options);
    let kept = entry.as_ref().and_then(CacheEntry::read);
    let kept = kept.and_then(|(at, output)| program.result(&output, at));
    if let Some(result) = kept.filter(|(_, inputs)| inputs.are_current()) {
        return Ok(result);
    }
    let attempt = |command: &Option<PathBuf>, arguments: &[&str], has_guix: bool| {
        let Some(command) = command else { return Ok(None) };
        #[allow(clippy::disallowed_methods)] // ground::spawn starts it
        let mut command = Command::new(command);
        command.args(arguments);
        set_environment(&mut command, home);
        let at = SystemTime::now();
        let input = standard_input(program.file, has_guix, program.text);
        match child::run(&command, &input, deadline, MAX_OUTPUT, &options.cancel) {
            Ok(finished) => {
                options.cancel.check()?;
                let outcome = outcome(program, &finished, at, options);
                let lasts = |(_, inputs): &(Entries, Inputs)| inputs.are_settled() && inputs.are_current();
                if let Some(entry) = entry.as_ref().filter(|_| outcome.as_ref().is_ok_and(lasts)) {
                    entry.write(at, &finished.stdout);
                }
                Ok(Some(outcome))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(None),
            Err(error) => {
                Err(Error::io(ErrorKind::Exhausted, format!("{}: starting Guile", program.reason.place), error))
            }
        }
    };

    let first = match attempt(&guile, &["--no-auto-compile", "-q", "-c", "(primitive-eval (read))"], false)? {
        Some(Ok(result)) => return Ok(result),
        Some(Err(failure)) if failure.cause == Cause::File => return Err(failure.error),
        Some(Err(failure)) => Some(failure.error),
        None => None,
    };
    match (attempt(&guix, &["repl", "-t", "machine"], true)?, first) {
        (Some(Ok(result)), _) => Ok(result),
        // A crash of `guix repl` says less than the error of `guile`.
        (Some(Err(failure)), Some(first)) if failure.cause == Cause::Crashed => {
            Err(first.hint(format!("'{} repl' was tried, too: {}", options.guix.display(), failure.error)))
        }
        (Some(Err(failure)), _) => Err(failure.error),
        (None, Some(first)) => {
            Err(first.hint(format!("there is no '{}', which may have more", options.guix.display())))
        }
        (None, None) => Err(program
            .reason
            .place
            .error(format_args!(
                "{}, but there is neither '{}' nor '{}'",
                program.reason.what,
                options.guile.display(),
                options.guix.display()
            ))
            .hint(
                "install Guile, or write the file with nothing but 'define', 'list', 'quote', 'string-append' and \
                 'build-machine'",
            )),
    }
}

/// Where `guile` and `guix` may be if there is no PATH, as in a daemon that an init system started.
const DEFAULT_PATH: &str =
    "/usr/local/bin:/usr/bin:/bin:/run/current-system/profile/bin:/var/guix/profiles/per-user/root/current-guix/bin";

/// Returns the file of a command, which is looked up in PATH unless it has a slash in it.
fn find(command: &Path) -> Option<PathBuf> {
    if command.components().count() > 1 || command.is_absolute() {
        return Some(command.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(command))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

/// Returns the entry in which the result for `program` is kept. Its key covers all that is known beforehand to matter.
fn entry(
    program: &Program,
    interpreters: [&Option<PathBuf>; 2],
    home: Option<&Path>,
    options: &LoadOptions,
) -> Option<CacheEntry> {
    let state = options.cache.as_deref()?;
    #[allow(clippy::disallowed_methods)] // nobody starts it: it has the environment
    let mut command = Command::new("");
    set_environment(&mut command, home);
    let mut variables: Vec<_> = command.get_envs().collect();
    variables.sort();
    let interpreters = interpreters.map(|file| file.as_ref().map(|file| (file, FileIdentity::of(file))));
    let directory = std::env::current_dir().ok();
    let circumstances = format!("{:?}", (program.identity, interpreters, variables, directory));
    let facts = [program.text, circumstances.as_bytes(), env!("CARGO_PKG_VERSION").as_bytes(), PROGRAM.as_bytes()];
    CacheEntry::new(state, program.file, &facts)
}

/// Variables that the child gets, besides those whose names begin with one of [`PREFIXES`].
const VARIABLES: [&str; 8] = ["PATH", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE"];
const PREFIXES: [&str; 5] = ["GUIX_", "GUILE_", "NIX_", "LC_", "XDG_"];

/// Gives the child those variables that Guix and Guile, and so the file, may want to know. The others are not for the
/// child: they are meant for the host process, such as LD_PRELOAD, or are nobody else's business, such as
/// SSH_AUTH_SOCK.
fn set_environment(command: &mut Command, home: Option<&Path>) {
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| {
        name.to_str()
            .is_some_and(|name| VARIABLES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
    }));
    // As `guix offload` does: guix-daemon may have the HOME of somebody else.
    if let Some(home) = home {
        command.env("HOME", home);
    }
    command.env("GUILE_AUTO_COMPILE", "0");
}

fn standard_input(file: &str, has_guix: bool, text: &[u8]) -> Vec<u8> {
    let defaults = format!(
        "((port . {}) (compression . {}) (compression-level . {}) (daemon-socket . {}) (overload-threshold . {:?}) \
         (parallel-builds . {}) (speed . {:?}) (features))",
        BuildMachine::DEFAULT_PORT,
        literal(BuildMachine::DEFAULT_COMPRESSION),
        BuildMachine::DEFAULT_COMPRESSION_LEVEL,
        literal(BuildMachine::DEFAULT_DAEMON_SOCKET),
        BuildMachine::DEFAULT_OVERLOAD_THRESHOLD,
        BuildMachine::DEFAULT_PARALLEL_BUILDS,
        BuildMachine::DEFAULT_SPEED,
    );
    let definitions = format!(
        "(begin (define %file {}) (define %guix? {}) (define %defaults '{defaults})",
        literal(file),
        if has_guix { "#t" } else { "#f" }
    );
    [definitions.as_bytes(), b"\n", PROGRAM.as_bytes(), b")\n", text].concat()
}

/// Returns `text` as a string literal of Guile, in ASCII.
fn literal(text: &str) -> String {
    let mut literal = String::from("\"");
    for char in text.chars() {
        let _ = match char {
            ' '..='~' if char != '"' && char != '\\' => write!(literal, "{char}"),
            _ => write!(literal, "\\U{:06x}", u32::from(char)),
        };
    }
    literal + "\""
}

impl Program<'_> {
    /// Returns the result in `output` of a child that was started at `at`, if the output is complete.
    fn result(&self, output: &[u8], at: SystemTime) -> Option<(Entries, Inputs)> {
        match (Data { file: self.file }).output(output) {
            Some(Output::Result { entries, files, volatile }) => {
                let file = (PathBuf::from(&**self.file), self.identity);
                Some((entries, Inputs { file, files, volatile, at }))
            }
            _ => None,
        }
    }
}

/// Returns the result of a child that was started at `at` and ended as `finished` says.
fn outcome(
    program: &Program,
    finished: &Finished,
    at: SystemTime,
    options: &LoadOptions,
) -> Result<(Entries, Inputs), Failure> {
    let fail = |error, cause| Err(Failure { error, cause });
    let place = &program.reason.place;
    match finished.stopped {
        Some(Stopped::TookTooLong) => {
            let message = format!("Guile was not done with the file within {:?}", options.time_limit);
            return fail(place.error(message), Cause::File);
        }
        Some(Stopped::PrintedTooMuch) => {
            return fail(place.error("the file returns more machines than there is room for"), Cause::File);
        }
        Some(Stopped::Cancelled) | None => {}
    }
    if let Some(result) = program.result(&finished.stdout, at) {
        return Ok(result);
    }
    match (Data { file: program.file }).output(&finished.stdout) {
        Some(Output::Exception { place, key, message }) => {
            let lacking = key == "unbound-variable" || message.contains("no code for module");
            let cause = if lacking { Cause::Lacking } else { Cause::File };
            match key.as_str() {
                "quit" => fail(place.error("the file calls 'exit'").hint("take that out of the file"), Cause::File),
                _ if lacking => {
                    let hint = "correct the file there, or install for this Guile what it needs";
                    fail(place.error(shortened(&message)).hint(hint), cause)
                }
                _ => fail(place.error(shortened(&message)).hint("correct the file there"), cause),
            }
        }
        _ => fail(
            place.error("Guile ended without a result").hint(format!("it said: {}", last_words(&finished.stderr))),
            Cause::Crashed,
        ),
    }
}

/// Returns the last three lines of what a child wrote to its standard error.
fn last_words(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.len() {
        0 => "nothing".into(),
        length => shortened(&lines[length.saturating_sub(3)..].join("; ")),
    }
}

/// Returns `message` on one line, cut to 500 characters.
fn shortened(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

/// The output of `guile.scm`.
enum Output {
    Result { entries: Entries, files: Vec<(PathBuf, Option<FileIdentity>)>, volatile: bool },
    Exception { place: SourceLocation, key: String, message: String },
}

/// A reader of what `guile.scm` prints. It returns `None` for output that is not complete, or not of the form given
/// above.
struct Data<'a> {
    /// The file of most places, which therefore share this name.
    file: &'a Rc<str>,
}

impl Data<'_> {
    fn output(&self, bytes: &[u8]) -> Option<Output> {
        let (mut entries, mut files, mut volatile) = (Vec::new(), Vec::new(), false);
        let mut parser = Parser::from_reader(bytes);
        loop {
            let datum = parser.next_value().ok()??;
            match (tag(&datum)?, &arguments(&datum)?[..]) {
                ("repl-version", _) => {}
                ("machine", [file, line, column, fields @ ..]) => {
                    let fields = fields.iter().map(|field| self.field(field)).collect::<Option<_>>()?;
                    entries.push(Ok(Rc::new(Machine { place: self.place(file, line, column)?, fields })));
                }
                ("wrong-result", [file, line, column, index, value]) => {
                    let place = self.place(file, line, column)?;
                    entries.push(Err(wrong_result(&place, index.as_u64()?.try_into().ok()?, &self.value(value)?)));
                }
                ("file", [name]) => files.push((name.as_str()?.into(), None)),
                ("file", [name, device, inode, size, seconds]) => {
                    let numbers = [device.as_u64()?, inode.as_u64()?, size.as_u64()?];
                    files.push((name.as_str()?.into(), Some(FileIdentity::seen(numbers, seconds.as_i64()?))));
                }
                ("volatile", []) => volatile = true,
                ("end", [count]) => {
                    let complete = count.as_u64()? == entries.len() as u64;
                    return complete.then_some(Output::Result { entries, files, volatile });
                }
                ("exception", [file, line, column, key, message]) => {
                    return Some(Output::Exception {
                        place: self.place(file, line, column)?,
                        key: key.as_str()?.into(),
                        message: message.as_str()?.into(),
                    });
                }
                _ => return None,
            }
        }
    }

    fn place(&self, file: &lexpr::Value, line: &lexpr::Value, column: &lexpr::Value) -> Option<SourceLocation> {
        let file = file.as_str()?;
        let file = if *file == **self.file { self.file.clone() } else { file.into() };
        Some(SourceLocation { file, line: line.as_u64()?.try_into().ok()?, column: column.as_u64()?.try_into().ok()? })
    }

    fn field(&self, datum: &lexpr::Value) -> Option<Field> {
        match &datum.list_iter()?.collect::<Vec<_>>()[..] {
            [name, file, line, column, value] => Some(Field {
                name: name.as_str()?.into(),
                place: self.place(file, line, column)?,
                value: self.value(value)?,
            }),
            _ => None,
        }
    }

    fn value(&self, datum: &lexpr::Value) -> Option<Value> {
        match datum {
            lexpr::Value::String(text) => return Some(Value::String((&**text).into())),
            lexpr::Value::Bool(value) => return Some(Value::Boolean(*value)),
            lexpr::Value::Number(number) => return number.as_i64().map(Value::Integer),
            _ => {}
        }
        Some(match (tag(datum)?, &arguments(datum)?[..]) {
            ("list", elements) => {
                Value::List(elements.iter().map(|element| self.value(element)).collect::<Option<_>>()?)
            }
            // Guile writes `+inf.0` and `+nan.0`, which no field accepts.
            ("real", [number]) => Value::Real(number.as_str()?.parse().unwrap_or(f64::NAN)),
            ("symbol", [name]) => Value::Symbol(name.as_str()?.into()),
            ("other", [text]) => Value::Other(text.as_str()?.into()),
            ("a-machine", []) => Value::Other("a build machine".into()),
            ("malformed", []) => Value::Malformed,
            _ => return None,
        })
    }
}

/// Returns `TAG` of `(TAG ARGUMENT ...)`.
fn tag(datum: &lexpr::Value) -> Option<&str> {
    datum.as_cons()?.car().as_symbol()
}

/// Returns the arguments of `(TAG ARGUMENT ...)`.
fn arguments(datum: &lexpr::Value) -> Option<Vec<&lexpr::Value>> {
    Some(datum.list_iter()?.skip(1).collect())
}
