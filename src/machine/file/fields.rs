// SPDX-License-Identifier: GPL-3.0-or-later
//! Turns a machine as it is written into a [`BuildMachine`]: the types of the fields, their defaults, and the errors
//! about fields that are wrong.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::value::{Field, Machine, Value};
use crate::ground::error::{Context, Error, ErrorKind, Result};
use crate::machine::{self, BuildMachine, Flaw, HostKey};

/// The fields of Guix's `<build-machine>`, but for `location`.
const FIELDS: [&str; 14] = [
    "name",
    "port",
    "systems",
    "system",
    "user",
    "private-key",
    "host-key",
    "compression",
    "compression-level",
    "daemon-socket",
    "overload-threshold",
    "parallel-builds",
    "speed",
    "features",
];

/// Validates `machine`: the types of its fields here, all else in [`BuildMachine::admit`]. `default_key` returns the
/// private key for a machine that names none.
pub(super) fn build_machine(machine: &Machine, default_key: &dyn Fn() -> Result<PathBuf>) -> Result<BuildMachine> {
    let form = Form { machine };
    form.check_names()?;
    let described = BuildMachine {
        name: form.required("name", Form::text)?,
        port: form.optional("port", BuildMachine::DEFAULT_PORT, |form, field| {
            form.integer(field, "port", BuildMachine::PORTS)
        })?,
        systems: form.systems()?,
        user: form.required("user", Form::text)?,
        private_key: match form.field("private-key") {
            Some(field) => machine::key_file(&form.text(field)?).map_err(|flaw| form.flawed(flaw))?,
            None => default_key().map_err(|error| form.locate(error))?,
        },
        host_key: form.required("host-key", Form::host_key)?,
        compression: form.optional("compression", BuildMachine::DEFAULT_COMPRESSION.into(), Form::text)?,
        compression_level: form.optional(
            "compression-level",
            BuildMachine::DEFAULT_COMPRESSION_LEVEL,
            |form, field| form.integer(field, "compression-level", BuildMachine::COMPRESSION_LEVELS),
        )?,
        daemon_socket: form.optional("daemon-socket", BuildMachine::DEFAULT_DAEMON_SOCKET.into(), Form::text)?,
        parallel_builds: form.optional("parallel-builds", BuildMachine::DEFAULT_PARALLEL_BUILDS, |form, field| {
            form.integer(field, "parallel-builds", 0..=u32::MAX)
        })?,
        speed: form.optional("speed", BuildMachine::DEFAULT_SPEED, |form, field| form.number(field, ""))?,
        features: form.optional("features", Vec::new(), Form::texts)?,
        overload_threshold: form.optional(
            "overload-threshold",
            Some(BuildMachine::DEFAULT_OVERLOAD_THRESHOLD),
            |form, field| match field.value {
                Value::Boolean(false) => Ok(None),
                _ => form.number(field, ", or #f").map(Some),
            },
        )?,
    };
    described.admit().map_err(|flaw| form.flawed(flaw))
}

/// Returns warnings about `described`, which is used nevertheless, with the place of the field in `machine`.
pub(super) fn doubts(machine: &Machine, described: &BuildMachine) -> Vec<Error> {
    let form = Form { machine };
    let at = |name: &str, what: String| match form.named(name) {
        Some(field) => form.wrong(field, what),
        None => form.locate(Error::new(ErrorKind::Configuration, what)),
    };
    let unknown = described.unknown_systems().map(|(system, meant)| {
        let error = at("systems", format!("Guix has no system type {system:?}, so the machine gets no builds for it"));
        match meant {
            Some(meant) => error.hint(format!("use {meant:?}")),
            None => error.hint("system types are such as \"x86_64-linux\" and \"aarch64-linux\""),
        }
    });
    let key = described.private_key.display();
    let exposed = described.exposed_key().map(|mode| {
        at("private-key", format!("{key} can be read by others than its owner (its mode is {mode:04o})"))
            .hint(format!("run 'chmod 600 {key}'; if others may have seen it, replace it"))
    });
    unknown.chain(exposed).collect()
}

/// A `build-machine` form that is being validated.
struct Form<'a> {
    machine: &'a Machine,
}

impl Form<'_> {
    /// Checks that every field is known, has the form `(FIELD VALUE)`, and occurs once.
    fn check_names(&self) -> Result<()> {
        let fields = &self.machine.fields;
        for (i, field) in fields.iter().enumerate() {
            let malformed = matches!(field.value, Value::Malformed);
            match &*field.name {
                // A first, well-formed `inherit` is among the fields only if it names no machine.
                "inherit" if !malformed && i == 0 => return Err(self.unexpected(field, "a build machine")),
                "inherit" if !malformed => return Err(self.wrong(field, "it must come first")),
                "inherit" => {}
                // Where Guix notes the place of the form; a file may set it, to no effect.
                "location" => {}
                name if FIELDS.contains(&name) => {}
                _ => {
                    let hint = format!("the fields of a build machine are {}", FIELDS.join(", "));
                    return Err(self.wrong(field, "there is no such field").hint(hint));
                }
            }
            if malformed {
                return Err(self.wrong(field, format_args!("expected one value, as in ({} VALUE)", field.name)));
            }
            if fields[..i].iter().any(|earlier| earlier.name == field.name) {
                return Err(self.wrong(field, "the field is given twice"));
            }
        }
        Ok(())
    }

    /// Returns the field that sets `name`: the older `system` may set `systems`.
    fn named(&self, name: &str) -> Option<&Field> {
        let given = |name| self.field(name).filter(|field| !matches!(field.value, Value::Boolean(false)));
        if name == "systems" { given("systems").or_else(|| given("system")) } else { self.field(name) }
    }

    fn field(&self, name: &str) -> Option<&Field> {
        self.machine.fields.iter().find(|field| &*field.name == name)
    }

    fn required<T>(&self, name: &str, read: impl Fn(&Self, &Field) -> Result<T>) -> Result<T> {
        self.field(name).map_or_else(|| Err(self.missing(name)), |field| read(self, field))
    }

    fn optional<T>(&self, name: &str, default: T, read: impl Fn(&Self, &Field) -> Result<T>) -> Result<T> {
        self.field(name).map_or(Ok(default), |field| read(self, field))
    }

    /// Reads `systems` or else the older `system`, as `build-machine-systems` of Guix does: #f counts as not given.
    fn systems(&self) -> Result<Vec<String>> {
        match self.named("systems") {
            Some(field) if &*field.name == "systems" => self.texts(field),
            Some(field) => Ok(vec![self.text(field)?]),
            None => Err(self.missing("systems")),
        }
    }

    fn text(&self, field: &Field) -> Result<String> {
        match &field.value {
            Value::String(text) => Ok(text.to_string()),
            _ => Err(self.unexpected(field, "a string that is not empty")),
        }
    }

    fn texts(&self, field: &Field) -> Result<Vec<String>> {
        let Value::List(elements) = &field.value else {
            return Err(self.unexpected(field, "a list of strings"));
        };
        let text = |(i, element): (usize, &Value)| match element {
            Value::String(text) => Ok(text.to_string()),
            other => {
                let what = format!("expected a list of strings, but element {} of it is {other}", i + 1);
                Err(self.wrong(field, what))
            }
        };
        elements.iter().enumerate().map(text).collect()
    }

    fn host_key(&self, field: &Field) -> Result<HostKey> {
        let text = self.text(field)?;
        let key = HostKey::parse(&text).context(|| format!("{}: {}", field.place, self.subject(field)));
        key.map_err(|error| self.name_machine(error))
    }

    /// Reads an integer in `range`. `name` is the name of `field`.
    fn integer<T>(&self, field: &Field, name: &'static str, range: RangeInclusive<T>) -> Result<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        match field.value {
            Value::Integer(number) => machine::number(name, number, range).map_err(|flaw| self.flawed(flaw)),
            _ => Err(self.unexpected(field, machine::integers(&range))),
        }
    }

    /// Reads a number, whatever its range. `alternative` completes the message.
    fn number(&self, field: &Field, alternative: &str) -> Result<f64> {
        match field.value {
            Value::Integer(number) => Ok(number as f64),
            Value::Real(number) => Ok(number),
            _ => Err(self.unexpected(field, format_args!("a number that is not negative{alternative}"))),
        }
    }

    /// Returns `machine 'x'`, or another phrase if the name is not a string.
    fn title(&self) -> String {
        match self.field("name").map(|field| &field.value) {
            Some(Value::String(name)) => machine::title(name),
            _ => "build-machine without a name".into(),
        }
    }

    fn subject(&self, field: &Field) -> String {
        format!("{}, field '{}'", self.title(), field.name.escape_debug())
    }

    fn wrong(&self, field: &Field, what: impl Display) -> Error {
        self.name_machine(field.place.error(format_args!("{}: {what}", self.subject(field))))
    }

    fn unexpected(&self, field: &Field, expected: impl Display) -> Error {
        self.wrong(field, format_args!("expected {expected}, got {}", field.value))
    }

    /// Returns the error for `flaw`, at the place of its field.
    fn flawed(&self, flaw: Flaw) -> Error {
        let error = match self.named(flaw.field) {
            Some(field) => self.wrong(field, &flaw),
            // The default of the field is wrong.
            None => self.locate(Error::new(ErrorKind::Configuration, format!("field '{}': {flaw}", flaw.field))),
        };
        match flaw.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    fn missing(&self, name: &str) -> Error {
        self.name_machine(self.machine.place.error(format_args!("{}: field '{name}' is missing", self.title())))
    }

    fn locate(&self, error: Error) -> Error {
        self.name_machine(error.context(format!("{}: {}", self.machine.place, self.title())))
    }

    fn name_machine(&self, error: Error) -> Error {
        match self.field("name").map(|field| &field.value) {
            Some(Value::String(name)) => error.on_machine(&**name),
            _ => error,
        }
    }
}
