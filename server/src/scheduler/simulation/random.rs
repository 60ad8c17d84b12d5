//! The one source of chance: a small seeded generator, so that a seed is a whole run.

use std::time::Duration;

/// A generator of pseudorandom numbers (SplitMix64): 64 bits of state, the same numbers for the same seed on
/// every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for a part of the run, so that what one part draws does not move another.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number of `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of `0..bound`; 0 where the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: a bias of 1 in 2^64 is of no account here.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number of `from..=to`; `from` where the range is empty.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from).saturating_add(1))
    }

    /// A size of `from..=to`.
    pub fn size(&mut self, from: usize, to: usize) -> usize {
        self.between(from as u64, to as u64) as usize
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// A duration of `from..=to`.
    pub fn duration(&mut self, from: Duration, to: Duration) -> Duration {
        Duration::from_nanos(self.between(from.as_nanos() as u64, to.as_nanos() as u64))
    }

    /// A duration of an exponential distribution: the gap between events that do not know of each other.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        // 1 - unit() is never 0, so the logarithm is finite.
        let factor = -(1.0 - self.unit()).ln();
        Duration::from_nanos((mean.as_nanos() as f64 * factor) as u64)
    }

    /// One of these.
    pub fn choose<T: Copy>(&mut self, first: T, rest: &[T]) -> T {
        let index = self.size(0, rest.len());
        if index == 0 { first } else { rest[index - 1] }
    }
}
