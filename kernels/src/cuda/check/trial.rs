//! What comparisons are made of: inputs in a type's precision, outputs between canaries, and the verdict.

use half::{bf16, f16};

use crate::cuda::{Buffer, DeviceError, DeviceType, Stream, View};

/// Bytes of canaries before and behind an output.
const CANARY_BYTES: usize = 256;

/// What canaries are: as real numbers of any type far from what operations compute, and not NaN.
const CANARY: u8 = 0x5a;

/// The result of a comparison.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) error: f64,
    pub(super) of_tolerance: f64,
    pub(super) fault: Option<String>,
}

impl Outcome {
    /// Compares `got` with `want`; `tolerance(index, want)` is what may lie between them. NaN must be NaN and an infinity
    /// the same one.
    pub(super) fn compare(got: &[f64], want: &[f64], tolerance: impl Fn(usize, f64) -> f64) -> Self {
        let mut outcome = Outcome::default();
        if got.len() != want.len() {
            outcome.fault = Some(format!("{} numbers for {}", got.len(), want.len()));
            return outcome;
        }
        for (index, (got, want)) in got.iter().zip(want).enumerate() {
            if got == want || got.is_nan() && want.is_nan() {
                continue;
            }
            let error = (got - want).abs();
            if !error.is_finite() {
                outcome.fault.get_or_insert_with(|| format!("number {index} is {got} instead of {want}"));
                continue;
            }
            outcome.error = outcome.error.max(error);
            outcome.of_tolerance = outcome.of_tolerance.max(error / tolerance(index, *want));
        }
        outcome
    }

    /// This result and that of another output of the same launch.
    pub(super) fn and(self, other: Outcome) -> Self {
        Outcome {
            error: self.error.max(other.error),
            of_tolerance: self.of_tolerance.max(other.of_tolerance),
            fault: self.fault.or(other.fault),
        }
    }
}

/// What rounding `want` to a type may change.
pub(super) fn rounding(dtype: DeviceType, want: f64) -> f64 {
    let (half_step, smallest) = match dtype {
        DeviceType::F16 => (0.5f64.powi(11), 0.5f64.powi(25)),
        DeviceType::Bf16 => (0.5f64.powi(8), 0.5f64.powi(134)),
        _ => (0.5f64.powi(24), 0.5f64.powi(150)),
    };
    want.abs() * half_step + smallest
}

/// The types that operations on activations know.
pub(super) const REAL: [DeviceType; 3] = [DeviceType::F32, DeviceType::F16, DeviceType::Bf16];

/// Pseudo-random numbers from -1 to 1, the same for the same seed.
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32) / (1u32 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Pseudo-random whole numbers below `end`.
pub(super) fn indices(seed: u64, count: usize, end: u32) -> Vec<u32> {
    numbers(seed, count).into_iter().map(|x| (((x + 1.0) / 2.0 * end as f32) as u32).min(end - 1)).collect()
}

/// The bytes of numbers in a type.
pub(super) fn encode(dtype: DeviceType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DeviceType::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        DeviceType::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// The numbers that bytes in a type are.
fn decode(dtype: DeviceType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DeviceType::F16 => bytes.as_chunks::<2>().0.iter().map(|x| f16::from_le_bytes(*x).to_f64()).collect(),
        DeviceType::Bf16 => bytes.as_chunks::<2>().0.iter().map(|x| bf16::from_le_bytes(*x).to_f64()).collect(),
        DeviceType::F32 => bytes.as_chunks::<4>().0.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect(),
        DeviceType::U32 => bytes.as_chunks::<4>().0.iter().map(|x| f64::from(u32::from_le_bytes(*x))).collect(),
        DeviceType::U8 => bytes.iter().map(|x| f64::from(*x)).collect(),
    }
}

/// Numbers as a type keeps them.
pub(super) fn rounded(dtype: DeviceType, values: &[f32]) -> Vec<f32> {
    decode(dtype, &encode(dtype, values)).into_iter().map(|x| x as f32).collect()
}

/// Numbers on the device, between canaries: an input, an output or both.
pub(super) struct Tensor {
    buffer: Buffer,
    view: View,
    start: usize,
}

impl Tensor {
    /// Numbers in a type, beginning `offset` numbers behind where wide accesses may.
    pub(super) fn new(stream: &Stream, dtype: DeviceType, values: &[f32], offset: usize) -> Result<Self, DeviceError> {
        Self::place(stream, dtype, &encode(dtype, values), offset)
    }

    /// Whole numbers.
    pub(super) fn indices(stream: &Stream, values: &[u32]) -> Result<Self, DeviceError> {
        Self::place(stream, DeviceType::U32, bytemuck::cast_slice(values), 0)
    }

    /// Room for an output.
    pub(super) fn output(stream: &Stream, dtype: DeviceType, count: usize, offset: usize) -> Result<Self, DeviceError> {
        Self::place(stream, dtype, &vec![CANARY; count * dtype.bytes()], offset)
    }

    fn place(stream: &Stream, dtype: DeviceType, bytes: &[u8], offset: usize) -> Result<Self, DeviceError> {
        let start = CANARY_BYTES + offset * dtype.bytes();
        let mut placed = vec![CANARY; start];
        placed.extend_from_slice(bytes);
        placed.extend([CANARY; CANARY_BYTES]);
        // The rest behind the last whole number belongs to no view.
        placed.resize(placed.len().next_multiple_of(4), CANARY);
        let buffer = Buffer::upload(stream, &placed)?;
        let view = buffer.view(dtype).part(start / dtype.bytes(), bytes.len() / dtype.bytes());
        Ok(Tensor { buffer, view, start })
    }

    /// Where the numbers are.
    pub(super) fn view(&self) -> View {
        self.view
    }

    /// The numbers, once all work on `stream` is done.
    pub(super) fn read(&self, stream: &Stream) -> Result<Vec<f64>, DeviceError> {
        let bytes = self.buffer.download(stream)?;
        Ok(decode(self.view.dtype, &bytes[self.start..self.start + self.view.bytes()]))
    }

    /// Compares the numbers with `want` as [`Outcome::compare`] does, and looks after the canaries.
    pub(super) fn compare(
        &self,
        stream: &Stream,
        want: &[f64],
        tolerance: impl Fn(usize, f64) -> f64,
    ) -> Result<Outcome, DeviceError> {
        let bytes = self.buffer.download(stream)?;
        let (before, rest) = bytes.split_at(self.start);
        let (inside, behind) = rest.split_at(self.view.bytes());
        let mut outcome = Outcome::compare(&decode(self.view.dtype, inside), want, tolerance);
        for (name, canaries) in [("before", before), ("behind", behind)] {
            if canaries.iter().any(|byte| *byte != CANARY) {
                outcome.fault.get_or_insert_with(|| format!("numbers {name} the output were written"));
            }
        }
        Ok(outcome)
    }
}
