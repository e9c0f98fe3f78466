// SPDX-License-Identifier: GPL-3.0-or-later
//! The state of a machine when it was probed, and whether it may get a build.

use std::fmt;

use super::{BuildMachine, Requirements};
use crate::ground::error::{Error, ErrorKind};

/// Space that a machine's store must have free to get a build, in bytes. Guix's `%minimum-disk-space`.
pub const MINIMUM_FREE_SPACE: u64 = 100 << 20;

/// Most percent of the time that processes may wait for memory on a machine which has little.
const MOST_MEMORY_PRESSURE: u8 = 50;

/// Fewest percent of its memory that must be available for a machine not to have little.
const LEAST_MEMORY: u8 = 5;

/// What a machine's processes waited for: for each resource, the share of the last ten seconds in which at least one
/// process waited for it, from 0 to 1. `None`: its kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// The processor.
    pub cpu: Option<f64>,
    /// Memory.
    pub memory: Option<f64>,
    /// Disks.
    pub io: Option<f64>,
}

/// The state of a machine when it was probed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Probe {
    /// Load average over the last minute, divided by the number of cores.
    pub load: f64,
    /// Free space of the file system that the store is on, in bytes.
    pub free_space: u64,
    /// Memory that is available there, in bytes; 0: not known.
    pub memory: u64,
    /// Memory that it has, in bytes; 0: not known.
    pub total_memory: u64,
    /// What its processes waited for.
    pub pressure: Pressure,
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
    /// Its processes wait for memory most of the time, and there is hardly any.
    ShortOfMemory {
        /// As in [`Pressure::memory`].
        pressure: f64,
        /// As in [`Probe::memory`].
        available: u64,
    },
    /// Another build would not find as much memory as builds of this host took there lately.
    TooLittleMemory {
        /// What is left for another build, in bytes.
        left: u64,
        /// What a build took lately, in bytes.
        build: u64,
    },
}

impl Probe {
    /// Returns the load at present, if the machine says what its processes wait for: the load average takes minutes to
    /// follow.
    ///
    /// While a process waits for a processor, there is more than one a core; otherwise, there is at most one. So the
    /// load average counts as at least 1 for that share of the time, and as at most 1 for the rest. If processes wait
    /// for memory or a disk more than that, these are what the machine lacks.
    pub fn current_load(&self) -> Option<f64> {
        let Pressure { cpu, memory, io } = self.pressure;
        let cpu = cpu?;
        let load = cpu * self.load.max(1.0) + (1.0 - cpu) * self.load.min(1.0);
        Some([memory, io].into_iter().flatten().fold(load, f64::max))
    }

    /// Returns whether processes wait for memory for more than `most` percent of the time, while less than `least`
    /// percent is available. One of both is not enough: a service whose memory is limited may wait for it all the time,
    /// beside much that is free; and what a file system caches may not count as available.
    fn lacks_memory(&self, most: u8, least: u8) -> bool {
        let waits = self.pressure.memory.is_some_and(|pressure| pressure * 100.0 > f64::from(most));
        waits && self.memory < self.total_memory / 100 * u64::from(least)
    }
}

/// Checks that `machine`, with this `probe`, may get a build. Its load must be below its threshold, if it has one, and
/// [`MINIMUM_FREE_SPACE`] must be free. It must not be so short of memory that another build slows down all. A
/// load that is not a number counts as overloaded: the machine misbehaves.
pub fn check_suitability(machine: &BuildMachine, probe: &Probe) -> Result<(), Unsuitable> {
    let Probe { load, free_space: free, memory: available, pressure, .. } = *probe;
    if free < MINIMUM_FREE_SPACE {
        return Err(Unsuitable::LowOnSpace { free });
    }
    if probe.lacks_memory(MOST_MEMORY_PRESSURE, LEAST_MEMORY) {
        return Err(Unsuitable::ShortOfMemory { pressure: pressure.memory.unwrap_or_default(), available });
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
    !is_overloaded(machine, probe.load * 2.0)
        && probe.free_space / 10 >= MINIMUM_FREE_SPACE
        && !probe.lacks_memory(MOST_MEMORY_PRESSURE / 2, LEAST_MEMORY * 2)
}

/// What is wrong with a machine that has no slots.
pub const WITHOUT_SLOTS: &str = "it gets no builds: 'parallel-builds' is 0";

/// Returns why `machine` can never do a build with these requirements, each a clause about the machine; nothing if it
/// can.
pub fn mismatches(machine: &BuildMachine, requirements: &Requirements) -> Vec<String> {
    let Requirements { system, features } = requirements;
    let other = (!machine.systems.contains(system)).then(|| format!("it does not build for '{system}'"));
    let lacking: Vec<_> = features.iter().filter(|one| !machine.features.contains(one)).map(String::as_str).collect();
    let lacks = (!lacking.is_empty()).then(|| format!("it does not offer {}", lacking.join(", ")));
    let off = (machine.parallel_builds == 0).then(|| WITHOUT_SLOTS.to_string());
    [other, lacks, off].into_iter().flatten().collect()
}

/// Returns the error for `machine`, which is this host itself.
pub fn this_host(machine: &BuildMachine) -> Error {
    let name = &machine.name;
    Error::new(ErrorKind::Configuration, format!("'{name}' is this host itself, which cannot offload to itself"))
        .hint(format!("take '{name}' out of the machine file"))
        .on_machine(name)
}

impl Unsuitable {
    /// Returns the error for `machine`, which gets no build for this reason.
    pub fn error(self, machine: &BuildMachine) -> Error {
        let error = Error::new(ErrorKind::Unavailable, self.to_string()).on_machine(&machine.name);
        match self {
            Unsuitable::LowOnSpace { .. } => {
                error.hint(format!("free some space there: {} guix gc -F 1G", machine.shell(&machine.user)))
            }
            Unsuitable::Overloaded { .. } | Unsuitable::ShortOfMemory { .. } | Unsuitable::TooLittleMemory { .. } => {
                error
            }
        }
    }
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
            Unsuitable::ShortOfMemory { pressure, available } => write!(
                f,
                "it is short of memory (processes wait for memory {:.0}% of the time, {:.1} MiB available)",
                pressure * 100.0,
                available as f64 / f64::from(1 << 20)
            ),
            Unsuitable::TooLittleMemory { left, build } => write!(
                f,
                "its memory is too little for another build ({:.1} GiB left, one took {:.1} GiB lately)",
                left as f64 / f64::from(1 << 30),
                build as f64 / f64::from(1 << 30)
            ),
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
            is_far_from_unsuitable(machine, &Probe { load, free_space, ..Probe::default() })
        };
        assert!(far(&machine, 0.39, 10 * MINIMUM_FREE_SPACE));
        assert!(!far(&machine, 0.4, 10 * MINIMUM_FREE_SPACE) && !far(&machine, 0.1, 10 * MINIMUM_FREE_SPACE - 1));
        assert!(!far(&machine, f64::NAN, u64::MAX));
        machine.overload_threshold = None;
        assert!(far(&machine, 1000.0, u64::MAX));
        let waits = |memory, available| Probe {
            free_space: u64::MAX,
            pressure: Pressure { memory: Some(memory), ..Pressure::default() },
            memory: available,
            total_memory: 100,
            ..Probe::default()
        };
        assert!(!is_far_from_unsuitable(&machine, &waits(0.3, 9)));
        assert!(is_far_from_unsuitable(&machine, &waits(0.2, 9)) && is_far_from_unsuitable(&machine, &waits(0.3, 10)));
    }

    #[test]
    fn a_machine_whose_processes_wait_for_memory_that_it_lacks_gets_no_build() {
        const MIB: u64 = 1 << 20;
        let thrashes = Probe {
            free_space: u64::MAX,
            memory: 40 * MIB,
            total_memory: 1000 * MIB,
            pressure: Pressure { cpu: Some(0.1), memory: Some(0.63), io: None },
            ..Probe::default()
        };
        let check =
            |probe: Probe| check_suitability(&machine("x"), &probe).map_err(|unsuitable| unsuitable.to_string());
        let said = "it is short of memory (processes wait for memory 63% of the time, 40.0 MiB available)";
        assert_eq!(check(thrashes), Err(said.into()));
        for (what, probe) in [
            ("a service has reached its own limit", Probe { memory: 500 * MIB, ..thrashes }),
            ("nobody waits for memory", Probe { pressure: Pressure::default(), ..thrashes }),
            ("it does not say how much it has", Probe { total_memory: 0, ..thrashes }),
            ("a little waiting", Probe { pressure: Pressure { memory: Some(0.5), ..thrashes.pressure }, ..thrashes }),
        ] {
            assert_eq!(check(probe), Ok(()), "{what}");
        }
    }

    #[test]
    fn the_load_at_present_follows_from_what_processes_wait_for() {
        let current = |load, cpu, memory, io| {
            Probe { load, pressure: Pressure { cpu, memory, io }, ..Probe::default() }.current_load()
        };
        for (what, load, pressure, expected) in [
            ("idle", 0.0, (0.0, 0.0, 0.0), 0.0),
            ("a little to do", 0.4, (0.0, 0.0, 0.0), 0.4),
            ("builds have just begun", 0.1, (1.0, 0.0, 0.0), 1.0),
            ("many builds are under way", 3.0, (1.0, 0.0, 0.0), 3.0),
            ("all builds have just ended", 3.0, (0.0, 0.0, 0.0), 1.0),
            ("half of the time there is too much to do", 2.0, (0.5, 0.0, 0.0), 1.5),
            ("the disk is busy", 0.2, (0.1, 0.0, 0.8), 0.8),
            ("it swaps", 0.2, (0.1, 0.7, 0.3), 0.7),
        ] {
            let (cpu, memory, io) = pressure;
            assert_eq!(current(load, Some(cpu), Some(memory), Some(io)), Some(expected), "{what}");
        }
        assert_eq!(current(0.5, None, Some(0.9), Some(0.9)), None, "its kernel does not say");
        assert_eq!(current(0.5, Some(1.0), None, None), Some(1.0));
    }

    #[test]
    fn load_and_space_are_checked() {
        let mut machine = machine("x");
        let seen = |load, free_space| Probe { load, free_space, ..Probe::default() };
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
