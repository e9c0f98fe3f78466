// SPDX-License-Identifier: GPL-3.0-or-later
//! Random moments that can be had again: everything follows from one seed.

/// The numbers of one run.
pub struct Random(fastrand::Rng);

impl Random {
    /// The numbers of run `number` of the fault `name`, whatever else is run.
    pub fn new(seed: u64, name: &str, number: usize) -> Random {
        let mixed = name.bytes().fold(seed, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Random(fastrand::Rng::with_seed(mixed ^ (number as u64) << 32))
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0.u64(..limit)
    }
}
