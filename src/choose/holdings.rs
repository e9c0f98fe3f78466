// SPDX-License-Identifier: GPL-3.0-or-later
//! What machines are known to have in their stores: items that were sent to them or found there, and outputs that they
//! built.
//!
//! This is advice for the choice of a machine, and may be out of date: a collector may have run since then. Each build
//! asks its machine what it lacks. If the answer shows that a collector has run, all that is known of this machine is
//! forgotten.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use parking_lot::Mutex;

use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;

/// Half of the most items that are remembered of a machine. All of them take 300 KB.
const GENERATION: usize = 10_000;

/// Most machines of which anything is remembered.
const MOST_MACHINES: usize = 200;

/// An item that a build reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    fingerprint: u32,
    bytes: u64,
}

impl Input {
    /// Makes an input of `item`, whose nar has this many bytes.
    pub fn new(item: &StorePath, bytes: u64) -> Self {
        Input { fingerprint: fingerprint(item), bytes }
    }
}

/// Returns what is remembered of an item in place of its name, which takes twenty times as much memory. One item in
/// 200,000 is taken for one of the 20,000 that are remembered of a machine.
fn fingerprint(item: &StorePath) -> u32 {
    let mut hasher = DefaultHasher::new();
    item.base_name().hash(&mut hasher);
    hasher.finish() as u32
}

/// Items that are remembered, by their fingerprints.
#[derive(Clone, Default)]
struct Items {
    /// Whether each belongs to the young generation. One table for both: a lookup is a wait for memory.
    is_young: HashMap<u32, bool>,
    number_of_young: usize,
}

impl Items {
    fn contains(&self, fingerprint: u32) -> bool {
        self.is_young.contains_key(&fingerprint)
    }

    /// Adds an item. When the young generation is full, the old one is forgotten, and the young one grows old.
    fn add(&mut self, fingerprint: u32) {
        if self.is_young.insert(fingerprint, true) == Some(true) {
            return;
        }
        self.number_of_young += 1;
        if self.number_of_young == GENERATION {
            self.is_young.retain(|_, young| std::mem::take(young));
            self.number_of_young = 0;
        }
    }
}

/// What is known of one machine.
#[derive(Clone)]
struct Known {
    items: Items,
    used: Instant,
}

/// What the machines of a process are known to have. Any thread.
#[derive(Default)]
pub struct Holdings {
    machines: Mutex<HashMap<String, Known>>,
    /// What machines built for this process, and this host has received.
    made: Mutex<Items>,
}

impl Holdings {
    /// Returns whether nothing is known of any machine.
    pub fn is_empty(&self) -> bool {
        self.machines.lock().is_empty()
    }

    /// Remembers that `machine` has `items`.
    pub fn add(&self, machine: &BuildMachine, items: &[StorePath]) {
        let mut machines = self.machines.lock();
        let (label, now) = (machine.label(), Instant::now());
        if machines.len() == MOST_MACHINES && !machines.contains_key(&label) {
            let unused = machines.iter().min_by_key(|(_, known)| known.used).map(|(label, _)| label.clone());
            unused.and_then(|label| machines.remove(&label));
        }
        let empty = || Known { items: Items::default(), used: now };
        let known = machines.entry(label).or_insert_with(empty);
        known.used = now;
        items.iter().for_each(|item| known.items.add(fingerprint(item)));
    }

    /// Remembers that this host has received `items`, which a machine built.
    pub fn note_made(&self, items: &[StorePath]) {
        let mut made = self.made.lock();
        items.iter().for_each(|item| made.add(fingerprint(item)));
    }

    /// Returns whether `machine` lacks `item`, in all likelihood: it was built lately, on another machine.
    pub fn is_new_to(&self, machine: &BuildMachine, item: &StorePath) -> bool {
        self.made.lock().contains(fingerprint(item)) && !self.has_any(machine, [item])
    }

    /// Forgets what `machine` has.
    pub fn forget(&self, machine: &BuildMachine) {
        self.machines.lock().remove(&machine.label());
    }

    /// Returns whether `machine` is known to have one of `items`.
    pub fn has_any<'a>(&self, machine: &BuildMachine, items: impl IntoIterator<Item = &'a StorePath>) -> bool {
        let machines = self.machines.lock();
        let known = machines.get(&machine.label());
        known.is_some_and(|known| items.into_iter().any(|item| known.items.contains(fingerprint(item))))
    }

    /// Returns how many bytes of `inputs` the machine is not known to have.
    pub fn missing_bytes(&self, machine: &BuildMachine, inputs: &[Input]) -> u64 {
        let machines = self.machines.lock();
        let known = machines.get(&machine.label());
        let missing = inputs.iter().filter(|input| known.is_none_or(|known| !known.items.contains(input.fingerprint)));
        missing.map(|input| input.bytes).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::store_path::StoreDir;
    use crate::machine::tests::machine;

    fn item(number: usize) -> StorePath {
        StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{number:032}-x")).unwrap()
    }

    #[test]
    fn what_a_machine_is_not_known_to_have_is_missing() {
        let (holdings, m) = (Holdings::default(), machine("m"));
        let inputs = [Input::new(&item(1), 10), Input::new(&item(2), 200), Input::new(&item(3), u64::MAX)];
        assert_eq!((holdings.is_empty(), holdings.missing_bytes(&m, &inputs[..2])), (true, 210));
        assert_eq!(holdings.missing_bytes(&m, &inputs), u64::MAX);
        holdings.add(&m, &[item(2), item(3)]);
        assert_eq!((holdings.is_empty(), holdings.missing_bytes(&m, &inputs)), (false, 10));
        let listed_again = BuildMachine { systems: vec!["i686-linux".into()], ..machine("m") };
        assert_eq!(holdings.missing_bytes(&listed_again, &inputs), 10);
        let other = BuildMachine { port: 2222, ..machine("m") };
        assert_eq!(holdings.missing_bytes(&other, &inputs[..2]), 210);
        assert!(holdings.has_any(&m, &[item(1), item(2)]) && !holdings.has_any(&m, &[item(1)]));
        holdings.note_made(&[item(2), item(4)]);
        assert!(holdings.is_new_to(&m, &item(4)) && holdings.is_new_to(&other, &item(2)));
        assert!(!holdings.is_new_to(&m, &item(2)) && !holdings.is_new_to(&other, &item(3)));
        holdings.forget(&m);
        assert!(!holdings.has_any(&m, &[item(2)]) && holdings.missing_bytes(&m, &inputs[..2]) == 210);
    }

    #[test]
    fn two_hundred_machines_are_compared_in_a_moment() {
        let holdings = Holdings::default();
        let items: Vec<_> = (0..2 * GENERATION).map(item).collect();
        holdings.add(&machine("m0"), &items);
        let machines: Vec<_> = (0..MOST_MACHINES).map(|number| machine(&format!("m{number}"))).collect();
        let mut full = holdings.machines.lock()["m0:22"].clone();
        assert_eq!(full.items.is_young.len(), GENERATION, "the least that is kept of them");
        (1..GENERATION as u32).for_each(|number| full.items.add(number));
        assert!(full.items.is_young.len() > 2 * GENERATION - 10);
        machines.iter().for_each(|machine| drop(holdings.machines.lock().insert(machine.label(), full.clone())));
        let inputs: Vec<_> = (0..200).map(|number| Input::new(&item(number * 150), 1)).collect();
        let compare = || machines.iter().map(|machine| holdings.missing_bytes(machine, &inputs)).collect::<Vec<_>>();
        let missing = compare();
        let times = (0..5).map(|_| {
            let begun = Instant::now();
            assert_eq!(compare(), missing);
            begun.elapsed()
        });
        // The shortest of five, as others may use the processor. With optimization, one or two milliseconds for these
        // 40,000 lookups, most of them waits for memory.
        let took = times.min().unwrap();
        println!("{took:?}");
        assert!(took < std::time::Duration::from_secs(1));
        assert!(missing.iter().all(|bytes| *bytes == missing[0] && (100..200).contains(bytes)), "{missing:?}");
        let capacities = holdings.machines.lock().values().map(|known| known.items.is_young.capacity()).sum::<usize>();
        // A table takes nine bytes for each of 8/7 of its capacity.
        assert!(capacities * 9 * 8 / 7 < 64 << 20, "{capacities}");
    }

    #[test]
    fn what_was_added_last_is_remembered_and_the_number_is_limited() {
        let (holdings, m) = (Holdings::default(), machine("m"));
        for number in 0..5 * GENERATION {
            holdings.add(&m, &[item(number)]);
            let machines = holdings.machines.lock();
            let known = &machines[&m.label()].items;
            assert!(known.is_young.len() <= 2 * GENERATION);
            assert!(known.contains(fingerprint(&item((number + 1).saturating_sub(GENERATION)))));
        }
        for number in 0..2 * MOST_MACHINES {
            holdings.add(&machine(&format!("m{number}")), &[item(1)]);
        }
        assert_eq!(holdings.machines.lock().len(), MOST_MACHINES);
        assert!(holdings.has_any(&machine(&format!("m{}", 2 * MOST_MACHINES - 1)), &[item(1)]));
    }
}
