//! Products.

use super::Check;
use super::trial::{Outcome, Tensor, numbers, rounded, rounding};
use crate::activation::Activation;
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::matmul::cuda::{DeviceEpilogue, DeviceMatrix, Multiplier, Tuning};
use crate::matmul::{Precision, twin};

/// Scratch memory: less than what the library would like, so that it has to choose.
const WORKSPACE_BYTES: usize = 4 << 20;

/// Types of inputs and outputs.
const TYPES: [(DeviceType, DeviceType); 5] = [
    (DeviceType::F32, DeviceType::F32),
    (DeviceType::F16, DeviceType::F16),
    (DeviceType::F16, DeviceType::F32),
    (DeviceType::Bf16, DeviceType::Bf16),
    (DeviceType::Bf16, DeviceType::F32),
];

/// Rows, outputs and inputs that all types have.
const SHAPES: [(usize, usize, usize); 9] = [
    (0, 16, 8),
    (1, 8, 8),
    (1, 384, 384),
    (3, 40, 24),
    (17, 96, 384),
    (64, 1152, 384),
    (130, 64, 128),
    (33, 384, 1536),
    (7, 16, 4096),
];

/// The same, for f32: nothing is a multiple of anything.
const ODD_SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 5, 7), (2, 3, 385), (19, 30, 33)];

/// What follows the product.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Bias,
    Activation(Activation),
    BiasActivation(Activation),
    Residual,
    /// With a bias; the residual is the output.
    InPlace,
}

const KINDS: [Kind; 8] = [
    Kind::Plain,
    Kind::Bias,
    Kind::Activation(Activation::Relu),
    Kind::BiasActivation(Activation::Relu),
    Kind::Activation(Activation::GeluTanh),
    Kind::BiasActivation(Activation::GeluTanh),
    Kind::Residual,
    Kind::InPlace,
];

/// A comparison's sizes.
#[derive(Clone, Copy)]
struct Shape {
    sizes: (usize, usize, usize),
    kind: Kind,
    from: DeviceType,
    to: DeviceType,
    /// How many numbers behind an aligned address the input and the output begin.
    offset: usize,
    tuning: Tuning,
}

pub(super) fn checks() -> Vec<Check> {
    let mut shapes = Vec::new();
    for (from, to) in TYPES {
        let shape = |sizes, kind| Shape { sizes, kind, from, to, offset: 0, tuning: Tuning::First };
        shapes.extend(SHAPES.map(|sizes| shape(sizes, Kind::Bias)));
        shapes.extend(KINDS.map(|kind| shape((24, 80, 64), kind)));
        // Measuring makes the product many times: the result must be that of one.
        shapes.extend([Kind::Bias, Kind::InPlace].map(|kind| Shape { tuning: Tuning::Timed, ..shape((40, 64, 96), kind) }));
        if from == DeviceType::F32 {
            shapes.extend(ODD_SHAPES.map(|sizes| shape(sizes, Kind::Bias)));
            shapes.extend(KINDS.map(|kind| Shape { offset: 1, ..shape((5, 11, 13), kind) }));
        }
    }
    let check = |shape: Shape| {
        let Shape { sizes: (rows, outputs, inputs), kind, from, to, offset, tuning } = shape;
        let name = format!("[{rows}, {inputs}] x [{outputs}, {inputs}] to {} {kind:?} offset {offset} {tuning:?}", to.suffix());
        Check::new("matmul", from, name, move |stream| compare(stream, shape))
    };
    shapes.into_iter().map(check).collect()
}

/// The numbers of a product.
struct Numbers {
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
    activation: Activation,
}

impl Numbers {
    fn new(shape: Shape) -> Self {
        let Shape { sizes: (rows, outputs, inputs), kind, from, to, .. } = shape;
        let weights: Vec<f32> = numbers(2, outputs * inputs).into_iter().map(|x| x * 3.0 / (inputs as f32).sqrt()).collect();
        let has_bias = matches!(kind, Kind::Bias | Kind::BiasActivation(_) | Kind::InPlace);
        let has_residual = matches!(kind, Kind::Residual | Kind::InPlace);
        Numbers {
            input: rounded(from, &numbers(1, rows * inputs)),
            weights: rounded(from, &weights),
            bias: has_bias.then(|| rounded(to, &numbers(3, outputs))),
            residual: has_residual.then(|| rounded(to, &numbers(4, rows * outputs))),
            activation: match kind {
                Kind::Activation(activation) | Kind::BiasActivation(activation) => activation,
                _ => Activation::Identity,
            },
        }
    }

    /// What the twin says, number by number, and what may lie between it and a kernel's before rounding.
    fn expected(&self, (rows, outputs, inputs): (usize, usize, usize)) -> (Vec<f64>, Vec<f64>) {
        let mut expected = (Vec::new(), Vec::new());
        for row in 0..rows {
            for output in 0..outputs {
                let input = &self.input[row * inputs..][..inputs];
                let weights = &self.weights[output * inputs..][..inputs];
                let bias = self.bias.as_ref().map_or(0.0, |bias| bias[output]);
                let residual = self.residual.as_ref().map_or(0.0, |residual| residual[row * outputs + output]);
                let number = |activation| twin::number(Precision::F32, input, weights, bias, activation, residual);
                let (sum, result) = (number(Activation::Identity), number(self.activation));
                let library = match self.activation {
                    Activation::GeluTanh => 0.5f64.powi(11) * sum.value.abs().max(result.value.abs()),
                    _ => 0.0,
                };
                expected.0.push(result.value);
                expected.1.push(sum.tolerance + result.tolerance + library);
            }
        }
        expected
    }
}

fn compare(stream: &Stream, shape: Shape) -> Result<Outcome, DeviceError> {
    let Shape { sizes: (rows, outputs, inputs), kind, from, to, offset, tuning } = shape;
    let numbers = Numbers::new(shape);
    let (want, tolerance) = numbers.expected(shape.sizes);
    let input = Tensor::new(stream, from, &numbers.input, offset)?;
    let weights = Tensor::new(stream, from, &numbers.weights, 0)?;
    let bias = numbers.bias.as_ref().map(|bias| Tensor::new(stream, to, bias, offset)).transpose()?;
    let residual = numbers.residual.as_ref().map(|residual| Tensor::new(stream, to, residual, offset)).transpose()?;
    let output = Tensor::output(stream, to, rows * outputs, offset)?;
    let target = match &residual {
        Some(residual) if kind == Kind::InPlace => residual,
        _ => &output,
    };
    let mut multiplier = Multiplier::for_owner(stream, WORKSPACE_BYTES, "", tuning)?;
    let matrix = DeviceMatrix { values: weights.view(), outputs, inputs };
    let epilogue = DeviceEpilogue {
        bias: bias.as_ref().map(Tensor::view),
        activation: numbers.activation,
        residual: residual.as_ref().map(Tensor::view),
    };
    multiplier.run(stream, input.view(), rows, &matrix, epilogue, target.view())?;
    target.compare(stream, &want, |index, want| tolerance[index] + rounding(to, want))
}
