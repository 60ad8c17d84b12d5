//! Flags of the metrics.

use std::time::Duration;

use clap::{ArgAction, Args};

use crate::observe::host::HostOptions;
use crate::observe::options::{MetricsOptionError, MetricsOptions};

/// What is measured, and how often.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Metrics")]
pub(super) struct MetricsArgs {
    /// Setting of the metrics, repeatable: counter_latencies, histogram_latencies, summary_latencies, detailed (true or
    /// false), or summary_quantiles (QUANTILE:ERROR parted by commas).
    #[arg(long, value_name = "SETTING=VALUE")]
    metrics_config: Vec<String>,
    /// Milliseconds between two looks at processors, GPUs and the load of models.
    #[arg(long, default_value_t = 2000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(10..))]
    metrics_interval_ms: u64,
    /// Whether metrics tell of GPUs.
    #[arg(long, action = ArgAction::Set, default_value_t = true, value_name = "true|false", hide_possible_values = true)]
    allow_gpu_metrics: bool,
    /// Whether metrics tell of processors and memory.
    #[arg(long, action = ArgAction::Set, default_value_t = true, value_name = "true|false", hide_possible_values = true)]
    allow_cpu_metrics: bool,
}

/// How the machine and the models are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Watching {
    /// Time between two looks.
    pub(in crate::cli) interval: Duration,
    /// What of the machine is looked at.
    pub(in crate::cli) host: HostOptions,
}

impl Default for Watching {
    fn default() -> Self {
        Self { interval: Duration::from_secs(2), host: HostOptions { cpu: true, gpu: true } }
    }
}

impl MetricsArgs {
    /// What is recorded and shown.
    ///
    /// # Errors
    /// A setting that means nothing.
    pub(super) fn options(&self) -> Result<MetricsOptions, MetricsOptionError> {
        let mut options = MetricsOptions::default();
        self.metrics_config.iter().try_for_each(|setting| options.set(setting))?;
        Ok(options)
    }

    /// How the machine and the models are looked at.
    pub(super) fn watching(&self) -> Watching {
        Watching {
            interval: Duration::from_millis(self.metrics_interval_ms),
            host: HostOptions { cpu: self.allow_cpu_metrics, gpu: self.allow_gpu_metrics },
        }
    }
}
