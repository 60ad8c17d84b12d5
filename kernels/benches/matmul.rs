//! Matrix products, beside the most that one core can do:
//! `taskset -c 1 cargo bench -p kernels --bench matmul -- [isa] [1536x384] [rows=64]`.
//!
//! Columns: billions of operations (two for each weight and row) per second, and the share of the measured peak. "stream"
//! multiplies with so many weights in turn that they come from memory, as in a model; "again" with the same ones.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::activation::Activation;
use kernels::isa::Isa;
use kernels::matmul::{Epilogue, Packed, Precision, Residual, matmul};
use kernels::team::Team;

/// Outputs and inputs: MiniLM (384), BERT base (768) and large (1024).
const SIZES: [(usize, usize); 10] = [
    (1152, 384),
    (384, 384),
    (1536, 384),
    (384, 1536),
    (2304, 768),
    (768, 768),
    (3072, 768),
    (768, 3072),
    (4096, 1024),
    (1024, 4096),
];

const ROWS: [usize; 9] = [1, 5, 8, 16, 32, 64, 128, 256, 512];

/// Weights that no cache holds.
const STREAMED_BYTES: usize = 80 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("matmul: measures only with --bench, which cargo bench says and cargo test does not");
        return;
    }
    let isa = |name: &str| Isa::available().find(|isa| format!("{isa:?}").eq_ignore_ascii_case(name));
    let isa = arguments.iter().find_map(|argument| isa(argument)).unwrap_or(Isa::detect());
    let rows = arguments.iter().find_map(|argument| argument.strip_prefix("rows=")?.parse().ok());
    let filter = arguments.iter().find(|argument| argument.starts_with(|first: char| first.is_ascii_digit()));
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let peak = peak(isa, precision);
        println!("{precision:?} on {isa:?}: peak {peak:.0} Gop/s");
        for (outputs, inputs) in SIZES {
            let name = format!("{outputs}x{inputs}");
            if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
                continue;
            }
            size(isa, precision, peak, outputs, inputs, rows);
        }
        packing(isa, precision);
    }
}

fn size(isa: Isa, precision: Precision, peak: f64, outputs: usize, inputs: usize, only: Option<usize>) {
    let mut random = 1u32;
    let mut numbers = |count: usize| -> Vec<f32> {
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    };
    let weight = numbers(outputs * inputs);
    let packed = || Packed::pack(isa, precision, &weight, outputs, inputs);
    let first = packed();
    let copies = (STREAMED_BYTES / first.bytes()).clamp(2, 64);
    let weights: Vec<Packed> = std::iter::once(first).chain((1..copies).map(|_| packed())).collect();
    let team = Team::single(weights[0].scratch_bytes()).with_isa(isa);
    let bias = numbers(outputs);
    let gelu = Epilogue { bias: Some(&bias), activation: Activation::Gelu, residual: Residual::None };
    for rows in only.map_or(ROWS.to_vec(), |rows| vec![rows]) {
        let input = numbers(rows * inputs);
        let residual = numbers(rows * outputs);
        let plain = Epilogue { bias: Some(&bias), activation: Activation::Identity, residual: Residual::None };
        let add = Epilogue { residual: Residual::Add(&residual), ..plain };
        let mut output = vec![0f32; rows * outputs];
        let operations = 2.0 * (rows * outputs * inputs) as f64;
        print!("  {outputs:>4} x {inputs:<4} rows {rows:<4}");
        for (name, epilogue, copies) in
            [("again", &plain, 1), ("stream", &plain, copies), ("stream gelu", &gelu, copies), ("stream residual", &add, copies)]
        {
            let mut next = 0;
            let seconds = fastest(operations / (peak * 1e9), || {
                next = (next + 1) % copies;
                matmul(&team, &input, &weights[next], epilogue, black_box(&mut output));
            });
            let rate = operations / seconds / 1e9;
            print!("  {name} {rate:>4.0} {:>4.1} %", 100.0 * rate / peak);
        }
        println!();
    }
}

/// Seconds of the fastest of many calls; short ones are timed several at a time. `expected` is about the least there can be.
fn fastest(expected: f64, mut call: impl FnMut()) -> f64 {
    let calls = (20e-6 / expected).ceil().max(1.0) as u32;
    let end = Instant::now() + Duration::from_millis(120);
    let mut fastest = f64::INFINITY;
    while Instant::now() < end {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        fastest = fastest.min(start.elapsed().as_secs_f64() / f64::from(calls));
    }
    fastest
}

fn packing(isa: Isa, precision: Precision) {
    let (outputs, inputs) = (1536, 384);
    let weights: Vec<Vec<f32>> = (0..18).map(|layer| vec![layer as f32; outputs * inputs]).collect();
    let numbers = weights.len() * outputs * inputs;
    let mut fastest = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        let packed: Vec<Packed> = weights.iter().map(|weight| Packed::pack(isa, precision, weight, outputs, inputs)).collect();
        fastest = fastest.min(start.elapsed().as_secs_f64());
        black_box(packed);
    }
    println!("  packing {:.1} million weights: {:.1} ms", numbers as f64 / 1e6, fastest * 1e3);
}

/// Billions of operations per second of a loop that does nothing but multiply, from registers.
#[cfg(target_arch = "x86_64")]
fn peak(isa: Isa, precision: Precision) -> f64 {
    use std::arch::asm;
    /// Twelve multiplications into different registers, so many times.
    macro_rules! spin {
        ($rounds:expr, $operation:literal, $register:literal) => {
            // SAFETY: reads and writes vector registers only, all of which are named; the processor has the instruction.
            unsafe {
                asm!(
                    "2:",
                    concat!($operation, " ", $register, "0, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "1, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "2, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "3, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "4, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "5, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "6, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "7, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "8, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "9, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "10, ", $register, "12, ", $register, "13"),
                    concat!($operation, " ", $register, "11, ", $register, "12, ", $register, "13"),
                    "dec {rounds}",
                    "jnz 2b",
                    rounds = inout(reg) $rounds => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                    out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                    out("xmm13") _, options(nomem, nostack),
                )
            }
        };
    }
    const ROUNDS: u64 = 50_000;
    let mut best = 0f64;
    for _ in 0..400 {
        let start = Instant::now();
        let lanes = match (isa, precision) {
            (Isa::Avx512Bf16, Precision::Bf16) => {
                spin!(ROUNDS, "vdpbf16ps", "zmm");
                32
            }
            (Isa::Avx512Bf16, Precision::Int8) => {
                spin!(ROUNDS, "vpdpbusd", "zmm");
                64
            }
            (Isa::Avx512, Precision::Int8) => {
                spin!(ROUNDS, "vpmaddwd", "zmm");
                32
            }
            (Isa::Avx2, Precision::Int8) => {
                spin!(ROUNDS, "vpmaddwd", "ymm");
                16
            }
            (Isa::Avx512 | Isa::Avx512Bf16, _) => {
                spin!(ROUNDS, "vfmadd231ps", "zmm");
                16
            }
            (Isa::Avx2, _) => {
                spin!(ROUNDS, "vfmadd231ps", "ymm");
                8
            }
            // Addition is a second instruction there: this one peak is only an estimate.
            (Isa::Portable, _) => {
                spin!(ROUNDS, "vmulps", "xmm");
                4
            }
        };
        best = best.max(24.0 * lanes as f64 * ROUNDS as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// No peak is known: shares are of one billion per second.
#[cfg(not(target_arch = "x86_64"))]
fn peak(_: Isa, _: Precision) -> f64 {
    1.0
}
