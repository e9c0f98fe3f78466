// SPDX-License-Identifier: GPL-3.0-or-later
//! Evaluates the declarative part of the language of machine files, in process.
//!
//! ```text
//! form       = "(define" NAME expression ")" / "(use-modules (guix scripts offload))" / expression
//! expression = string / number / boolean / NAME / "'" datum / "(quote" datum ")"
//!            / "(list" *expression ")" / "(string-append" *expression ")"
//!            / "(build-machine" ["(inherit" expression ")"] *("(" FIELD expression ")") ")"
//! ```
//!
//! The value of a file is that of its last form. Names are defined before they are used, and may be defined again, as
//! in any Scheme. What is not of this form is [`NeedsGuile`], never an error: it may be a fine program.
//! That includes every error that Guile would raise, such as a name that nobody defined.

use std::collections::HashMap;
use std::rc::Rc;

use lexpr::Parser;
use lexpr::datum::{Datum, Ref};

use super::plain;
use super::source::Source;
use super::value::{Field, Machine, Place, Value};

/// Names that the evaluator knows; a file that defines one of them means something else by it.
const RESERVED: [&str; 7] = ["define", "quote", "list", "string-append", "build-machine", "inherit", "use-modules"];

/// Longest result of `string-append`, in bytes: what doubles itself again and again is not for this process.
const MAX_STRING: usize = 64 << 10;

/// A form that is left to Guile, and why.
#[derive(Debug)]
pub(super) struct NeedsGuile {
    pub place: Place,
    /// A clause about the form at that place.
    pub what: String,
}

type Result<T> = std::result::Result<T, NeedsGuile>;

/// The value of the last form of `source`, and its place.
pub(super) fn evaluate(source: &Source) -> Result<(Value, Place)> {
    plain::check(source.text())
        .map_err(|trouble| NeedsGuile { place: source.place(trouble.offset), what: trouble.what })?;
    let mut evaluator = Evaluator { source, names: HashMap::new() };
    let mut last = (Value::Other("no value".into()), source.place(0));
    // The reader interface: lexpr takes quadratic time over a `str`.
    let mut parser = Parser::from_reader(source.text().as_bytes());
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
    names: HashMap<Rc<str>, Value>,
}

impl Evaluator<'_> {
    fn form(&mut self, form: &Datum) -> Result<(Value, Place)> {
        let form = form.as_ref();
        let place = self.place(form);
        let unspecified = || Value::Other("no value".into());
        let value = match call(form) {
            Some(("define", arguments)) => match arguments[..] {
                [name, value] if name.is_symbol() => {
                    let name = name.as_symbol().unwrap_or_default();
                    if RESERVED.contains(&name) {
                        return self.left(form, format!("a definition of '{name}'"));
                    }
                    let value = self.expression(value, &[])?;
                    self.names.insert(name.into(), value);
                    unspecified()
                }
                _ => return self.left(form, "a 'define' that is not of the form (define NAME VALUE)"),
            },
            Some(("use-modules", arguments)) => {
                // This one only brings `build-machine`, and nothing that hides what is evaluated here.
                if !arguments.iter().all(|module| is_offload_module(*module)) {
                    return self.left(form, "'use-modules'");
                }
                unspecified()
            }
            _ => self.expression(form, &[])?,
        };
        Ok((value, place))
    }

    /// The value of `form`, where `fields` are those of the machine around it that stand before it: as in Guix, their
    /// names are bound.
    fn expression(&self, form: Ref, fields: &[Field]) -> Result<Value> {
        if let Some(name) = form.as_symbol() {
            let field = fields.iter().rev().find(|field| *field.name == *name).map(|field| &field.value);
            return match field.or_else(|| self.names.get(name)) {
                Some(value) => Ok(value.clone()),
                None => self.left(form, format!("'{name}', which is not defined before its use,")),
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
            Some((name, _)) => self.left(form, format!("'{name}'")),
            None => self.left(form, "this form"),
        }
    }

    fn string_append(&self, form: Ref, arguments: &[Ref], fields: &[Field]) -> Result<Value> {
        let mut result = String::new();
        for argument in arguments {
            match self.expression(*argument, fields)? {
                Value::String(text) if result.len() + text.len() <= MAX_STRING => result.push_str(&text),
                Value::String(_) => return self.left(form, "a string of this length"),
                other => return self.left(*argument, format!("'string-append' of {other}")),
            }
        }
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
        let mut bound = outer.to_vec();
        for specifier in specifiers {
            bound.push(match call(*specifier) {
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
                    // As with Guile, which knows the places of lists only.
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
            Some((_, Value::Machine(original))) => Machine::inheriting(place, &original, fields),
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
                (Some(number), _) => Ok(Value::Integer(number)),
                (None, Some(number)) => Ok(Value::Real(number)),
                (None, None) => self.left(datum, "this number"),
            },
            _ => self.left(datum, "this datum"),
        }
    }

    fn left<T>(&self, form: Ref, what: impl std::fmt::Display) -> Result<T> {
        Err(NeedsGuile { place: self.place(form), what: format!("{what} is left to Guile") })
    }

    fn place(&self, form: Ref) -> Place {
        let start = form.span().start();
        self.source.place(self.source.offset(start.line(), start.column()))
    }
}

/// The elements of a proper list, the empty one too.
fn list(datum: Ref<'_>) -> Option<Vec<Ref<'_>>> {
    datum.value().is_list().then(|| datum.list_iter().into_iter().flatten().collect())
}

/// The name and the arguments of a form `(NAME ARGUMENT ...)`.
fn call(form: Ref<'_>) -> Option<(&str, Vec<Ref<'_>>)> {
    let mut elements = list(form)?;
    if elements.is_empty() {
        return None;
    }
    let name = elements.remove(0).value();
    Some((name.as_symbol()?, elements))
}

/// Is this `(guix scripts offload)`?
fn is_offload_module(module: Ref) -> bool {
    let names = list(module).into_iter().flatten().map(|name| name.value().as_symbol());
    names.eq(["guix", "scripts", "offload"].map(Some))
}
