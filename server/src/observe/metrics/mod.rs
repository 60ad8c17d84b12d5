//! The metrics page: counters of every model version in Prometheus' text format 0.0.4.
//!
//! Rendering is pure; who serves the page passes what is to be on it. Every family is named once, as a constant: here
//! those that Triton has for models, in `host` those for the machine, in `detail` our own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;

use super::host::HostReading;
use super::options::MetricsOptions;
use super::saturation::Load;
use super::statistics::{FailureReason, Recorded, Summaries, Tally};
use super::summary::Summary;

pub mod detail;
mod exposition;
pub mod host;

use exposition::{COUNTER, Exposition, GAUGE, Labels, number};

/// The page's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counter of requests that were answered.
pub const REQUEST_SUCCESS: &str = "nv_inference_request_success";
/// Counter of requests that failed, by reason.
pub const REQUEST_FAILURE: &str = "nv_inference_request_failure";
/// Counter of rows computed.
pub const INFERENCE_COUNT: &str = "nv_inference_count";
/// Counter of batches executed.
pub const EXECUTION_COUNT: &str = "nv_inference_exec_count";
/// Counter of microseconds from receipt to answer.
pub const REQUEST_DURATION: &str = "nv_inference_request_duration_us";
/// Counter of microseconds in queues.
pub const QUEUE_DURATION: &str = "nv_inference_queue_duration_us";
/// Counter of microseconds of gathering inputs.
pub const COMPUTE_INPUT_DURATION: &str = "nv_inference_compute_input_duration_us";
/// Counter of microseconds in the model.
pub const COMPUTE_INFER_DURATION: &str = "nv_inference_compute_infer_duration_us";
/// Counter of microseconds of splitting outputs.
pub const COMPUTE_OUTPUT_DURATION: &str = "nv_inference_compute_output_duration_us";
/// Counter of requests answered from the response cache.
pub const CACHE_HITS: &str = "nv_cache_num_hits_per_model";
/// Counter of requests whose answer was not in the response cache.
pub const CACHE_MISSES: &str = "nv_cache_num_misses_per_model";
/// Counter of microseconds of looking into the response cache, where that found the answer.
pub const CACHE_HIT_DURATION: &str = "nv_cache_hit_duration_per_model";
/// Counter of microseconds of looking into the response cache and putting the answer there, where it was not.
pub const CACHE_MISS_DURATION: &str = "nv_cache_miss_duration_per_model";
/// Gauge of requests that wait for execution.
pub const PENDING_REQUESTS: &str = "nv_inference_pending_request_count";
/// Gauge of the seconds that the last load took.
pub const LOAD_DURATION: &str = "nv_model_load_duration_secs";

/// Everything the page says of one model version.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Model.
    pub model: String,
    /// Version.
    pub version: u64,
    /// The configuration's `metric_tags`; each becomes a label `_<key>`.
    pub tags: BTreeMap<String, String>,
    /// What was recorded of it.
    pub recorded: Recorded,
    /// Requests between queue entry and execution, by priority level; the first is level 1.
    pub pending: Vec<u64>,
    /// Time in which each instance ran batches; empty for an ensemble.
    pub busy: Vec<Duration>,
    /// How loaded it is; `None` for an ensemble.
    pub load: Option<Load>,
    /// Seconds that the load took.
    pub load_seconds: f64,
    /// Whether it serves. Of one that was unloaded only the failure counters stay.
    pub is_loaded: bool,
    /// Whether its answers go through the response cache.
    pub is_cached: bool,
}

/// Everything the page says of one device that models share.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSeries {
    /// Device.
    pub name: String,
    /// Slots, of which every execution takes one or more.
    pub slots: usize,
    /// Time used in all slots together.
    pub busy: Duration,
    /// Share of the last interval in which it was used.
    pub share: f64,
    /// Executions that have begun.
    pub executions: u64,
    /// The time that each model version used: model, version, time.
    pub by_model: Vec<(String, u64, Duration)>,
}

/// What a model takes of one kind of memory for a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySeries {
    /// Device.
    pub device: String,
    /// Model; empty for what belongs to none.
    pub model: String,
    /// Version; empty for what belongs to none.
    pub version: String,
    /// What it is for, such as `weights`.
    pub kind: &'static str,
    /// How much.
    pub bytes: u64,
}

/// What is on the page.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Model versions, loaded or not.
    pub models: &'a [Series],
    /// The machine.
    pub host: &'a HostReading,
    /// What is shown.
    pub options: &'a MetricsOptions,
    /// Devices that models share.
    pub devices: &'a [DeviceSeries],
    /// What models take of the memory of GPUs.
    pub gpu_memory: &'a [MemorySeries],
    /// Requests between receipt and answer.
    pub requests_in_flight: u64,
    /// The moment.
    pub now: Timestamp,
}

impl Series {
    /// The labels of each of its series.
    fn labels(&self) -> Labels {
        let mut labels = Labels::default();
        for (key, value) in &self.tags {
            labels.insert(&format!("_{key}"), value);
        }
        labels.insert("model", &self.model);
        labels.insert("version", &self.version.to_string());
        labels
    }

    /// Whether it runs on instances of its own, as all but ensembles do.
    fn has_instances(&self) -> bool {
        !self.busy.is_empty()
    }
}

type Value = fn(&Series) -> f64;

struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    value: Value,
}

const COUNTERS: [Family; 2] = [
    Family {
        name: INFERENCE_COUNT,
        help: "Rows computed",
        kind: COUNTER,
        value: |series| number(series.recorded.counts.inference_count),
    },
    Family {
        name: EXECUTION_COUNT,
        help: "Batches executed",
        kind: COUNTER,
        value: |series| number(series.recorded.counts.execution_count),
    },
];

/// The counters that may be turned off.
const LATENCY_COUNTERS: [Family; 5] = [
    Family {
        name: REQUEST_DURATION,
        help: "Microseconds from the receipt of requests to their answers",
        kind: COUNTER,
        value: |series| micros(series.recorded.counts.success),
    },
    Family {
        name: QUEUE_DURATION,
        help: "Microseconds of requests in queues",
        kind: COUNTER,
        value: |series| micros(series.recorded.counts.queue),
    },
    Family {
        name: COMPUTE_INPUT_DURATION,
        help: "Microseconds of gathering inputs, per request",
        kind: COUNTER,
        value: |series| micros(series.recorded.counts.compute_input),
    },
    Family {
        name: COMPUTE_INFER_DURATION,
        help: "Microseconds in the model, per request",
        kind: COUNTER,
        value: |series| micros(series.recorded.counts.compute_infer),
    },
    Family {
        name: COMPUTE_OUTPUT_DURATION,
        help: "Microseconds of splitting outputs, per request",
        kind: COUNTER,
        value: |series| micros(series.recorded.counts.compute_output),
    },
];

const PENDING: Family = Family {
    name: PENDING_REQUESTS,
    help: "Requests that wait for execution",
    kind: GAUGE,
    value: |series| series.pending.iter().map(|level| number(*level)).sum(),
};

/// Of models whose answers go through the response cache.
const CACHE_COUNTERS: [Family; 4] = [
    Family {
        name: CACHE_HITS,
        help: "Requests answered from the response cache",
        kind: COUNTER,
        value: |series| number(series.recorded.counts.cache_hit.count),
    },
    Family {
        name: CACHE_MISSES,
        help: "Requests whose answer was not in the response cache",
        kind: COUNTER,
        value: |series| number(series.recorded.counts.cache_miss.count),
    },
    Family {
        name: CACHE_HIT_DURATION,
        help: "Microseconds of response cache lookups that found the answer",
        kind: COUNTER,
        value: |series| micros(series.recorded.counts.cache_hit),
    },
    Family {
        name: CACHE_MISS_DURATION,
        help: "Microseconds of response cache lookups that did not find the answer, and of putting it there",
        kind: COUNTER,
        value: |series| micros(series.recorded.counts.cache_miss),
    },
];

const SUCCESSES: Family = Family {
    name: REQUEST_SUCCESS,
    help: "Requests that were answered",
    kind: COUNTER,
    value: |series| number(series.recorded.counts.success.count),
};

const LOADS: Family =
    Family { name: LOAD_DURATION, help: "Seconds that the last load took", kind: GAUGE, value: |series| series.load_seconds };

/// Histogram of milliseconds to the first response.
pub const FIRST_RESPONSE: &str = "nv_inference_first_response_histogram_ms";
/// Summary of microseconds from receipt to answer.
pub const REQUEST_SUMMARY: &str = "nv_inference_request_summary_us";
/// Summary of microseconds in queues.
pub const QUEUE_SUMMARY: &str = "nv_inference_queue_summary_us";
/// Summary of microseconds of gathering inputs.
pub const COMPUTE_INPUT_SUMMARY: &str = "nv_inference_compute_input_summary_us";
/// Summary of microseconds in the model.
pub const COMPUTE_INFER_SUMMARY: &str = "nv_inference_compute_infer_summary_us";
/// Summary of microseconds of splitting outputs.
pub const COMPUTE_OUTPUT_SUMMARY: &str = "nv_inference_compute_output_summary_us";
/// Summary of microseconds of cache lookups that found the answer.
pub const CACHE_HIT_SUMMARY: &str = "nv_cache_hit_summary_per_model";
/// Summary of microseconds that the cache took where it had no answer.
pub const CACHE_MISS_SUMMARY: &str = "nv_cache_miss_summary_per_model";

struct SummaryFamily {
    name: &'static str,
    help: &'static str,
    of: fn(&Summaries) -> &Summary,
    /// Only models whose answers go through the response cache have it.
    of_cached: bool,
}

const fn summary(name: &'static str, help: &'static str, of_cached: bool, of: fn(&Summaries) -> &Summary) -> SummaryFamily {
    SummaryFamily { name, help, of, of_cached }
}

const SUMMARIES: [SummaryFamily; 7] = [
    summary(REQUEST_SUMMARY, "Microseconds from the receipt of requests to their answers", false, |all| &all.request),
    summary(QUEUE_SUMMARY, "Microseconds of requests in queues", false, |all| &all.queue),
    summary(COMPUTE_INPUT_SUMMARY, "Microseconds of gathering inputs", false, |all| &all.compute_input),
    summary(COMPUTE_INFER_SUMMARY, "Microseconds in the model", false, |all| &all.compute_infer),
    summary(COMPUTE_OUTPUT_SUMMARY, "Microseconds of splitting outputs", false, |all| &all.compute_output),
    summary(CACHE_HIT_SUMMARY, "Microseconds of response cache lookups that found the answer", true, |all| &all.cache_hit),
    summary(CACHE_MISS_SUMMARY, "Microseconds that the response cache took where it had no answer", true, |all| &all.cache_miss),
];

/// Renders the page. Families and, within one, series keep the order given.
pub fn render(content: &Page<'_>) -> String {
    let mut page = Exposition::default();
    family(&mut page, &SUCCESSES, content.models, |_| true);
    failures(&mut page, content.models);
    for counter in &COUNTERS {
        family(&mut page, counter, content.models, |_| true);
    }
    if content.options.counter_latencies {
        for counter in &LATENCY_COUNTERS {
            family(&mut page, counter, content.models, |_| true);
        }
    }
    family(&mut page, &PENDING, content.models, |_| true);
    for counter in &CACHE_COUNTERS {
        family(&mut page, counter, content.models, |series| series.is_cached);
    }
    family(&mut page, &LOADS, content.models, |_| true);
    if content.options.histogram_latencies {
        page.family(FIRST_RESPONSE, "Milliseconds from the receipt of requests to their first responses", "histogram");
        for series in loaded(content) {
            if let Some(histogram) = &series.recorded.first_response {
                page.histogram(FIRST_RESPONSE, &series.labels(), histogram, 1e6);
            }
        }
    }
    if content.options.summary_latencies {
        summaries(&mut page, content);
    }
    host::write(&mut page, content.host, content.options.detailed);
    if content.options.detailed {
        detail::write(&mut page, content);
    }
    page.into_text()
}

fn loaded<'a>(content: &Page<'a>) -> impl Iterator<Item = &'a Series> {
    content.models.iter().filter(|series| series.is_loaded)
}

/// A family of the models to which it applies.
fn family(page: &mut Exposition, family: &Family, all: &[Series], applies: impl Fn(&Series) -> bool) {
    page.family(family.name, family.help, family.kind);
    for series in all.iter().filter(|series| series.is_loaded && applies(series)) {
        page.value(family.name, &series.labels(), (family.value)(series));
    }
}

/// Failures stay on the page when their model is gone: an alert on their increase must not lose its series.
fn failures(page: &mut Exposition, all: &[Series]) {
    page.family(REQUEST_FAILURE, "Requests that failed, by reason", COUNTER);
    for series in all {
        for (reason, count) in FailureReason::ALL.iter().zip(series.recorded.counts.failures) {
            page.value(REQUEST_FAILURE, &series.labels().with("reason", reason.as_str()), number(count));
        }
    }
}

fn summaries(page: &mut Exposition, content: &Page<'_>) {
    for family in &SUMMARIES {
        page.family(family.name, family.help, "summary");
        for series in loaded(content).filter(|series| series.is_cached || !family.of_cached) {
            if let Some(summaries) = &series.recorded.summaries {
                let summary = (family.of)(summaries);
                page.summary(family.name, &series.labels(), summary, &content.options.quantiles, content.now);
            }
        }
    }
}

fn micros(tally: Tally) -> f64 {
    number(tally.nanos / 1000)
}

#[cfg(test)]
mod tests;
