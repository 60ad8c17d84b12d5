//! The metrics page: counters of every model version in Prometheus' text format 0.0.4.
//!
//! Rendering is pure; who serves the page passes what is to be on it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use super::statistics::{Counts, FailureReason, Tally};

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
    /// Counts.
    pub counts: Counts,
    /// Requests between queue entry and execution.
    pub pending: u64,
    /// Seconds that the load took.
    pub load_seconds: f64,
    /// Whether it serves. Of one that was unloaded only the failure counters stay.
    pub is_loaded: bool,
}

type Value = fn(&Series) -> f64;

struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    value: Value,
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

const COUNTERS: [Family; 8] = [
    Family { name: INFERENCE_COUNT, help: "Rows computed", kind: COUNTER, value: |series| number(series.counts.inference_count) },
    Family {
        name: EXECUTION_COUNT,
        help: "Batches executed",
        kind: COUNTER,
        value: |series| number(series.counts.execution_count),
    },
    Family {
        name: REQUEST_DURATION,
        help: "Microseconds from the receipt of requests to their answers",
        kind: COUNTER,
        value: |series| micros(series.counts.success),
    },
    Family {
        name: QUEUE_DURATION,
        help: "Microseconds of requests in queues",
        kind: COUNTER,
        value: |series| micros(series.counts.queue),
    },
    Family {
        name: COMPUTE_INPUT_DURATION,
        help: "Microseconds of gathering inputs, per request",
        kind: COUNTER,
        value: |series| micros(series.counts.compute_input),
    },
    Family {
        name: COMPUTE_INFER_DURATION,
        help: "Microseconds in the model, per request",
        kind: COUNTER,
        value: |series| micros(series.counts.compute_infer),
    },
    Family {
        name: COMPUTE_OUTPUT_DURATION,
        help: "Microseconds of splitting outputs, per request",
        kind: COUNTER,
        value: |series| micros(series.counts.compute_output),
    },
    Family {
        name: PENDING_REQUESTS,
        help: "Requests that wait for execution",
        kind: GAUGE,
        value: |series| number(series.pending),
    },
];

const SUCCESSES: Family = Family {
    name: REQUEST_SUCCESS,
    help: "Requests that were answered",
    kind: COUNTER,
    value: |series| number(series.counts.success.count),
};

const LOADS: Family =
    Family { name: LOAD_DURATION, help: "Seconds that the last load took", kind: GAUGE, value: |series| series.load_seconds };

/// Renders the page. Families and, within one, series keep the order given.
pub fn render(all: &[Series]) -> String {
    let mut page = String::new();
    family(&mut page, &SUCCESSES, all);
    failures(&mut page, all);
    for counter in &COUNTERS {
        family(&mut page, counter, all);
    }
    family(&mut page, &LOADS, all);
    page
}

fn family(page: &mut String, family: &Family, all: &[Series]) {
    head(page, family.name, family.help, family.kind);
    for series in all.iter().filter(|series| series.is_loaded) {
        line(page, family.name, &labels(series, None), (family.value)(series));
    }
}

/// Failures stay on the page when their model is gone: an alert on their increase must not lose its series.
fn failures(page: &mut String, all: &[Series]) {
    head(page, REQUEST_FAILURE, "Requests that failed, by reason", COUNTER);
    for series in all {
        for (reason, count) in FailureReason::ALL.iter().zip(series.counts.failures) {
            line(page, REQUEST_FAILURE, &labels(series, Some(*reason)), number(count));
        }
    }
}

fn head(page: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(page: &mut String, name: &str, labels: &str, value: f64) {
    let _ = writeln!(page, "{name}{{{labels}}} {value}");
}

/// Labels in alphabetical order.
fn labels(series: &Series, reason: Option<FailureReason>) -> String {
    let mut labels: BTreeMap<Cow<'_, str>, Cow<'_, str>> =
        series.tags.iter().map(|(key, value)| (Cow::Owned(format!("_{}", label_name(key))), escape(value))).collect();
    labels.insert("model".into(), escape(&series.model));
    labels.insert("version".into(), series.version.to_string().into());
    if let Some(reason) = reason {
        labels.insert("reason".into(), reason.as_str().into());
    }
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    pairs.join(",")
}

/// Label names hold only letters, digits and underscores; anything else would break the whole page.
fn label_name(key: &str) -> String {
    key.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect()
}

fn escape(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
    } else {
        value.into()
    }
}

/// Counters are doubles in this format; they are exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}

fn micros(tally: Tally) -> f64 {
    number(tally.nanos / 1000)
}
