// SPDX-License-Identifier: GPL-3.0-or-later
//! What the builds of this process are sending to machines: of two builds that need the same item there, one sends it,
//! and the other waits until it is there.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::choose::USUAL_RATE;
use crate::ground::cancel::Cancel;
use crate::ground::error::Result;
use crate::ground::store_path::StorePath;
use crate::machine::BuildMachine;
use crate::store::ValidPath;

/// Fewest bytes, as nars, for which a build waits. To send less takes hardly longer than to ask again.
const WORTH_WAITING: u64 = 1 << 20;

/// How many times as long as sending them would take a build waits for its items. The other build may send more, and
/// they share the link.
const WAIT_FACTOR: f64 = 4.0;

/// Longest time that a build waits for its items, however slow the link is.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a build that waits looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

/// The items that are on their way, by the label of their machine. Any thread.
#[derive(Default)]
pub struct InFlight {
    machines: Mutex<HashMap<String, HashSet<StorePath>>>,
    arrived: Condvar,
}

/// Items that one build sends. Dropping it says that they are there, or that sending them has failed.
pub struct Claim<'a> {
    in_flight: &'a InFlight,
    machine: String,
    items: Vec<StorePath>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut machines = self.in_flight.machines.lock();
        if let Some(claimed) = machines.get_mut(&self.machine) {
            for item in &self.items {
                claimed.remove(item);
            }
            if claimed.is_empty() {
                machines.remove(&self.machine);
            }
        }
        self.in_flight.arrived.notify_all();
    }
}

impl InFlight {
    /// Claims those of `items` that no other build sends to `machine`. `rate`: bytes a second that a slow link to it
    /// moves.
    ///
    /// If other builds send many of them, and `patient`, waits for that instead, and returns `None`: the machine may
    /// have them now.
    pub fn claim(
        &self,
        machine: &BuildMachine,
        items: &[ValidPath],
        rate: Option<f64>,
        patient: bool,
        cancel: &Cancel,
    ) -> Result<Option<Claim<'_>>> {
        let label = machine.label();
        let mut machines = self.machines.lock();
        let bytes = bytes_of_others(machines.get(&label), items);
        if bytes < WORTH_WAITING || !patient {
            let claimed = machines.entry(label.clone()).or_default();
            let names = items.iter().map(|item| &item.path);
            let items = names.filter(|item| claimed.insert((*item).clone())).cloned().collect();
            return Ok(Some(Claim { in_flight: self, machine: label, items }));
        }
        let seconds = WAIT_FACTOR * bytes as f64 / rate.unwrap_or(USUAL_RATE).max(1.0);
        let end = Instant::now() + Duration::from_secs_f64(seconds.min(LONGEST_WAIT.as_secs_f64()));
        while bytes_of_others(machines.get(&label), items) > 0 && Instant::now() < end {
            cancel.check()?;
            self.arrived.wait_for(&mut machines, CANCEL_INTERVAL);
        }
        Ok(None)
    }
}

/// Returns how many bytes of `items` others have `claimed`.
fn bytes_of_others(claimed: Option<&HashSet<StorePath>>, items: &[ValidPath]) -> u64 {
    let is_claimed = |item: &&ValidPath| claimed.is_some_and(|claimed| claimed.contains(&item.path));
    items.iter().filter(is_claimed).map(|item| item.nar_size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::error::ErrorKind;
    use crate::ground::store_path::StoreDir;
    use crate::machine::tests::machine;

    fn item(number: u64, nar_size: u64) -> ValidPath {
        let path = StoreDir::new("/gnu/store").unwrap().parse(&format!("/gnu/store/{number:032}-x")).unwrap();
        ValidPath { path, nar_hash: [0; 32], nar_size, deriver: None, references: Vec::new() }
    }

    #[test]
    fn a_build_waits_for_what_another_sends_to_the_same_machine() {
        let (in_flight, cancel) = (InFlight::default(), Cancel::default());
        let (large, other, small) = (item(1, 8 << 20), item(2, 8 << 20), item(3, 10));
        let m = machine("m");
        let claims = |machine: &BuildMachine, item: &ValidPath| {
            in_flight.claim(machine, std::slice::from_ref(item), Some(1.0), true, &cancel).unwrap().is_some()
        };
        assert!(claims(&m, &large), "nobody sends it");
        let both = [large.clone(), small.clone()];
        let claim = in_flight.claim(&m, &both, None, true, &cancel).unwrap();
        assert!(claims(&m, &other) && claims(&machine("n"), &large) && claims(&m, &small));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let begun = Instant::now();
                (claims(&m, &large), begun.elapsed())
            });
            std::thread::sleep(Duration::from_millis(60));
            drop(claim);
            let (claimed, time) = waiting.join().unwrap();
            assert!(!claimed && (40..10_000).contains(&time.as_millis()), "{time:?}");
        });
        assert!(claims(&m, &large) && in_flight.machines.lock().is_empty());
    }

    #[test]
    fn it_does_not_wait_for_ever_nor_once_it_is_cancelled() {
        let (in_flight, cancel, m) = (InFlight::default(), Cancel::default(), machine("m"));
        let large = [item(1, 1 << 20)];
        let claim = in_flight.claim(&m, &large, None, true, &cancel).unwrap();
        // Four times what sending takes.
        let (begun, rate) = (Instant::now(), Some(40.0 * f64::from(1 << 20)));
        assert!(in_flight.claim(&m, &large, rate, true, &cancel).unwrap().is_none());
        assert!((100..10_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        cancel.cancel();
        let waiting = in_flight.claim(&m, &large, Some(1.0), true, &cancel);
        assert_eq!(waiting.err().unwrap().kind(), ErrorKind::Cancelled);
        // What two builds send all the same is on its way until the first is done.
        let again = in_flight.claim(&m, &large, None, false, &cancel).unwrap().unwrap();
        assert!(again.items.is_empty());
        drop(claim);
        assert!(in_flight.machines.lock().is_empty());
    }
}
