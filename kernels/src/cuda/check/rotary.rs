//! Rotation.

use super::Check;
use super::trial::{Outcome, REAL, Tensor, indices, numbers, rounded, rounding};
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::rotary::cuda::{DeviceRotary, rotary};
use crate::rotary::{Pairs, Rotary, twin};

/// Positions that there are angles for.
const POSITIONS: u32 = 600;

const BASE: f64 = 10_000.0;

/// A comparison's sizes.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    heads: usize,
    head_size: usize,
    dims: usize,
    /// Numbers of a row behind the heads.
    rest: usize,
    offset: usize,
}

pub(super) fn checks() -> Vec<Check> {
    let shape = |rows, heads, head_size, dims, rest, offset| Shape { rows, heads, head_size, dims, rest, offset };
    let shapes = [
        shape(0, 2, 8, 8, 0, 0),
        shape(1, 1, 2, 2, 0, 0),
        shape(17, 4, 64, 64, 128, 0),
        shape(5, 3, 32, 16, 96, 0),
        shape(5, 3, 32, 16, 96, 1),
        shape(6, 2, 10, 6, 3, 0),
        shape(9, 2, 96, 24, 8, 0),
    ];
    let mut checks = Vec::new();
    for dtype in REAL {
        for pairs in [Pairs::Halves, Pairs::Adjacent] {
            for shape in shapes {
                let Shape { rows, heads, head_size, dims, rest, offset } = shape;
                let name = format!("{pairs:?} [{rows}, {heads} * {head_size} + {rest}] dims {dims} offset {offset}");
                checks.push(Check::new("rotary", dtype, name, move |stream| compare(stream, dtype, pairs, shape)));
            }
        }
    }
    checks
}

fn compare(stream: &Stream, dtype: DeviceType, pairs: Pairs, shape: Shape) -> Result<Outcome, DeviceError> {
    let Shape { rows, heads, head_size, dims, rest, offset } = shape;
    let stride = heads * head_size + rest;
    let values = rounded(dtype, &numbers(1, rows * stride));
    let positions = indices(2, rows, POSITIONS);
    let mut want: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
    for (row, position) in positions.iter().enumerate() {
        for head in 0..heads {
            let part = row * stride + head * head_size..row * stride + (head + 1) * head_size;
            want[part.clone()].copy_from_slice(&twin::head(&values[part], dims, BASE, pairs, *position));
        }
    }

    let table = Rotary::new(POSITIONS as usize, dims, BASE, pairs);
    let cos = Tensor::new(stream, DeviceType::F32, table.cosines(), 0)?;
    let sin = Tensor::new(stream, DeviceType::F32, table.sines(), 0)?;
    let tensor = Tensor::new(stream, dtype, &values, offset)?;
    let positions = Tensor::indices(stream, &positions)?;
    let table = DeviceRotary { cos: cos.view(), sin: sin.view(), dims: table.dims(), pairs: table.pairs() };
    rotary(stream, tensor.view(), stride, (heads, head_size), positions.view(), &table)?;
    // Numbers that are not turned must not change at all, which the comparison would not see within a tolerance.
    let turned = |index: usize| index % stride < heads * head_size && index % stride % head_size < dims;
    tensor.compare(stream, &want, |index, want| if turned(index) { 3e-7 + rounding(dtype, want) } else { 0.0 })
}
