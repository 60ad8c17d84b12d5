//! What there is, and what it computes and how fast.

use kernels::cuda::check::measure::{self, Effort};
use kernels::cuda::check::{Case, checks};
use kernels::cuda::{self, DeviceError, DeviceType, Stream};

use super::findings::{Blas, DeviceFindings, Driver, Machine, OperationFinding, ProductFinding, Speed, SystemGpu};
use crate::error::ModelError;
use crate::plan::cuda::Gpu;

/// Of the comparisons of an operation and a type, the part that a quick examination makes.
const QUICK_PART: usize = 8;
/// Sentences that are kept of what came out wrong.
const MOST_TOLD: usize = 8;

/// What of GPUs there is on this machine. GPUs that can be used are opened for a moment.
pub fn machine() -> Machine {
    let driver = cuda::version().map(|version| Driver { cuda: cuda::version_text(version), library: cuda::library() });
    let gpus = cuda::cards().map(|cards| cards.into_iter().map(system_gpu).collect());
    let blas = cuda::find_blas().map(|(path, version)| Blas { version: blas_version(version), path });
    Machine { driver, gpus, blas }
}

fn system_gpu(card: cuda::Card) -> SystemGpu {
    let free_bytes = match cuda::probe(card.ordinal) {
        Ok(description) => Ok(description.free_bytes),
        Err(DeviceError::Unusable { reason, .. }) => Err(reason),
        Err(error) => Err(error.to_string()),
    };
    SystemGpu {
        ordinal: card.ordinal,
        name: card.name,
        uuid: card.uuid,
        capability: cuda::capability_text(card.capability),
        total_bytes: card.total_bytes,
        free_bytes,
    }
}

fn blas_version(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// Compares every kernel with its specification on `gpu`, and measures how fast it is; `quick` makes a part of the
/// comparisons, and measures small sizes. `tell` hears what is examined next.
///
/// # Errors
/// The device cannot be used any more. Once comparisons have begun, a failure is a finding.
pub fn examine(gpu: &Gpu, quick: bool, tell: &mut dyn FnMut(&str)) -> Result<DeviceFindings, ModelError> {
    let stream = Stream::new(gpu.device())?;
    let operations = compare(&stream, quick, tell);
    let effort = if quick { Effort::Quick } else { Effort::Full };
    tell("copies, products and launches");
    let speed = measure_speed(&stream, effort).map_err(|error| error.to_string());
    Ok(DeviceFindings { operations, speed })
}

fn compare(stream: &Stream, quick: bool, tell: &mut dyn FnMut(&str)) -> Vec<OperationFinding> {
    let mut findings: Vec<OperationFinding> = Vec::new();
    let mut passed = Vec::new();
    for check in checks(stream.gpu().capability()) {
        let (operation, dtype) = (check.operation(), check.dtype().suffix());
        let known = findings.iter().position(|finding| (finding.operation, finding.dtype) == (operation, dtype));
        let at = known.unwrap_or_else(|| {
            tell(&format!("{operation} {dtype}"));
            passed.push(0);
            let (worst, wrong) = (String::new(), Vec::new());
            findings.push(OperationFinding { operation, dtype, cases: 0, error: 0.0, of_tolerance: 0.0, worst, wrong });
            findings.len() - 1
        });
        passed[at] += 1;
        if quick && (passed[at] - 1) % QUICK_PART != 0 {
            continue;
        }
        match check.run(stream) {
            Ok(case) => findings[at].add(&case),
            Err(error) => {
                let shape = check.shape();
                findings[at].cases += 1;
                findings[at].tell(format!("{operation} {dtype} {shape}: {error}"));
                // Nothing else could be compared any more.
                if stream.gpu().poisoned().is_some() {
                    break;
                }
            }
        }
    }
    findings
}

impl OperationFinding {
    fn add(&mut self, case: &Case) {
        self.cases += 1;
        self.error = self.error.max(case.error);
        if self.worst.is_empty() || case.of_tolerance > self.of_tolerance {
            self.of_tolerance = case.of_tolerance;
            self.worst.clone_from(&case.shape);
        }
        if !case.is_right() {
            self.tell(case.to_string());
        }
    }

    fn tell(&mut self, sentence: String) {
        if self.wrong.len() < MOST_TOLD {
            self.wrong.push(sentence);
        }
    }
}

fn measure_speed(stream: &Stream, effort: Effort) -> Result<Speed, DeviceError> {
    let copies = measure::copies(stream, effort)?;
    let mut products = Vec::new();
    for dtype in [DeviceType::F16, DeviceType::Bf16, DeviceType::F32] {
        if dtype == DeviceType::Bf16 && stream.gpu().capability() < 80 {
            continue;
        }
        let rate = measure::products(stream, dtype, effort)?;
        products.push(ProductFinding { dtype: dtype.suffix(), size: rate.size, operations: rate.operations });
    }
    Ok(Speed {
        pinned_to_device: copies.pinned_to_device,
        pageable_to_device: copies.pageable_to_device,
        device_to_pinned: copies.device_to_pinned,
        device_to_pageable: copies.device_to_pageable,
        on_device: copies.on_device,
        products,
        launch_seconds: measure::launches(stream)?,
    })
}
