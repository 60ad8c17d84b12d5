//! Products against their specification, and what must not change their bits.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::{Epilogue, Packed, Precision, Residual, matmul, twin};
use crate::activation::Activation;
use crate::isa::Isa;
use crate::team::Team;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

/// A product to compute, with everything that may follow it.
#[derive(Debug, Clone)]
struct Case {
    precision: Precision,
    rows: usize,
    outputs: usize,
    inputs: usize,
    activation: Activation,
    bias: bool,
    residual: Kind,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    None,
    Add,
    Accumulate,
}

/// The numbers of a case.
struct Numbers {
    input: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    residual: Vec<f32>,
    before: Vec<f32>,
}

impl Case {
    fn plain(precision: Precision, rows: usize, outputs: usize, inputs: usize) -> Case {
        let (activation, residual) = (Activation::Identity, Kind::None);
        Case { precision, rows, outputs, inputs, activation, bias: false, residual, seed: 1 }
    }

    fn numbers(&self) -> Numbers {
        let mut state = self.seed | 1;
        let mut some = |count: usize, size: f32| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
            };
            (0..count).map(|_| next()).collect()
        };
        let result = self.rows * self.outputs;
        Numbers {
            input: some(self.rows * self.inputs, 3.0),
            weight: some(self.outputs * self.inputs, 1.0),
            bias: self.bias.then(|| some(self.outputs, 2.0)),
            residual: some(result, 4.0),
            before: some(result, 4.0),
        }
    }

    fn epilogue<'a>(&self, numbers: &'a Numbers) -> Epilogue<'a> {
        let residual = match self.residual {
            Kind::None => Residual::None,
            Kind::Add => Residual::Add(&numbers.residual),
            Kind::Accumulate => Residual::Accumulate,
        };
        Epilogue { bias: numbers.bias.as_deref(), activation: self.activation, residual }
    }

    fn pack(&self, isa: Isa, numbers: &Numbers) -> Packed {
        Packed::pack(isa, self.precision, &numbers.weight, self.outputs, self.inputs)
    }

    /// The result with the instructions and threads given. Nothing around it may be written to.
    fn compute(&self, isa: Isa, threads: usize, numbers: &Numbers) -> Vec<f32> {
        const GUARD: f32 = 12345.0;
        let weights = self.pack(isa, numbers);
        let mut memory = vec![GUARD; numbers.before.len() + 64];
        let end = 32 + numbers.before.len();
        memory[32..end].copy_from_slice(&numbers.before);
        let team = team(isa, threads, weights.scratch_bytes());
        matmul(&team, &numbers.input, &weights, &self.epilogue(numbers), &mut memory[32..end]);
        assert!(memory[..32].iter().chain(&memory[end..]).all(|x| *x == GUARD), "written outside the result");
        memory[32..end].to_vec()
    }

    fn check(&self, isa: Isa, threads: usize) {
        let numbers = self.numbers();
        let result = self.compute(isa, threads, &numbers);
        let residual = twin::residual(self.epilogue(&numbers).residual, &numbers.before);
        for (at, got) in result.iter().enumerate() {
            let (row, output) = (at / self.outputs, at % self.outputs);
            let expected = twin::number(
                self.precision,
                &numbers.input[row * self.inputs..][..self.inputs],
                &numbers.weight[output * self.inputs..][..self.inputs],
                numbers.bias.as_ref().map_or(0.0, |bias| bias[output]),
                self.activation,
                residual[at],
            );
            let error = (f64::from(*got) - expected.value).abs();
            assert!(
                error <= expected.tolerance,
                "{isa:?}, {threads} threads, row {row}, output {output}: got {got}, expected {expected:?}: {self:?}"
            );
        }
    }
}

fn team(isa: Isa, threads: usize, scratch_bytes: usize) -> Team {
    let threads = NonZeroUsize::new(threads).expect("threads");
    Team::new("test", threads, scratch_bytes).expect("threads start").with_isa(isa)
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn cases(rows: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    let sizes = (rows, 1usize..70, 1usize..70);
    let kinds = prop::sample::select(vec![Kind::None, Kind::Add, Kind::Accumulate]);
    let choices = (prop::sample::select(PRECISIONS.to_vec()), prop::sample::select(Activation::ALL.to_vec()), kinds);
    (sizes, choices, any::<bool>(), any::<u64>()).prop_map(|(sizes, choices, bias, seed)| {
        let ((rows, outputs, inputs), (precision, activation, residual)) = (sizes, choices);
        Case { precision, rows, outputs, inputs, activation, bias, residual, seed }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_result_is_the_specified_one(case in cases(0..40), three in any::<bool>()) {
        for isa in Isa::available() {
            case.check(isa, if three { 3 } else { 1 });
        }
    }

    /// Every row has the bits that it has alone, whatever the other rows and the number of threads.
    #[test]
    fn bits_do_not_depend_on_company(case in cases(2..60), row in any::<prop::sample::Index>()) {
        let numbers = case.numbers();
        let (row, n, k) = (row.index(case.rows), case.outputs, case.inputs);
        let alone = Case { rows: 1, ..case.clone() };
        let part = |all: &[f32], width: usize| all[row * width..][..width].to_vec();
        let its = Numbers {
            input: part(&numbers.input, k),
            weight: numbers.weight.clone(),
            bias: numbers.bias.clone(),
            residual: part(&numbers.residual, n),
            before: part(&numbers.before, n),
        };
        for isa in Isa::available() {
            let one = case.compute(isa, 1, &numbers);
            prop_assert_eq!(bits(&one), bits(&case.compute(isa, 3, &numbers)));
            prop_assert_eq!(bits(&one[row * n..][..n]), bits(&alone.compute(isa, 1, &its)));
        }
    }
}

/// Enough inputs for several blocks of steps, and enough rows for several blocks of rows.
#[test]
fn blocks_change_nothing() {
    for (precision, isa) in PRECISIONS.into_iter().flat_map(|precision| Isa::available().map(move |isa| (precision, isa))) {
        let case = Case { activation: Activation::Gelu, bias: true, ..Case::plain(precision, 150, 35, 3201) };
        case.check(isa, 1);
        let numbers = case.numbers();
        let all = case.compute(isa, 1, &numbers);
        assert_eq!(bits(&all), bits(&case.compute(isa, 3, &numbers)), "{isa:?} {precision:?}");
        let last = Numbers { input: numbers.input[149 * 3201..].to_vec(), before: vec![0.0; 35], ..numbers };
        let alone = Case { rows: 1, ..case }.compute(isa, 1, &last);
        assert_eq!(bits(&all[149 * 35..]), bits(&alone), "{isa:?} {precision:?}");
    }
}

/// Rows whose distance would be a multiple of 4 KB, in either precision.
#[test]
fn rows_that_share_cache_lines_are_copied() {
    for (precision, isa) in PRECISIONS.into_iter().flat_map(|precision| Isa::available().map(move |isa| (precision, isa))) {
        for inputs in [1023, 1024, 2047, 2048] {
            Case { residual: Kind::Accumulate, ..Case::plain(precision, 29, 37, inputs) }.check(isa, 3);
        }
    }
}

/// Every number of rows up to several tiles, because each has a loop of its own.
#[test]
fn every_number_of_rows_has_its_loop() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            (0..=45).for_each(|rows| Case::plain(precision, rows, 33, 17).check(isa, 1));
        }
    }
}

#[test]
fn small_integers_are_exact() {
    let input = [1.0, 2.0, 3.0, -4.0, 5.0, -6.0];
    let weight = [1.0, 0.0, -1.0, 2.0, 2.0, 2.0, 0.5, 0.25, 0.125, 0.0, 0.0, 0.0];
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let weights = Packed::pack(isa, precision, &weight, 4, 3);
            assert_eq!((weights.inputs(), weights.outputs()), (3, 4));
            let team = team(isa, 1, weights.scratch_bytes());
            let mut output = [f32::NAN; 8];
            matmul(&team, &input, &weights, &Epilogue::default(), &mut output);
            assert_eq!(output, [-2.0, 12.0, 1.375, 0.0, 2.0, -10.0, -1.5, 0.0], "{isa:?} {precision:?}");
            let bias = [10.0, 20.0, 30.0, 40.0];
            let residual = [100.0; 8];
            let relu = Epilogue { bias: Some(&bias), activation: Activation::Relu, residual: Residual::Add(&residual) };
            matmul(&team, &input, &weights, &relu, &mut output);
            assert_eq!(output, [108.0, 132.0, 131.375, 140.0, 112.0, 110.0, 128.5, 140.0], "{isa:?} {precision:?}");
            matmul(&team, &input, &weights, &Epilogue { residual: Residual::Accumulate, ..relu }, &mut output);
            assert_eq!(output, [116.0, 164.0, 162.75, 180.0, 124.0, 120.0, 157.0, 180.0], "{isa:?} {precision:?}");
        }
    }
}

/// To the nearest, of two equally near to the even one, on both sides of the product.
#[test]
fn bf16_rounds_to_nearest_even() {
    let numbers = [
        (1.0 + 1.0 / 256.0, 1.0),
        (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
        (1.0 + 1.01 / 256.0, 1.0 + 2.0 / 256.0),
        (-1.0 - 1.0 / 256.0, -1.0),
        (f32::INFINITY, f32::INFINITY),
        (f32::MAX, f32::INFINITY),
    ];
    for isa in Isa::available() {
        for (number, rounded) in numbers {
            for (input, weight) in [(number, 1.0), (1.0, number)] {
                let weights = Packed::pack(isa, Precision::Bf16, &[weight], 1, 1);
                let mut output = [0.0];
                let team = team(isa, 1, weights.scratch_bytes());
                matmul(&team, &[input], &weights, &Epilogue::default(), &mut output);
                assert_eq!(output[0], rounded, "{isa:?}: {input} with {weight}");
            }
        }
    }
}

/// Integers are summed exactly, so all instructions agree to the bit.
#[test]
fn integers_have_the_same_bits_everywhere() {
    for (rows, outputs, inputs) in [(1, 1, 1), (7, 33, 50), (30, 40, 4099)] {
        let case = Case { bias: true, residual: Kind::Add, ..Case::plain(Precision::Int8, rows, outputs, inputs) };
        let numbers = case.numbers();
        let plain = case.compute(Isa::Portable, 1, &numbers);
        for isa in Isa::available() {
            assert_eq!(bits(&plain), bits(&case.compute(isa, 2, &numbers)), "{isa:?}");
        }
    }
}

/// The largest sums that there can be, of either sign, stay in 32 bits.
#[test]
fn integers_do_not_overflow() {
    const INPUTS: usize = 65_536;
    let mut input = vec![255.0; 2 * INPUTS];
    input[INPUTS..].fill(-255.0);
    let mut weight = vec![127.0; 2 * INPUTS];
    weight[INPUTS..].fill(-127.0);
    let most = (255 * 127 * INPUTS) as f32;
    for isa in Isa::available() {
        let weights = Packed::pack(isa, Precision::Int8, &weight, 2, INPUTS);
        let mut output = [0.0; 4];
        matmul(&team(isa, 1, weights.scratch_bytes()), &input, &weights, &Epilogue::default(), &mut output);
        assert_eq!(output, [most, -most, -most, most], "{isa:?}");
    }
}

/// Rows of zeros, rows of one number, rows so small or so large that they have no scale.
#[test]
fn integers_of_extreme_rows() {
    let rows = [[0.0, -0.0], [1e-42, -1e-42], [5.0, 5.0], [-5.0, -5.0], [3e38, -3e38], [f32::INFINITY, 0.0]];
    for isa in Isa::available() {
        let weights = Packed::pack(isa, Precision::Int8, &[1.0, 1.0, 0.0, 0.0, 1e-42, 1e-42], 3, 2);
        let mut output = [1.0; 18];
        let team = team(isa, 1, weights.scratch_bytes());
        matmul(&team, rows.as_flattened(), &weights, &Epilogue::default(), &mut output);
        let (whole, spoiled) = output.split_at(12);
        let close = |got: f32, expected: f32| (got - expected).abs() <= 1e-6 * expected.abs();
        for (row, expected) in whole.chunks(3).zip([0.0, 0.0, 10.0, -10.0]) {
            assert!(close(row[0], expected) && row[1] == 0.0 && row[2] == 0.0, "{isa:?}: {row:?}, not {expected}");
        }
        assert!(spoiled.iter().all(|x| x.is_nan()), "{isa:?}: {spoiled:?}");
    }
}

/// Integers are near to what they stand for: the error of a product of random numbers is below a hundredth of its size.
#[test]
fn integers_are_near() {
    let case = Case::plain(Precision::Int8, 20, 30, 384);
    let numbers = case.numbers();
    let near = case.compute(Isa::detect(), 1, &numbers);
    let exact = Case { precision: Precision::F32, ..case }.compute(Isa::detect(), 1, &numbers);
    let size = |of: &mut dyn Iterator<Item = f32>| of.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    let error = size(&mut near.iter().zip(&exact).map(|(a, b)| a - b)) / size(&mut exact.iter().copied());
    assert!(error > 1e-4 && error < 1e-2, "{error}");
}

/// NaN reaches every number that it is a part of, and no other.
#[test]
fn nan_spreads_as_far_as_it_must() {
    // The last bits of this one would carry into the sign if they were rounded.
    for nan in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffff_ffff), f32::from_bits(0x7f80_0001)] {
        for isa in Isa::available() {
            for precision in PRECISIONS {
                let case = Case::plain(precision, 20, 40, 9);
                let mut numbers = case.numbers();
                numbers.input[5 * 9 + 3] = nan;
                numbers.weight[7 * 9 + 8] = nan;
                for (at, value) in case.compute(isa, 1, &numbers).iter().enumerate() {
                    assert_eq!(value.is_nan(), at / 40 == 5 || at % 40 == 7, "{isa:?} {precision:?} {at}");
                }
            }
        }
    }
}

#[test]
fn nothing_makes_nothing() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            Case::plain(precision, 0, 5, 5).check(isa, 3);
            let weights = Packed::pack(isa, precision, &[], 0, 5);
            assert_eq!(weights.bytes(), 0);
            matmul(&team(isa, 1, weights.scratch_bytes()), &[1.0; 10], &weights, &Epilogue::default(), &mut []);
        }
    }
}

/// A weight takes 4 bytes, 2 or 1, once the outputs fill the panels.
#[test]
fn packed_weights_take_their_size() {
    for isa in Isa::available() {
        assert_eq!(Packed::pack(isa, Precision::F32, &[0.0; 64 * 10], 64, 10).bytes(), 64 * 10 * 4);
        assert_eq!(Packed::pack(isa, Precision::Bf16, &[0.0; 64 * 10], 64, 10).bytes(), 64 * 10 * 2);
        // Three steps of four inputs, and a sum and a scale.
        assert_eq!(Packed::pack(isa, Precision::Int8, &[0.0; 64 * 10], 64, 10).bytes(), 64 * (12 + 8));
    }
}
