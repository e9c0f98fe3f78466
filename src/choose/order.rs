// SPDX-License-Identifier: GPL-3.0-or-later
//! The order in which machines are tried for a build: the one that is expected to have the outputs first comes first.

use fastrand::Rng;

use crate::machine::BuildMachine;

/// Sending times are rounded down to multiples of this many seconds, so that chance decides between machines that are
/// about equal.
const SENDING_STEP: f64 = 0.1;

/// What is known of a machine for a build.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outlook {
    /// The load at present, as in [`Probe::current_load`](crate::machine::suitability::Probe::current_load) or
    /// [`Probe::load`](crate::machine::suitability::Probe::load), if it was seen recently.
    pub load: Option<f64>,
    /// How long sending what the machine lacks takes, in seconds.
    pub sending: f64,
}

/// A machine, and what a build there costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Which machine it is.
    pub index: usize,
    /// How long the build is expected to take, with what must be sent for it, in seconds.
    pub cost: f64,
    /// As in [`Outlook::sending`].
    pub sending: f64,
}

/// Returns the order, as indices into `machines`, in which machines are tried. The lowest cost comes first. Chance
/// orders equals, so that several hooks at once do not all run to the same machine.
///
/// The cost is the time that a build takes, which is `build_time` seconds on an idle machine of speed 1, and the time
/// that sending takes. A machine of unknown load counts as idle.
pub fn order(
    machines: &[BuildMachine],
    build_time: f64,
    outlook: impl Fn(usize) -> Outlook,
    random: &mut Rng,
) -> Vec<Ranked> {
    let rank = |index: usize| {
        let Outlook { load, sending } = outlook(index);
        let load = load.filter(|load| load.is_finite()).unwrap_or(0.0).max(0.0);
        let cost = build_time * (1.0 + load) / machines[index].speed + (sending / SENDING_STEP).floor() * SENDING_STEP;
        Ranked { index, cost, sending }
    };
    let mut ranked: Vec<_> = (0..machines.len()).map(rank).collect();
    // A Fisher-Yates shuffle; the sort after it is stable.
    for last in (1..ranked.len()).rev() {
        ranked.swap(last, random.usize(..=last));
    }
    ranked.sort_by(|one, other| one.cost.total_cmp(&other.cost));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD_TIME: f64 = 10.0;

    fn machine(name: &str, speed: f64) -> BuildMachine {
        BuildMachine { speed, ..crate::machine::tests::machine(name) }
    }

    fn indices(ranked: &[Ranked]) -> Vec<usize> {
        ranked.iter().map(|ranked| ranked.index).collect()
    }

    #[test]
    fn the_fastest_per_load_comes_first() {
        let machines = [machine("slow", 1.0), machine("fast", 3.0), machine("busy", 4.0), machine("odd", 2.0)];
        let outlook = |index: usize| {
            let load = match &*machines[index].name {
                "busy" => Some(1.0),
                "odd" => Some(f64::NAN),
                _ => None,
            };
            Outlook { load, sending: 0.0 }
        };
        for seed in 0..20 {
            let order = indices(&order(&machines, BUILD_TIME, outlook, &mut Rng::with_seed(seed)));
            assert_eq!(order[0], 1);
            assert_eq!(order[3], 0);
            assert!(order[1..3] == [2, 3] || order[1..3] == [3, 2], "a load that is no number is not known");
        }
        assert!(order(&[], BUILD_TIME, |_| Outlook::default(), &mut Rng::with_seed(1)).is_empty());
    }

    /// Situations of two machines, and the machine that a person would take, if it matters.
    #[test]
    fn a_machine_that_has_the_inputs_comes_first_where_sending_takes_longer_than_it_gains() {
        // Speed, load and seconds of sending of the first one, the same of the second, build time, and which is first.
        let situations = [
            ("both are equal", (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), 10.0, None),
            ("one has the inputs", (1.0, 0.0, 0.6), (1.0, 0.0, 0.0), 10.0, Some(1)),
            ("both lack as much, and the links differ", (1.0, 0.0, 5.0), (1.0, 0.0, 0.6), 10.0, Some(1)),
            ("what is missing is nothing to speak of", (1.0, 0.0, 0.09), (1.0, 0.0, 0.0), 10.0, None),
            ("the inputs are few, and the other is twice as fast", (1.0, 0.0, 0.0), (2.0, 0.0, 0.6), 10.0, Some(1)),
            ("the inputs are many, and the other is twice as fast", (1.0, 0.0, 0.0), (2.0, 0.0, 9.0), 10.0, Some(0)),
            ("builds take hours, and the other is twice as fast", (1.0, 0.0, 0.0), (2.0, 0.0, 9.0), 7200.0, Some(1)),
            ("builds are short, and the other is twice as fast", (1.0, 0.0, 0.0), (2.0, 0.0, 0.6), 0.2, Some(0)),
            ("the one with the inputs is busy", (1.0, 0.7, 0.0), (1.0, 0.0, 0.6), 10.0, Some(1)),
            ("the one with many inputs is a little busy", (1.0, 0.1, 0.0), (1.0, 0.0, 5.0), 10.0, Some(0)),
        ];
        for (what, one, other, build_time, first) in situations {
            let machines = [machine("one", one.0), machine("other", other.0)];
            let known = [one, other].map(|(_, load, sending)| Outlook { load: Some(load), sending });
            let firsts: std::collections::HashSet<_> = (0..20)
                .map(|seed| order(&machines, build_time, |index| known[index], &mut Rng::with_seed(seed))[0].index)
                .collect();
            assert_eq!(firsts, first.map_or([0, 1].into(), |first| [first].into()), "{what}");
        }
    }

    #[test]
    fn ties_are_broken_by_chance() {
        let machines = ["a", "b", "c"].map(|name| machine(name, 1.0));
        let mut random = Rng::with_seed(42);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..6000 {
            let order = indices(&order(&machines, BUILD_TIME, |_| Outlook::default(), &mut random));
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6, "every order comes up");
        // 1000 each are expected; 150 are five standard deviations.
        assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
