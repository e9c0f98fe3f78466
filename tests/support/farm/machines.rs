// SPDX-License-Identifier: GPL-3.0-or-later
//! Machine files beyond those that `lab machines` writes, and guix-daemon with our hook.

use std::collections::BTreeMap;

use super::lab::{Host, lab};

/// The hook that this project installs, on heads.
pub const PROGRAM: &str = "/opt/guix-offload/libexec/guix-offload";

/// The ways to replace the script for a guix-daemon that nobody patched: by a variable of its environment.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// The C program.
    Program,
    /// The Guile module, for the `guix` that the daemon runs anyway.
    Guile,
}

impl Hook {
    /// All of them.
    pub const ALL: [Hook; 2] = [Hook::Program, Hook::Guile];

    /// The variable.
    pub fn variable(self) -> &'static str {
        match self {
            Hook::Program => "GUIX=/opt/guix-offload/libexec/guix-offload",
            Hook::Guile => "GUIX_EXTENSIONS_PATH=/opt/guix-offload/share/guix/extensions",
        }
    }

    /// What guix-daemon runs then, but for the arguments.
    pub fn command(self) -> &'static [&'static str] {
        match self {
            Hook::Program => &[PROGRAM],
            Hook::Guile => &["env", "GUIX_EXTENSIONS_PATH=/opt/guix-offload/share/guix/extensions", "guix"],
        }
    }
}

/// A `build-machine` form: the fields that reach a host of the farm, but for those that a test replaces.
#[derive(Clone)]
pub struct Machine(BTreeMap<&'static str, String>);

impl Machine {
    /// Two slots, any load is fine, logging in as the user of that host.
    #[track_caller]
    pub fn of(host: Host) -> Machine {
        let options = std::fs::read_to_string(host.file("/etc/lab-options")).expect("the host's options");
        let user = options.lines().find_map(|line| line.strip_prefix("user=")).unwrap_or("root").to_string();
        Machine(BTreeMap::from([
            ("name", quoted(host.0)),
            ("systems", format!("'({})", quoted(&system()))),
            ("user", quoted(&user)),
            ("host-key", quoted(&host_key(host))),
            ("private-key", quoted("/etc/guix/offload_key")),
            ("parallel-builds", "2".into()),
            ("overload-threshold", "#f".into()),
        ]))
    }

    /// The same with another value, in Scheme, of a field.
    pub fn with(mut self, field: &'static str, value: impl Into<String>) -> Machine {
        self.0.insert(field, value.into());
        self
    }
}

/// A machine file.
pub fn text(machines: &[Machine]) -> String {
    let mut text = String::from("(list");
    for Machine(fields) in machines {
        text += "\n (build-machine";
        fields.iter().for_each(|(field, value)| text += &format!(" ({field} {value})"));
        text += ")";
    }
    text + ")\n"
}

/// A string in Scheme.
pub fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// The system type of the farm.
pub fn system() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}

/// The host key of a host, as in a machine file.
#[track_caller]
pub fn host_key(host: Host) -> String {
    let key = std::fs::read_to_string(host.file("/etc/ssh/ssh_host_ed25519_key.pub")).expect("the host's key");
    key.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

impl Host {
    /// Writes this head's machines.scm.
    #[track_caller]
    pub fn write_machines(self, machines: &[Machine]) {
        self.write_machine_file(&text(machines));
    }

    /// Writes this head's machines.scm, whatever it says.
    #[track_caller]
    pub fn write_machine_file(self, text: &str) {
        std::fs::write(self.file("/etc/guix/machines.scm"), text).expect("writing machines.scm");
    }

    /// Has this head's guix-daemon offload through our program, to these machines, and build nothing itself.
    #[track_caller]
    pub fn offload_with_our_hook(self, machines: &[Machine]) {
        self.offload_through(Hook::Program, machines);
    }

    /// As [`Host::offload_with_our_hook`], through either of our hooks.
    #[track_caller]
    pub fn offload_through(self, hook: Hook, machines: &[Machine]) {
        println!("{} offloads through {hook:?}", self.0); // shown if the test fails
        self.write_machines(machines);
        lab(&["restart-daemon", self.0, hook.variable(), "--", "--max-jobs=0"]);
    }
}
