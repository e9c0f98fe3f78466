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
/// `known_load` gives the load of a machine as in [`Probe::load`], if it was seen recently; one that is not known counts
/// as idle.
pub fn order(
    machines: &[BuildMachine],
    known_load: impl Fn(&BuildMachine) -> Option<f64>,
    random: &mut Random,
) -> Vec<usize> {
    let rank = |machine: &BuildMachine| {
        let load = known_load(machine).filter(|load| load.is_finite()).unwrap_or(0.0).max(0.0);
        machine.speed / (1.0 + load)
    };
    let mut ranked: Vec<(usize, f64)> = machines.iter().map(rank).enumerate().collect();
    // Fisher and Yates; the sort after it is stable.
    for last in (1..ranked.len()).rev() {
        ranked.swap(last, random.below(last + 1));
    }
    ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    ranked.into_iter().map(|(index, _)| index).collect()
}

/// Why a machine that was reached gets no build now. Displayed as a line for the user, without the newline.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsuitable {
    machine: String,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    Overloaded { load: f64, threshold: f64 },
    LowOnSpace { free: u64 },
}

/// May `machine`, as it was seen in `probe`, get a build? Its load must be below its threshold, if it has one, and
/// [`MINIMUM_FREE_SPACE`] must be free. A load that is no number is a machine that misbehaves: it counts as overloaded.
pub fn accept(machine: &BuildMachine, probe: &Probe) -> Result<(), Unsuitable> {
    let unsuitable = |reason| Err(Unsuitable { machine: machine.name.clone(), reason });
    if probe.free_space < MINIMUM_FREE_SPACE {
        return unsuitable(Reason::LowOnSpace { free: probe.free_space });
    }
    match machine.overload_threshold {
        Some(threshold) if probe.load.is_nan() || probe.load >= threshold => {
            unsuitable(Reason::Overloaded { load: probe.load, threshold })
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipping machine '{}' because it is ", self.machine)?;
        match self.reason {
            Reason::Overloaded { load, threshold } => {
                write!(f, "overloaded (normalized load {load:.2}, threshold {threshold:.2})")
            }
            Reason::LowOnSpace { free } => {
                write!(f, "low on disk space ({:.1} MiB free)", free as f64 / f64::from(1 << 20))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::HostKey;

    fn machine(name: &str, speed: f64) -> BuildMachine {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI";
        BuildMachine {
            name: name.into(),
            port: BuildMachine::DEFAULT_PORT,
            systems: vec!["x86_64-linux".into()],
            user: "u".into(),
            private_key: "/k".into(),
            host_key: HostKey::parse(key).unwrap(),
            compression: BuildMachine::DEFAULT_COMPRESSION.into(),
            compression_level: BuildMachine::DEFAULT_COMPRESSION_LEVEL,
            daemon_socket: BuildMachine::DEFAULT_DAEMON_SOCKET.into(),
            parallel_builds: 1,
            speed,
            features: vec![],
            overload_threshold: Some(0.8),
        }
    }

    #[test]
    fn the_fastest_per_load_comes_first() {
        let machines = [machine("slow", 1.0), machine("fast", 3.0), machine("busy", 4.0), machine("odd", 2.0)];
        let load = |machine: &BuildMachine| match &*machine.name {
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
        let seen = |load, free_space| Probe { load, free_space };
        assert_eq!(accept(&machine, &seen(0.79, MINIMUM_FREE_SPACE)), Ok(()));
        let line = |machine: &BuildMachine, probe| accept(machine, &probe).unwrap_err().to_string();
        assert_eq!(
            line(&machine, seen(0.8, u64::MAX)),
            "skipping machine 'x' because it is overloaded (normalized load 0.80, threshold 0.80)"
        );
        assert!(line(&machine, seen(f64::NAN, u64::MAX)).contains("overloaded"));
        assert_eq!(
            line(&machine, seen(0.0, MINIMUM_FREE_SPACE / 2)),
            "skipping machine 'x' because it is low on disk space (50.0 MiB free)"
        );
        machine.overload_threshold = None;
        assert_eq!(accept(&machine, &seen(99.0, MINIMUM_FREE_SPACE)), Ok(()));
        assert!(accept(&machine, &seen(99.0, MINIMUM_FREE_SPACE - 1)).is_err());
    }
}
