//! Normalization.

use super::Check;
use super::trial::{Outcome, REAL, Tensor, numbers, rounded, rounding};
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::norm::cuda::{DeviceNorm, norm};
use crate::norm::{Norm, twin};

/// Rows and their width: around what warps and blocks hold, what packs divide and what they do not, long rows that are read
/// again, more rows than a grid has teams, none.
const SHAPES: [(usize, usize); 20] = [
    (0, 8),
    (1, 1),
    (3, 2),
    (5, 7),
    (4, 32),
    (6, 33),
    (70, 96),
    (9, 384),
    (2, 511),
    (3, 512),
    (3, 513),
    (5, 768),
    (7, 1024),
    (2, 1025),
    (3, 1032),
    (2, 2049),
    (2, 4096),
    (2, 4104),
    (1, 5001),
    (16_390, 8),
];

/// A comparison's sizes.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    n: usize,
    /// How many numbers behind an aligned address tensors begin.
    offset: usize,
    /// Whether there are a residual, sums and a bias.
    whole: bool,
    /// What is added to all inputs.
    shift: f32,
    output: DeviceType,
}

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for dtype in REAL {
        let plain = |(rows, n)| Shape { rows, n, offset: 0, whole: true, shift: 0.0, output: dtype };
        let shapes = SHAPES.into_iter().map(plain);
        let bare = [(6, 33), (9, 384), (2, 4104)].map(|shape| Shape { whole: false, ..plain(shape) });
        let unaligned = [(3, 40), (2, 768), (2, 2056)].map(|shape| Shape { offset: 1, ..plain(shape) });
        let shifted = [(9, 384), (3, 1032)].map(|shape| Shape { shift: 100.0, ..plain(shape) });
        let to_f32 = [(5, 7), (9, 384), (3, 1032)].map(|shape| Shape { output: DeviceType::F32, ..plain(shape) });
        for shape in shapes.chain(bare).chain(unaligned).chain(shifted).chain(to_f32) {
            let Shape { rows, n, offset, whole, shift, output } = shape;
            let extra = if whole { " residual sum bias" } else { "" };
            let name = format!("[{rows}, {n}] offset {offset} shift {shift}{extra} to {}", output.suffix());
            checks.push(Check::new("norm", dtype, name, move |stream| compare(stream, dtype, shape)));
        }
        checks.push(Check::new("norm", dtype, "[3, 40] of which one row has a NaN".to_owned(), move |stream| {
            one_nan(stream, dtype)
        }));
    }
    checks
}

fn compare(stream: &Stream, dtype: DeviceType, shape: Shape) -> Result<Outcome, DeviceError> {
    let Shape { rows, n, offset, whole, shift, output } = shape;
    let input: Vec<f32> = numbers(1, rows * n).into_iter().map(|x| 4.0 * x + shift).collect();
    let input = rounded(dtype, &input);
    let residual = whole.then(|| rounded(dtype, &numbers(2, rows * n)));
    let weight: Vec<f32> = numbers(3, n).into_iter().map(|x| 2.0 * x).collect();
    let bias = whole.then(|| numbers(4, n));
    let spec = Norm { weight: &weight, bias: bias.as_deref(), eps: 1e-5 };
    let (want, conditions) = twin::norm(&input, residual.as_deref(), &spec);
    let sums: Vec<f64> = match &residual {
        Some(residual) => input.iter().zip(residual).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect(),
        None => Vec::new(),
    };

    let weight = Tensor::new(stream, DeviceType::F32, &weight, offset)?;
    let bias = bias.map(|bias| Tensor::new(stream, DeviceType::F32, &bias, offset)).transpose()?;
    let input = Tensor::new(stream, dtype, &input, offset)?;
    // The sum replaces the residual, as it does in a model.
    let residual = residual.map(|residual| Tensor::new(stream, dtype, &residual, offset)).transpose()?;
    let result = Tensor::output(stream, output, rows * n, offset)?;
    let sum = residual.as_ref().map(Tensor::view);
    let spec = DeviceNorm { weight: weight.view(), bias: bias.as_ref().map(Tensor::view), eps: 1e-5 };
    norm(stream, input.view(), sum, &spec, sum, result.view())?;

    let bound = |index: usize, want: f64| 2e-6 * 2.0 * conditions[index / n] + rounding(output, want);
    let outcome = result.compare(stream, &want, bound)?;
    match residual {
        Some(sum) => {
            let bound = |_, want| rounding(DeviceType::F32, want) + rounding(dtype, want);
            Ok(outcome.and(sum.compare(stream, &sums, bound)?))
        }
        None => Ok(outcome),
    }
}

/// NaN stays in its row and fills it.
fn one_nan(stream: &Stream, dtype: DeviceType) -> Result<Outcome, DeviceError> {
    let mut input = rounded(dtype, &numbers(5, 3 * 40));
    input[40 + 17] = f32::NAN;
    let weight = vec![1.0; 40];
    let (want, _) = twin::norm(&input, None, &Norm { weight: &weight, bias: None, eps: 1e-5 });
    let weight = Tensor::new(stream, DeviceType::F32, &weight, 0)?;
    let input = Tensor::new(stream, dtype, &input, 0)?;
    let result = Tensor::output(stream, dtype, 3 * 40, 0)?;
    let spec = DeviceNorm { weight: weight.view(), bias: None, eps: 1e-5 };
    norm(stream, input.view(), None, &spec, None, result.view())?;
    result.compare(stream, &want, |_, want| 1e-5 + rounding(dtype, want))
}
