//! Activations on vectors.

use super::Activation;
use crate::simd::Simd;
use crate::simd::math::{gelu, sigmoid, tanh};

/// What bounds `x` from below before it is multiplied by a sigmoid, so that minus infinity does not meet 0: the products
/// are 0 or next to it there.
const LEAST_FACTOR: f32 = -1e4;

/// The activation of every lane.
///
/// # Safety
/// The instructions of `S` are available.
#[inline(always)]
pub(crate) unsafe fn apply<S: Simd>(activation: Activation, x: S) -> S {
    // SAFETY: as of this function.
    unsafe {
        match activation {
            Activation::Identity => x,
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => {
                // (1 + tanh(a)) / 2 = sigmoid(2 a). Beyond the bounds it is 0 or 1, and cubes would overflow.
                let bounded = S::splat(12.0).min(S::splat(-12.0).max(x));
                let inner = bounded.mul(bounded).mul_add(S::splat(0.071_354_82), S::splat(1.595_769)).mul(bounded);
                S::splat(LEAST_FACTOR).max(x).mul(sigmoid(inner))
            }
            Activation::QuickGelu => S::splat(LEAST_FACTOR).max(x).mul(sigmoid(x.mul(S::splat(1.702)))),
            Activation::Relu => S::splat(0.0).max(x),
            Activation::Silu => S::splat(LEAST_FACTOR).max(x).mul(sigmoid(x)),
            Activation::Tanh => tanh(x),
            Activation::Sigmoid => sigmoid(x),
        }
    }
}
