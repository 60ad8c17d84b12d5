//! Activations on vectors.

use super::Activation;
use crate::simd::Simd;
use crate::simd::math::{exp, gelu};

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
                let inner = x.mul(x).mul_add(S::splat(0.044_715), S::splat(1.0)).mul(x).mul(S::splat(0.797_884_56));
                // (1 + tanh(a)) / 2 = sigmoid(2 a).
                x.mul(sigmoid(inner.add(inner)))
            }
            Activation::QuickGelu => x.mul(sigmoid(x.mul(S::splat(1.702)))),
            Activation::Relu => x.max(S::splat(0.0)),
            Activation::Silu => x.mul(sigmoid(x)),
            Activation::Tanh => tanh(x),
            Activation::Sigmoid => sigmoid(x),
        }
    }
}

#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S) -> S {
    // SAFETY: as of the caller.
    unsafe { S::splat(1.0).div(S::splat(1.0).add(exp(S::splat(0.0).sub(x)))) }
}

#[inline(always)]
unsafe fn tanh<S: Simd>(x: S) -> S {
    // SAFETY: as of the caller.
    unsafe {
        // 1 - 2 / (exp(2x) + 1)
        let e = exp(x.add(x));
        S::splat(1.0).sub(S::splat(2.0).div(e.add(S::splat(1.0))))
    }
}
