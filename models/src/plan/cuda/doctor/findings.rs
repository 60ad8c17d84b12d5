//! What was found.

use super::Rates;

/// What of GPUs there is on a machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// The driver, or why there is none that serves.
    pub driver: Result<Driver, String>,
    /// What the driver shows, or why it shows nothing.
    pub gpus: Result<Vec<SystemGpu>, String>,
    /// cuBLASLt, or where it was looked for.
    pub blas: Result<Blas, String>,
}

/// A driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The version of CUDA that it serves, such as `13.0`.
    pub cuda: String,
    /// The file that its library was loaded from, where the system tells.
    pub library: Option<String>,
}

/// A library of products.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blas {
    /// Such as `13.1.0`.
    pub version: String,
    /// Where it was found.
    pub path: String,
}

/// A GPU that the driver shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemGpu {
    /// Which, from 0.
    pub ordinal: u32,
    /// What its maker calls it.
    pub name: String,
    /// Its identity, as `GPU-8-4-4-4-12` digits.
    pub uuid: String,
    /// Such as `8.0`.
    pub capability: String,
    /// All of its memory.
    pub total_bytes: usize,
    /// What is free of it, or why it cannot be used.
    pub free_bytes: Result<usize, String>,
}

/// What was found on a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceFindings {
    /// Kernels against their specifications: one entry for each operation and type.
    pub operations: Vec<OperationFinding>,
    /// How fast it is, or why that could not be measured.
    pub speed: Result<Speed, String>,
}

impl DeviceFindings {
    /// Whether every kernel kept its contract.
    pub fn is_right(&self) -> bool {
        self.operations.iter().all(|operation| operation.wrong.is_empty())
    }
}

/// All comparisons of an operation on numbers of one type.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationFinding {
    /// The operation.
    pub operation: &'static str,
    /// What the numbers are that it works on.
    pub dtype: &'static str,
    /// How many comparisons were made.
    pub cases: usize,
    /// The largest difference from the specification.
    pub error: f64,
    /// The largest difference as a part of what is tolerated at its place; right up to 1.
    pub of_tolerance: f64,
    /// Where that was.
    pub worst: String,
    /// What came out wrong, one sentence each.
    pub wrong: Vec<String>,
}

/// How fast a GPU is.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Bytes a second to the device from pinned memory of the host.
    pub pinned_to_device: f64,
    /// The same from other memory of the host.
    pub pageable_to_device: f64,
    /// Bytes a second from the device to pinned memory of the host.
    pub device_to_pinned: f64,
    /// The same to other memory of the host.
    pub device_to_pageable: f64,
    /// Bytes a second that a copy on the device reads and writes.
    pub on_device: f64,
    /// The fastest product of each type.
    pub products: Vec<ProductFinding>,
    /// Seconds from one launch to the next where launches follow each other.
    pub launch_seconds: f64,
}

/// The fastest product of a type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProductFinding {
    /// Type of its numbers.
    pub dtype: &'static str,
    /// Rows, columns and inner numbers.
    pub size: usize,
    /// Multiplications and additions a second.
    pub operations: f64,
}

impl Speed {
    /// What limits are computed from.
    pub fn rates(&self) -> Rates {
        let product = |dtype: &str| self.products.iter().find(|product| product.dtype == dtype).map(|product| product.operations);
        let exact = product("f32").unwrap_or(f64::INFINITY);
        Rates {
            f32: exact,
            f16: product("f16").unwrap_or(exact),
            bf16: product("bf16").unwrap_or(exact),
            memory: self.on_device,
            to_device: self.pinned_to_device,
            to_host: self.device_to_pinned,
        }
    }
}

/// A batch of a model, against the least time that it could take.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanFinding {
    /// Texts or images.
    pub items: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Seconds from batch to batch, with two under way.
    pub seconds: f64,
    /// The least number of seconds, from what was measured on the device.
    pub limit_seconds: f64,
    /// The part of the limit in which products and attention, and not memory, are what limits.
    pub computing: f64,
}

impl PlanFinding {
    /// How close to the limit it is: 1 is there.
    pub fn share(&self) -> f64 {
        self.limit_seconds / self.seconds
    }
}
