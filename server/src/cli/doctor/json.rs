//! Findings for programs: one object; sizes in bytes, times in seconds, rates a second.

use serde_json::{Map, Value, json};

use super::report::{Examined, ModelLine, Report};
use crate::instance::{DeviceFindings, OperationFinding, PlanFinding, Speed, SystemGpu};

/// The whole report.
pub(super) fn to_text(report: &Report) -> String {
    let mut text = format!("{:#}", to_value(report));
    text.push('\n');
    text
}

fn to_value(report: &Report) -> Value {
    let host = &report.host;
    json!({
        "version": host.version,
        "features": host.features,
        "processor": { "name": host.processor, "cores": host.cores, "instructions": host.instructions },
        "memory": host.memory.map(|(total, available)| json!({ "total_bytes": total, "available_bytes": available })),
        "driver": either(&report.gpus.driver, |driver| json!({
            "release": host.driver_release, "cuda": driver.cuda, "library": driver.library,
        })),
        "cublaslt": either(&report.gpus.blas, |blas| json!({ "version": blas.version, "path": blas.path })),
        "gpus": either(&report.gpus.gpus, |gpus| gpus.iter().map(gpu).collect()),
        "quick": report.is_quick,
        "examined": examined(&report.examined),
        "models": report.models.iter().map(model).collect::<Vec<_>>(),
        "right": report.verdict().is_ok(),
    })
}

/// What there is, or an object with the reason why not.
fn either<T>(result: &Result<T, String>, value: impl FnOnce(&T) -> Value) -> Value {
    result.as_ref().map_or_else(|reason| json!({ "error": reason }), value)
}

fn gpu(gpu: &SystemGpu) -> Value {
    json!({
        "ordinal": gpu.ordinal,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "compute_capability": gpu.capability,
        "total_bytes": gpu.total_bytes,
        "free_bytes": gpu.free_bytes.as_ref().ok(),
        "unusable": gpu.free_bytes.as_ref().err(),
    })
}

fn examined(examined: &Examined) -> Value {
    match examined {
        Examined::Nothing { because } => json!({ "device": Value::Null, "reason": because }),
        Examined::Unusable { ordinal, reason } => json!({ "device": format!("cuda:{ordinal}"), "error": reason }),
        Examined::Gpu { ordinal, findings } => findings_of(*ordinal, findings),
    }
}

fn findings_of(ordinal: u32, findings: &DeviceFindings) -> Value {
    json!({
        "device": format!("cuda:{ordinal}"),
        "kernels": findings.operations.iter().map(operation).collect::<Vec<_>>(),
        "speed": either(&findings.speed, speed),
    })
}

fn operation(finding: &OperationFinding) -> Value {
    json!({
        "operation": finding.operation,
        "dtype": finding.dtype,
        "cases": finding.cases,
        "largest_error": finding.error,
        "of_tolerance": finding.of_tolerance,
        "largest_at": finding.worst,
        "right": finding.wrong.is_empty(),
        "wrong": finding.wrong,
    })
}

fn speed(speed: &Speed) -> Value {
    let product = |product: &crate::instance::ProductFinding| {
        let rate = json!({ "size": product.size, "flops": product.operations });
        (product.dtype.to_owned(), rate)
    };
    json!({
        "pinned_to_device_bytes": speed.pinned_to_device,
        "pageable_to_device_bytes": speed.pageable_to_device,
        "device_to_pinned_bytes": speed.device_to_pinned,
        "device_to_pageable_bytes": speed.device_to_pageable,
        "on_device_bytes": speed.on_device,
        "products": speed.products.iter().map(product).collect::<Map<String, Value>>(),
        "launch_seconds": speed.launch_seconds,
    })
}

fn model(line: &ModelLine) -> Value {
    let (model, version) = (&line.model, &line.version);
    match &line.times {
        Ok(Some(times)) => {
            let batches: Vec<Value> = times.batches.iter().map(batch).collect();
            json!({ "model": model, "version": version, "dtype": times.dtype, "batches": batches })
        }
        Ok(None) => json!({ "model": model, "version": version, "batches": [] }),
        Err(reason) => json!({ "model": model, "version": version, "error": reason }),
    }
}

fn batch(batch: &PlanFinding) -> Value {
    json!({
        "items": batch.items,
        "tokens": batch.tokens,
        "seconds": batch.seconds,
        "limit_seconds": batch.limit_seconds,
        "share": batch.share(),
        "computing": batch.computing,
    })
}
