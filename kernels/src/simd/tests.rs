//! Vectors of every instruction set against plain arithmetic, and the exponentials against f64.

use super::math::{exp, exp2};
use super::{Simd, with_simd};
use crate::isa::Isa;

/// Numbers that have fallen through the meshes of vector code before.
const HARD: [f32; 12] =
    [0.0, -0.0, 1.0, -1.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40, 3.25, -7.0];

#[derive(Clone, Copy, Debug)]
enum Operation {
    Add,
    Sub,
    Mul,
    Div,
    MulAdd,
    Max,
    Min,
    SelectLess,
    TimesExp2,
    Exp,
    Exp2,
}

#[inline(always)]
unsafe fn apply<S: Simd>(operation: Operation, values: &[[f32; 3]], out: &mut [f32]) {
    for (values, out) in values.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        let mut lanes = [[0f32; 16]; 3];
        for (lane, value) in values.iter().enumerate() {
            (0..3).for_each(|operand| lanes[operand][lane] = value[operand]);
        }
        // SAFETY: the caller has the instructions; no vector has more than 16 lanes, and `out` as many as are written.
        unsafe {
            let [a, b, c] = lanes.map(|lanes| S::load(lanes.as_ptr()));
            let result = match operation {
                Operation::Add => a.add(b),
                Operation::Sub => a.sub(b),
                Operation::Mul => a.mul(b),
                Operation::Div => a.div(b),
                Operation::MulAdd => a.mul_add(b, c),
                Operation::Max => a.max(b),
                Operation::Min => a.min(b),
                Operation::SelectLess => a.select_less(b, c, S::splat(2.0)),
                Operation::TimesExp2 => a.times_exp2(b),
                Operation::Exp => exp(a),
                Operation::Exp2 => exp2(a),
            };
            let mut whole = [0f32; 16];
            result.store(whole.as_mut_ptr());
            result.store_first(out.as_mut_ptr(), out.len());
            assert!(out.iter().zip(whole).all(|(a, b)| a.to_bits() == b.to_bits()), "the two ways to store disagree");
        }
    }
}

fn run(isa: Isa, operation: Operation, values: &[[f32; 3]]) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len()];
    let to = &mut out[..];
    with_simd!(isa, apply(operation: Operation, values: &[[f32; 3]], to: &mut [f32]));
    out
}

fn same(a: f32, b: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

#[test]
fn lanes_compute_what_plain_arithmetic_computes() {
    let triples: Vec<[f32; 3]> = HARD.iter().flat_map(|a| HARD.iter().flat_map(|b| HARD.iter().map(|c| [*a, *b, *c]))).collect();
    let plain = |operation, [a, b, c]: [f32; 3]| match operation {
        Operation::Add => a + b,
        Operation::Sub => a - b,
        Operation::Mul => a * b,
        Operation::Div => a / b,
        Operation::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
        Operation::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                c
            } else {
                2.0
            }
        }
    };
    use Operation::{Add, Div, Max, Min, Mul, SelectLess, Sub};
    for isa in Isa::available() {
        for operation in [Add, Sub, Mul, Div, Max, Min, SelectLess] {
            for (values, got) in triples.iter().zip(run(isa, operation, &triples)) {
                let want = plain(operation, *values);
                assert!(same(got, want), "{isa:?} {operation:?} of {values:?}: {got} for {want}");
            }
        }
        for (values, got) in triples.iter().zip(run(isa, Operation::MulAdd, &triples)) {
            let [a, b, c] = *values;
            let allowed = [a.mul_add(b, c), a * b + c];
            assert!(allowed.iter().any(|want| same(got, *want)), "{isa:?} {values:?}: {got} for {allowed:?}");
        }
    }
}

#[test]
fn powers_of_two_are_multiplied_exactly() {
    let cases: Vec<(f32, i32)> = (-126..=127).flat_map(|n| [1.0f32, 1.41, -1.25].map(|x| (x, n))).collect();
    let values: Vec<[f32; 3]> = cases.iter().map(|(x, n)| [*x, 12_582_912.0 + *n as f32, 0.0]).collect();
    for isa in Isa::available() {
        for ((x, n), got) in cases.iter().zip(run(isa, Operation::TimesExp2, &values)) {
            assert_eq!(f64::from(got), f64::from(*x) * 2f64.powi(*n), "{isa:?} {x} 2^{n}");
        }
    }
}

#[test]
fn exponentials_keep_their_relative_precision() {
    let grid: Vec<[f32; 3]> = (-870_000..=880_000).map(|i| [i as f32 * 1e-4, 0.0, 0.0]).collect();
    let wide: Vec<[f32; 3]> = (-1_260_000..=1_260_000).map(|i| [i as f32 * 1e-4, 0.0, 0.0]).collect();
    for isa in Isa::available() {
        let largest = |operation, values: &[[f32; 3]], exact: fn(f64) -> f64| {
            let results = run(isa, operation, values);
            let errors = values.iter().zip(results).map(|([x, ..], got)| {
                let want = exact(f64::from(*x));
                (f64::from(got) / want - 1.0).abs()
            });
            errors.fold(0f64, f64::max)
        };
        let errors = (largest(Operation::Exp, &grid, f64::exp), largest(Operation::Exp2, &wide, f64::exp2));
        println!("{isa:?}: exp {:.2e}, exp2 {:.2e}", errors.0, errors.1);
        assert!(errors.0 < 2e-7 && errors.1 < 2e-7, "{isa:?} {errors:?}");
    }
}

#[test]
fn exponentials_of_extremes_are_bounded_and_nan_stays_nan() {
    let inputs = [f32::NEG_INFINITY, f32::MIN, -1000.0, f32::INFINITY, 1000.0, 0.0, -0.0, 1e-40, f32::NAN];
    let values = inputs.map(|x| [x, 0.0, 0.0]);
    for isa in Isa::available() {
        let got = run(isa, Operation::Exp, &values);
        assert!(got[..3].iter().all(|x| (1.1e-38..1.7e-38).contains(x)), "{isa:?} {got:?}");
        assert!(got[3..5].iter().all(|x| (1.6e38..1.7e38).contains(x)), "{isa:?} {got:?}");
        assert!(got[5..8] == [1.0; 3] && got[8].is_nan(), "{isa:?} {got:?}");
        for bits in [0x7fc0_0001, 0x7fff_ffff, 0xffc1_2345, 0x7f80_0001] {
            for operation in [Operation::Exp, Operation::Exp2] {
                assert!(run(isa, operation, &[[f32::from_bits(bits), 0.0, 0.0]])[0].is_nan(), "{isa:?} {operation:?} {bits:x}");
            }
        }
        let got = run(isa, Operation::Exp2, &values);
        assert_eq!(got[..5], [[f32::MIN_POSITIVE; 3].as_slice(), &[2f32.powi(126); 2]].concat(), "{isa:?}");
        assert!(got[5..8] == [1.0; 3] && got[8].is_nan(), "{isa:?} {got:?}");
    }
}

#[inline(always)]
unsafe fn fold<S: Simd>(values: &[f32], count: usize, out: &mut [f32; 3]) {
    // SAFETY: the caller has the instructions and gives 16 numbers, and no vector is wider; `count` is at most `LANES`.
    unsafe {
        let all = S::load(values.as_ptr());
        out[0] = all.sum() / S::LANES as f32;
        out[1] = all.largest();
        out[2] = S::load_first(values.as_ptr(), count.min(S::LANES)).sum();
    }
}

#[test]
fn lanes_are_summed_and_compared() {
    // Integers, so that the order of the additions does not matter; the same in every half.
    let values: Vec<f32> = (0..16).map(|lane| (lane % 8) as f32 - 3.0).collect();
    for isa in Isa::available() {
        for count in 0..=8 {
            let (from, mut out) = (&values[..], [f32::NAN; 3]);
            let to = &mut out;
            with_simd!(isa, fold(from: &[f32], count: usize, to: &mut [f32; 3]));
            let first: f32 = values[..count].iter().sum();
            assert_eq!(out, [0.5, 4.0, first], "{isa:?} {count}");
        }
    }
}

#[inline(always)]
unsafe fn copy<S: Simd>(from: &[f32], to: &mut [f32]) {
    // SAFETY: the caller has the instructions; neither slice is longer than a vector.
    unsafe { S::load_first(from.as_ptr(), from.len()).store_first(to.as_mut_ptr(), to.len()) }
}

#[test]
fn parts_of_vectors_touch_nothing_behind_them() {
    let source: Vec<f32> = (1..=16).map(|x| x as f32).collect();
    for isa in Isa::available() {
        let lanes = if isa < Isa::Avx512 { 8 } else { 16 };
        for (read, written) in (0..=lanes).flat_map(|read| (0..=lanes).map(move |written| (read, written))) {
            let mut target = [-1f32; 20];
            let (from, to) = (&source[..read], &mut target[..written]);
            with_simd!(isa, copy(from: &[f32], to: &mut [f32]));
            for (index, value) in target.iter().enumerate() {
                let want = if index >= written {
                    -1.0
                } else if index < read {
                    source[index]
                } else {
                    0.0
                };
                assert_eq!(*value, want, "{isa:?} read {read} written {written} at {index}");
            }
        }
    }
}
