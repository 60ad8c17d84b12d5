//! What a row or a sequence gives does not depend on what else is in the batch, to the bit.

use kernels::cuda::{Buffer, DeviceType, Stream, View};
use kernels::norm::cuda::{DeviceNorm, norm};
use kernels::pool::cuda::pool;
use kernels::pool::{PoolSpec, Pooling};

use crate::device::stream;

/// Numbers from -1 to 1 that do not repeat.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index as f32 * 0.618).sin()).collect()
}

fn floats(stream: &Stream, values: &[f32]) -> Buffer {
    Buffer::upload(stream, bytemuck::cast_slice(values)).unwrap()
}

fn whole(stream: &Stream, values: &[u32]) -> Buffer {
    Buffer::upload(stream, bytemuck::cast_slice(values)).unwrap()
}

#[test]
fn a_normalized_row_is_the_same_alone() {
    let stream = stream();
    // A width for warps, one for blocks, and one for blocks that read again.
    for n in [384, 1028, 4100] {
        let rows = 5;
        let input = floats(&stream, &numbers(rows * n));
        let weight = floats(&stream, &numbers(n));
        let spec = DeviceNorm { weight: weight.view(DeviceType::F32), bias: None, eps: 1e-5 };
        let run = |part: View| {
            let output = Buffer::new(&stream, part.bytes()).unwrap();
            norm(&stream, part, None, &spec, None, output.view(DeviceType::F32)).unwrap();
            output.download(&stream).unwrap()
        };
        let together = run(input.view(DeviceType::F32));
        for row in 0..rows {
            let alone = run(input.view(DeviceType::F32).part(row * n, n));
            assert!(together[row * n * 4..][..n * 4] == alone, "row {row} of width {n} differs alone");
        }
    }
}

#[test]
fn a_pooled_sequence_is_the_same_alone() {
    let stream = stream();
    let n = 96;
    let lengths = [3, 41, 1, 300];
    let rows = lengths.iter().sum::<usize>();
    let hidden = floats(&stream, &numbers(rows * n));
    let columns = whole(&stream, &(0..rows as u32).collect::<Vec<u32>>());
    let spec = PoolSpec { modes: vec![Pooling::Mean, Pooling::WeightedMean, Pooling::Max], normalize: true };
    let run = |ranges: &[u32]| {
        let items = ranges.len() / 2;
        let device_ranges = whole(&stream, ranges);
        let output = Buffer::new(&stream, items * 3 * n * 4).unwrap();
        let (hidden, columns) = (hidden.view(DeviceType::F32), columns.view(DeviceType::U32));
        let device_ranges = device_ranges.view(DeviceType::U32);
        pool(&stream, hidden, n, device_ranges, items, columns, &spec, output.view(DeviceType::F32)).unwrap();
        output.download(&stream).unwrap()
    };
    let mut ranges = Vec::new();
    let mut next = 0;
    for length in lengths {
        ranges.extend([next, next + length as u32]);
        next += length as u32;
    }
    let together = run(&ranges);
    for (item, range) in ranges.chunks(2).enumerate() {
        assert!(together[item * 3 * n * 4..][..3 * n * 4] == run(range), "sequence {item} differs alone");
    }
}
