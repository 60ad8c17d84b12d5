//! Findings for people.

use super::super::control::table;
use super::super::plan::size;
use super::report::{Examined, ModelLine, Report};
use crate::instance::{OperationFinding, PlanFinding, Speed, SystemGpu};

/// The whole report.
pub(super) fn to_text(report: &Report) -> String {
    let mut text = table(&machine(report));
    match &report.examined {
        Examined::Nothing { because } => text.push_str(&format!("\nno GPU is examined: {because}\n")),
        Examined::Unusable { ordinal, reason } => text.push_str(&format!("\nGPU {ordinal} is not examined: {reason}\n")),
        Examined::Gpu { ordinal, findings } => {
            let part = if report.is_quick { ", an eighth of the comparisons" } else { "" };
            text.push_str(&format!("\nkernels of GPU {ordinal} against their specifications{part}\n"));
            text.push_str(&operations(&findings.operations));
            text.push_str(&format!("\nspeed of GPU {ordinal}\n"));
            match &findings.speed {
                Ok(speed) => text.push_str(&table(&rates(speed))),
                Err(reason) => text.push_str(&format!("not measured: {reason}\n")),
            }
        }
    }
    text.push_str(&models(&report.models));
    if report.is_quick && matches!(report.examined, Examined::Gpu { .. }) {
        text.push_str("\nmeasured with small sizes (--quick): speeds and shares tell little\n");
    }
    text
}

/// What there is: a name and a sentence each.
fn machine(report: &Report) -> Vec<[String; 2]> {
    let host = &report.host;
    let mut lines = Vec::new();
    let mut line = |name: &str, what: String| lines.push([name.to_owned(), what]);
    let features = if host.features.is_empty() { "no features".to_owned() } else { format!("with {}", host.features.join(", ")) };
    line("alcedo", format!("{}, {features}", host.version));
    let processor = host.processor.as_deref().unwrap_or("of an unknown kind");
    line("processor", format!("{processor}, {} cores, {}", host.cores, host.instructions));
    line(
        "memory",
        host.memory.map_or_else(
            || "unknown".to_owned(),
            |(total, available)| format!("{}, {} available", bytes(total), bytes(available)),
        ),
    );
    line(
        "driver",
        match &report.gpus.driver {
            Ok(driver) => {
                let release = host.driver_release.as_ref().map_or_else(String::new, |release| format!("{release}, "));
                let library = driver.library.as_ref().map_or_else(String::new, |library| format!(", {library}"));
                format!("{release}serves CUDA {}{library}", driver.cuda)
            }
            Err(reason) => format!("none: {reason}"),
        },
    );
    line(
        "cuBLASLt",
        match &report.gpus.blas {
            Ok(blas) => format!("{}, {}", blas.version, blas.path),
            Err(reason) => format!("none: {reason}"),
        },
    );
    match &report.gpus.gpus {
        Ok(gpus) if gpus.is_empty() => line("GPUs", "none".to_owned()),
        Ok(gpus) => gpus.iter().for_each(|gpu| line(&format!("GPU {}", gpu.ordinal), self::gpu(gpu))),
        Err(reason) => line("GPUs", format!("none: {reason}")),
    }
    lines
}

fn gpu(gpu: &SystemGpu) -> String {
    let state = match &gpu.free_bytes {
        Ok(free) => format!("{} free", size(*free)),
        Err(reason) => format!("cannot be used: {reason}"),
    };
    format!("{}, compute capability {}, {}, {}, {state}", gpu.name, gpu.capability, gpu.uuid, size(gpu.total_bytes))
}

fn operations(operations: &[OperationFinding]) -> String {
    const HEADER: [&str; 7] = ["OPERATION", "TYPE", "CASES", "ERROR", "OF TOLERANCE", "RESULT", "LARGEST AT"];
    let mut cells = vec![HEADER.map(str::to_owned)];
    cells.extend(operations.iter().map(|finding| {
        let result = if finding.wrong.is_empty() { "right" } else { "WRONG" };
        [
            finding.operation.to_owned(),
            finding.dtype.to_owned(),
            finding.cases.to_string(),
            format!("{:.1e}", finding.error),
            format!("{:.3}", finding.of_tolerance),
            result.to_owned(),
            finding.worst.clone(),
        ]
    }));
    table(&cells)
}

fn rates(speed: &Speed) -> Vec<[String; 2]> {
    let rate = |name: &str, bytes: f64| [format!("copies {name}"), format!("{:.1} GB/s", bytes / 1e9)];
    let mut lines = vec![
        rate("from pinned memory to the device", speed.pinned_to_device),
        rate("from other memory to the device", speed.pageable_to_device),
        rate("from the device to pinned memory", speed.device_to_pinned),
        rate("from the device to other memory", speed.device_to_pageable),
        rate("on the device, read and written", speed.on_device),
    ];
    lines.extend(speed.products.iter().map(|product| {
        let value = format!("{:.2} TFLOP/s, of {} x {} matrices", product.operations / 1e12, product.size, product.size);
        [format!("products in {}", product.dtype), value]
    }));
    lines.push(["launch after launch".to_owned(), format!("{:.1} us", speed.launch_seconds * 1e6)]);
    lines
}

fn models(models: &[ModelLine]) -> String {
    const HEADER: [&str; 9] = ["MODEL", "VERSION", "DTYPE", "ITEMS", "TOKENS", "TIME", "LIMIT", "SHARE", "LIMITED BY"];
    let mut cells = vec![HEADER.map(str::to_owned)];
    let mut rest = String::new();
    for line in models {
        match &line.times {
            Ok(Some(times)) => cells.extend(times.batches.iter().enumerate().map(|(at, batch)| {
                let named = if at == 0 { [&line.model, &line.version, times.dtype] } else { [""; 3] };
                let [model, version, dtype] = named.map(str::to_owned);
                let [items, tokens, time, limit, share, by] = batch_cells(batch);
                [model, version, dtype, items, tokens, time, limit, share, by]
            })),
            Ok(None) => rest.push_str(&format!("{} runs on no GPU\n", line.model)),
            Err(reason) => rest.push_str(&format!("{} is not timed: {reason}\n", line.model)),
        }
    }
    if models.is_empty() {
        return String::new();
    }
    let head = "\nmodels, against the least time that what was measured allows\n";
    let table = if cells.len() > 1 { table(&cells) } else { String::new() };
    format!("{head}{table}{rest}")
}

fn batch_cells(batch: &PlanFinding) -> [String; 6] {
    [
        batch.items.to_string(),
        batch.tokens.to_string(),
        format!("{:.3} ms", batch.seconds * 1e3),
        format!("{:.3} ms", batch.limit_seconds * 1e3),
        format!("{:.1} %", batch.share() * 100.0),
        format!("{:.0} % arithmetic", batch.computing * 100.0),
    ]
}

fn bytes(count: u64) -> String {
    size(usize::try_from(count).unwrap_or(usize::MAX))
}
