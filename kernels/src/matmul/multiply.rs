//! What one step along the inputs does, for each pair of precision and instruction set.

use std::marker::PhantomData;

use crate::simd::Simd;

/// How many numbers of an input row, in words of 32 bits, and how many weights make up one step, and what is done with them.
///
/// # Safety
/// Every function may only be called where the instructions of the implementing type are available.
pub(super) trait Multiply {
    /// A vector of sums.
    type Sum: Simd;
    /// The weights of one step for as many outputs as `Sum` has lanes.
    type Weights: Copy;
    /// The numbers of one row of the input for one step, in every lane.
    type Input: Copy;

    /// Words of an input row that one step reads.
    const INPUT_WORDS: usize;

    /// Reads the weights of one step: `Sum::LANES` words.
    unsafe fn weights(from: *const f32) -> Self::Weights;
    /// Reads `INPUT_WORDS` words of a row.
    unsafe fn input(from: *const f32) -> Self::Input;
    /// `sum` and the products of `input` with `weights`.
    unsafe fn add(sum: Self::Sum, input: Self::Input, weights: Self::Weights) -> Self::Sum;
}

/// One f32 of the input with one f32 of each output.
pub(super) struct Single<S>(PhantomData<S>);

impl<S: Simd> Multiply for Single<S> {
    type Sum = S;
    type Weights = S;
    type Input = S;

    const INPUT_WORDS: usize = 1;

    #[inline(always)]
    unsafe fn weights(from: *const f32) -> S {
        // SAFETY: as of the trait.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn input(from: *const f32) -> S {
        // SAFETY: as of the trait.
        unsafe { S::splat(*from) }
    }
    #[inline(always)]
    unsafe fn add(sum: S, input: S, weights: S) -> S {
        // SAFETY: as of the trait.
        unsafe { input.mul_add(weights, sum) }
    }
}

/// Vectors that take pairs of bf16 apart: the bits of a bf16 are the upper half of the same number in f32.
pub(super) trait Halves: Simd {
    /// The numbers in the lower halves of the lanes.
    unsafe fn lower(self) -> Self;
    /// The numbers in the upper halves of the lanes.
    unsafe fn upper(self) -> Self;
}

/// Two bf16, stored as f32, of the input with a pair of bf16 of each output: for processors without instructions for it.
pub(super) struct Apart<S>(PhantomData<S>);

impl<S: Halves> Multiply for Apart<S> {
    type Sum = S;
    type Weights = (S, S);
    type Input = (S, S);

    const INPUT_WORDS: usize = 2;

    #[inline(always)]
    unsafe fn weights(from: *const f32) -> (S, S) {
        // SAFETY: as of the trait.
        unsafe {
            let pairs = S::load(from);
            (pairs.lower(), pairs.upper())
        }
    }
    #[inline(always)]
    unsafe fn input(from: *const f32) -> (S, S) {
        // SAFETY: as of the trait.
        unsafe { (S::splat(*from), S::splat(*from.add(1))) }
    }
    #[inline(always)]
    unsafe fn add(sum: S, input: (S, S), weights: (S, S)) -> S {
        // SAFETY: as of the trait.
        unsafe { input.1.mul_add(weights.1, input.0.mul_add(weights.0, sum)) }
    }
}

impl Halves for crate::simd::Portable {
    #[inline(always)]
    unsafe fn lower(self) -> Self {
        self.map_bits(|bits| bits << 16)
    }
    #[inline(always)]
    unsafe fn upper(self) -> Self {
        self.map_bits(|bits| bits & 0xffff_0000)
    }
}

/// Vectors as integers of 32 bits, and as pairs of integers of 16 bits.
pub(super) trait Integers: Simd {
    /// Of the four signed bytes of every lane the even ones, as a pair.
    unsafe fn even_bytes(self) -> Self;
    /// Of the four signed bytes of every lane the odd ones, as a pair.
    unsafe fn odd_bytes(self) -> Self;
    /// `sum` and, lane by lane, both products of two pairs.
    unsafe fn add_pairs(sum: Self, a: Self, b: Self) -> Self;
    /// `self - zero * by`, integers, as the nearest f32.
    unsafe fn less(self, zero: i32, by: Self) -> Self;
}

/// Four integers of the input, stored in 16 bits in the order 0, 2, 1, 3, with four bytes of each output.
pub(super) struct Wide<S>(PhantomData<S>);

impl<S: Integers> Multiply for Wide<S> {
    type Sum = S;
    type Weights = (S, S);
    type Input = (S, S);

    const INPUT_WORDS: usize = 2;

    #[inline(always)]
    unsafe fn weights(from: *const f32) -> (S, S) {
        // SAFETY: as of the trait.
        unsafe {
            let bytes = S::load(from);
            (bytes.even_bytes(), bytes.odd_bytes())
        }
    }
    #[inline(always)]
    unsafe fn input(from: *const f32) -> (S, S) {
        // SAFETY: as of the trait.
        unsafe { (S::splat(*from), S::splat(*from.add(1))) }
    }
    #[inline(always)]
    unsafe fn add(sum: S, input: (S, S), weights: (S, S)) -> S {
        // SAFETY: as of the trait.
        unsafe { S::add_pairs(S::add_pairs(sum, input.0, weights.0), input.1, weights.1) }
    }
}

impl Integers for crate::simd::Portable {
    #[inline(always)]
    unsafe fn even_bytes(self) -> Self {
        self.map_bits(|bits| bits as i8 as u16 as u32 | ((bits >> 16) as i8 as u32) << 16)
    }
    #[inline(always)]
    unsafe fn odd_bytes(self) -> Self {
        self.map_bits(|bits| (bits >> 8) as i8 as u16 as u32 | ((bits >> 24) as i8 as u32) << 16)
    }
    #[inline(always)]
    unsafe fn add_pairs(sum: Self, a: Self, b: Self) -> Self {
        let products = |a: u32, b: u32| {
            let low = i32::from(a as i16) * i32::from(b as i16);
            let high = i32::from((a >> 16) as i16) * i32::from((b >> 16) as i16);
            low.wrapping_add(high) as u32
        };
        sum.zip_bits(a.zip_bits(b, products), u32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn less(self, zero: i32, by: Self) -> Self {
        self.zip_bits(by, |sum, by| (sum.wrapping_sub(by.wrapping_mul(zero as u32)) as i32 as f32).to_bits())
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Bytes, Pair};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Halves, Integers, Multiply};
    use crate::simd::{Avx2, Avx512, Simd};

    // SAFETY of the blocks below: the caller of a function of these traits has the instructions.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Halves for Avx2 {
        #[inline(always)]
        unsafe fn lower(self) -> Self {
            Avx2(unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(self.0))) })
        }
        #[inline(always)]
        unsafe fn upper(self) -> Self {
            Avx2(unsafe { _mm256_and_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32))) })
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Halves for Avx512 {
        #[inline(always)]
        unsafe fn lower(self) -> Self {
            Avx512(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self.0))) })
        }
        #[inline(always)]
        unsafe fn upper(self) -> Self {
            Avx512(unsafe { _mm512_and_ps(self.0, _mm512_castsi512_ps(_mm512_set1_epi32(0xffff_0000_u32 as i32))) })
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Integers for Avx2 {
        #[inline(always)]
        unsafe fn even_bytes(self) -> Self {
            unsafe {
                let even = _mm256_slli_epi16::<8>(_mm256_castps_si256(self.0));
                Avx2(_mm256_castsi256_ps(_mm256_srai_epi16::<8>(even)))
            }
        }
        #[inline(always)]
        unsafe fn odd_bytes(self) -> Self {
            Avx2(unsafe { _mm256_castsi256_ps(_mm256_srai_epi16::<8>(_mm256_castps_si256(self.0))) })
        }
        #[inline(always)]
        unsafe fn add_pairs(sum: Self, a: Self, b: Self) -> Self {
            unsafe {
                let products = _mm256_madd_epi16(_mm256_castps_si256(a.0), _mm256_castps_si256(b.0));
                Avx2(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum.0), products)))
            }
        }
        #[inline(always)]
        unsafe fn less(self, zero: i32, by: Self) -> Self {
            unsafe {
                let by = _mm256_mullo_epi32(_mm256_set1_epi32(zero), _mm256_castps_si256(by.0));
                Avx2(_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_castps_si256(self.0), by)))
            }
        }
    }

    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Integers for Avx512 {
        #[inline(always)]
        unsafe fn even_bytes(self) -> Self {
            unsafe {
                let even = _mm512_slli_epi16::<8>(_mm512_castps_si512(self.0));
                Avx512(_mm512_castsi512_ps(_mm512_srai_epi16::<8>(even)))
            }
        }
        #[inline(always)]
        unsafe fn odd_bytes(self) -> Self {
            Avx512(unsafe { _mm512_castsi512_ps(_mm512_srai_epi16::<8>(_mm512_castps_si512(self.0))) })
        }
        #[inline(always)]
        unsafe fn add_pairs(sum: Self, a: Self, b: Self) -> Self {
            unsafe {
                let products = _mm512_madd_epi16(_mm512_castps_si512(a.0), _mm512_castps_si512(b.0));
                Avx512(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum.0), products)))
            }
        }
        #[inline(always)]
        unsafe fn less(self, zero: i32, by: Self) -> Self {
            unsafe {
                let by = _mm512_mullo_epi32(_mm512_set1_epi32(zero), _mm512_castps_si512(by.0));
                Avx512(_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_castps_si512(self.0), by)))
            }
        }
    }

    /// Four bytes of the input with four of each output, by one instruction.
    pub(crate) struct Bytes;

    // SAFETY of the blocks below: the caller has the instructions, AVX-512 VNNI among them.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Multiply for Bytes {
        type Sum = Avx512;
        type Weights = Avx512;
        type Input = Avx512;

        const INPUT_WORDS: usize = 1;

        #[inline(always)]
        unsafe fn weights(from: *const f32) -> Avx512 {
            unsafe { Avx512::load(from) }
        }
        #[inline(always)]
        unsafe fn input(from: *const f32) -> Avx512 {
            unsafe { Avx512::splat(*from) }
        }
        #[inline(always)]
        unsafe fn add(sum: Avx512, input: Avx512, weights: Avx512) -> Avx512 {
            unsafe {
                let (input, weights) = (_mm512_castps_si512(input.0), _mm512_castps_si512(weights.0));
                Avx512(_mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sum.0), input, weights)))
            }
        }
    }

    /// A pair of bf16 of the input with a pair of each output, by one instruction.
    pub(crate) struct Pair;

    // SAFETY of the blocks below: the caller has the instructions, AVX-512 BF16 among them.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Multiply for Pair {
        type Sum = Avx512;
        type Weights = Avx512;
        type Input = Avx512;

        const INPUT_WORDS: usize = 1;

        #[inline(always)]
        unsafe fn weights(from: *const f32) -> Avx512 {
            unsafe { Avx512::load(from) }
        }
        #[inline(always)]
        unsafe fn input(from: *const f32) -> Avx512 {
            unsafe { Avx512::splat(*from) }
        }
        #[inline(always)]
        unsafe fn add(sum: Avx512, input: Avx512, weights: Avx512) -> Avx512 {
            unsafe {
                let input: __m512bh = std::mem::transmute(input.0);
                let weights: __m512bh = std::mem::transmute(weights.0);
                Avx512(_mm512_dpbf16_ps(sum.0, input, weights))
            }
        }
    }
}
