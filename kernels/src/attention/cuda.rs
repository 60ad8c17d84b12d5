//! Attention on a GPU: checks, and the choice of a kernel.
//!
//! Two kernels share the contract. The fused one multiplies on tensor cores: f16 and bf16, head sizes 32, 64, 96 and 128, rows
//! and parts on 16 bytes, a positive scale, no disentangled positions. The general one takes everything else, in f32 on
//! ordinary cores. Which of them it is depends on nothing that changes from batch to batch, and neither lets a row's bits
//! depend on other spans or on the bounds of a launch.

use super::Spec;
use crate::cuda::launch::{aligned, count};
use crate::cuda::{Arg, DeviceError, DeviceType, Grid, Stream, View};

/// Rows of which a part belongs to each head, on the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceHeads {
    /// `[rows, stride]`, f32, f16 or bf16.
    pub values: View,
    /// Numbers from one row to the next; 0 gives every query the same row.
    pub stride: usize,
    /// Where the first head begins in a row.
    pub offset: usize,
}

impl DeviceHeads {
    /// Head 0 of row 0.
    fn address(&self) -> u64 {
        self.values.address + (self.offset * self.values.dtype.bytes()) as u64
    }
}

/// Which rows attend to which, on the device. The numbers in `spans` are the caller's to check: rows lie inside their buffers
/// and no two spans share rows of the output.
#[derive(Debug, Clone, Copy)]
pub struct DeviceSpans {
    /// `[count, 4] u32`: first query, end of the queries, first key, end of the keys. A span without queries costs next to
    /// nothing.
    pub spans: View,
    /// Spans.
    pub count: usize,
    /// At least the number of queries of any span; queries beyond are not computed.
    pub longest_queries: usize,
    /// At least the number of keys of any span.
    pub longest_keys: usize,
}

/// What is added to scores for the positions of query and key; see [`Bias`](super::Bias).
#[derive(Debug, Clone, Copy)]
pub enum DeviceBias {
    /// Nothing.
    None,
    /// A number that depends on head and distance.
    Distance {
        /// `[heads, 2 * reach + 1] f32`.
        table: View,
        /// The largest distance told apart.
        reach: usize,
    },
    /// Products with vectors that depend on the distance, of the type of the values: `[rows, heads * head_size]`.
    Disentangled {
        /// Multiplied with the query; `None` if the model has no such term.
        keys: Option<View>,
        /// Multiplied with the key; `None` if the model has no such term.
        queries: Option<View>,
        /// The row of the vectors for `i - j` from `-reach` to `reach`: `[2 * reach + 1] u32`. The caller checks them.
        rows: View,
    },
}

/// Beyond this no query, key or distance is counted: sums of two fit in 31 bits.
const MOST: usize = 1 << 29;

/// Arguments of the fused kernel.
const FUSED_ARGS: usize = 15;

/// Whether [`attention`] runs on tensor cores for these arguments.
pub fn uses_tensor_cores(parts: [DeviceHeads; 3], spec: &Spec, bias: DeviceBias, output: View) -> bool {
    let narrow = matches!(output.dtype, DeviceType::F16 | DeviceType::Bf16);
    let whole = |heads: DeviceHeads| heads.stride.is_multiple_of(8) && heads.address().is_multiple_of(16);
    narrow
        && matches!(spec.head_size, 32 | 64 | 96 | 128)
        && spec.scale > 0.0
        && !matches!(bias, DeviceBias::Disentangled { .. })
        && parts.into_iter().all(whole)
        && aligned(&[Some(output)])
}

/// Attends within every span, into `output: [rows of the queries, heads * head_size]` of the type of the values. See the
/// [contract](super). Memory of the output is shared with no input.
///
/// # Errors
/// The device fails, or it has no kernel for the type.
///
/// # Panics
/// If sizes or types disagree, or heads are larger than 256.
pub fn attention(
    stream: &Stream,
    parts: [DeviceHeads; 3],
    spans: &DeviceSpans,
    spec: &Spec,
    bias: DeviceBias,
    output: View,
) -> Result<(), DeviceError> {
    check(parts, spans, spec, bias, output);
    let (dtype, size) = (output.dtype, spec.head_size);
    let fused = uses_tensor_cores(parts, spec, bias, output);
    let (name, queries, threads, shared_bytes) = if fused {
        // Warps without queries of a span would only wait.
        let short = spans.longest_queries <= 32;
        let warps = if short { 2 } else { 4 };
        let lines = 2 * (warps * 16 + if size <= 64 { 64 } else { 32 }) * size_of::<f32>();
        let has_lines = matches!(bias, DeviceBias::Distance { .. });
        (fused_name(dtype, size, short), warps * 16, warps as u32 * 32, if has_lines { count(lines) } else { 0 })
    } else {
        let rows = if size <= 128 { 8 } else { 4 };
        (general_name(dtype, size > 128), 4 * rows, 128, general_bytes(4 * rows, size, bias))
    };
    let tiles = spans.longest_queries.div_ceil(queries);
    let (table, reach) = match bias {
        DeviceBias::Distance { table, reach } => (Some(table), reach),
        _ => (None, 0),
    };
    let (position_keys, position_queries, rows) = match bias {
        DeviceBias::Disentangled { keys, queries, rows } => (keys, queries, Some(rows)),
        _ => (None, None, None),
    };
    let [query, key, value] = parts;
    let args = [
        Arg::Address(query.address()),
        Arg::U32(count(query.stride)),
        Arg::Address(key.address()),
        Arg::U32(count(key.stride)),
        Arg::Address(value.address()),
        Arg::U32(count(value.stride)),
        spans.spans.into(),
        Arg::U32(count(tiles)),
        Arg::U32(count(spec.heads)),
        Arg::F32(spec.scale),
        Arg::U32(u32::from(spec.causal)),
        Arg::I32(spec.window.map_or(MOST, |window| window.min(MOST)) as i32),
        table.into(),
        Arg::I32(reach as i32),
        output.into(),
        // The general kernel alone takes the rest.
        Arg::U32(count(size)),
        position_keys.into(),
        position_queries.into(),
        rows.into(),
        Arg::I32(rows.map_or(0, |rows| rows.len / 2) as i32),
    ];
    let args = if fused { &args[..FUSED_ARGS] } else { &args[..] };
    let grid = Grid { blocks: (count(tiles * spans.count), count(spec.heads), 1), threads: (threads, 1, 1), shared_bytes };
    stream.launch("attention", name, grid, args)
}

/// Asserts what kernels rely on, as far as the host knows it.
fn check(parts: [DeviceHeads; 3], spans: &DeviceSpans, spec: &Spec, bias: DeviceBias, output: View) {
    let width = spec.heads * spec.head_size;
    assert!((1..=256).contains(&spec.head_size), "heads of {} numbers: kernels know 1 to 256", spec.head_size);
    assert!((1..=65535).contains(&spec.heads), "{} heads: a launch has 1 to 65535", spec.heads);
    assert!(spans.spans.dtype == DeviceType::U32 && spans.spans.len >= 4 * spans.count, "the spans are not [count, 4] u32");
    assert!(spans.longest_queries <= MOST && spans.longest_keys <= MOST, "a span is longer than kernels count");
    assert!(output.len.is_multiple_of(width), "the output and the heads disagree");
    for (index, part) in parts.into_iter().enumerate() {
        assert!(part.values.dtype == output.dtype, "the output and the values have different types");
        let shared = index == 0 && part.stride == 0;
        assert!(shared || part.offset + width <= part.stride, "heads are wider than rows");
        assert!(!shared || part.offset + width <= part.values.len, "the shared query lies outside its values");
    }
    match bias {
        DeviceBias::None => {}
        DeviceBias::Distance { table, reach } => {
            assert!(reach <= MOST, "distances are larger than kernels count");
            let right = table.dtype == DeviceType::F32 && table.len == spec.heads * (2 * reach + 1);
            assert!(right, "the bias table and the heads disagree");
        }
        DeviceBias::Disentangled { keys, queries, rows } => {
            let right = rows.dtype == DeviceType::U32 && rows.len % 2 == 1 && rows.len / 2 <= MOST;
            assert!(right, "the rows of relative positions must be for -reach to reach");
            for table in [keys, queries].into_iter().flatten() {
                let right = table.dtype == output.dtype && table.len.is_multiple_of(width);
                assert!(right, "vectors of relative positions are not [rows, heads * head_size] of the type of the values");
            }
        }
    }
}

/// Shared memory of a block of the general kernel, as general.cuh lays it out.
fn general_bytes(queries: usize, size: usize, bias: DeviceBias) -> u32 {
    const LANES: usize = 32;
    const STEP: usize = 36;
    let distances = if matches!(bias, DeviceBias::Disentangled { .. }) { queries + LANES - 1 } else { 0 };
    let numbers = queries * (size.next_multiple_of(32) + LANES) + (LANES + 2 * distances) * STEP;
    count(numbers * size_of::<f32>())
}

/// The fused kernel for a type and a head size, for spans of at most 32 queries or for any.
fn fused_name(dtype: DeviceType, size: usize, short: bool) -> &'static str {
    match (dtype, size, short) {
        (DeviceType::F16, 32, true) => "attention_32_short_f16",
        (DeviceType::F16, 32, false) => "attention_32_f16",
        (DeviceType::F16, 64, true) => "attention_64_short_f16",
        (DeviceType::F16, 64, false) => "attention_64_f16",
        (DeviceType::F16, 96, true) => "attention_96_short_f16",
        (DeviceType::F16, 96, false) => "attention_96_f16",
        (DeviceType::F16, 128, true) => "attention_128_short_f16",
        (DeviceType::F16, 128, false) => "attention_128_f16",
        (DeviceType::Bf16, 32, true) => "attention_32_short_bf16",
        (DeviceType::Bf16, 32, false) => "attention_32_bf16",
        (DeviceType::Bf16, 64, true) => "attention_64_short_bf16",
        (DeviceType::Bf16, 64, false) => "attention_64_bf16",
        (DeviceType::Bf16, 96, true) => "attention_96_short_bf16",
        (DeviceType::Bf16, 96, false) => "attention_96_bf16",
        (DeviceType::Bf16, 128, true) => "attention_128_short_bf16",
        (DeviceType::Bf16, 128, false) => "attention_128_bf16",
        _ => panic!("no fused attention for {dtype:?} and heads of {size}"),
    }
}

/// The general kernel for a type, for heads of up to 128 numbers or for wider ones.
fn general_name(dtype: DeviceType, wide: bool) -> &'static str {
    match (dtype, wide) {
        (DeviceType::F32, false) => "attention_general_f32",
        (DeviceType::F32, true) => "attention_wide_f32",
        (DeviceType::F16, false) => "attention_general_f16",
        (DeviceType::F16, true) => "attention_wide_f16",
        (DeviceType::Bf16, false) => "attention_general_bf16",
        (DeviceType::Bf16, true) => "attention_wide_bf16",
        _ => panic!("no attention for {dtype:?}"),
    }
}
