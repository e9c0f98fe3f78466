// SPDX-License-Identifier: GPL-3.0-or-later
//! How long a build would wait in the queue for a build slot.

use std::time::Duration;

/// A slot is not counted on if it is held for more than this many times the usual build time: its build is of another
/// kind.
const UNUSUAL: u32 = 4;

/// Time for which a build may hold its slot without counting as unusual, however short builds usually are.
const YOUNG: Duration = Duration::from_secs(1);

/// What is known of the slots of one machine.
#[derive(Clone, Debug)]
pub struct MachineSlots {
    /// Number of slots.
    pub count: u32,
    /// How long each taken slot has been held.
    pub taken_for: Vec<Duration>,
    /// How long a build usually holds a slot; `None`: not known.
    pub build_time: Option<Duration>,
}

/// Returns how long a build waits for a slot of one of `machines` with this many builds `ahead` of it; `None`: nobody
/// can tell.
///
/// Slots are expected to become free at the rate of the last builds. Slots that are held for unusually long do not
/// count, nor do slots of a machine of which no build is known.
pub fn expected_wait(ahead: usize, machines: &[MachineSlots]) -> Option<Duration> {
    let rate: f64 = machines.iter().map(releases_per_second).sum();
    (rate > 0.0).then(|| Duration::try_from_secs_f64((ahead + 1) as f64 / rate).unwrap_or(Duration::MAX))
}

fn releases_per_second(slots: &MachineSlots) -> f64 {
    let Some(build_time) = slots.build_time else { return 0.0 };
    let usual = (build_time * UNUSUAL).max(YOUNG);
    let stuck = slots.taken_for.iter().filter(|age| **age > usual).count();
    (slots.count as usize).saturating_sub(stuck) as f64 / build_time.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: u32, taken_for: &[u64], build_time: Option<u64>) -> MachineSlots {
        let seconds = |seconds: &u64| Duration::from_secs(*seconds);
        MachineSlots {
            count,
            taken_for: taken_for.iter().map(seconds).collect(),
            build_time: build_time.map(Duration::from_millis),
        }
    }

    fn wait(ahead: usize, machines: &[MachineSlots]) -> Option<u128> {
        expected_wait(ahead, machines).map(|wait| wait.as_millis())
    }

    #[test]
    fn slots_become_free_as_often_as_builds_are_done() {
        let (small, large) = (slots(1, &[0], Some(500)), slots(4, &[0, 0, 0, 0], Some(1000)));
        assert_eq!(wait(0, std::slice::from_ref(&small)), Some(500));
        assert_eq!(wait(9, std::slice::from_ref(&small)), Some(5000));
        assert_eq!(wait(0, &[small.clone(), large.clone()]), Some(166));
        assert_eq!(wait(5, &[small, large]), Some(1000));
    }

    #[test]
    fn a_slot_that_is_held_unusually_long_is_not_counted_on() {
        assert_eq!(wait(0, &[slots(2, &[7200, 0], Some(100))]), Some(100));
        assert_eq!(wait(0, &[slots(2, &[7200, 7200], Some(100))]), None);
        assert_eq!(wait(0, &[slots(1, &[30], Some(10_000))]), Some(10_000));
        assert_eq!(wait(0, &[slots(1, &[41], Some(10_000))]), None);
        assert_eq!(wait(0, &[slots(1, &[1], Some(1))]), Some(1), "a second is no age");
    }

    #[test]
    fn nothing_is_expected_of_what_is_not_known() {
        assert_eq!(wait(0, &[]), None);
        assert_eq!(wait(0, &[slots(4, &[0, 0, 0, 0], None)]), None);
        assert_eq!(wait(0, &[slots(4, &[], None), slots(1, &[0], Some(1000))]), Some(1000));
        assert_eq!(wait(usize::MAX / 2, &[slots(1, &[0], Some(u64::MAX / 2))]), Some(Duration::MAX.as_millis()));
    }
}
