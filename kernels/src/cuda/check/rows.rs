//! Rows that move, numbers that change their type.

use super::Check;
use super::trial::{Outcome, REAL, Tensor, indices, numbers, rounded};
use crate::cuda::{DeviceError, DeviceType, Stream};
use crate::rows::cuda::{convert, gather, scatter};
use crate::rows::{NO_ROW, twin};

pub(super) fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    for from in REAL {
        for to in REAL {
            // The type that a device may lack is the case's.
            let dtype = if to == DeviceType::Bf16 { to } else { from };
            for (rows, n, offset) in [(0, 8, 0), (1, 1, 0), (9, 7, 0), (40, 96, 0), (11, 40, 1)] {
                let name = |what: &str| format!("{what} {} to {} [{rows}, {n}] offset {offset}", from.suffix(), to.suffix());
                let shape = (rows, n, offset);
                checks.push(Check::new("rows", dtype, name("gather"), move |stream| compare_gather(stream, from, to, shape)));
                checks.push(Check::new("rows", dtype, name("scatter"), move |stream| compare_scatter(stream, from, to, shape)));
            }
            for (count, offset) in [(0, 0), (1, 0), (8, 0), (4099, 0), (4099, 1)] {
                let name = format!("convert {} to {} [{count}] offset {offset}", from.suffix(), to.suffix());
                checks.push(Check::new("rows", dtype, name, move |stream| compare_convert(stream, from, to, count, offset)));
            }
        }
    }
    checks
}

/// Numbers rounded to `to` as they come from `from`.
fn expected(to: DeviceType, values: &[f32]) -> Vec<f64> {
    rounded(to, values).into_iter().map(f64::from).collect()
}

fn compare_gather(
    stream: &Stream,
    from: DeviceType,
    to: DeviceType,
    (rows, n, offset): (usize, usize, usize),
) -> Result<Outcome, DeviceError> {
    let inputs = 13;
    let values = rounded(from, &numbers(1, inputs * n));
    let mut wanted = indices(2, rows, inputs as u32);
    wanted.iter_mut().skip(2).step_by(4).for_each(|row| *row = NO_ROW);
    let want = expected(to, &twin::gather(&values, n, &wanted));

    let input = Tensor::new(stream, from, &values, offset)?;
    let wanted = Tensor::indices(stream, &wanted)?;
    let output = Tensor::output(stream, to, rows * n, offset)?;
    gather(stream, input.view(), n, wanted.view(), output.view())?;
    output.compare(stream, &want, |_, _| 0.0)
}

fn compare_scatter(
    stream: &Stream,
    from: DeviceType,
    to: DeviceType,
    (rows, n, offset): (usize, usize, usize),
) -> Result<Outcome, DeviceError> {
    let outputs = rows + 5;
    let values = rounded(from, &numbers(1, rows * n));
    // Every row goes to one of its own, in another order.
    let targets: Vec<u32> = (0..rows).map(|row| if row % 4 == 2 { NO_ROW } else { (rows + 2 - row) as u32 }).collect();
    let before = rounded(to, &numbers(3, outputs * n));
    let mut want = before.clone();
    twin::scatter(&values, n, &targets, &mut want);
    let want = expected(to, &want);

    let input = Tensor::new(stream, from, &values, offset)?;
    let targets = Tensor::indices(stream, &targets)?;
    let output = Tensor::new(stream, to, &before, offset)?;
    scatter(stream, input.view(), n, targets.view(), output.view())?;
    output.compare(stream, &want, |_, _| 0.0)
}

/// With numbers that lie between two of the smaller types, beyond the largest, below the smallest, and with NaN.
fn compare_convert(
    stream: &Stream,
    from: DeviceType,
    to: DeviceType,
    count: usize,
    offset: usize,
) -> Result<Outcome, DeviceError> {
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        65504.0,
        65519.0,
        65520.0,
        -65520.0,
        1e38,
        6e-8,
        2e-8,
        3e-8,
        1e-40,
        1.000_488_3,
        1.001_464_8,
        1.003_906_3,
        1.011_718_8,
        f32::MAX,
    ];
    let mut values = numbers(4, count);
    let specials = special.len().min(count);
    values[..specials].copy_from_slice(&special[..specials]);
    let values = rounded(from, &values);
    let want = expected(to, &values);

    let input = Tensor::new(stream, from, &values, offset)?;
    let output = Tensor::output(stream, to, count, offset)?;
    convert(stream, input.view(), output.view())?;
    output.compare(stream, &want, |_, _| 0.0)
}
