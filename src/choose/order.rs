// SPDX-License-Identifier: GPL-3.0-or-later
//! The order in which machines are tried for a build.

use fastrand::Rng;

use crate::machine::BuildMachine;

/// Returns the order, as indices into `machines`, in which machines are tried. The most speed per load comes first.
/// Chance orders equals, so that several hooks at once do not all run to the same machine.
///
/// `known_load` gives the load of the machine at an index, as in
/// [`Probe::load`](crate::machine::suitability::Probe::load), if it was seen recently. A machine of unknown load counts
/// as idle.
pub fn order(machines: &[BuildMachine], known_load: impl Fn(usize) -> Option<f64>, random: &mut Rng) -> Vec<usize> {
    let rank = |index: usize| {
        let load = known_load(index).filter(|load| load.is_finite()).unwrap_or(0.0).max(0.0);
        machines[index].speed / (1.0 + load)
    };
    let mut ranked: Vec<(usize, f64)> = (0..machines.len()).map(|index| (index, rank(index))).collect();
    // A Fisher-Yates shuffle; the sort after it is stable.
    for last in (1..ranked.len()).rev() {
        ranked.swap(last, random.usize(..=last));
    }
    ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    ranked.into_iter().map(|(index, _)| index).collect()
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
            let order = order(&machines, load, &mut Rng::with_seed(seed));
            assert_eq!(order[0], 1);
            assert_eq!(order[3], 0);
            assert!(order[1..3] == [2, 3] || order[1..3] == [3, 2], "a load that is no number is not known");
        }
        assert!(order(&[], |_| None, &mut Rng::with_seed(1)).is_empty());
    }

    #[test]
    fn ties_are_broken_by_chance() {
        let machines = ["a", "b", "c"].map(|name| machine(name, 1.0));
        let mut random = Rng::with_seed(42);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..6000 {
            *counts.entry(order(&machines, |_| None, &mut random)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6, "every order comes up");
        // 1000 each are expected; 150 are five standard deviations.
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
