//! Pooling and scaling to unit length.

use super::Check;
use super::trial::{Outcome, REAL, Tensor, numbers, rounded};
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::pool::cuda::{normalize, pool};
use crate::pool::{NORMALIZE_EPSILON, PoolSpec, Pooling, twin};

const ALL: [Pooling; 6] = [Pooling::Cls, Pooling::Max, Pooling::Mean, Pooling::MeanSqrtLen, Pooling::WeightedMean, Pooling::Last];

/// Rows of the sequences: one, few, more than the warps of a block and what they load ahead, none at all.
const LENGTHS: [usize; 9] = [1, 7, 8, 0, 33, 128, 2, 70, 300];

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for dtype in REAL {
        for (n, offset) in [(1, 0), (7, 0), (33, 0), (64, 1), (264, 0), (384, 0), (384, 1)] {
            for is_normalized in [false, true] {
                let spec = PoolSpec { modes: ALL.to_vec(), normalize: is_normalized };
                checks.push(check(dtype, spec, &LENGTHS, n, offset));
            }
        }
        for mode in ALL {
            checks.push(check(dtype, PoolSpec { modes: vec![mode], normalize: true }, &[5, 0, 41], 96, 0));
        }
        checks.push(check(dtype, PoolSpec { modes: vec![Pooling::Mean], normalize: true }, &[], 96, 0));
    }
    for (rows, n) in [(0, 4), (1, 1), (3, 7), (5, 384), (2, 1025)] {
        let name = format!("scaling [{rows}, {n}]");
        checks.push(Check::new("pool", DeviceType::F32, name, move |stream| compare_normalize(stream, rows, n)));
    }
    checks
}

fn check(dtype: DeviceType, spec: PoolSpec, lengths: &'static [usize], n: usize, offset: usize) -> Check {
    let modes = if spec.modes.len() > 1 { "all modes".to_owned() } else { format!("{:?}", spec.modes[0]) };
    let scaled = if spec.normalize { " scaled" } else { "" };
    let name = format!("{modes}{scaled} {} sequences, {n} columns, offset {offset}", lengths.len());
    Check::new("pool", dtype, name, move |stream| compare(stream, dtype, &spec, lengths, n, offset))
}

fn compare(
    stream: &Stream,
    dtype: DeviceType,
    spec: &PoolSpec,
    lengths: &[usize],
    n: usize,
    offset: usize,
) -> Result<Outcome, DeviceError> {
    let rows: usize = lengths.iter().sum();
    let hidden = rounded(dtype, &numbers(1, rows * n));
    let (mut ranges, mut columns, mut next) = (Vec::new(), Vec::new(), 0);
    for length in lengths {
        ranges.extend([next as u32, (next + length) as u32]);
        // Some columns before a sequence were masked, and every third one in it.
        columns.extend((0..*length as u32).map(|row| 3 + row + row / 2));
        next += length;
    }
    let joined = spec.modes.len() * n;
    let one = |range: &[u32]| twin::pool(&hidden, n, range[0] as usize..range[1] as usize, &columns, spec);
    let want: Vec<f64> = ranges.chunks(2).flat_map(one).collect();

    let tensor = Tensor::new(stream, dtype, &hidden, offset)?;
    let (device_ranges, device_columns) = (Tensor::indices(stream, &ranges)?, Tensor::indices(stream, &columns)?);
    let output = Tensor::output(stream, DeviceType::F32, lengths.len() * joined, offset)?;
    pool(stream, tensor.view(), n, device_ranges.view(), lengths.len(), device_columns.view(), spec, output.view())?;
    let bound = |index: usize, _| if spec.normalize { 2e-6 } else { 2e-6 * (lengths[index / joined].max(1) as f64).sqrt() };
    output.compare(stream, &want, bound)
}

/// Rows of ordinary numbers, of numbers whose squares an f32 does not hold, of zeros and with a NaN, in turn.
fn compare_normalize(stream: &Stream, rows: usize, n: usize) -> Result<Outcome, DeviceError> {
    let scales = [1.0, 1e30, 0.0, f32::NAN, 1e-25];
    let values: Vec<f32> = numbers(2, rows * n).into_iter().enumerate().map(|(i, x)| x * scales[i / n % 5]).collect();
    let scaled = |row: &[f32]| {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let length = if length < f64::from(NORMALIZE_EPSILON) { f64::from(NORMALIZE_EPSILON) } else { length };
        row.iter().map(|x| f64::from(*x) / length).collect::<Vec<f64>>()
    };
    let want: Vec<f64> = values.chunks(n).flat_map(scaled).collect();
    let tensor = Tensor::new(stream, DeviceType::F32, &values, 0)?;
    normalize(stream, tensor.view(), n)?;
    tensor.compare(stream, &want, |_, _| 2e-6)
}
