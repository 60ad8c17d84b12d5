//! The families of the machine: processors, memory, GPUs.

use super::super::host::{CpuReading, GpuReading, HostReading, ProcessReading};
use super::exposition::{COUNTER, Exposition, GAUGE, Labels, number};

/// Gauge of the share of all processors that is in use.
pub const CPU_UTILIZATION: &str = "nv_cpu_utilization";
/// Gauge of the machine's memory.
pub const CPU_MEMORY_TOTAL: &str = "nv_cpu_memory_total_bytes";
/// Gauge of the machine's memory in use.
pub const CPU_MEMORY_USED: &str = "nv_cpu_memory_used_bytes";
/// Gauge of the share of time in which a GPU was in use.
pub const GPU_UTILIZATION: &str = "nv_gpu_utilization";
/// Gauge of a GPU's memory.
pub const GPU_MEMORY_TOTAL: &str = "nv_gpu_memory_total_bytes";
/// Gauge of a GPU's memory in use.
pub const GPU_MEMORY_USED: &str = "nv_gpu_memory_used_bytes";
/// Gauge of the watts that a GPU draws.
pub const GPU_POWER_USAGE: &str = "nv_gpu_power_usage";
/// Gauge of the watts that a GPU may draw.
pub const GPU_POWER_LIMIT: &str = "nv_gpu_power_limit";
/// Counter of the joules that a GPU has used since the driver was loaded.
pub const ENERGY: &str = "nv_energy_consumption";
/// Gauge of the pool of pinned memory.
pub const PINNED_TOTAL: &str = "nv_pinned_memory_pool_total_bytes";
/// Gauge of pinned memory in use.
pub const PINNED_USED: &str = "nv_pinned_memory_pool_used_bytes";
/// Gauge of the server's resident memory.
pub const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
/// Counter of the server's processor time.
pub const PROCESS_CPU: &str = "process_cpu_seconds_total";

/// Name, text, kind and value of a family with at most one series per `T`.
type Row<T> = (&'static str, &'static str, &'static str, fn(&T) -> Option<f64>);

const CPU: [Row<CpuReading>; 3] = [
    (CPU_UTILIZATION, "Share of all processors in use, from 0 to 1", GAUGE, |cpu| cpu.utilization),
    (CPU_MEMORY_TOTAL, "Memory of the machine in bytes", GAUGE, |cpu| Some(number(cpu.memory_total))),
    (CPU_MEMORY_USED, "Memory of the machine in use, in bytes", GAUGE, |cpu| Some(number(cpu.memory_used))),
];

const GPU: [Row<GpuReading>; 6] = [
    (GPU_UTILIZATION, "Share of time in which the GPU was in use, from 0 to 1", GAUGE, |gpu| gpu.utilization),
    (GPU_MEMORY_TOTAL, "Memory of the GPU in bytes", GAUGE, |gpu| gpu.memory_total.map(number)),
    (GPU_MEMORY_USED, "Memory of the GPU in use, in bytes", GAUGE, |gpu| gpu.memory_used.map(number)),
    (GPU_POWER_USAGE, "Watts that the GPU draws", GAUGE, |gpu| gpu.power_watts),
    (GPU_POWER_LIMIT, "Watts that the GPU may draw", GAUGE, |gpu| gpu.power_limit_watts),
    (ENERGY, "Joules that the GPU has used since its driver was loaded", COUNTER, |gpu| gpu.energy_joules),
];

const PROCESS: [Row<ProcessReading>; 2] = [
    (RESIDENT_MEMORY, "Resident memory of the server in bytes", GAUGE, |process| Some(number(process.resident_bytes))),
    (PROCESS_CPU, "Processor time of the server in seconds", COUNTER, |process| Some(process.cpu_seconds)),
];

/// Writes all families; those of which nothing is known have no series.
pub(super) fn write(page: &mut Exposition, host: &HostReading, detailed: bool) {
    rows(page, &CPU, host.cpu.iter().map(|cpu| (Labels::default(), cpu)));
    rows(page, &GPU, host.gpus.iter().map(|gpu| (Labels::default().with("gpu_uuid", &gpu.uuid), gpu)));
    // There is no such pool here, which is what the zeros say to those who look for one.
    for (name, help) in [(PINNED_TOTAL, "Bytes of the pool of pinned memory"), (PINNED_USED, "Bytes of pinned memory in use")] {
        page.family(name, help, GAUGE);
        page.value(name, &Labels::default(), 0.0);
    }
    if detailed {
        rows(page, &PROCESS, host.process.iter().map(|process| (Labels::default(), process)));
    }
}

fn rows<'a, T: 'a>(page: &mut Exposition, families: &[Row<T>], readings: impl Iterator<Item = (Labels, &'a T)> + Clone) {
    for (name, help, kind, value) in families {
        page.family(name, help, kind);
        for (labels, reading) in readings.clone() {
            if let Some(value) = value(reading) {
                page.value(name, &labels, value);
            }
        }
    }
}
