//! Images to patches, patches to rows.

use super::Check;
use super::trial::{Outcome, REAL, Tensor, numbers, rounded, rounding};
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::patches::cuda::{assemble, patches};
use crate::patches::{PatchSpec, twin};

pub(super) fn checks() -> Vec<Check> {
    let spec = |channels, height, width, patch| PatchSpec { channels, height, width, patch };
    let specs = [
        (0, spec(3, 8, 8, (4, 4)), 0),
        (2, spec(3, 32, 48, (16, 16)), 0),
        (2, spec(3, 28, 42, (14, 14)), 0),
        (3, spec(1, 9, 15, (3, 5)), 0),
        (1, spec(3, 16, 32, (8, 16)), 1),
    ];
    let mut checks = Vec::new();
    for dtype in REAL {
        for (items, spec, offset) in specs {
            let PatchSpec { channels, height, width, patch } = spec;
            let name = format!("cut [{items}, {channels}, {height}, {width}] by {patch:?} offset {offset}");
            checks.push(Check::new("patches", dtype, name, move |stream| compare_cut(stream, dtype, items, &spec, offset)));
        }
        let sizes = [(0, 1, 4, 8, 0), (2, 1, 6, 96, 0), (3, 0, 4, 40, 0), (3, 5, 4, 40, 1), (2, 1, 3, 7, 0)];
        for (items, before, patches, n, offset) in sizes {
            for output in [dtype, DeviceType::F32] {
                let to = output.suffix();
                let name = format!("assemble [{items}, {before} + {patches}, {n}] to {to} offset {offset}");
                let sizes = (items, before, patches, n);
                checks.push(Check::new("patches", dtype, name, move |stream| {
                    compare_assemble(stream, [dtype, output], sizes, offset)
                }));
            }
        }
    }
    checks
}

fn compare_cut(
    stream: &Stream,
    dtype: DeviceType,
    items: usize,
    spec: &PatchSpec,
    offset: usize,
) -> Result<Outcome, DeviceError> {
    let pixels = numbers(1, items * spec.pixels());
    let want: Vec<f64> = rounded(dtype, &twin::patches(&pixels, spec)).into_iter().map(f64::from).collect();
    let input = Tensor::new(stream, DeviceType::F32, &pixels, offset)?;
    let output = Tensor::output(stream, dtype, pixels.len(), 0)?;
    patches(stream, input.view(), spec, output.view())?;
    output.compare(stream, &want, |_, _| 0.0)
}

fn compare_assemble(
    stream: &Stream,
    [dtype, to]: [DeviceType; 2],
    (items, before, count, n): (usize, usize, usize, usize),
    offset: usize,
) -> Result<Outcome, DeviceError> {
    let values = rounded(dtype, &numbers(2, items * count * n));
    let (first, positions) = (numbers(3, before * n), numbers(4, (before + count) * n));
    let want = twin::assemble(&values, &first, &positions);
    let values = Tensor::new(stream, dtype, &values, offset)?;
    let first = (before > 0).then(|| Tensor::new(stream, DeviceType::F32, &first, 0)).transpose()?;
    let positions = Tensor::new(stream, DeviceType::F32, &positions, 0)?;
    let output = Tensor::output(stream, to, want.len(), 0)?;
    let first = first.as_ref().map(Tensor::view);
    assemble(stream, values.view(), first, positions.view(), n, items, output.view())?;
    output.compare(stream, &want, |_, want| rounding(DeviceType::F32, want) + rounding(to, want))
}
