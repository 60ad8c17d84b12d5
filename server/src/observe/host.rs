//! The machine under the server: processors, memory and GPUs, looked at every few seconds.
//!
//! The GPUs are asked through NVIDIA's management library, which is loaded when it is there: without a driver there is
//! nothing to tell of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvml_wrapper::Nvml;
use procfs::{Current, CurrentSI, WithCurrentSystemInfo};

/// What is known of the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostReading {
    /// Processors and memory, where they are looked at.
    pub cpu: Option<CpuReading>,
    /// The GPUs that are looked at.
    pub gpus: Vec<GpuReading>,
    /// The server itself, where it is looked at.
    pub process: Option<ProcessReading>,
}

/// Processors and memory of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuReading {
    /// Share of all processors in use since the last look, 0 to 1; `None` at the first look.
    pub utilization: Option<f64>,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes that are not available to new programs.
    pub memory_used: u64,
}

/// One GPU; what it does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuReading {
    /// Its identity, `GPU-...`.
    pub uuid: String,
    /// Share of time in which it was in use, 0 to 1.
    pub utilization: Option<f64>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Bytes in use.
    pub memory_used: Option<u64>,
    /// Watts that it draws.
    pub power_watts: Option<f64>,
    /// Watts that it may draw.
    pub power_limit_watts: Option<f64>,
    /// Joules since its driver was loaded.
    pub energy_joules: Option<f64>,
}

/// The server as the system sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessReading {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Processor time in seconds.
    pub cpu_seconds: f64,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HostOptions {
    pub cpu: bool,
    pub gpu: bool,
}

/// The last look at the machine. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Host(Arc<Mutex<HostReading>>);

impl Host {
    /// What was seen last; nothing before the first look.
    pub fn reading(&self) -> HostReading {
        self.lock().clone()
    }

    /// Keeps what a probe sees.
    pub fn update(&self, reading: HostReading) {
        *self.lock() = reading;
    }

    fn lock(&self) -> MutexGuard<'_, HostReading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the machine.
pub struct HostProbe {
    options: HostOptions,
    /// Ticks of all processors at the last look: in use, and all.
    ticks: Option<(u64, u64)>,
    nvml: Option<Nvml>,
}

impl HostProbe {
    /// A probe; it may take a moment to load the driver's library.
    pub fn new(options: HostOptions) -> Self {
        let nvml = options.gpu.then(Nvml::init).and_then(|opened| {
            opened.inspect_err(|error| tracing::debug!(%error, "no metrics of GPUs: the driver's library is not there")).ok()
        });
        Self { options, ticks: None, nvml }
    }

    /// Looks.
    pub fn look(&mut self) -> HostReading {
        HostReading {
            cpu: if self.options.cpu { self.cpu() } else { None },
            gpus: self.nvml.as_ref().map(gpus).unwrap_or_default(),
            process: process(),
        }
    }

    fn cpu(&mut self) -> Option<CpuReading> {
        let time = procfs::KernelStats::current().ok()?.total;
        let memory = procfs::Meminfo::current().ok()?;
        let idle = time.idle.saturating_add(time.iowait.unwrap_or(0));
        let used = [Some(time.user), Some(time.nice), Some(time.system), time.irq, time.softirq, time.steal];
        let used = used.iter().flatten().fold(0, |sum: u64, ticks| sum.saturating_add(*ticks));
        let now = (used, used.saturating_add(idle));
        let last = self.ticks.replace(now);
        Some(CpuReading {
            utilization: last.and_then(|last| share(last, now)),
            memory_total: memory.mem_total,
            memory_used: memory.mem_total.saturating_sub(memory.mem_available.unwrap_or(memory.mem_free)),
        })
    }
}

/// The share of ticks in use between two looks.
#[allow(clippy::cast_precision_loss)]
fn share(last: (u64, u64), now: (u64, u64)) -> Option<f64> {
    let (used, all) = (now.0.saturating_sub(last.0), now.1.saturating_sub(last.1));
    (all > 0).then(|| used as f64 / all as f64)
}

fn process() -> Option<ProcessReading> {
    let stat = procfs::process::Process::myself().ok()?.stat().ok()?;
    #[allow(clippy::cast_precision_loss)]
    let cpu_seconds = stat.utime.saturating_add(stat.stime) as f64 / procfs::ticks_per_second() as f64;
    Some(ProcessReading { resident_bytes: stat.rss_bytes().get(), cpu_seconds })
}

fn gpus(nvml: &Nvml) -> Vec<GpuReading> {
    let count = nvml.device_count().unwrap_or(0);
    let gpu = |index| {
        let device = nvml.device_by_index(index).ok()?;
        let memory = device.memory_info().ok();
        Some(GpuReading {
            uuid: device.uuid().ok()?,
            utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            memory_total: memory.as_ref().map(|memory| memory.total),
            memory_used: memory.as_ref().map(|memory| memory.used),
            power_watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
            power_limit_watts: device.enforced_power_limit().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
            #[allow(clippy::cast_precision_loss)]
            energy_joules: device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1e3),
        })
    };
    (0..count).filter_map(gpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_seen() {
        let mut probe = HostProbe::new(HostOptions { cpu: true, gpu: true });
        let first = probe.look();
        let cpu = first.cpu.expect("procfs is there");
        assert_eq!(cpu.utilization, None, "there is nothing to compare with yet");
        assert!(cpu.memory_used > 0 && cpu.memory_used < cpu.memory_total, "{cpu:?}");
        assert!(first.process.expect("so is the process").resident_bytes > 1 << 20);
        let second = probe.look().cpu.expect("procfs is still there");
        assert!(second.utilization.is_none_or(|share| (0.0..=1.0).contains(&share)), "{second:?}");
        let nothing = HostProbe::new(HostOptions { cpu: false, gpu: false }).look();
        assert_eq!((nothing.cpu, nothing.gpus), (None, vec![]));
    }

    #[test]
    fn utilization_is_a_share_of_what_passed() {
        assert_eq!(share((10, 100), (30, 140)), Some(0.5));
        assert_eq!(share((10, 100), (10, 100)), None);
        assert_eq!(share((10, 100), (5, 140)), Some(0.0), "counters that went back");
    }
}
