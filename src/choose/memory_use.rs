// SPDX-License-Identifier: GPL-3.0-or-later
//! How much memory builds take on a machine, as far as its probes show, and whether another one finds enough.
//!
//! A machine says how much memory is available. What is missing since this host had no builds there, divided by the
//! number of its builds now, is what one of them takes, or what something else takes; so a machine without builds of
//! this host always gets one.

use crate::machine::suitability::Unsuitable;

/// After how long half of what a build took counts, in seconds: the builds that come may take less.
const HALF_LIFE: f64 = 600.0;

/// What is known of the memory of a machine, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// What was available when this host had no builds there, the last time; 0: not known.
    pub idle: u64,
    /// What one of its builds took lately; 0: not known.
    pub build: u64,
}

impl MemoryUse {
    /// Returns what of this still counts so many `seconds` later.
    pub fn after(self, seconds: u64) -> Self {
        MemoryUse { build: (self.build as f64 * 0.5_f64.powf(seconds as f64 / HALF_LIFE)) as u64, ..self }
    }

    /// Notes that `available` bytes are left there while this host has so many `builds`. What a build takes rises at
    /// once, but a build that has just begun has not taken it yet.
    pub fn note(&mut self, available: u64, builds: u32) {
        if builds == 0 {
            self.idle = available;
        } else if self.idle > 0 {
            let seen = self.idle.saturating_sub(available) / u64::from(builds);
            self.build = self.build.max(seen);
        }
    }

    /// Checks that one more build finds as much memory as builds there took lately, where `available` bytes are left
    /// and this host has so many `builds`: those that have just begun have not taken theirs yet.
    pub fn check(&self, available: u64, builds: u32) -> Result<(), Unsuitable> {
        let left = available.min(self.idle.saturating_sub(self.build.saturating_mul(builds.into())));
        if available > 0 && builds > 0 && left < self.build {
            return Err(Unsuitable::TooLittleMemory { left, build: self.build });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_a_build_takes_rises_at_once_and_is_forgotten_slowly() {
        let mut memory = MemoryUse::default();
        memory.note(4 * GIB, 1);
        assert_eq!(memory, MemoryUse::default(), "nobody knows what was available without it");
        memory.note(16 * GIB, 0);
        let seen = [(15, 1), (8, 2), (15, 1), (17, 3)].map(|(available, builds)| {
            memory.note(available * GIB, builds);
            memory.build / GIB
        });
        assert_eq!(seen, [1, 4, 4, 4]);
        assert_eq!([0, 600, 1200].map(|seconds| memory.after(seconds).build / GIB), [4, 2, 1]);
        assert_eq!(memory.after(u64::MAX), MemoryUse { build: 0, ..memory });
        memory.note(12 * GIB, 0);
        assert_eq!(memory.idle, 12 * GIB, "something else takes the rest");
    }

    #[test]
    fn another_build_must_find_what_builds_there_took() {
        let memory = MemoryUse { idle: 16 * GIB, build: 5 * GIB };
        for (what, available, builds, enough) in [
            ("no other build", 1, 0, true),
            ("two have their memory, and it is enough for three", 6, 2, true),
            ("three have theirs", 1, 3, false),
            ("three have begun a moment ago", 16, 3, false),
            ("something else takes memory, too", 4, 1, false),
            ("it does not say", 0, 3, true),
        ] {
            assert_eq!(memory.check(available * GIB, builds).is_ok(), enough, "{what}");
        }
        assert_eq!(MemoryUse::default().check(1, 9), Ok(()), "nothing is known");
        assert!(MemoryUse { build: u64::MAX, ..memory }.check(1, 2).is_err());
        let said = memory.check(3 * GIB, 2).unwrap_err().to_string();
        assert_eq!(said, "its memory is too little for another build (3.0 GiB left, one took 5.0 GiB lately)");
    }
}
