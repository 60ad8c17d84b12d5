//! How fast a device is: what it copies, multiplies and launches in a second, measured on the spot.
//!
//! Each number is the best of a few measurements of enough repetitions, as everything that disturbs one makes it worse.

use std::time::Instant;

use super::trial::{encode, numbers};
use crate::activation::Activation;
use crate::activation::cuda::activate;
use crate::cuda::{Buffer, DeviceError, DeviceType, DownloadRing, Event, Stream, UploadSlot};
use crate::matmul::cuda::{DeviceEpilogue, DeviceMatrix, Multiplier, Tuning};

/// Measurements of which the best counts.
const TRIES: usize = 3;
/// Seconds that a measurement is to take, so that reading the time does not matter.
const ENOUGH: f64 = 0.02;
/// Repetitions that are enough in any case.
const MOST_REPETITIONS: usize = 4096;
/// Seconds of one product after which no larger one is tried.
const SLOW: f64 = 0.03;
/// Scratch memory of products: what the library asks for on the newest devices.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Rows, columns and inner numbers of the products that are tried, in order.
const SIZES: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Sizes that fit no cache and keep the whole device busy.
    Full,
    /// Sizes that show that everything works; the numbers mean little.
    Quick,
}

/// Bytes a second of copies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CopyRates {
    /// From pinned memory of the host.
    pub pinned_to_device: f64,
    /// From other memory of the host.
    pub pageable_to_device: f64,
    /// To pinned memory of the host.
    pub device_to_pinned: f64,
    /// To other memory of the host.
    pub device_to_pageable: f64,
    /// On the device, what is read and what is written together.
    pub on_device: f64,
}

/// The fastest product of a type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProductRate {
    /// Type of all its numbers; sums are f32.
    pub dtype: DeviceType,
    /// Rows, columns and inner numbers.
    pub size: usize,
    /// Multiplications and additions a second.
    pub operations: f64,
}

/// Measures copies.
///
/// # Errors
/// The device fails, or memory is short.
pub fn copies(stream: &Stream, effort: Effort) -> Result<CopyRates, DeviceError> {
    // Larger than the caches of any device.
    let (on_device, to_host) = match effort {
        Effort::Full => (512 << 20, 64 << 20),
        Effort::Quick => (4 << 20, 1 << 20),
    };
    let gpu = stream.gpu();
    let (one, other) = (Buffer::new(stream, on_device)?, Buffer::new(stream, on_device)?);
    stream.fill(one.view(DeviceType::U8), 1)?;
    let part = one.view(DeviceType::U8).part(0, to_host);
    let mut host = vec![1u8; to_host];
    let mut slot = UploadSlot::new(gpu, to_host, "")?;
    slot.fill(|bytes| bytes.fill(1))?;
    let ring = DownloadRing::new(gpu, 1, to_host, "")?;
    let rate = |bytes: usize, seconds: f64| bytes as f64 / seconds;
    let within = on_stream(stream, || stream.copy(one.view(DeviceType::U8), other.view(DeviceType::U8)))?;
    let up = on_stream(stream, || slot.upload(stream, 0..to_host, part))?;
    let down = on_host(|| ring.take()?.download(stream, part)?.wait().map(drop))?;
    let pageable_up = on_host(|| one.write(stream, &host))?;
    let pageable_down = on_host(|| one.read(stream, &mut host))?;
    Ok(CopyRates {
        pinned_to_device: rate(to_host, up),
        pageable_to_device: rate(to_host, pageable_up),
        device_to_pinned: rate(to_host, down),
        device_to_pageable: rate(to_host, pageable_down),
        on_device: rate(2 * on_device, within),
    })
}

/// Measures square products of larger and larger size, up to where the device has no memory for them or takes long.
///
/// # Errors
/// The device fails, or has no memory for the smallest.
pub fn products(stream: &Stream, dtype: DeviceType, effort: Effort) -> Result<ProductRate, DeviceError> {
    let (tuning, most) = match effort {
        Effort::Full => (Tuning::Timed, SIZES.len()),
        Effort::Quick => (Tuning::First, 1),
    };
    let mut multiplier = Multiplier::for_owner(stream, WORKSPACE_BYTES, "", tuning)?;
    let mut best: Option<ProductRate> = None;
    for size in SIZES.into_iter().take(most) {
        let seconds = match product(stream, &mut multiplier, dtype, size) {
            Err(DeviceError::OutOfMemory { .. }) if best.is_some() => break,
            other => other?,
        };
        let operations = 2.0 * (size as f64).powi(3) / seconds;
        if best.is_none_or(|best| operations > best.operations) {
            best = Some(ProductRate { dtype, size, operations });
        }
        if seconds > SLOW {
            break;
        }
    }
    Ok(best.expect("at least one size is tried"))
}

/// Seconds of one product.
fn product(stream: &Stream, multiplier: &mut Multiplier, dtype: DeviceType, size: usize) -> Result<f64, DeviceError> {
    let bytes = size * size * dtype.bytes();
    let [input, weights, output] = [(); 3].map(|()| Buffer::new(stream, bytes));
    let (input, weights, output) = (input?, weights?, output?);
    // Devices slow down when many bits change, so the numbers are like real ones. The smallest size repeats itself.
    let pattern = Buffer::upload(stream, &encode(dtype, &numbers(size as u64, SIZES[0] * SIZES[0])))?;
    for buffer in [&input, &weights] {
        for start in (0..bytes).step_by(pattern.bytes()) {
            stream.copy(pattern.view(DeviceType::U8), buffer.view(DeviceType::U8).part(start, pattern.bytes()))?;
        }
    }
    let matrix = DeviceMatrix { values: weights.view(dtype), outputs: size, inputs: size };
    let (input, output) = (input.view(dtype), output.view(dtype));
    on_stream(stream, || multiplier.run(stream, input, size, &matrix, DeviceEpilogue::default(), output))
}

/// Seconds from one launch to the next where launches follow each other and each has next to nothing to do.
///
/// # Errors
/// The device fails.
pub fn launches(stream: &Stream) -> Result<f64, DeviceError> {
    let buffer = Buffer::upload(stream, &[0; 16])?;
    let values = buffer.view(DeviceType::F32);
    on_stream(stream, || activate(stream, values, None, Activation::Relu))
}

/// Seconds on the device of what `work` enqueues.
fn on_stream(stream: &Stream, mut work: impl FnMut() -> Result<(), DeviceError>) -> Result<f64, DeviceError> {
    let (start, end) = (Event::timed(stream.gpu())?, Event::timed(stream.gpu())?);
    work()?;
    fastest(|repetitions| {
        start.record(stream)?;
        (0..repetitions).try_for_each(|_| work())?;
        end.record(stream)?;
        end.wait()?;
        Ok(f64::from(start.elapsed_ms(&end)?) / 1e3)
    })
}

/// Seconds of what `work` does and waits for.
fn on_host(mut work: impl FnMut() -> Result<(), DeviceError>) -> Result<f64, DeviceError> {
    work()?;
    fastest(|repetitions| {
        let start = Instant::now();
        (0..repetitions).try_for_each(|_| work())?;
        Ok(start.elapsed().as_secs_f64())
    })
}

/// Seconds of one repetition: the least, of enough repetitions each. `seconds` are those of so many.
fn fastest<E>(mut seconds: impl FnMut(usize) -> Result<f64, E>) -> Result<f64, E> {
    let mut repetitions = 1;
    let mut least = seconds(repetitions)?;
    while least < ENOUGH && repetitions < MOST_REPETITIONS {
        repetitions *= 4;
        least = seconds(repetitions)?;
    }
    for _ in 1..TRIES {
        least = least.min(seconds(repetitions)?);
    }
    // A clock that stood still tells nothing; no device does anything in a picosecond.
    Ok((least / repetitions as f64).max(1e-12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_work_is_repeated_and_the_best_counts() {
        let mut asked = Vec::new();
        let took = fastest(|repetitions| {
            asked.push(repetitions);
            Ok::<_, ()>(repetitions as f64 * if asked.len() == 6 { 0.9e-4 } else { 1e-4 })
        });
        assert_eq!(asked, [1, 4, 16, 64, 256, 256, 256]);
        assert!((took.unwrap() - 0.9e-4).abs() < 1e-9);
        let mut asked = 0;
        let long = fastest(|repetitions| {
            asked += repetitions;
            Ok::<_, ()>(1.0)
        });
        assert_eq!((long, asked), (Ok(1.0), TRIES));
        assert_eq!(fastest(|_| Ok::<_, ()>(0.0)), Ok(1e-12));
    }
}
