// SPDX-License-Identifier: GPL-3.0-or-later
//! In which order machines are tried for a build, and whether one that was reached takes it.

use std::fmt;

use crate::machine::BuildMachine;

/// Space that a machine's store must have free to get a build, in bytes. Guix's `%minimum-disk-space`.
pub const MINIMUM_FREE_SPACE: u64 = 100 << 20;

/// What was seen on a machine that was reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Load average over the last minute, divided by the number of cores.
    pub load: f64,
    /// Free space of the file system that the store is on, in bytes.
    pub free_space: u64,
    /// Memory that is available there, in bytes; 0: it does not say.
    pub memory: u64,
    /// By how much its clock is ahead of ours, in seconds; negative: behind. `None`: it does not say.
    pub clock_offset: Option<i64>,
}

/// Numbers that look random (SplitMix64), to shuffle machines with: not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at `seed`: the same numbers come from the same seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number, from 0 to `limit` - 1. `limit` must not be 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// The order, as indices into `machines`, in which machines are tried: the most speed per load first, among equals by
/// chance, so that several hooks at once do not all run to the same machine.
///
/// `known_load` gives the load of the machine at an index as in [`Probe::load`], if it was seen recently; one that is not known counts
/// as idle.
pub fn order(machines: &[BuildMachine], known_load: impl Fn(usize) -> Option<f64>, random: &mut Random) -> Vec<usize> {
    let rank = |index: usize| {
        let load = known_load(index).filter(|load| load.is_finite()).unwrap_or(0.0).max(0.0);
        machines[index].speed / (1.0 + load)
    };
    let mut ranked: Vec<(usize, f64)> = (0..machines.len()).map(|index| (index, rank(index))).collect();
    // Fisher and Yates; the sort after it is stable.
    for last in (1..ranked.len()).rev() {
        ranked.swap(last, random.below(last + 1));
    }
    ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    ranked.into_iter().map(|(index, _)| index).collect()
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

/// May `machine`, as it was seen in `probe`, get a build? Its load must be below its threshold, if it has one, and
/// [`MINIMUM_FREE_SPACE`] must be free. A load that is no number is a machine that misbehaves: it counts as overloaded.
pub fn accept(machine: &BuildMachine, probe: &Probe) -> Result<(), Unsuitable> {
    let Probe { load, free_space: free, .. } = *probe;
    if free < MINIMUM_FREE_SPACE {
        return Err(Unsuitable::LowOnSpace { free });
    }
    match machine.overload_threshold {
        Some(threshold) if load.is_nan() || load >= threshold => Err(Unsuitable::Overloaded { load, threshold }),
        _ => Ok(()),
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, speed: f64) -> BuildMachine {
        BuildMachine { speed, ..crate::machine::tests::machine(name) }
    }

    #[test]
    fn the_fastest_per_load_comes_first() {
        let machines = [machine("slow", 1.0), machine("fast", 3.0), machine("busy", 4.0), machine("odd", 2.0)];
        let load = |index: usize| match &*machines[index].name {
            "busy" => Some(1.0),
            "odd" => Some(f64::NAN),
            _ => None,
        };
        for seed in 0..20 {
            let order = order(&machines, load, &mut Random::new(seed));
            assert_eq!(order[0], 1);
            assert_eq!(order[3], 0);
            assert!(order[1..3] == [2, 3] || order[1..3] == [3, 2], "a load that is no number is not known");
        }
        assert!(order(&[], |_| None, &mut Random::new(1)).is_empty());
    }

    #[test]
    fn ties_are_broken_by_chance() {
        let machines = ["a", "b", "c"].map(|name| machine(name, 1.0));
        let mut random = Random::new(42);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..6000 {
            *counts.entry(order(&machines, |_| None, &mut random)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6, "every order comes up");
        // 1000 each are expected; 150 are five standard deviations.
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The first output for seed 0 of Vigna's reference implementation.
        assert_eq!(Random::new(0).below(usize::MAX), 0xe220_a839_7b1d_cdaf % usize::MAX);
    }

    #[test]
    fn load_and_space_are_checked() {
        let mut machine = machine("x", 1.0);
        let seen = |load, free_space| Probe { load, free_space, memory: 0, clock_offset: None };
        assert_eq!(accept(&machine, &seen(0.79, MINIMUM_FREE_SPACE)), Ok(()));
        let line = |machine: &BuildMachine, probe| accept(machine, &probe).unwrap_err().to_string();
        assert_eq!(line(&machine, seen(0.8, u64::MAX)), "it is overloaded (normalized load 0.80, threshold 0.80)");
        assert!(line(&machine, seen(f64::NAN, u64::MAX)).contains("overloaded"));
        assert_eq!(line(&machine, seen(0.0, MINIMUM_FREE_SPACE / 2)), "it is low on disk space (50.0 MiB free)");
        machine.overload_threshold = None;
        assert_eq!(accept(&machine, &seen(99.0, MINIMUM_FREE_SPACE)), Ok(()));
        assert!(accept(&machine, &seen(99.0, MINIMUM_FREE_SPACE - 1)).is_err());
    }
}
