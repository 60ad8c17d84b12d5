//! Tensor cores, asynchronous copies and halves, against plain computations.

use half::{bf16, f16};

use super::{Arguments, Memory, Options, kernel, launch, line, numbers};

const TENSOR: &str = include_str!("../../../tests/fixtures/tensor.ptx");

#[test]
fn a_product_through_shared_memory_and_tensor_cores() {
    let (_, kernel) = kernel(TENSOR, "product");
    for depth in [16usize, 32, 80] {
        let mut memory = Memory::default();
        let halves = |seed| numbers(16 * depth, seed).into_iter().map(f16::from_f32).collect::<Vec<f16>>();
        let (a, b) = (halves(1), halves(2)[..8 * depth].to_vec());
        let bytes = |values: &[f16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (pa, pb, pc) = (memory.add(&bytes(&a)), memory.add(&bytes(&b)), memory.floats(&[0.0; 128]));
        let arguments = Arguments::default().pointer(pc).pointer(pa).pointer(pb).word(depth as u32);
        let options = Options { strict_warps: true, ..Options::default() };
        launch(&mut memory, &kernel, &[], &line(1, 32), &arguments, &options).unwrap_or_else(|fault| panic!("{fault}"));
        for (place, found) in memory.read_floats(pc).into_iter().enumerate() {
            let (row, column) = (place / 8, place % 8);
            let expected: f64 = (0..depth).map(|k| a[row * depth + k].to_f64() * b[k * 8 + column].to_f64()).sum();
            assert!((f64::from(found) - expected).abs() < 1e-4, "{depth} at {row}, {column}: {found} and {expected}");
        }
    }
}

#[test]
fn halves_round_as_the_types_do() {
    let (_, kernel) = kernel(TENSOR, "halves");
    let mut memory = Memory::default();
    let x = numbers(128, 3);
    let (ph, pg, px) = (memory.add(&[0; 64 * 32]), memory.add(&[0; 64 * 32]), memory.floats(&x));
    let arguments = Arguments::default().pointer(ph).pointer(pg).pointer(px).word(64);
    launch(&mut memory, &kernel, &[], &line(1, 64), &arguments, &Options::default()).unwrap_or_else(|fault| panic!("{fault}"));
    let read =
        |start: u64| memory.read_words(start).into_iter().map(|word| (word as u16, (word >> 16) as u16)).collect::<Vec<_>>();
    let (h, g) = (read(ph), read(pg));
    for (i, pair) in x.chunks(2).enumerate() {
        let (a, b, c) = (f16::from_f32(pair[0]), f16::from_f32(pair[1]), f16::from_f32(0.75));
        let two = |on: &dyn Fn(f64, f64) -> f64| {
            let half = |x: f16, y: f16| f16::from_f64(on(x.to_f64(), y.to_f64())).to_bits();
            (half(a, b), half(b, c))
        };
        let expected = [
            two(&|x, y| x + y),
            two(&|x, y| x * y),
            two(&|x, y| x.mul_add(y, x)),
            two(&f64::max),
            two(&|x, _| -x),
            two(&|x, y| x - y),
        ];
        assert_eq!(&h[8 * i..8 * i + 6], &expected, "f16 of {a} and {b}");
        let quotient = f16::from_bits(h[8 * i + 6].0).to_f64();
        assert!((quotient - a.to_f64() / 0.75).abs() <= 2e-3 * quotient.abs() + 1e-6, "{a} / 0.75 is {quotient}");
        let power = f16::from_bits(h[8 * i + 6].1).to_f64();
        assert!((power - a.to_f64().exp()).abs() <= 2e-3 * power, "the power of {a} is {power}");
        let equal = |x: f16, y: f16| if x == y { 0x3C00 } else { 0 };
        assert_eq!(h[8 * i + 7], (equal(a, b), equal(b, c)));
        let (a, b, c) = (bf16::from_f32(pair[0]), bf16::from_f32(pair[1]), bf16::from_f32(0.75));
        let two = |on: &dyn Fn(f64, f64) -> f64| {
            let half = |x: bf16, y: bf16| bf16::from_f64(on(x.to_f64(), y.to_f64())).to_bits();
            (half(a, b), half(b, c))
        };
        let expected = [
            two(&|x, y| x + y),
            two(&|x, y| x * y),
            two(&|x, y| x.mul_add(y, x)),
            two(&f64::max),
            two(&|x, _| -x),
            two(&|x, y| x - y),
        ];
        assert_eq!(&g[8 * i..8 * i + 6], &expected, "bf16 of {a} and {b}");
        assert_eq!(g[8 * i + 6], ((pair[0].to_bits() >> 16) as u16, b.to_bits()), "the nearest below {}", pair[0]);
        let above = |x: bf16, y: bf16| if x > y { 0x3F80 } else { 0 };
        assert_eq!(g[8 * i + 7], (above(a, b), above(b, c)));
    }
}
