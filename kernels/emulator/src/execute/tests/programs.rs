//! Kernels that nvcc compiled, against plain computations.

use super::{Arguments, Memory, Options, Shape, kernel, launch, line, numbers};

const BASIC: [&str; 2] = [include_str!("../../../tests/fixtures/basic.ptx"), include_str!("../../../tests/fixtures/turing.ptx")];

#[test]
fn scale_add_stops_at_the_end() {
    for text in BASIC {
        let (_, kernel) = kernel(text, "scale_add");
        let mut memory = Memory::default();
        let (x, y) = (numbers(1000, 1), numbers(1000, 2));
        let (px, py) = (memory.floats(&x), memory.floats(&y));
        let arguments = Arguments::default().pointer(py).pointer(px).float(1.25).word(1000);
        let counts = launch(&mut memory, &kernel, &[], &line(8, 128), &arguments, &Options::default()).expect("it runs");
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.25f32.mul_add(*x, *y)).collect();
        assert_eq!(memory.read_floats(py), expected);
        assert_eq!((counts.global_read, counts.global_written), (8000, 4000));
    }
}

#[test]
fn row_norm_sums_every_width_in_every_order() {
    for (text, seed) in BASIC.into_iter().zip([3, 4]) {
        let (_, kernel) = kernel(text, "row_norm");
        for width in [1usize, 31, 128, 1000] {
            let mut memory = Memory::default();
            let x = numbers(5 * width, 3);
            let (px, out) = (memory.floats(&x), memory.floats(&[0.0; 5]));
            let arguments = Arguments::default().pointer(out).pointer(px).word(width as u32);
            let options = Options { seed, strict_warps: true, ..Options::default() };
            launch(&mut memory, &kernel, &[], &line(5, 160), &arguments, &options).expect("it runs");
            for (row, found) in x.chunks(width).zip(memory.read_floats(out)) {
                let expected = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
                assert!((f64::from(found) - expected).abs() <= 1e-5 * expected, "{width}: {found} and {expected}");
            }
        }
    }
}

#[test]
fn choose_calls_and_reads_variables() {
    let (module, kernel) = kernel(BASIC[0], "choose");
    let mut memory = Memory::default();
    let x = numbers(300, 5);
    let (px, out) = (memory.floats(&x), memory.floats(&[0.0; 300]));
    let globals = memory.globals(&module);
    let arguments = Arguments::default().pointer(out).pointer(px).word(300);
    launch(&mut memory, &kernel, &globals, &line(3, 128), &arguments, &Options::default()).expect("it runs");
    for (i, (x, found)) in x.iter().zip(memory.read_floats(out)).enumerate() {
        let v = x.powi((i & 7) as i32) + [0.5f32, 1.5, -2.0, 4.0][i & 3];
        let expected = match i % 9 {
            0 => v + 1.0,
            1 => v * 2.0,
            2 => -v,
            3 => v.abs(),
            4 => v * v,
            5 => v - 3.0,
            6 => v.min(0.0),
            7 => v.max(0.0),
            _ => 7.0,
        };
        assert!((found - expected).abs() <= 1e-4 * (1.0 + expected.abs()), "{i}: {found} and {expected}");
    }
}

#[test]
fn sort8_indexes_local_memory() {
    let (_, kernel) = kernel(BASIC[0], "sort8");
    let mut memory = Memory::default();
    let values: Vec<u32> = numbers(64 * 8, 6).iter().map(|v| (v * 100.0) as i32 as u32).collect();
    let place = memory.words(&values);
    launch(&mut memory, &kernel, &[], &line(2, 32), &Arguments::default().pointer(place), &Options::default()).expect("it runs");
    let mut expected: Vec<i32> = values.iter().map(|v| *v as i32).collect();
    expected.chunks_mut(8).for_each(<[i32]>::sort);
    assert_eq!(memory.read_words(place).into_iter().map(|v| v as i32).collect::<Vec<_>>(), expected);
}

#[test]
fn mathematics_is_as_accurate_as_cuda_says() {
    let (module, kernel) = kernel(BASIC[0], "mathematics");
    let mut memory = Memory::default();
    let x = numbers(100, 7);
    let (px, out, wide) = (memory.floats(&x), memory.floats(&[0.0; 800]), memory.add(&[0; 800]));
    let globals = memory.globals(&module);
    let arguments = Arguments::default().pointer(out).pointer(px).pointer(wide).word(100);
    launch(&mut memory, &kernel, &globals, &line(1, 128), &arguments, &Options::default()).expect("it runs");
    let found = memory.read_floats(out);
    for (i, x) in x.iter().enumerate() {
        let v = f64::from(*x);
        let expected = [
            v.exp(),
            (f64::from(x.abs() + 1.0)).ln(),
            f64::from(x * 1000.0).sin(),
            error_function(v),
            v.tanh(),
            v / (v * v + 1.0),
            1.0 / (v * v + 0.5).sqrt(),
            f64::from(x.abs() + 0.1).powf(f64::from(1.7f32)),
        ];
        for (place, expected) in expected.iter().enumerate() {
            let found = f64::from(found[8 * i + place]);
            assert!((found - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "function {place} of {v}: {found} and {expected}");
        }
        let bytes: [u8; 8] = memory.bytes(wide)[8 * i..8 * i + 8].try_into().expect("8 bytes");
        let expected = v.exp() / 3.0 + (i as i64 * 123_456_789_123 % 1_000_003) as f64;
        assert!((f64::from_le_bytes(bytes) - expected).abs() <= 1e-12 * expected.abs());
    }
}

/// By its series, which is good enough up to 3.
fn error_function(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn histogram_counts_with_atomics_of_both_memories() {
    let (_, kernel) = kernel(BASIC[0], "histogram");
    let mut memory = Memory::default();
    let values: Vec<u8> = (0..5000u32).map(|i| (i * i % 251) as u8).collect();
    let (bins, input) = (memory.words(&[0; 256]), memory.add(&values));
    let arguments = Arguments::default().pointer(bins).pointer(input).word(5000);
    let shape = Shape { dynamic: 1024, ..line(3, 96) };
    launch(&mut memory, &kernel, &[], &shape, &arguments, &Options::default()).expect("it runs");
    let mut expected = vec![0u32; 256];
    values.iter().for_each(|value| expected[usize::from(*value)] += 1);
    assert_eq!(memory.read_words(bins), expected);
    let small = Shape { dynamic: 1020, ..line(1, 96) };
    let fault = launch(&mut memory, &kernel, &[], &small, &arguments, &Options::default()).expect_err("a bin is outside");
    assert!(fault.reason.contains("outside the 1020 bytes of shared memory"), "{fault}");
}

#[test]
fn lanes_that_leave_a_loop_meet_again() {
    let (_, kernel) = kernel(BASIC[0], "collatz");
    let mut memory = Memory::default();
    let (steps, votes) = (memory.words(&[0; 100]), memory.words(&[0; 100]));
    let arguments = Arguments::default().pointer(steps).pointer(votes).word(100);
    launch(&mut memory, &kernel, &[], &line(2, 64), &arguments, &Options::default()).expect("it runs");
    let count = |i: u64| {
        let (mut v, mut count) = (i + 1, 0u32);
        while v != 1 {
            v = if v.is_multiple_of(2) { v / 2 } else { 3 * v + 1 };
            count += 1;
        }
        count
    };
    let expected: Vec<u32> = (0..100).map(count).collect();
    assert_eq!(memory.read_words(steps), expected);
    for (i, found) in memory.read_words(votes).into_iter().enumerate() {
        let warp = &expected[i / 32 * 32..(i / 32 * 32 + 32).min(100)];
        let ballot = warp.iter().enumerate().fold(0u32, |bits, (lane, count)| bits | (count % 2) << lane);
        let same = warp.iter().filter(|count| **count == expected[i]).count() as u32;
        assert_eq!(found, ballot.wrapping_add(same), "thread {i}");
    }
}
