// SPDX-License-Identifier: GPL-3.0-or-later
//! How much memory builds take on a machine, as far as its probes show, and how many more find enough.
//!
//! A machine says how much memory is available. What is missing since this host had no builds there, divided by the
//! number of its builds now, is what one of them takes. It may also be what something else takes. So what is missing
//! for long counts less and less, and a machine without builds of this host always gets one.

use std::time::Duration;

use crate::machine::suitability::Unsuitable;

/// After how long half of what is known counts, in seconds: the builds that come may take less, and what something else
/// takes is no longer missing.
const HALF_LIFE: f64 = 600.0;

/// How long it takes until a build has the memory that it needs, in the end.
const YOUNG: Duration = Duration::from_secs(60);

/// What is known of the memory of a machine, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// What is available without builds of this host; 0: not known.
    pub idle: u64,
    /// What one of its builds takes; 0: not known.
    pub build: u64,
    /// What was available when the machine was asked last; 0: not known.
    pub available: u64,
    /// When that was, in seconds since the epoch.
    pub at: u64,
}

impl MemoryUse {
    /// Notes that `available` bytes are left there `now`, in seconds since the epoch, while this host has so many
    /// `builds`. What a build takes rises at once.
    pub fn note(&mut self, available: u64, builds: u32, now: u64) {
        let missing = match builds {
            0 => 0,
            _ => self.decayed(self.idle.saturating_sub(available), now),
        };
        self.idle = available.saturating_add(missing);
        let build = self.decayed(self.build, now).min(self.idle);
        self.build = build.max(missing.checked_div(builds.into()).unwrap_or(0));
        (self.available, self.at) = (available, now);
    }

    /// Returns how many more builds find the memory that one takes, `now`, where this host's builds have held their
    /// slots for these times. Those that are young will take more.
    pub fn more_builds(&self, taken_for: &[Duration], now: u64) -> u32 {
        let more = self.left(taken_for, now).checked_div(self.decayed(self.build, now));
        let more = more.filter(|_| self.available > 0).map_or(u32::MAX, |more| more.try_into().unwrap_or(u32::MAX));
        more.max(u32::from(taken_for.is_empty()))
    }

    /// Checks that one more build finds the memory that it needs. See [`MemoryUse::more_builds`].
    pub fn check(&self, taken_for: &[Duration], now: u64) -> Result<(), Unsuitable> {
        match self.more_builds(taken_for, now) {
            0 => Err(Unsuitable::TooLittleMemory {
                left: self.left(taken_for, now),
                build: self.decayed(self.build, now),
            }),
            _ => Ok(()),
        }
    }

    /// Returns what is left once all young builds have theirs.
    fn left(&self, taken_for: &[Duration], now: u64) -> u64 {
        let young = Duration::from_secs(now.saturating_sub(self.at)).saturating_add(YOUNG);
        let young = taken_for.iter().filter(|age| **age < young).count() as u64;
        self.available.saturating_sub(self.decayed(self.build, now).saturating_mul(young))
    }

    fn decayed(&self, bytes: u64, now: u64) -> u64 {
        (bytes as f64 * 0.5_f64.powf(now.abs_diff(self.at) as f64 / HALF_LIFE)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const HALF: u64 = HALF_LIFE as u64;

    /// What is known after these answers: GiB available, builds, and the time.
    fn after(answers: &[(u64, u32, u64)]) -> (f64, f64) {
        let mut memory = MemoryUse::default();
        answers.iter().for_each(|(available, builds, now)| memory.note(available * GIB, *builds, *now));
        let gib = |bytes: u64| (bytes as f64 / GIB as f64 * 10.0).round() / 10.0;
        (gib(memory.idle), gib(memory.build))
    }

    #[test]
    fn what_is_missing_is_what_builds_take() {
        for (what, answers, known) in [
            ("nobody knows what is available without it", &[(4, 1, 0)][..], (4.0, 0.0)),
            ("one takes a GiB", &[(16, 0, 0), (15, 1, 0)], (16.0, 1.0)),
            ("two take eight", &[(16, 0, 0), (15, 1, 0), (8, 2, 0)], (16.0, 4.0)),
            ("the next one has taken nothing yet", &[(16, 0, 0), (8, 2, 0), (15, 1, 0)], (16.0, 4.0)),
            ("something else has ended", &[(4, 0, 0), (1, 1, 0), (61, 1, 0)], (61.0, 3.0)),
            ("after a while, it counts half", &[(16, 0, 0), (8, 2, 0), (16, 1, HALF)], (16.0, 2.0)),
            ("what is missing for long is something else's", &[(64, 0, 0), (13, 1, 0), (13, 1, 9 * HALF)], (13.1, 0.1)),
            ("without builds, it is something else's", &[(64, 0, 0), (13, 1, 0), (13, 0, 0)], (13.0, 13.0)),
            ("a clock went back", &[(16, 0, HALF), (8, 2, HALF), (16, 1, 0)], (16.0, 2.0)),
        ] {
            assert_eq!(after(answers), known, "{what}");
        }
        let mut odd = MemoryUse { idle: u64::MAX, build: u64::MAX, available: u64::MAX, at: u64::MAX };
        odd.note(GIB, 3, 0);
        assert_eq!(odd, MemoryUse { idle: GIB, build: 0, available: GIB, at: 0 });
    }

    #[test]
    fn another_build_must_find_what_builds_take() {
        const OLD: Duration = Duration::from_secs(3600);
        const NEW: Duration = Duration::from_secs(1);
        let memory = MemoryUse { idle: 16 * GIB, build: 5 * GIB, available: 16 * GIB, at: 0 };
        for (what, available, taken_for, more) in [
            ("no build", 16, &[][..], 3),
            ("no build, and something else takes all", 1, &[], 1),
            ("two have their memory", 6, &[OLD, OLD], 1),
            ("three have theirs", 1, &[OLD, OLD, OLD], 0),
            ("two have begun a moment ago", 16, &[NEW, NEW], 1),
            ("three have begun a moment ago", 16, &[NEW, NEW, NEW], 0),
            ("a large one runs, and a small one", 12, &[OLD, NEW], 1),
            ("it does not say", 0, &[NEW, NEW], u32::MAX),
        ] {
            let memory = MemoryUse { available: available * GIB, ..memory };
            assert_eq!(memory.more_builds(taken_for, 0), more, "{what}");
            assert_eq!(memory.check(taken_for, 0).is_ok(), more > 0, "{what}");
        }
        assert_eq!(memory.more_builds(&[OLD, OLD], HALF), 6, "half of it counts");
        assert_eq!(memory.more_builds(&[OLD, Duration::from_secs(70)], 20), 2, "it began before the machine was asked");
        assert_eq!(MemoryUse::default().check(&[NEW], 0), Ok(()), "nothing is known");
        let said = MemoryUse { available: 3 * GIB, ..memory }.check(&[OLD], 0).unwrap_err().to_string();
        assert_eq!(said, "its memory is too little for another build (3.0 GiB left, one took 5.0 GiB lately)");
    }
}
