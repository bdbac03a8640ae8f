//! Random numbers that can be had again: the seed is printed at the start of a test that uses
//! them, and `TT_TEST_SEED` sets it.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::report::say;

/// A small generator (xorshift64*); good enough to scatter test input.
#[derive(Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The generator of the test called `test`.
    pub fn seeded(test: &str) -> Self {
        let seed = env::var("TT_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            now.subsec_nanos().into()
        });
        say(&format!("{test}: TT_TEST_SEED={seed}"));
        Self::of(seed)
    }

    /// One from a number, for input that is always the same, or different for each thread.
    pub fn of(seed: u64) -> Self {
        // The state must not be zero; the odd factor spreads neighbouring seeds.
        Self { state: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Yes or no.
    pub fn heads(&mut self) -> bool {
        self.bits() & 1 == 0
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high - low + 1)
    }

    /// `length` random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.bits() >> 32) as u8).collect()
    }
}
