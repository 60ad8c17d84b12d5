//! Activations against hand-written values and against their specification, on every instruction set.

use proptest::prelude::*;

use super::{Activation, cpu, twin};
use crate::isa::Isa;
use crate::simd::{Simd, with_simd};

#[inline(always)]
unsafe fn map<S: Simd>(activation: Activation, values: &mut [f32]) {
    for lanes in values.chunks_mut(S::LANES) {
        // SAFETY: the caller has the instructions; a chunk has as many numbers as are read and written.
        unsafe {
            let x = S::load_first(lanes.as_ptr(), lanes.len());
            cpu::apply(activation, x).store_first(lanes.as_mut_ptr(), lanes.len());
        }
    }
}

fn run(isa: Isa, activation: Activation, x: &[f32]) -> Vec<f32> {
    let mut values = x.to_vec();
    let slice = &mut values[..];
    with_simd!(isa, map(activation: Activation, slice: &mut [f32]));
    values
}

/// Checks that `got` is within the contract's tolerance, and returns the error relative to what it is allowed to be.
fn check(isa: Isa, activation: Activation, x: f32, got: f32) -> f64 {
    let want = twin::apply(activation, f64::from(x));
    let relative_to = match activation {
        Activation::Tanh | Activation::Sigmoid if x >= -87.0 => want.abs(),
        _ => want.abs().max(f64::from(x.abs())),
    };
    // Next to the smallest numbers, no more than their spacing can be asked for.
    let bound = 4e-7 * relative_to + 3.0 * f64::from(f32::from_bits(1));
    let error = (f64::from(got) - want).abs();
    assert!(error <= bound, "{activation:?} of {x:e} with {isa:?}: {got:e} for {want:e}, error {error:e}");
    error / bound
}

#[test]
fn values_by_hand() {
    // Phi(1) = 0.841344746, Phi(-1) = 0.158655254, Phi(3) = 0.998650102; 1 / (1 + e) = 0.268941421.
    for isa in Isa::available() {
        let close = |activation, x: &[f32], want: &[f32]| {
            let got = run(isa, activation, x);
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6), "{activation:?}: {got:?}");
        };
        close(Activation::Gelu, &[0.0, 1.0, -1.0, 3.0], &[0.0, 0.841_344_8, -0.158_655_25, 2.995_950_3]);
        close(Activation::GeluTanh, &[0.0, 1.0, -1.0], &[0.0, 0.841_192, -0.158_808]);
        close(Activation::QuickGelu, &[0.0, 1.0 / 1.702], &[0.0, 0.731_058_6 / 1.702]);
        close(Activation::Relu, &[-2.0, 0.0, 2.0], &[0.0, 0.0, 2.0]);
        close(Activation::Silu, &[-1.0, 0.0, 1.0], &[-0.268_941_43, 0.0, 0.731_058_6]);
        close(Activation::Tanh, &[-1.0, 0.0, 0.5], &[-0.761_594_2, 0.0, 0.462_117_16]);
        close(Activation::Sigmoid, &[-1.0, 0.0, 1.0], &[0.268_941_43, 0.5, 0.731_058_6]);
        close(Activation::Identity, &[-1.0, 7.5], &[-1.0, 7.5]);
    }
}

#[test]
fn a_fine_grid_agrees_with_the_specification() {
    let x: Vec<f32> = (-150_000..=150_000).map(|i| i as f32 * 1e-4).collect();
    for isa in Isa::available() {
        for activation in Activation::ALL {
            let got = run(isa, activation, &x);
            let worst = x.iter().zip(&got).map(|(x, got)| check(isa, activation, *x, *got)).fold(0f64, f64::max);
            println!("{isa:?} {activation:?}: at most {:.1e}", worst * 4e-7);
        }
    }
}

#[test]
fn every_magnitude_agrees_with_the_specification() {
    // Numbers of all exponents: every 4099th pattern of bits, of both signs.
    let x: Vec<f32> = (0..0x7f80_0000u32).step_by(4099).flat_map(|bits| [bits, bits | 1 << 31]).map(f32::from_bits).collect();
    for isa in Isa::available() {
        for activation in Activation::ALL {
            let got = run(isa, activation, &x);
            x.iter().zip(&got).for_each(|(x, got)| {
                check(isa, activation, *x, *got);
            });
        }
    }
}

#[test]
fn extreme_values_have_their_limits() {
    for isa in Isa::available() {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu] {
            let out = run(isa, activation, &[f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, -0.0, 1e-40]);
            assert_eq!(out[0], f32::INFINITY, "{activation:?}");
            assert_eq!(out[2], f32::MAX, "{activation:?}");
            assert!((-1e-30..=0.0).contains(&out[1]) && (-1e-30..=0.0).contains(&out[3]), "{activation:?} {out:?}");
            assert_eq!(out[4], 0.0, "{activation:?}");
            assert!(out[5] > 0.0 && out[5] < 1e-39, "{activation:?} {out:?}");
        }
        assert_eq!(run(isa, Activation::Relu, &[f32::INFINITY, f32::NEG_INFINITY]), [f32::INFINITY, 0.0]);
        assert_eq!(run(isa, Activation::Tanh, &[f32::INFINITY, f32::NEG_INFINITY, f32::MAX]), [1.0, -1.0, 1.0]);
        let sigmoid = run(isa, Activation::Sigmoid, &[f32::INFINITY, f32::NEG_INFINITY]);
        assert!(sigmoid[0] == 1.0 && (0.0..1e-37).contains(&sigmoid[1]), "{sigmoid:?}");
        assert_eq!(run(isa, Activation::Gelu, &[-5.25, -6.0, -100.0]), [0.0; 3]);
    }
}

#[test]
fn nan_stays_nan_and_touches_no_neighbor() {
    for isa in Isa::available() {
        for activation in Activation::ALL {
            // Some arithmetic on bits would make numbers of those that are not the usual one.
            for nan in [0x7fc0_0000, 0xffc0_0000, 0x7fc0_0001, 0x7fff_ffff, 0xffc1_2345, 0x7f80_0001].map(f32::from_bits) {
                let out = run(isa, activation, &[1.0, nan, 1.0]);
                assert!(out[1].is_nan(), "{isa:?} {activation:?} {out:?}");
                assert!(out[0] == out[2] && out[0].is_finite(), "{isa:?} {activation:?} {out:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_number_gives_the_same_bits_in_every_place(x in prop::collection::vec(-12f32..12.0, 1..50)) {
        for isa in Isa::available() {
            for activation in Activation::ALL {
                let together = run(isa, activation, &x);
                for (x, got) in x.iter().zip(together) {
                    check(isa, activation, *x, got);
                    prop_assert_eq!(run(isa, activation, &[*x])[0].to_bits(), got.to_bits());
                }
            }
        }
    }
}
