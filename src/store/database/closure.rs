// SPDX-License-Identifier: GPL-3.0-or-later
//! All that a machine needs for a build, as guix-daemon tells its hook (`DerivationGoal::inputsRealised` and
//! `tryBuildHook` in Guix's `nix/libstore/build.cc`).

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::Database;
use crate::ground::error::{Error, ErrorKind, IoContext, Result};
use crate::ground::store_path::StorePath;
use crate::store::derivation::{self, Inputs};

/// What a build needs and makes.
#[derive(Debug, PartialEq, Eq)]
pub struct Closure {
    /// The derivation, its sources, the outputs of other derivations that it uses, and all that these refer to. Sorted.
    pub inputs: Vec<StorePath>,
    /// Those of its outputs that are not valid.
    pub missing: Vec<StorePath>,
}

/// Names of items, as the database has them.
#[derive(Default)]
struct Found {
    inputs: Vec<String>,
    missing: Vec<String>,
    /// The items among the inputs that are not valid.
    absent: Vec<String>,
}

impl Database {
    /// Returns what the build of `derivation` needs, and which of its outputs are missing.
    ///
    /// Fails with [`ErrorKind::Store`] if the derivation, or something that it reads, is not valid.
    pub fn closure_of(&self, derivation: &StorePath) -> Result<Closure> {
        if !self.is_valid(derivation)? {
            return Err(Error::new(ErrorKind::Store, format!("'{derivation}' is not valid in the local store"))
                .hint("'guix build --derivations' adds derivations to the store, and says their names"));
        }
        let name = derivation.as_str();
        let text = derivation::text_of(derivation).io_context(ErrorKind::Store, || format!("reading '{name}'"))?;
        let inputs = derivation::inputs(&text)
            .ok_or_else(|| Error::new(ErrorKind::Store, format!("'{name}' is no derivation that can be read")))?;
        let doing = format!("looking up what '{name}' needs");
        let found = self.patiently(&doing, || find_closure(&self.connection, name, &inputs))?;
        if let [absent, others @ ..] = &found.absent[..] {
            let more = if others.is_empty() { String::new() } else { format!(" and {} more items", others.len()) };
            let why = format!("'{absent}'{more}, which '{name}' reads, cannot be sent: not valid in the local store");
            return Err(
                Error::new(ErrorKind::Store, why).hint(format!("build first what it needs: 'guix build {name}'"))
            );
        }
        let parse = |names: &[String]| names.iter().map(|name| self.store.parse(name)).collect::<Result<Vec<_>>>();
        let (mut inputs, mut missing) = (parse(&found.inputs)?, parse(&found.missing)?);
        inputs.sort();
        missing.sort();
        Ok(Closure { inputs, missing })
    }

    /// Returns those of `items` that are not valid.
    pub fn missing_of(&self, items: &[StorePath]) -> Result<Vec<StorePath>> {
        let mut missing = Vec::new();
        for item in items {
            if !self.is_valid(item)? {
                missing.push(item.clone());
            }
        }
        Ok(missing)
    }
}

fn find_closure(connection: &Connection, derivation: &str, inputs: &Inputs) -> rusqlite::Result<Found> {
    let transaction = connection.unchecked_transaction()?; // one state of the database for all questions
    let mut found = Found::default();
    let mut output = transaction.prepare_cached(
        "SELECT output.path FROM DerivationOutputs output JOIN ValidPaths ON ValidPaths.id = output.drv
         WHERE ValidPaths.path = ? AND output.id = ?",
    )?;
    let mut roots = vec![derivation.to_string()];
    roots.extend(inputs.sources.iter().cloned());
    for (derivation, names) in &inputs.derivations {
        for name in names {
            let path = output.query_row([derivation, name], |row| row.get(0)).optional()?;
            match path {
                Some(path) => roots.push(path),
                None => found.absent.push(format!("{derivation}!{name}")),
            }
        }
    }
    let mut id = transaction.prepare_cached("SELECT id FROM ValidPaths WHERE path = ?")?;
    let mut references = transaction.prepare_cached("SELECT reference FROM Refs WHERE referrer = ?")?;
    let mut path = transaction.prepare_cached("SELECT path FROM ValidPaths WHERE id = ?")?;
    let (mut seen, mut pending) = (HashSet::new(), Vec::new());
    for root in roots {
        match id.query_row([&root], |row| row.get::<_, i64>(0)).optional()? {
            Some(id) => pending.push(id),
            None => found.absent.push(root),
        }
    }
    while let Some(id) = pending.pop() {
        if !seen.insert(id) {
            continue;
        }
        found.inputs.push(path.query_row([id], |row| row.get(0))?);
        let mut rows = references.query([id])?;
        while let Some(row) = rows.next()? {
            pending.push(row.get(0)?);
        }
    }
    let mut missing = transaction.prepare_cached(
        "SELECT output.path FROM DerivationOutputs output JOIN ValidPaths derivation ON derivation.id = output.drv
         LEFT JOIN ValidPaths made ON made.path = output.path WHERE derivation.path = ? AND made.id IS NULL",
    )?;
    found.missing = missing.query_map([derivation], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::cancel::Cancel;
    use crate::ground::directories::Directories;
    use crate::ground::store_path::StoreDir;
    use crate::store::database::tests::create;

    /// A store in a directory of its own, in which derivations can be read.
    struct World {
        scratch: tempfile::TempDir,
        directories: Directories,
        connection: Connection,
    }

    impl World {
        fn new() -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let mut directories = create(scratch.path());
            directories.store = StoreDir::new(scratch.path().to_str().unwrap()).unwrap();
            let connection = Connection::open(directories.database.join("db.sqlite")).unwrap();
            World { scratch, directories, connection }
        }

        fn path(&self, name: &str) -> String {
            format!("{}/{}-{name}", self.scratch.path().display(), "a".repeat(32))
        }

        /// Makes the item valid.
        fn add(&self, name: &str, references: &[&str]) {
            let insert = "INSERT INTO ValidPaths (path, hash, registrationTime) VALUES (?, 'sha256:', 0)";
            self.connection.execute(insert, [self.path(name)]).unwrap();
            for reference in references {
                let insert = "INSERT INTO Refs SELECT a.id, b.id FROM ValidPaths a, ValidPaths b
                    WHERE a.path = ? AND b.path = ?";
                assert_eq!(self.connection.execute(insert, [self.path(name), self.path(reference)]).unwrap(), 1);
            }
        }

        fn add_output(&self, derivation: &str, id: &str, output: &str) {
            let insert = "INSERT INTO DerivationOutputs SELECT id, ?, ? FROM ValidPaths WHERE path = ?";
            let row = [id.into(), self.path(output), self.path(derivation)];
            assert_eq!(self.connection.execute(insert, row).unwrap(), 1);
        }

        fn closure(&self, derivation: &str) -> Result<[Vec<String>; 2]> {
            let database = Database::open(&self.directories, &Cancel::default())?;
            let closure = database.closure_of(&self.directories.store.parse(&self.path(derivation)).unwrap())?;
            Ok([closure.inputs, closure.missing].map(|items| items.iter().map(|item| item.name().into()).collect()))
        }
    }

    #[test]
    fn a_build_needs_the_closures_of_what_it_uses_and_of_its_derivation() {
        let world = World::new();
        world.add("libc", &[]);
        world.add("source", &["libc"]);
        world.add("dep.drv", &[]);
        world.add("dep", &["libc", "dep"]);
        world.add("dep-doc", &[]);
        world.add("x.drv", &["dep.drv", "source"]);
        world.add("x-lib", &[]);
        for (id, output) in [("out", "dep"), ("doc", "dep-doc")] {
            world.add_output("dep.drv", id, output);
        }
        for output in ["x", "x-lib", "x-bin"] {
            world.add_output("x.drv", output, output);
        }
        let names = [world.path("dep.drv"), world.path("source")];
        let text = format!(r#"Derive([],[("{}",["out"])],["{}"],"s","b",[],[])"#, names[0], names[1]);
        std::fs::write(world.path("x.drv"), &text).unwrap();
        let [inputs, missing] = world.closure("x.drv").unwrap();
        assert_eq!(inputs, ["dep", "dep.drv", "libc", "source", "x.drv"], "not the output that it does not use");
        assert_eq!(missing, ["x", "x-bin"]);

        std::fs::write(world.path("x.drv"), text.replace(r#"["out"]"#, r#"["out","none"]"#)).unwrap();
        let error = world.closure("x.drv").unwrap_err();
        assert!(error.kind() == ErrorKind::Store && error.to_string().contains("dep.drv!none'"), "{error}");
    }

    #[test]
    fn what_is_not_valid_is_named() {
        let world = World::new();
        let error = world.closure("x.drv").unwrap_err();
        assert!(error.to_string().contains("x.drv' is not valid") && error.hint_text().is_some(), "{error}");
        world.add("x.drv", &[]);
        let error = world.closure("x.drv").unwrap_err();
        assert!(error.to_string().contains("reading '"), "{error}");
        std::fs::write(world.path("x.drv"), "text").unwrap();
        let error = world.closure("x.drv").unwrap_err();
        assert!(error.to_string().contains("no derivation"), "{error}");
        let sources = [world.path("one"), world.path("two")];
        let text = format!(r#"Derive([],[],["{}","{}"],"s","b",[],[])"#, sources[0], sources[1]);
        std::fs::write(world.path("x.drv"), text).unwrap();
        let error = world.closure("x.drv").unwrap_err();
        assert!(error.to_string().contains("-one' and 1 more items, which '"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Store);
    }
}
