// SPDX-License-Identifier: GPL-3.0-or-later
//! What both readers of the machine file produce: machines as they are written, with the place of each field, not yet
//! validated.

use std::fmt;
use std::rc::Rc;

use crate::ground::error::{Error, ErrorKind};
use crate::machine::quoted;

/// A place in a file. Shown as Guile and Guix show it: `FILE:LINE:COLUMN`. Lines count from 1. Columns count characters
/// from 0, and a tab goes on to the next multiple of 8.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SourceLocation {
    pub file: Rc<str>,
    pub line: u32,
    pub column: u32,
}

impl SourceLocation {
    /// Returns an error of the machine file at this place.
    pub fn error(&self, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Configuration, format!("{self}: {message}"))
    }
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value of a field, or of an expression of the machine file. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Boolean(bool),
    Integer(i64),
    Real(f64),
    String(Rc<str>),
    Symbol(Rc<str>),
    List(Rc<[Value]>),
    Machine(Rc<Machine>),
    /// A field specifier that is not of the form `(FIELD VALUE)`.
    Malformed,
    /// Anything else, as Guile prints it.
    Other(Rc<str>),
}

/// In words, for messages: `the string "22"`, `a list`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Boolean(true) => f.write_str("#t"),
            Value::Boolean(false) => f.write_str("#f"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Real(number) => write!(f, "{number:?}"),
            Value::String(text) => f.write_str(&quoted(text)),
            Value::Symbol(name) => write!(f, "the symbol {}", name.escape_debug()),
            Value::List(elements) if elements.is_empty() => f.write_str("the empty list"),
            Value::List(_) => f.write_str("a list"),
            Value::Machine(_) => f.write_str("a build machine"),
            Value::Malformed => f.write_str("something else"),
            Value::Other(text) => f.write_str(text),
        }
    }
}

/// A field of a machine, as it is written.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: Rc<str>,
    pub place: SourceLocation,
    pub value: Value,
}

/// A `build-machine` form, evaluated but not validated.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub place: SourceLocation,
    /// The inherited fields, and then the others in the order in which they are written. A name that occurs twice is an
    /// error, as it is for Guix if nothing is inherited.
    pub fields: Vec<Field>,
}

impl Machine {
    /// Makes the machine of `(build-machine FIELD ...)`.
    pub fn new(place: SourceLocation, fields: Vec<Field>) -> Self {
        Machine { place, fields }
    }

    /// Makes the machine of `(build-machine (inherit ORIGINAL) FIELD ...)`. The given fields prevail over those of the
    /// original and, as in Guix's records, the last field of a name over the others.
    pub fn inheriting(place: SourceLocation, original: &Machine, fields: Vec<Field>) -> Self {
        let given_in = |fields: &[Field], name: &str| fields.iter().any(|field| *field.name == *name);
        let inherited = original.fields.iter().filter(|field| !given_in(&fields, &field.name));
        let own = fields.iter().enumerate().filter(|(i, field)| !given_in(&fields[i + 1..], &field.name));
        let fields = inherited.chain(own.map(|(_, field)| field)).cloned().collect();
        Machine { place, fields }
    }
}
