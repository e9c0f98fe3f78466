// SPDX-License-Identifier: GPL-3.0-or-later
//! Evaluates the declarative part of the language of machine files, in process.
//!
//! ```text
//! form       = "(define" NAME expression ")" / "(use-modules" *module ")" / expression
//! module     = "(guix scripts offload)" / "(guix offload)"
//! expression = string / number / boolean / NAME / "'" datum / "(quote" datum ")"
//!            / "(list" *expression ")" / "(string-append" *expression ")"
//!            / "(build-machine" ["(inherit" expression ")"] *("(" FIELD expression ")") ")"
//!            / "((@ (srfi srfi-1) append-map)" flatten expression ")"
//! flatten    = "(lambda (X) (if (build-machine? X) (list X) X))"
//! ```
//!
//! The last kind of expression is what Guix System writes: each element is a machine, or a list of machines.
//!
//! The value of a file is that of its last form. Names are defined before they are used, and may be defined again, as
//! in any Scheme. A text that is not of this form is [`NeedsGuile`], never an error: it may be a fine program. That
//! includes all that Guile would report as an error, such as a name that nobody defined.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use lexpr::Parser;
use lexpr::datum::{Datum, Ref};

use super::plain;
use super::source::Source;
use super::value::{Field, Machine, SourceLocation, Value};
use crate::machine::BuildMachine;

/// Names that the evaluator knows; a file that defines one of them means something else by it.
const RESERVED: [&str; 11] = [
    "define",
    "quote",
    "list",
    "string-append",
    "build-machine",
    "build-machine?",
    "inherit",
    "use-modules",
    "@",
    "lambda",
    "if",
];

/// Longest result of `string-append`, in bytes: a string that doubles itself again and again is left to Guile.
const MAX_STRING: usize = 64 << 10;

/// Most memory for what a file makes beyond its text, in bytes: joined strings, inherited machines, joined lists, each
/// element of which may become a machine. A short text can make much of little.
const MAX_MADE: usize = 64 << 20;

/// A form that is left to Guile, and why.
#[derive(Debug)]
pub(super) struct NeedsGuile {
    pub place: SourceLocation,
    /// A clause about the form at that place.
    pub what: String,
}

type Result<T> = std::result::Result<T, NeedsGuile>;

/// Returns the value of the last form of `source`, and its place.
pub(super) fn evaluate(source: &Source) -> Result<(Value, SourceLocation)> {
    let readable = plain::check(source.text())
        .map_err(|trouble| NeedsGuile { place: source.place(trouble.offset), what: trouble.what })?;
    let mut evaluator = Evaluator { source, reals: &readable.reals, names: HashMap::new(), room: Cell::new(MAX_MADE) };
    let mut last = (Value::Other("no value".into()), source.place(0));
    // Not `Parser::from_str`: lexpr takes quadratic time over a `str`.
    let mut parser = Parser::from_reader(readable.text.as_bytes());
    loop {
        match parser.next_datum() {
            Ok(Some(form)) => last = evaluator.form(&form)?,
            Ok(None) => return Ok(last),
            Err(error) => {
                let at = error.location().map_or(0, |at| source.offset(at.line(), at.column()));
                return Err(NeedsGuile { place: source.place(at), what: error.to_string() });
            }
        }
    }
}

struct Evaluator<'a> {
    source: &'a Source<'a>,
    /// Offsets of the numbers that are no integers, although lexpr reads them as integers.
    reals: &'a HashSet<usize>,
    names: HashMap<Rc<str>, Value>,
    /// What is left of [`MAX_MADE`].
    room: Cell<usize>,
}

impl Evaluator<'_> {
    fn form(&mut self, form: &Datum) -> Result<(Value, SourceLocation)> {
        let form = form.as_ref();
        let place = self.place(form);
        let unspecified = || Value::Other("no value".into());
        let value = match call(form) {
            Some(("define", arguments)) => match arguments[..] {
                [name, value] if name.is_symbol() => {
                    let name = name.as_symbol().unwrap_or_default();
                    if RESERVED.contains(&name) {
                        return self.leave_to_guile(form, format!("a definition of '{name}'"));
                    }
                    let value = self.expression(value, &[])?;
                    self.names.insert(name.into(), value);
                    unspecified()
                }
                _ => return self.leave_to_guile(form, "a 'define' that is not of the form (define NAME VALUE)"),
            },
            Some(("use-modules", arguments)) => {
                // An offload module only provides `build-machine`, and hides nothing that is evaluated here.
                if !arguments.iter().all(|module| is_offload_module(*module)) {
                    return self.leave_to_guile(form, "'use-modules'");
                }
                unspecified()
            }
            _ => self.expression(form, &[])?,
        };
        Ok((value, place))
    }

    /// Returns the value of `form`. `fields` are the fields that stand before it in the machine around it: as in Guix,
    /// their names are bound.
    fn expression(&self, form: Ref, fields: &[Field]) -> Result<Value> {
        if let Some(name) = form.as_symbol() {
            let field = fields.iter().rev().find(|field| *field.name == *name).map(|field| &field.value);
            return match field.or_else(|| self.names.get(name)) {
                Some(value) => Ok(value.clone()),
                None => self.leave_to_guile(form, format!("'{name}', which is not defined before its use,")),
            };
        }
        if !form.is_cons() && !form.is_null() {
            return self.quoted(form);
        }
        match call(form) {
            Some(("quote", arguments)) if arguments.len() == 1 => self.quoted(arguments[0]),
            Some(("list", arguments)) => {
                let elements = arguments.iter().map(|element| self.expression(*element, fields));
                Ok(Value::List(elements.collect::<Result<_>>()?))
            }
            Some(("string-append", arguments)) => self.string_append(form, &arguments, fields),
            Some(("build-machine", arguments)) => self.build_machine(form, &arguments, fields),
            Some((name, _)) => self.leave_to_guile(form, format!("'{name}'")),
            None => match flattened(form) {
                Some(entries) => self.flatten(entries, fields),
                None => self.leave_to_guile(form, "this form"),
            },
        }
    }

    /// Returns the machines of a list of machines and lists.
    fn flatten(&self, entries: Ref, fields: &[Field]) -> Result<Value> {
        let Value::List(entries_value) = self.expression(entries, fields)? else {
            return self.leave_to_guile(entries, "'append-map' of what is no list");
        };
        let mut elements = Vec::new();
        for entry in entries_value.iter() {
            match entry {
                Value::Machine(_) => elements.push(entry.clone()),
                Value::List(list) => {
                    self.make(entries, list.len() * size_of::<BuildMachine>())?;
                    elements.extend(list.iter().cloned());
                }
                other => return self.leave_to_guile(entries, format!("'append-map' of {other}")),
            }
        }
        Ok(Value::List(elements.into()))
    }

    fn string_append(&self, form: Ref, arguments: &[Ref], fields: &[Field]) -> Result<Value> {
        let mut result = String::new();
        for argument in arguments {
            match self.expression(*argument, fields)? {
                Value::String(text) if result.len() + text.len() <= MAX_STRING => result.push_str(&text),
                Value::String(_) => return self.leave_to_guile(form, "a string of this length"),
                other => return self.leave_to_guile(*argument, format!("'string-append' of {other}")),
            }
        }
        self.make(form, result.len())?;
        Ok(Value::String(result.into()))
    }

    fn build_machine(&self, form: Ref, arguments: &[Ref], outer: &[Field]) -> Result<Value> {
        let place = self.place(form);
        let (original, specifiers) = match arguments.split_first() {
            Some((first, rest)) => match call(*first) {
                Some(("inherit", original)) if original.len() == 1 => (Some((*first, original[0])), rest),
                _ => (None, arguments),
            },
            None => (None, arguments),
        };
        // The bindings around this machine, then its own fields as they come.
        self.make(form, size_of_val(outer))?;
        let mut bound = outer.to_vec();
        for specifier in specifiers {
            bound.push(match call(*specifier) {
                // The field's value would be bound to that name in all that follows.
                Some((name, _)) if name != "inherit" && RESERVED.contains(&name) => {
                    return self.leave_to_guile(*specifier, format!("a field called '{name}'"));
                }
                Some((name, value)) => Field {
                    name: name.into(),
                    place: self.place(*specifier),
                    value: match value[..] {
                        [value] => self.expression(value, &bound)?,
                        _ => Value::Malformed,
                    },
                },
                None => Field {
                    name: specifier.value().to_string().into(),
                    // As Guile does, which knows the places of lists only.
                    place: if specifier.is_cons() { self.place(*specifier) } else { place.clone() },
                    value: Value::Malformed,
                },
            });
        }
        // Guix evaluates what is inherited where the fields are bound.
        let original = match original {
            Some((specifier, original)) => Some((specifier, self.expression(original, &bound)?)),
            None => None,
        };
        let mut fields = bound.split_off(outer.len());
        Ok(Value::Machine(Rc::new(match original {
            None => Machine::new(place, fields),
            Some((_, Value::Machine(original))) => {
                self.make(form, size_of_val(&*original.fields))?;
                Machine::inheriting(place, &original, fields)
            }
            Some((specifier, other)) => {
                fields.insert(0, Field { name: "inherit".into(), place: self.place(specifier), value: other });
                Machine::new(place, fields)
            }
        })))
    }

    fn quoted(&self, datum: Ref) -> Result<Value> {
        if let Some(elements) = list(datum) {
            let elements = elements.into_iter().map(|element| self.quoted(element));
            return Ok(Value::List(elements.collect::<Result<_>>()?));
        }
        let value = datum.value();
        match value {
            lexpr::Value::Bool(value) => Ok(Value::Boolean(*value)),
            lexpr::Value::String(text) => Ok(Value::String((&**text).into())),
            lexpr::Value::Symbol(name) => Ok(Value::Symbol((&**name).into())),
            lexpr::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) if self.reals.contains(&self.offset(datum)) => Ok(Value::Real(number as f64)),
                (Some(number), _) => Ok(Value::Integer(number)),
                (None, Some(number)) => Ok(Value::Real(number)),
                (None, None) => self.leave_to_guile(datum, "this number"),
            },
            _ => self.leave_to_guile(datum, "this datum"),
        }
    }

    /// Counts `bytes` that are made for `form`.
    fn make(&self, form: Ref, bytes: usize) -> Result<()> {
        match self.room.get().checked_sub(bytes) {
            Some(left) => {
                self.room.set(left);
                Ok(())
            }
            None => self.leave_to_guile(form, format_args!("what makes more than {} MiB of the file", MAX_MADE >> 20)),
        }
    }

    fn leave_to_guile<T>(&self, form: Ref, what: impl std::fmt::Display) -> Result<T> {
        Err(NeedsGuile { place: self.place(form), what: format!("{what} is left to Guile") })
    }

    fn place(&self, form: Ref) -> SourceLocation {
        self.source.place(self.offset(form))
    }

    fn offset(&self, form: Ref) -> usize {
        let start = form.span().start();
        self.source.offset(start.line(), start.column())
    }
}

/// Returns the elements of a proper list, which may be empty.
fn list(datum: Ref<'_>) -> Option<Vec<Ref<'_>>> {
    datum.value().is_list().then(|| datum.list_iter().into_iter().flatten().collect())
}

/// Returns the name and the arguments of a form `(NAME ARGUMENT ...)`.
fn call(form: Ref<'_>) -> Option<(&str, Vec<Ref<'_>>)> {
    let mut elements = list(form)?;
    if elements.is_empty() {
        return None;
    }
    let name = elements.remove(0).value();
    Some((name.as_symbol()?, elements))
}

/// Returns whether `form` is the list of these symbols.
fn is_list_of(form: Ref, names: &[&str]) -> bool {
    let symbols = list(form).into_iter().flatten().map(|name| name.value().as_symbol());
    symbols.eq(names.iter().copied().map(Some))
}

/// Returns whether `module` provides `build-machine`, and nothing else that is evaluated here.
fn is_offload_module(module: Ref) -> bool {
    is_list_of(module, &["guix", "scripts", "offload"]) || is_list_of(module, &["guix", "offload"])
}

/// Returns the list that is flattened, if `form` is the expression that Guix System writes.
fn flattened(form: Ref<'_>) -> Option<Ref<'_>> {
    let [function, flatten, entries] = list(form)?.try_into().ok()?;
    let ("@", [module, name]) = exactly(function)? else { return None };
    if !is_list_of(module, &["srfi", "srfi-1"]) || name.as_symbol() != Some("append-map") {
        return None;
    }
    let ("lambda", [parameters, body]) = exactly(flatten)? else { return None };
    let [parameter] = list(parameters)?.try_into().ok()?;
    let entry = parameter.as_symbol().filter(|entry| !RESERVED.contains(entry))?;
    let (test, then, otherwise) = match (call(body)?.0, &call(body)?.1[..]) {
        ("if", [test, then, otherwise]) => (*test, *then, *otherwise),
        _ => return None,
    };
    let is_flattening = is_list_of(test, &["build-machine?", entry])
        && is_list_of(then, &["list", entry])
        && otherwise.as_symbol() == Some(entry);
    is_flattening.then_some(entries)
}

/// Returns the name and the two arguments of a form with just two.
fn exactly(form: Ref<'_>) -> Option<(&str, [Ref<'_>; 2])> {
    let (name, arguments) = call(form)?;
    Some((name, arguments.try_into().ok()?))
}
