// SPDX-License-Identifier: GPL-3.0-or-later
//! The machine file of a process that runs for long. It is read again and again, unless the caller has evaluated it:
//! then the caller's result counts until the file changes.

use std::path::{Path, PathBuf};

use super::{LoadOptions, Loaded, load};
use crate::ground::cancel::Cancel;
use crate::ground::error::Result;
use crate::ground::file_identity::FileIdentity;
use crate::machine::BuildMachine;

/// The machine file, or what it returned to a caller who evaluated it.
#[derive(Clone, Debug)]
pub struct Machines {
    file: PathBuf,
    /// What the file was when it was named: `evaluated` counts while it is the same.
    identity: Option<FileIdentity>,
    evaluated: Option<Vec<BuildMachine>>,
}

impl Machines {
    /// Names the file that returns the machines.
    pub fn in_file(file: PathBuf) -> Self {
        Machines { identity: FileIdentity::of(&file), file, evaluated: None }
    }

    /// Uses `machines` instead of reading the file, until the file changes.
    pub fn set_evaluated(&mut self, machines: Vec<BuildMachine>) {
        self.evaluated = Some(machines);
    }

    /// Loads the machines. Reads the file each time: a hook whose requests are postponed lives on, and the file may
    /// have been repaired. `state` is the directory of the offloading state (`STATE/offload`), which also caches
    /// Guile's results.
    pub fn load(&self, state: &Path, cancel: &Cancel) -> Result<Option<Loaded>> {
        match &self.evaluated {
            Some(machines) if FileIdentity::of(&self.file) == self.identity => {
                Ok(Some(Loaded { machines: machines.clone(), ..Loaded::default() }))
            }
            _ => {
                let options =
                    LoadOptions { cache: Some(state.into()), cancel: cancel.clone(), ..LoadOptions::default() };
                load(&self.file, &options)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn machines_that_the_caller_evaluated_count_until_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines.scm");
        std::fs::write(&file, "(list)").unwrap();
        let mut machines = Machines::in_file(file.clone());
        let loaded = |machines: &Machines| {
            machines.load(directory.path(), &Cancel::default()).unwrap().map(|loaded| loaded.machines)
        };
        assert_eq!(loaded(&machines), Some(vec![]));
        machines.set_evaluated(vec![machine("m")]);
        assert_eq!(loaded(&machines), Some(vec![machine("m")]));
        std::fs::write(&file, "(list) ").unwrap();
        assert_eq!(loaded(&machines), Some(vec![]));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(loaded(&machines), None);
    }
}
