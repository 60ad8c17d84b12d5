//! Products through the C interface against sums in f64.

use half::{bf16, f16};

use super::api::*;
use super::descriptor::Status;
use crate::driver::tests::{Turn, device_memory, download, stream, upload};
use crate::driver::{HostBytes, Out};

fn ok(status: Status) {
    assert_eq!(status, Status::SUCCESS);
}

fn make(call: impl FnOnce(Out<u64>) -> Status) -> u64 {
    let mut value = 0;
    ok(call(Out::from(&mut value)));
    value
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    F32 = 0,
    F16 = 2,
    Bf16 = 14,
}

impl Kind {
    fn encode(self, value: f32) -> Vec<u8> {
        match self {
            Kind::F32 => value.to_le_bytes().to_vec(),
            Kind::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Kind::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
        }
    }

    fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            Kind::F32 => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            Kind::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
            Kind::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        }
    }

    fn bytes(self) -> usize {
        if self == Kind::F32 { 4 } else { 2 }
    }

    /// Half the distance between neighbors, relative to the value.
    fn rounding(self) -> f64 {
        match self {
            Kind::F32 => 0.0,
            Kind::F16 => 2.0_f64.powi(-11),
            Kind::Bf16 => 2.0_f64.powi(-8),
        }
    }
}

/// A matrix on the device and its values as stored.
struct Stored {
    address: u64,
    layout: u64,
    values: Vec<f64>,
    leading: usize,
    stride: usize,
    kind: Kind,
}

impl Stored {
    /// `rows x columns`, columns `leading` apart, `batch` of them, from a generator.
    fn new(kind: Kind, rows: usize, columns: usize, leading: usize, batch: usize, seed: u32, stream: u64) -> Stored {
        let stride = leading * columns;
        let mut state = seed;
        let mut bytes = Vec::new();
        for _ in 0..stride * batch {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend(kind.encode((state >> 8) as f32 / (1 << 23) as f32 - 1.0));
        }
        let values = bytes.chunks_exact(kind.bytes()).map(|bytes| kind.decode(bytes)).collect();
        let address = device_memory(bytes.len());
        upload(address, &bytes, stream);
        let layout = make(|out| cublasLtMatrixLayoutCreate(out, kind as u32, rows as u64, columns as u64, leading as i64));
        let (batch, wide) = (batch as i32, stride as i64);
        ok(cublasLtMatrixLayoutSetAttribute(layout, 5, HostBytes::from(&raw const batch as usize), 4));
        ok(cublasLtMatrixLayoutSetAttribute(layout, 6, HostBytes::from(&raw const wide as usize), 8));
        Stored { address, layout, values, leading, stride, kind }
    }

    fn at(&self, batch: usize, row: usize, column: usize) -> f64 {
        self.values[batch * self.stride + column * self.leading + row]
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    input: Kind,
    output: Kind,
    shape: [usize; 3],
    batch: usize,
    transpose: [bool; 2],
    epilogue: u32,
    alpha: f32,
    beta: f32,
}

fn set<T>(description: u64, attribute: u32, value: T) {
    ok(cublasLtMatmulDescSetAttribute(description, attribute, HostBytes::from(&raw const value as usize), size_of::<T>()));
}

fn heuristics(handle: u64, description: u64, layouts: [u64; 4], workspace: u64) -> Vec<HeuristicResult> {
    let preference = make(|out| cublasLtMatmulPreferenceCreate(out));
    ok(cublasLtMatmulPreferenceSetAttribute(preference, 1, HostBytes::from(&raw const workspace as usize), 8));
    let mut results = [HeuristicResult::default(); 8];
    let mut found = 0;
    let [a, b, c, d] = layouts;
    let place = HostBytes::from(results.as_mut_ptr() as usize);
    ok(cublasLtMatmulAlgoGetHeuristic(handle, description, a, b, c, d, preference, 8, place, Out::from(&mut found)));
    ok(cublasLtMatmulPreferenceDestroy(preference));
    results[..found as usize].to_vec()
}

/// Runs a case with every algorithm that fits 64 KiB of workspace; gives the largest error, in units of what is allowed.
fn worst(case: Case) -> f64 {
    let _turn = Turn::begin();
    let stream = stream();
    let [m, n, k] = case.shape;
    let pad = |length: usize| length.next_multiple_of(8) + 8;
    let turned = |rows: usize, columns: usize, turn: bool| if turn { (columns, rows) } else { (rows, columns) };
    let (a_rows, a_columns) = turned(m, k, case.transpose[0]);
    let (b_rows, b_columns) = turned(k, n, case.transpose[1]);
    let a = Stored::new(case.input, a_rows, a_columns, pad(a_rows), case.batch, 1, stream);
    let b = Stored::new(case.input, b_rows, b_columns, pad(b_rows), case.batch, 2, stream);
    let c = Stored::new(case.output, m, n, pad(m), case.batch, 3, stream);
    let d = Stored::new(case.output, m, n, pad(m), case.batch, 4, stream);
    let bias = Stored::new(case.output, m, 1, m, 1, 5, stream);
    let handle = make(|out| cublasLtCreate(out));
    let description = make(|out| cublasLtMatmulDescCreate(out, 68, 0));
    set(description, 3, u32::from(case.transpose[0]));
    set(description, 4, u32::from(case.transpose[1]));
    set(description, 7, case.epilogue);
    if case.epilogue & 4 != 0 {
        set(description, 8, bias.address);
        set(description, 26, case.output as u32);
    }
    let workspace = device_memory(1 << 16);
    let found = heuristics(handle, description, [a.layout, b.layout, c.layout, d.layout], 1 << 16);
    assert!(!found.is_empty() && found.iter().all(|result| result.workspace_bytes <= 1 << 16));
    let mut worst: f64 = 0.0;
    for result in found {
        let scale = |value: &f32| HostBytes::from(std::ptr::from_ref(value) as usize);
        let algorithm = HostBytes::from(&raw const result.algorithm as usize);
        ok(cublasLtMatmul(
            handle,
            description,
            scale(&case.alpha),
            a.address,
            a.layout,
            b.address,
            b.layout,
            scale(&case.beta),
            c.address,
            c.layout,
            d.address,
            d.layout,
            algorithm,
            workspace,
            1 << 16,
            stream,
        ));
        let bytes = download(d.address, d.values.len() * d.kind.bytes(), stream);
        worst = worst.max(error(case, [&a, &b, &c, &d, &bias], &bytes));
    }
    worst
}

fn error(case: Case, [a, b, c, d, bias]: [&Stored; 5], bytes: &[u8]) -> f64 {
    let [m, n, k] = case.shape;
    let mut worst: f64 = 0.0;
    for batch in 0..case.batch {
        for column in 0..n {
            for row in 0..m {
                let (mut sum, mut size) = (0.0, 0.0);
                for p in 0..k {
                    let left = if case.transpose[0] { a.at(batch, p, row) } else { a.at(batch, row, p) };
                    let right = if case.transpose[1] { b.at(batch, column, p) } else { b.at(batch, p, column) };
                    sum += left * right;
                    size += (left * right).abs();
                }
                let mut wanted = f64::from(case.alpha) * sum + f64::from(case.beta) * c.at(batch, row, column);
                if case.epilogue & 4 != 0 {
                    wanted += bias.values[row];
                }
                wanted = match case.epilogue & !5 {
                    2 => wanted.max(0.0),
                    32 => {
                        0.5 * wanted
                            * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (wanted + 0.044_715 * wanted.powi(3))).tanh())
                    }
                    _ => wanted,
                };
                let place = (batch * d.stride + column * d.leading + row) * d.kind.bytes();
                let got = d.kind.decode(&bytes[place..place + d.kind.bytes()]);
                // Sums of k products in f32, a few operations more, and the rounding of the result.
                let allowed = (size + 2.0) * (k as f64 + 8.0) * 2.0_f64.powi(-24) + wanted.abs() * d.kind.rounding();
                worst = worst.max((got - wanted).abs() / allowed);
            }
        }
    }
    // What lies between the columns is not D's.
    for column in 0..n {
        for row in m..d.leading {
            let place = (column * d.leading + row) * d.kind.bytes();
            assert_eq!(d.kind.decode(&bytes[place..place + d.kind.bytes()]), d.at(0, row, column), "padding is left alone");
        }
    }
    worst
}

const PLAIN: Case = Case {
    input: Kind::F32,
    output: Kind::F32,
    shape: [33, 17, 40],
    batch: 1,
    transpose: [false, false],
    epilogue: 1,
    alpha: 1.0,
    beta: 0.0,
};

#[test]
fn products_agree_with_sums_in_f64() {
    for (input, output) in [
        (Kind::F32, Kind::F32),
        (Kind::F16, Kind::F16),
        (Kind::F16, Kind::F32),
        (Kind::Bf16, Kind::Bf16),
        (Kind::Bf16, Kind::F32),
    ] {
        for transpose in [[false, false], [true, false], [false, true], [true, true]] {
            for shape in [[1, 1, 1], [16, 6, 8], [33, 17, 40], [5, 70, 129]] {
                let case = Case { input, output, shape, transpose, ..PLAIN };
                assert!(worst(case) <= 1.0, "{case:?}: {}", worst(case));
            }
        }
    }
}

#[test]
fn epilogues_and_scales_agree_with_f64() {
    for (input, output) in [(Kind::F32, Kind::F32), (Kind::F16, Kind::F16), (Kind::Bf16, Kind::Bf16)] {
        for epilogue in [1, 2, 4, 6, 32, 36] {
            for (alpha, beta) in [(1.0, 0.0), (-0.5, 2.0)] {
                let case = Case { input, output, epilogue, alpha, beta, transpose: [true, false], ..PLAIN };
                assert!(worst(case) <= 1.0, "{case:?}: {}", worst(case));
            }
        }
    }
}

#[test]
fn batches_agree_with_f64() {
    for input in [Kind::F32, Kind::Bf16] {
        let case = Case { input, output: input, batch: 3, transpose: [true, false], ..PLAIN };
        assert!(worst(case) <= 1.0, "{case:?}");
    }
}

/// What the library says to shapes and types.
fn refusal(a: (Kind, [usize; 3]), b: (Kind, [usize; 3]), d: (Kind, [usize; 3]), epilogue: u32) -> Status {
    let _turn = Turn::begin();
    let layout = |(kind, [rows, columns, leading]): (Kind, [usize; 3])| {
        make(|out| cublasLtMatrixLayoutCreate(out, kind as u32, rows as u64, columns as u64, leading as i64))
    };
    let (a, b, d) = (layout(a), layout(b), layout(d));
    let handle = make(|out| cublasLtCreate(out));
    let description = make(|out| cublasLtMatmulDescCreate(out, 68, 0));
    set(description, 7, epilogue);
    let preference = make(|out| cublasLtMatmulPreferenceCreate(out));
    let mut result = HeuristicResult::default();
    let place = HostBytes::from(&raw mut result as usize);
    cublasLtMatmulAlgoGetHeuristic(handle, description, a, b, d, d, preference, 1, place, Out::from(&mut 0))
}

#[test]
fn what_does_not_fit_is_refused() {
    use Kind::{Bf16, F16, F32};
    assert_eq!(refusal((F32, [4, 5, 4]), (F32, [5, 6, 5]), (F32, [4, 6, 4]), 1), Status::SUCCESS);
    assert_eq!(refusal((F32, [4, 5, 4]), (F32, [6, 6, 6]), (F32, [4, 6, 4]), 1), Status::INVALID_VALUE, "k differs");
    assert_eq!(refusal((F32, [4, 5, 3]), (F32, [5, 6, 5]), (F32, [4, 6, 4]), 1), Status::INVALID_VALUE, "a short column");
    assert_eq!(refusal((F32, [4, 5, 4]), (F32, [5, 6, 5]), (F32, [6, 4, 6]), 1), Status::INVALID_VALUE, "D is turned");
    assert_eq!(refusal((F16, [8, 8, 8]), (Bf16, [8, 8, 8]), (F16, [8, 8, 8]), 1), Status::NOT_SUPPORTED, "types differ");
    assert_eq!(refusal((F16, [8, 8, 9]), (F16, [8, 8, 8]), (F16, [8, 8, 8]), 1), Status::NOT_SUPPORTED, "not aligned");
    assert_eq!(refusal((F16, [8, 8, 8]), (F16, [8, 8, 8]), (F16, [8, 8, 8]), 128), Status::NOT_SUPPORTED, "an epilogue");
}

#[test]
fn pointers_and_workspaces_are_checked() {
    let _turn = Turn::begin();
    let stream = stream();
    let matrix = Stored::new(Kind::F16, 16, 16, 16, 1, 1, stream);
    let target = device_memory(4096);
    let handle = make(|out| cublasLtCreate(out));
    let description = make(|out| cublasLtMatmulDescCreate(out, 68, 0));
    let found = heuristics(handle, description, [matrix.layout; 4], 1 << 20);
    assert_eq!(found.len(), 4);
    let one = 1.0_f32;
    let zero = 0.0_f32;
    let scale = |value: &f32| HostBytes::from(std::ptr::from_ref(value) as usize);
    let run = |target: u64, result: &HeuristicResult, workspace: (u64, usize)| {
        let algorithm = HostBytes::from(&raw const result.algorithm as usize);
        let (m, l) = (matrix.address, matrix.layout);
        let (alpha, beta) = (scale(&one), scale(&zero));
        cublasLtMatmul(
            handle,
            description,
            alpha,
            m,
            l,
            m,
            l,
            beta,
            target,
            l,
            target,
            l,
            algorithm,
            workspace.0,
            workspace.1,
            stream,
        )
    };
    let workspace = device_memory(1 << 20);
    ok(run(target, &found[0], (0, 0)));
    ok(run(target + 16, &found[1], (workspace, 1 << 20)));
    assert_eq!(run(target + 2, &found[0], (0, 0)), Status::NOT_SUPPORTED);
    assert_eq!(run(target, &found[1], (0, 0)), Status::INVALID_VALUE);
    assert_eq!(run(target, &found[1], (workspace, found[1].workspace_bytes - 1)), Status::INVALID_VALUE);
    let mut foreign = found[0];
    foreign.algorithm[1] ^= 1;
    assert_eq!(run(target, &foreign, (0, 0)), Status::INVALID_VALUE);
    // An operand that is not device memory is found when the product runs.
    download(target, 1, stream);
    ok(run(target + 4096 - 256, &found[0], (0, 0)));
    assert_eq!(crate::driver::tests::synchronize(stream), crate::driver::Status::ILLEGAL_ADDRESS);
}
