// SPDX-License-Identifier: GPL-3.0-or-later
//! Random moments that can be had again: everything follows from one seed.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// The numbers of run `number` of the fault `name`, whatever else is run.
    pub fn new(seed: u64, name: &str, number: usize) -> Random {
        let mixed = name.bytes().fold(seed, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Random(mixed ^ (number as u64) << 32)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % limit
    }
}
