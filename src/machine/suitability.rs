// SPDX-License-Identifier: GPL-3.0-or-later
//! The state of a machine when it was probed, and whether it may get a build.

use std::fmt;

use super::BuildMachine;
use crate::ground::error::{Error, ErrorKind};

/// Space that a machine's store must have free to get a build, in bytes. Guix's `%minimum-disk-space`.
pub const MINIMUM_FREE_SPACE: u64 = 100 << 20;

/// The state of a machine when it was probed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Load average over the last minute, divided by the number of cores.
    pub load: f64,
    /// Free space of the file system that the store is on, in bytes.
    pub free_space: u64,
    /// Memory that is available there, in bytes; 0: not known.
    pub memory: u64,
    /// By how much its clock is ahead of ours, in seconds; negative: behind. `None`: not known.
    pub clock_offset: Option<i64>,
}

/// Why a machine that was reached gets no build now. Displayed as a clause about the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unsuitable {
    /// Its load is not below its threshold.
    Overloaded {
        /// As in [`Probe::load`].
        load: f64,
        /// The machine's `overload-threshold`.
        threshold: f64,
    },
    /// Its store has less free space than [`MINIMUM_FREE_SPACE`].
    LowOnSpace {
        /// As in [`Probe::free_space`].
        free: u64,
    },
}

/// Checks that `machine`, with this `probe`, may get a build. Its load must be below its threshold, if it has one, and
/// [`MINIMUM_FREE_SPACE`] must be free. A load that is not a number counts as overloaded: the machine misbehaves.
pub fn check_suitability(machine: &BuildMachine, probe: &Probe) -> Result<(), Unsuitable> {
    let Probe { load, free_space: free, .. } = *probe;
    if free < MINIMUM_FREE_SPACE {
        return Err(Unsuitable::LowOnSpace { free });
    }
    match machine.overload_threshold {
        Some(threshold) if is_overloaded(machine, load) => Err(Unsuitable::Overloaded { load, threshold }),
        _ => Ok(()),
    }
}

/// Returns whether `load`, as in [`Probe::load`], is too much for `machine` to get another build.
pub fn is_overloaded(machine: &BuildMachine, load: f64) -> bool {
    machine.overload_threshold.is_some_and(|threshold| load.is_nan() || load >= threshold)
}

/// Returns whether `machine`, with this `probe`, is so far from unsuitable that a minute does not change that. The load
/// is an average over a minute.
pub fn is_far_from_unsuitable(machine: &BuildMachine, probe: &Probe) -> bool {
    !is_overloaded(machine, probe.load * 2.0) && probe.free_space / 10 >= MINIMUM_FREE_SPACE
}

/// Returns the error for `machine`, which is this host itself.
pub fn this_host(machine: &BuildMachine) -> Error {
    let name = &machine.name;
    Error::new(ErrorKind::Configuration, format!("'{name}' is this host itself, which cannot offload to itself"))
        .hint(format!("take '{name}' out of the machine file"))
        .on_machine(name)
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Unsuitable::Overloaded { load, threshold } => {
                write!(f, "it is overloaded (normalized load {load:.2}, threshold {threshold:.2})")
            }
            Unsuitable::LowOnSpace { free } => {
                write!(f, "it is low on disk space ({:.1} MiB free)", free as f64 / f64::from(1 << 20))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn a_machine_with_little_to_do_and_much_space_stays_suitable() {
        let mut machine = machine("x");
        let far = |machine: &BuildMachine, load, free_space| {
            is_far_from_unsuitable(machine, &Probe { load, free_space, memory: 0, clock_offset: None })
        };
        assert!(far(&machine, 0.39, 10 * MINIMUM_FREE_SPACE));
        assert!(!far(&machine, 0.4, 10 * MINIMUM_FREE_SPACE) && !far(&machine, 0.1, 10 * MINIMUM_FREE_SPACE - 1));
        assert!(!far(&machine, f64::NAN, u64::MAX));
        machine.overload_threshold = None;
        assert!(far(&machine, 1000.0, u64::MAX));
    }

    #[test]
    fn load_and_space_are_checked() {
        let mut machine = machine("x");
        let seen = |load, free_space| Probe { load, free_space, memory: 0, clock_offset: None };
        assert_eq!(check_suitability(&machine, &seen(0.79, MINIMUM_FREE_SPACE)), Ok(()));
        let line = |machine: &BuildMachine, probe| check_suitability(machine, &probe).unwrap_err().to_string();
        assert_eq!(line(&machine, seen(0.8, u64::MAX)), "it is overloaded (normalized load 0.80, threshold 0.80)");
        assert!(line(&machine, seen(f64::NAN, u64::MAX)).contains("overloaded"));
        assert_eq!(line(&machine, seen(0.0, MINIMUM_FREE_SPACE / 2)), "it is low on disk space (50.0 MiB free)");
        machine.overload_threshold = None;
        assert_eq!(check_suitability(&machine, &seen(99.0, MINIMUM_FREE_SPACE)), Ok(()));
        assert!(check_suitability(&machine, &seen(99.0, MINIMUM_FREE_SPACE - 1)).is_err());
    }
}
