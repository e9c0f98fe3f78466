// SPDX-License-Identifier: GPL-3.0-or-later
//! Build machines.

use std::ffi::{CString, c_char, c_int};

use super::error::guix_offload_error;
use super::export;
use super::handle::{self, Out};
use super::string::{self, for_c};
use crate::ground::error::Result;
use crate::machine::{BuildMachine, Flaw, HostKey, key_file, number, title};

/// A build machine: what `build-machine` is in machines.scm.
pub struct guix_offload_machine {
    machine: BuildMachine,
    texts: Texts,
}

/// The machine's texts as C sees them.
struct Texts {
    name: CString,
    user: CString,
    private_key: CString,
    host_key: CString,
    compression: CString,
    daemon_socket: CString,
    systems: Vec<CString>,
    features: Vec<CString>,
}

impl guix_offload_machine {
    /// Returns the description.
    pub(super) fn description(&self) -> &BuildMachine {
        &self.machine
    }

    pub(super) fn new(machine: BuildMachine) -> Self {
        let texts = Texts {
            name: for_c(&machine.name),
            user: for_c(&machine.user),
            private_key: for_c(&machine.private_key.to_string_lossy()),
            host_key: for_c(&machine.host_key.to_string()),
            compression: for_c(&machine.compression),
            daemon_socket: for_c(&machine.daemon_socket),
            systems: machine.systems.iter().map(|text| for_c(text)).collect(),
            features: machine.features.iter().map(|text| for_c(text)).collect(),
        };
        guix_offload_machine { machine, texts }
    }

    /// Applies `change`, if the result is a valid machine.
    fn change(&mut self, change: impl FnOnce(&mut BuildMachine)) -> Result<()> {
        self.try_change(|machine| {
            change(machine);
            Ok(())
        })
    }

    /// Applies `change`, if that succeeds and the result is a valid machine.
    fn try_change(&mut self, change: impl FnOnce(&mut BuildMachine) -> Result<(), Flaw>) -> Result<()> {
        let mut changed = self.machine.clone();
        change(&mut changed).map_err(|flaw| flaw.error(&self.machine.name))?;
        *self = Self::new(admitted(changed)?);
        Ok(())
    }
}

/// Returns `machine`, if it is valid.
fn admitted(machine: BuildMachine) -> Result<BuildMachine> {
    let name = machine.name.clone();
    machine.admit().map_err(|flaw| flaw.error(&name))
}

export! {
    /// Makes a machine that builds for the system type `system`, such as "x86_64-linux". `system` may be NULL: add
    /// systems later. `name` is a host name or an address; an IPv6 address may stand in brackets. `user` is the account
    /// to log in to. `host_key` is the only host key that is accepted from the machine's SSH server: "ssh-ed25519
    /// AAAA...", a line of its `/etc/ssh/ssh_host_*_key.pub`.
    ///
    /// All other fields get Guix's defaults. The private key is the first of `id_ed25519` and `id_rsa` that exists in
    /// `~/.ssh` of the process's user. Strings are copied. The caller frees the machine with
    /// `guix_offload_machine_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if another pointer is NULL or a text is not allowed in a machine
    /// file: texts must not be empty, have control characters, or have more than 4096 bytes. Fails with
    /// `GUIX_OFFLOAD_CONFIGURATION` if `host_key` is no host key.
    pub fn guix_offload_machine_new(
        machine: *mut *mut guix_offload_machine,
        name: *const c_char,
        system: *const c_char,
        user: *const c_char,
        host_key: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let out = Out::new(machine, "machine")?;
        let (name, user) = (string::required(name, "name")?, string::required(user, "user")?);
        let host_key = HostKey::parse(string::required(host_key, "host_key")?)
            .map_err(|error| error.context(format!("{}, field 'host-key'", title(name))))?;
        let mut machine =
            BuildMachine::new(name, user, crate::machine::default_private_key().unwrap_or_default(), host_key);
        machine.systems.extend(string::optional(system, "system")?.map(str::to_string));
        let machine = admitted(machine)?;
        out.give(guix_offload_machine::new(machine));
        Ok(())
    }
}

export! {
    /// Frees a machine that `guix_offload_machine_new` made. NULL is fine.
    pub fn guix_offload_machine_free(machine: *mut guix_offload_machine) {
        handle::free(machine);
    }
}

export! {
    /// Adds a system type that the machine builds for. The string is copied. Setters may be called in any order.
    ///
    /// This function and each of the setters below fails with `GUIX_OFFLOAD_INVALID_ARGUMENT`, and changes nothing, if
    /// a pointer is NULL, a string is not UTF-8, or a value is not allowed in a machine file: texts must not be empty,
    /// have control characters, or have more than 4096 bytes.
    pub fn guix_offload_machine_add_system(
        machine: *mut guix_offload_machine,
        system: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let system = string::required(system, "system")?.to_string();
        handle::borrow_mut(machine, "machine")?.change(|machine| machine.systems.push(system))
    }
}

export! {
    /// Adds a feature that the machine offers, such as "kvm".
    pub fn guix_offload_machine_add_feature(
        machine: *mut guix_offload_machine,
        feature: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let feature = string::required(feature, "feature")?.to_string();
        handle::borrow_mut(machine, "machine")?.change(|machine| machine.features.push(feature))
    }
}

export! {
    /// Sets the port of the machine's SSH server: 1 to 65535. Default: 22.
    pub fn guix_offload_machine_set_port(
        machine: *mut guix_offload_machine,
        port: u32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(machine, "machine")?.try_change(|machine| {
            machine.port = number("port", port, BuildMachine::PORTS)?;
            Ok(())
        })
    }
}

export! {
    /// Sets the file with the private key to log in with.
    pub fn guix_offload_machine_set_private_key(
        machine: *mut guix_offload_machine,
        file: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let file = string::required(file, "file")?;
        handle::borrow_mut(machine, "machine")?.try_change(|machine| {
            machine.private_key = key_file(file)?;
            Ok(())
        })
    }
}

export! {
    /// Sets which compression methods may be used, a comma-separated list, and the level, 0 to 9. Default:
    /// "zlib@openssh.com,zlib", 3.
    pub fn guix_offload_machine_set_compression(
        machine: *mut guix_offload_machine,
        methods: *const c_char,
        level: u32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let methods = string::required(methods, "methods")?.to_string();
        handle::borrow_mut(machine, "machine")?.try_change(|machine| {
            machine.compression = methods;
            machine.compression_level = number("compression-level", level, BuildMachine::COMPRESSION_LEVELS)?;
            Ok(())
        })
    }
}

export! {
    /// Sets the socket of the machine's daemon, an absolute file name. Default: "/var/guix/daemon-socket/socket".
    pub fn guix_offload_machine_set_daemon_socket(
        machine: *mut guix_offload_machine,
        socket: *const c_char,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let socket = string::required(socket, "socket")?.to_string();
        handle::borrow_mut(machine, "machine")?.change(|machine| machine.daemon_socket = socket)
    }
}

export! {
    /// Sets how many builds may run on the machine at once. With 0 it gets none. Default: 1.
    pub fn guix_offload_machine_set_parallel_builds(
        machine: *mut guix_offload_machine,
        builds: u32,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(machine, "machine")?.change(|machine| machine.parallel_builds = builds)
    }
}

export! {
    /// Sets the machine's speed relative to other machines, not negative. Default: 1.
    pub fn guix_offload_machine_set_speed(
        machine: *mut guix_offload_machine,
        speed: f64,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        handle::borrow_mut(machine, "machine")?.change(|machine| machine.speed = speed)
    }
}

export! {
    /// Sets the load, divided by the number of cores, at which the machine gets no more builds. If `load` is negative,
    /// any load is fine. Default: 0.8.
    pub fn guix_offload_machine_set_overload_threshold(
        machine: *mut guix_offload_machine,
        load: f64,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        let threshold = if load < 0.0 { None } else { Some(load) };
        handle::borrow_mut(machine, "machine")?.change(|machine| machine.overload_threshold = threshold)
    }
}

fn nth(texts: &[CString], index: usize) -> *const c_char {
    texts.get(index).map_or(std::ptr::null(), |text| text.as_ptr())
}

export! {
    /// Returns the machine's host name or address. This text and those of the functions below live until the machine is
    /// freed or changed. If `machine` is NULL, texts are NULL and numbers 0.
    pub fn guix_offload_machine_name(machine: *const guix_offload_machine) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| m.texts.name.as_ptr())
    }
}

export! {
    /// Returns 1 if `other` is the same machine, perhaps listed for other systems: one with the same name and port. 0
    /// otherwise, and if a pointer is NULL. Machines that are the same share their build slots.
    pub fn guix_offload_machine_is_same(
        machine: *const guix_offload_machine,
        other: *const guix_offload_machine
    ) -> c_int {
        let is_same = |m: &guix_offload_machine| handle::look(other, false, |o| m.machine.is_same(&o.machine));
        c_int::from(handle::look(machine, false, is_same))
    }
}

export! {
    /// Returns the port of the machine's SSH server.
    pub fn guix_offload_machine_port(machine: *const guix_offload_machine) -> u32 {
        handle::look(machine, 0, |m| u32::from(m.machine.port))
    }
}

export! {
    /// Returns the account to log in to.
    pub fn guix_offload_machine_user(machine: *const guix_offload_machine) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| m.texts.user.as_ptr())
    }
}

export! {
    /// Returns the file with the private key.
    pub fn guix_offload_machine_private_key(machine: *const guix_offload_machine) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| m.texts.private_key.as_ptr())
    }
}

export! {
    /// Returns the pinned host key: its type, a space, and the key.
    pub fn guix_offload_machine_host_key(machine: *const guix_offload_machine) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| m.texts.host_key.as_ptr())
    }
}

export! {
    /// Returns the compression methods that may be used, a comma-separated list.
    pub fn guix_offload_machine_compression(machine: *const guix_offload_machine) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| m.texts.compression.as_ptr())
    }
}

export! {
    /// Returns the compression level, 0 to 9.
    pub fn guix_offload_machine_compression_level(machine: *const guix_offload_machine) -> u32 {
        handle::look(machine, 0, |m| u32::from(m.machine.compression_level))
    }
}

export! {
    /// Returns the socket of the machine's daemon.
    pub fn guix_offload_machine_daemon_socket(machine: *const guix_offload_machine) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| m.texts.daemon_socket.as_ptr())
    }
}

export! {
    /// Returns how many builds may run on the machine at once.
    pub fn guix_offload_machine_parallel_builds(machine: *const guix_offload_machine) -> u32 {
        handle::look(machine, 0, |m| m.machine.parallel_builds)
    }
}

export! {
    /// Returns the machine's speed relative to other machines.
    pub fn guix_offload_machine_speed(machine: *const guix_offload_machine) -> f64 {
        handle::look(machine, 0.0, |m| m.machine.speed)
    }
}

export! {
    /// Returns the load at which the machine gets no more builds; negative if any load is fine.
    pub fn guix_offload_machine_overload_threshold(machine: *const guix_offload_machine) -> f64 {
        handle::look(machine, 0.0, |m| m.machine.overload_threshold.unwrap_or(-1.0))
    }
}

export! {
    /// Returns the `index`th system type that the machine builds for, counted from 0; NULL if there are no more.
    pub fn guix_offload_machine_system(machine: *const guix_offload_machine, index: usize) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| nth(&m.texts.systems, index))
    }
}

export! {
    /// Returns the `index`th feature that the machine offers, counted from 0; NULL if there are no more.
    pub fn guix_offload_machine_feature(machine: *const guix_offload_machine, index: usize) -> *const c_char {
        handle::look(machine, std::ptr::null(), |m| nth(&m.texts.features, index))
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
