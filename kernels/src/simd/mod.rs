//! Vectors of f32 for the fast versions: one trait, three widths, chosen at run time by [`with_simd`].
//!
//! A kernel is a generic function over [`Simd`] marked `#[inline(always)]`, with everything it calls. It is entered through
//! a function with `#[target_feature]`, so that all of it is compiled for that instruction set. No closures on the way: they do
//! not inherit the features.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
mod portable;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// A vector of [`Simd::LANES`] f32.
///
/// # Safety
/// Every function may only be called where the instructions of the implementing type are available, on any path: the
/// methods are `unsafe` for that reason, and those with pointers need what they say besides.
pub(crate) trait Simd: Copy {
    /// Numbers per vector.
    const LANES: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// Reads `LANES` numbers; `from` need not be aligned.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `LANES` numbers.
    unsafe fn store(self, to: *mut f32);
    /// Reads `count <= LANES` numbers and nothing behind them; the other lanes are 0.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// Writes the first `count <= LANES` lanes and nothing behind them.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// Reads `LANES` bf16 of two bytes each; `from` need not be aligned.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// Reads `LANES` f16 of two bytes each; `from` need not be aligned.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// The first `count <= LANES` lanes, the others 0.
    unsafe fn first(self, count: usize) -> Self;
    /// Lanes 1, 0, 3, 2, 5, 4, ...
    unsafe fn swap_pairs(self) -> Self;
    /// Lane by lane.
    unsafe fn add(self, other: Self) -> Self;
    /// Lane by lane.
    unsafe fn sub(self, other: Self) -> Self;
    /// Lane by lane.
    unsafe fn mul(self, other: Self) -> Self;
    /// Lane by lane.
    unsafe fn div(self, other: Self) -> Self;
    /// `self * by + to`, rounded once where the processor can.
    unsafe fn mul_add(self, by: Self, to: Self) -> Self;
    /// The larger, lane by lane; `other` where one is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller, lane by lane; `other` where one is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// `if self < other { then } else { otherwise }`, lane by lane; false for NaN.
    unsafe fn select_less(self, other: Self, then: Self, otherwise: Self) -> Self;
    /// `self * 2^n` for lanes of `rounded` that hold `12582912.0 + n`, `n` an integer from -126 to 127. NaN stays NaN, whatever
    /// the other lane holds.
    unsafe fn times_exp2(self, rounded: Self) -> Self;
    /// The sum of all lanes, in a fixed order.
    unsafe fn sum(self) -> f32;
    /// The largest lane; lanes must not be NaN.
    unsafe fn largest(self) -> f32;
}

/// Calls the generic function `$f::<S>(...)` with the vectors of `$isa`, through a function with those features.
macro_rules! with_simd {
    ($isa:expr, $f:ident ( $($name:ident : $type:ty),* $(,)? ) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
        unsafe fn avx512($($name: $type),*) $(-> $ret)? {
            // SAFETY: the features are those of this function.
            unsafe { $f::<$crate::simd::Avx512>($($name),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($name: $type),*) $(-> $ret)? {
            // SAFETY: the features are those of this function.
            unsafe { $f::<$crate::simd::Avx2>($($name),*) }
        }
        match $isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a team only holds an instruction set that the processor has.
            $crate::isa::Isa::Avx512 | $crate::isa::Isa::Avx512Bf16 => unsafe { avx512($($name),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            $crate::isa::Isa::Avx2 => unsafe { avx2($($name),*) },
            // SAFETY: needs no instructions that not every processor has.
            _ => unsafe { $f::<$crate::simd::Portable>($($name),*) },
        }
    }};
}
pub(crate) use with_simd;
