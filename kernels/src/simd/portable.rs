//! Vectors of 8 f32 in plain Rust.

use super::Simd;

/// Eight numbers; the compiler makes of them what its target has.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Portable(std::array::from_fn(|lane| f(self.0[lane], other.0[lane])))
    }

    /// Applies `f` to the bits of every lane.
    #[inline(always)]
    pub(crate) fn map_bits(self, f: impl Fn(u32) -> u32) -> Self {
        Portable(self.0.map(|x| f32::from_bits(f(x.to_bits()))))
    }

    /// Applies `f` to the bits of every two lanes.
    #[inline(always)]
    pub(crate) fn zip_bits(self, other: Self, f: impl Fn(u32, u32) -> u32) -> Self {
        self.zip(other, |a, b| f32::from_bits(f(a.to_bits(), b.to_bits())))
    }
}

impl Simd for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Portable([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises eight readable numbers.
        Portable(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises room for eight numbers.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        if count == Self::LANES {
            // SAFETY: all of them are readable.
            return unsafe { Self::load(from) };
        }
        let mut lanes = [0.0; 8];
        for (lane, value) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: the caller promises `count` readable numbers.
            *value = unsafe { *from.add(lane) };
        }
        Portable(lanes)
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        if count == Self::LANES {
            // SAFETY: there is room for all of them.
            return unsafe { self.store(to) };
        }
        for (lane, value) in self.0.iter().enumerate().take(count) {
            // SAFETY: the caller promises room for `count` numbers.
            unsafe { *to.add(lane) = *value };
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller promises eight readable numbers of two bytes.
        let halves = unsafe { from.cast::<[[u8; 2]; 8]>().read_unaligned() };
        Portable(halves.map(|half| half::bf16::from_le_bytes(half).to_f32()))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller promises eight readable numbers of two bytes.
        let halves = unsafe { from.cast::<[[u8; 2]; 8]>().read_unaligned() };
        Portable(halves.map(|half| half::f16::from_le_bytes(half).to_f32()))
    }
    #[inline(always)]
    unsafe fn first(self, count: usize) -> Self {
        Portable(std::array::from_fn(|lane| if lane < count { self.0[lane] } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn swap_pairs(self) -> Self {
        Portable(std::array::from_fn(|lane| self.0[lane ^ 1]))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, by: Self, to: Self) -> Self {
        // Two roundings: without the instruction, one rounding would be a call into the mathematical library.
        Portable(std::array::from_fn(|lane| self.0[lane] * by.0[lane] + to.0[lane]))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn select_less(self, other: Self, then: Self, otherwise: Self) -> Self {
        Portable(std::array::from_fn(|lane| if self.0[lane] < other.0[lane] { then.0[lane] } else { otherwise.0[lane] }))
    }
    #[inline(always)]
    unsafe fn times_exp2(self, rounded: Self) -> Self {
        self.zip(rounded, |x, rounded| x * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
}
