//! The C interface of the matrix products. Numbers of attributes are the library's own.

#![allow(non_snake_case, reason = "names of cuBLASLt")]
#![allow(clippy::too_many_arguments, reason = "signatures of cuBLASLt")]

use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::Arc;

use super::descriptor::{ALGORITHMS, Algorithm, Description, Descriptors, Layout, Operands, Preference, Status, with};
use crate::driver::{Action, Call, Driver, HostBytes, Out, Status as DriverStatus};

/// cublasLtMatmulAlgo_t: the first word is the algorithm's number, the second the number of the problem it was found for.
pub(crate) type AlgorithmData = [u64; 8];

/// cublasLtMatmulHeuristicResult_t.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct HeuristicResult {
    pub algorithm: AlgorithmData,
    pub workspace_bytes: usize,
    pub state: u32,
    pub waves: f32,
    pub reserved: [i32; 4],
}

/// Alignment of workspaces, and of 16-bit operands.
const ALIGNMENT: u64 = 16;
const VERSION: usize = 130_000;

fn run(body: impl FnOnce() -> Result<(), Status>) -> Status {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => Status::INTERNAL_ERROR,
    }
}

fn wrong(_: DriverStatus) -> Status {
    Status::INVALID_VALUE
}

/// Takes in a descriptor and tells its number.
fn make<T>(out: Out<u64>, kind: impl FnOnce(&mut Descriptors) -> &mut HashMap<u64, T>, value: T) -> Result<(), Status> {
    let number = with(|all| {
        let number = all.number();
        kind(all).insert(number, value);
        number
    });
    out.put(number).map_err(wrong)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtCreate(handle: Out<u64>) -> Status {
    run(|| {
        Call::enter().map_err(|_| Status::NOT_INITIALIZED)?;
        make(handle, |all| &mut all.handles, ())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtDestroy(handle: u64) -> Status {
    run(|| with(|all| all.handles.remove(&handle)).ok_or(Status::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtGetVersion() -> usize {
    VERSION
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtGetCudartVersion() -> usize {
    13_000
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtGetProperty(property: u32, value: Out<i32>) -> Status {
    run(|| value.put([13, 0, 0].get(property as usize).copied().ok_or(Status::INVALID_VALUE)?).map_err(wrong))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtGetStatusName(status: u32) -> *const c_char {
    cublasLtGetStatusString(status)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtGetStatusString(status: u32) -> *const c_char {
    let text = match status {
        0 => c"CUBLAS_STATUS_SUCCESS",
        1 => c"CUBLAS_STATUS_NOT_INITIALIZED",
        3 => c"CUBLAS_STATUS_ALLOC_FAILED",
        7 => c"CUBLAS_STATUS_INVALID_VALUE",
        8 => c"CUBLAS_STATUS_ARCH_MISMATCH",
        11 => c"CUBLAS_STATUS_MAPPING_ERROR",
        13 => c"CUBLAS_STATUS_EXECUTION_FAILED",
        14 => c"CUBLAS_STATUS_INTERNAL_ERROR",
        15 => c"CUBLAS_STATUS_NOT_SUPPORTED",
        _ => c"unknown status",
    };
    text.as_ptr()
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatrixLayoutCreate(
    layout: Out<u64>,
    kind: u32,
    rows: u64,
    columns: u64,
    leading: i64,
) -> Status {
    run(|| {
        let value = Layout { kind, rows, columns, leading, order: 0, batch: 1, stride: 0 };
        make(layout, |all| &mut all.layouts, value)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatrixLayoutDestroy(layout: u64) -> Status {
    run(|| with(|all| all.layouts.remove(&layout)).map(|_| ()).ok_or(Status::INVALID_VALUE))
}

/// A value of an attribute, which must have the right length.
fn attribute<T: Copy>(value: HostBytes, bytes: usize) -> Result<T, Status> {
    if bytes != size_of::<T>() {
        return Err(Status::INVALID_VALUE);
    }
    value.value().map_err(wrong)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatrixLayoutSetAttribute(layout: u64, name: u32, value: HostBytes, bytes: usize) -> Status {
    run(|| {
        with(|all| {
            let layout = all.layouts.get_mut(&layout).ok_or(Status::INVALID_VALUE)?;
            match name {
                0 => layout.kind = attribute(value, bytes)?,
                1 => layout.order = attribute(value, bytes)?,
                2 => layout.rows = attribute(value, bytes)?,
                3 => layout.columns = attribute(value, bytes)?,
                4 => layout.leading = attribute(value, bytes)?,
                5 => layout.batch = attribute(value, bytes)?,
                6 => layout.stride = attribute(value, bytes)?,
                _ => return Err(Status::NOT_SUPPORTED),
            }
            Ok(())
        })
    })
}

fn put_attribute(value: HostBytes, room: usize, written: Out<usize>, bytes: &[u8]) -> Result<(), Status> {
    written.put_if_wanted(bytes.len());
    if room == 0 {
        return Ok(());
    }
    if room < bytes.len() {
        return Err(Status::INVALID_VALUE);
    }
    value.put(bytes).map_err(wrong)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatrixLayoutGetAttribute(
    layout: u64,
    name: u32,
    value: HostBytes,
    room: usize,
    written: Out<usize>,
) -> Status {
    run(|| {
        let layout = with(|all| all.layouts.get(&layout).copied()).ok_or(Status::INVALID_VALUE)?;
        match name {
            0 => put_attribute(value, room, written, &layout.kind.to_le_bytes()),
            1 => put_attribute(value, room, written, &layout.order.to_le_bytes()),
            2 => put_attribute(value, room, written, &layout.rows.to_le_bytes()),
            3 => put_attribute(value, room, written, &layout.columns.to_le_bytes()),
            4 => put_attribute(value, room, written, &layout.leading.to_le_bytes()),
            5 => put_attribute(value, room, written, &layout.batch.to_le_bytes()),
            6 => put_attribute(value, room, written, &layout.stride.to_le_bytes()),
            _ => Err(Status::NOT_SUPPORTED),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulDescCreate(description: Out<u64>, compute: u32, scale: u32) -> Status {
    run(|| {
        let value = Description { compute, scale, pointer_mode: 0, transpose: [0; 3], epilogue: 1, bias: 0, bias_kind: None };
        make(description, |all| &mut all.descriptions, value)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulDescDestroy(description: u64) -> Status {
    run(|| with(|all| all.descriptions.remove(&description)).map(|_| ()).ok_or(Status::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulDescSetAttribute(description: u64, name: u32, value: HostBytes, bytes: usize) -> Status {
    run(|| {
        with(|all| {
            let description = all.descriptions.get_mut(&description).ok_or(Status::INVALID_VALUE)?;
            match name {
                0 => description.compute = attribute(value, bytes)?,
                1 => description.scale = attribute(value, bytes)?,
                2 => description.pointer_mode = attribute(value, bytes)?,
                3..=5 => description.transpose[name as usize - 3] = attribute(value, bytes)?,
                7 => description.epilogue = attribute(value, bytes)?,
                8 => description.bias = attribute(value, bytes)?,
                26 => description.bias_kind = Some(attribute(value, bytes)?),
                _ => return Err(Status::NOT_SUPPORTED),
            }
            Ok(())
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulPreferenceCreate(preference: Out<u64>) -> Status {
    run(|| make(preference, |all| &mut all.preferences, Preference { workspace_bytes: 0, alignments: [256; 4] }))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulPreferenceDestroy(preference: u64) -> Status {
    run(|| with(|all| all.preferences.remove(&preference)).map(|_| ()).ok_or(Status::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: u64,
    name: u32,
    value: HostBytes,
    bytes: usize,
) -> Status {
    run(|| {
        with(|all| {
            let preference = all.preferences.get_mut(&preference).ok_or(Status::INVALID_VALUE)?;
            match name {
                1 => preference.workspace_bytes = attribute(value, bytes)?,
                5..=8 => preference.alignments[name as usize - 5] = attribute(value, bytes)?,
                // Hints that change nothing here: the search's mode, reductions, waves, pointer modes, epilogues.
                0 | 3 | 9 | 10 | 11 => {}
                _ => return Err(Status::NOT_SUPPORTED),
            }
            Ok(())
        })
    })
}

fn operands(all: &Descriptors, description: u64, layouts: [u64; 4]) -> Result<Operands, Status> {
    let layout = |number: u64| all.layouts.get(&number).copied().ok_or(Status::INVALID_VALUE);
    let description = *all.descriptions.get(&description).ok_or(Status::INVALID_VALUE)?;
    let [a, b, c, d] = layouts;
    Ok(Operands { description, a: layout(a)?, b: layout(b)?, c: layout(c)?, d: layout(d)? })
}

/// Refuses bf16 on devices that came before it.
fn known_to_device(operands: &Operands) -> Result<(), Status> {
    let capability = Driver::started().map_err(|_| Status::NOT_INITIALIZED)?.settings.capability;
    let has_bf16 = [&operands.a, &operands.d].iter().any(|layout| layout.kind == 14);
    if has_bf16 && capability < 80 { Err(Status::NOT_SUPPORTED) } else { Ok(()) }
}

/// A number of a problem: an algorithm found for one is refused for another.
fn problem(operands: &Operands) -> u64 {
    let layouts = [&operands.a, &operands.b, &operands.c, &operands.d];
    let numbers = layouts.into_iter().flat_map(|layout| {
        [u64::from(layout.kind), layout.rows, layout.columns, layout.leading as u64, u64::from(layout.order), layout.batch as u64]
    });
    let transpose = operands.description.transpose.map(u64::from);
    numbers
        .chain(transpose)
        .chain([u64::from(operands.description.epilogue)])
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, number| (hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: u64,
    description: u64,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    preference: u64,
    wanted: i32,
    results: HostBytes,
    found: Out<i32>,
) -> Status {
    run(|| {
        let (operands, preference) = with(|all| {
            all.handles.get(&handle).ok_or(Status::NOT_INITIALIZED)?;
            let preference = *all.preferences.get(&preference).ok_or(Status::INVALID_VALUE)?;
            Ok((operands(all, description, [a, b, c, d])?, preference))
        })?;
        if wanted < 1 {
            return Err(Status::INVALID_VALUE);
        }
        found.put(0).map_err(wrong)?;
        let product = operands.product()?;
        known_to_device(&operands)?;
        let kinds = [&product.a, &product.b, &product.c, &product.d].map(|matrix| matrix.element.bytes());
        if kinds.iter().zip(preference.alignments).any(|(bytes, alignment)| *bytes == 2 && u64::from(alignment) < ALIGNMENT) {
            return Err(Status::NOT_SUPPORTED);
        }
        let fitting = ALGORITHMS.iter().filter(|algorithm| algorithm.workspace_bytes(&operands.d) <= preference.workspace_bytes);
        let mut count = 0;
        for algorithm in fitting.take(wanted as usize) {
            let mut result = HeuristicResult {
                workspace_bytes: algorithm.workspace_bytes(&operands.d) as usize,
                waves: 1.0,
                ..Default::default()
            };
            result.algorithm[0] = algorithm.number;
            result.algorithm[1] = problem(&operands);
            let place = HostBytes::from(results.address() + count as usize * size_of::<HeuristicResult>());
            place.put_value(result).map_err(wrong)?;
            count += 1;
        }
        found.put(count).map_err(wrong)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmulAlgoCheck(
    handle: u64,
    description: u64,
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    algorithm: HostBytes,
    result: Out<HeuristicResult>,
) -> Status {
    run(|| {
        let operands = with(|all| {
            all.handles.get(&handle).ok_or(Status::NOT_INITIALIZED)?;
            operands(all, description, [a, b, c, d])
        })?;
        operands.product()?;
        let data: AlgorithmData = algorithm.value().map_err(wrong)?;
        let known = ALGORITHMS.iter().find(|known| known.number == data[0]).ok_or(Status::INVALID_VALUE)?;
        let workspace_bytes = known.workspace_bytes(&operands.d) as usize;
        result.put(HeuristicResult { algorithm: data, workspace_bytes, waves: 1.0, ..Default::default() }).map_err(wrong)
    })
}

/// The algorithm an application passed, or the first that its workspace allows.
fn chosen(algorithm: HostBytes, operands: &Operands, workspace_bytes: usize) -> Result<Algorithm, Status> {
    if algorithm.address() == 0 {
        return Ok(ALGORITHMS[0]);
    }
    let data: AlgorithmData = algorithm.value().map_err(wrong)?;
    let known = ALGORITHMS.iter().find(|known| known.number == data[0]).ok_or(Status::INVALID_VALUE)?;
    if data[1] != problem(operands) {
        return Err(Status::INVALID_VALUE);
    }
    if known.workspace_bytes(&operands.d) > workspace_bytes as u64 {
        return Err(Status::INVALID_VALUE);
    }
    Ok(*known)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cublasLtMatmul(
    handle: u64,
    description: u64,
    alpha: HostBytes,
    a: u64,
    a_layout: u64,
    b: u64,
    b_layout: u64,
    beta: HostBytes,
    c: u64,
    c_layout: u64,
    d: u64,
    d_layout: u64,
    algorithm: HostBytes,
    workspace: u64,
    workspace_bytes: usize,
    stream: u64,
) -> Status {
    run(|| {
        let operands = with(|all| {
            all.handles.get(&handle).ok_or(Status::NOT_INITIALIZED)?;
            operands(all, description, [a_layout, b_layout, c_layout, d_layout])
        })?;
        let mut product = operands.product()?;
        known_to_device(&operands)?;
        (product.a.address, product.b.address, product.c.address, product.d.address) = (a, b, c, d);
        product.alpha = alpha.value().map_err(wrong)?;
        product.beta = beta.value().map_err(wrong)?;
        if let Some((address, _)) = &mut product.bias {
            *address = operands.description.bias;
        }
        let matrices = [(&product.a, true), (&product.b, true), (&product.c, product.beta != 0.0), (&product.d, true)];
        for (matrix, _) in matrices.iter().filter(|(_, is_used)| *is_used) {
            let alignment = if matrix.element.bytes() == 2 { ALIGNMENT } else { 4 };
            if matrix.address == 0 {
                return Err(Status::INVALID_VALUE);
            }
            if !matrix.address.is_multiple_of(alignment)
                || !(matrix.stride * matrix.element.bytes()).is_multiple_of(alignment as usize)
            {
                return Err(Status::NOT_SUPPORTED);
            }
        }
        if product.bias.is_some_and(|(address, element)| address == 0 || !address.is_multiple_of(element.bytes() as u64)) {
            return Err(Status::INVALID_VALUE);
        }
        if workspace_bytes > 0 && (workspace == 0 || !workspace.is_multiple_of(ALIGNMENT)) {
            return Err(Status::INVALID_VALUE);
        }
        let algorithm = chosen(algorithm, &operands, workspace_bytes)?;
        product.parts = algorithm.parts;
        product.workspace = (workspace, algorithm.workspace_bytes(&operands.d) as usize);
        let name = format!("matrix product {}", product.describe());
        let mut call = Call::enter().map_err(|_| Status::EXECUTION_FAILED)?;
        let stream = call.stream(stream).map_err(wrong)?;
        call.enqueue(stream, &name, Action::Product(Arc::new(product))).map_err(|_| Status::EXECUTION_FAILED)
    })
}
