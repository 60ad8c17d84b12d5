//! How long attention takes, next to the peak of one core: `taskset -c 1 cargo bench -p kernels --bench attention`.
//!
//! Prints minima of many repetitions, as other programs may load the machine meanwhile. An argument after `--`, such as
//! `none/12x32/100`, selects the lines that begin with it.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kernels::attention::{Bias, Disentangled, Heads, Span, Spec, attention, scratch_bytes};
use kernels::team::Team;

fn main() {
    let peak = peak();
    println!("peak {peak:.1} GFLOP/s of fused multiply-add in f32");
    println!("bias/heads/tokens       spans us per call  ns/(q k head)  GFLOP/s  of peak  of a layer's products at 95 %");
    for (heads, head_size) in [(12, 32), (12, 64)] {
        for tokens in [5, 16, 53, 100, 200, 512] {
            report("none", heads, head_size, tokens, 256usize.div_ceil(tokens), peak, Bias::None);
        }
    }
    let table = vec![0.1; 12 * 257];
    let vectors = vec![0.1; 512 * 12 * 64];
    let rows: Vec<u32> = (0..511).collect();
    for tokens in [16, 100, 200, 512] {
        let spans = 256usize.div_ceil(tokens);
        report("distance", 12, 64, tokens, spans, peak, Bias::Distance { table: &table, reach: 128 });
        let positions = Disentangled { keys: Some(&vectors), queries: Some(&vectors), rows: &rows };
        report("disentangled", 12, 64, tokens, spans, peak, Bias::Disentangled(positions));
    }
}

/// One line about so many spans of as many tokens, as queries, keys and values of a fused product.
fn report(name: &str, heads: usize, head_size: usize, tokens: usize, spans: usize, peak: f64, bias: Bias<'_>) {
    let line = format!("{name}/{heads}x{head_size}/{tokens}");
    if !std::env::args().skip(1).filter(|word| !word.starts_with("--")).all(|word| format!("{line}/").starts_with(&word)) {
        return;
    }
    let width = heads * head_size;
    let input: Vec<f32> = (0..tokens * spans * 3 * width).map(|index| ((index * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    let [query, key, value] = [0, width, 2 * width].map(|offset| Heads { values: &input, stride: 3 * width, offset });
    let spans: Vec<_> = (0..spans).map(|span| span * tokens..(span + 1) * tokens).collect();
    let spans: Vec<_> = spans.into_iter().map(|rows| Span { queries: rows.clone(), keys: rows }).collect();
    let spec = Spec { heads, head_size, scale: 1.0 / (head_size as f32).sqrt(), causal: false, window: None };
    let team = Team::new("bench", NonZeroUsize::MIN, scratch_bytes(&spec, bias, tokens)).expect("a team of one needs no threads");
    let mut output = vec![0.0; tokens * spans.len() * width];
    let call = || attention(&team, [query, key, value], black_box(&spans), &spec, bias, black_box(&mut output));
    let seconds = shortest(call);
    let pairs = (tokens * tokens * spans.len() * heads) as f64;
    let rate = pairs * 4.0 * head_size as f64 / seconds / 1e9;
    // Products of a BERT layer: queries, keys, values, output, and the intermediate of four times the width.
    let products = 2.0 * 12.0 * (width * width * tokens * spans.len()) as f64 / (0.95 * peak * 1e9);
    println!(
        "{line:<24} x{:<3} {:>11.2} {:>14.4} {rate:>9.1} {:>7.1}% {:>7.1}%",
        spans.len(),
        seconds * 1e6,
        seconds * 1e9 / pairs,
        100.0 * rate / peak,
        100.0 * seconds / products,
    );
}

/// The shortest of many calls, in seconds.
fn shortest(mut call: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), Duration::MAX);
    while begin.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed());
    }
    best.as_secs_f64()
}

/// GFLOP/s of a loop of nothing but independent fused multiply-adds.
fn peak() -> f64 {
    const ROUNDS: usize = 100_000;
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
        #[target_feature(enable = "avx512f")]
        fn rounds(by: f32) -> f32 {
            let by = _mm512_set1_ps(by);
            // Named, as the compiler keeps an array in memory; ten are enough for two units that take four cycles each.
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h, mut i, mut j] = [by; 10];
            for _ in 0..ROUNDS {
                for sum in [&mut a, &mut b, &mut c, &mut d, &mut e, &mut f, &mut g, &mut h, &mut i, &mut j] {
                    *sum = _mm512_fmadd_ps(*sum, by, by);
                }
            }
            let sums = [b, c, d, e, f, g, h, i, j].into_iter().fold(a, |sum, next| _mm512_add_ps(sum, next));
            _mm512_reduce_add_ps(sums)
        }
        // SAFETY: the instructions have just been asked for.
        let seconds = shortest(|| _ = black_box(unsafe { rounds(black_box(0.5)) }));
        return (ROUNDS * 10 * 32) as f64 / seconds / 1e9;
    }
    let rounds = |by: f32| {
        let mut sums = [by; 32];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = *sum * by + by;
            }
        }
        sums.iter().sum::<f32>()
    };
    let seconds = shortest(|| _ = black_box(rounds(black_box(0.5))));
    (ROUNDS * 32 * 2) as f64 / seconds / 1e9
}
