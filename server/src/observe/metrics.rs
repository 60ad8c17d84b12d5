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
    /// Counts.
    pub counts: Counts,
    /// Requests between queue entry and execution.
    pub pending: u64,
    /// Seconds that the load took.
    pub load_seconds: f64,
    /// Whether it serves. Of one that was unloaded only the failure counters stay.
    pub is_loaded: bool,
    /// Whether its answers go through the response cache.
    pub is_cached: bool,
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

/// Of models whose answers go through the response cache.
const CACHE_COUNTERS: [Family; 4] = [
    Family {
        name: CACHE_HITS,
        help: "Requests answered from the response cache",
        kind: COUNTER,
        value: |series| number(series.counts.cache_hit.count),
    },
    Family {
        name: CACHE_MISSES,
        help: "Requests whose answer was not in the response cache",
        kind: COUNTER,
        value: |series| number(series.counts.cache_miss.count),
    },
    Family {
        name: CACHE_HIT_DURATION,
        help: "Microseconds of response cache lookups that found the answer",
        kind: COUNTER,
        value: |series| micros(series.counts.cache_hit),
    },
    Family {
        name: CACHE_MISS_DURATION,
        help: "Microseconds of response cache lookups that did not find the answer, and of putting it there",
        kind: COUNTER,
        value: |series| micros(series.counts.cache_miss),
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
    for counter in &CACHE_COUNTERS {
        family_of(&mut page, counter, all, |series| series.is_cached);
    }
    family(&mut page, &LOADS, all);
    page
}

fn family(page: &mut String, family: &Family, all: &[Series]) {
    family_of(page, family, all, |_| true);
}

/// A family of the models to which it applies.
fn family_of(page: &mut String, family: &Family, all: &[Series], applies: impl Fn(&Series) -> bool) {
    head(page, family.name, family.help, family.kind);
    for series in all.iter().filter(|series| series.is_loaded && applies(series)) {
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

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn series(model: &str, is_loaded: bool) -> Series {
        let tally = |count, nanos| Tally { count, nanos };
        Series {
            model: model.to_owned(),
            version: 3,
            tags: [("zone-1".to_owned(), "a\"b\\c\nd".to_owned())].into(),
            counts: Counts {
                inference_count: 12,
                execution_count: 4,
                success: tally(5, 7_000_999),
                failures: [1, 0, 2, 0],
                queue: tally(5, 1_000),
                compute_infer: tally(5, 999),
                cache_hit: tally(3, 2_000),
                cache_miss: tally(2, 9_000),
                ..Counts::default()
            },
            pending: 2,
            load_seconds: 0.25,
            is_loaded,
            is_cached: true,
        }
    }

    #[test]
    fn the_page_has_every_family_and_escaped_sorted_labels() {
        expect![[r#"
            # HELP nv_inference_request_success Requests that were answered
            # TYPE nv_inference_request_success counter
            nv_inference_request_success{_zone_1="a\"b\\c\nd",model="m",version="3"} 5
            # HELP nv_inference_request_failure Requests that failed, by reason
            # TYPE nv_inference_request_failure counter
            nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="REJECTED",version="3"} 1
            nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="CANCELED",version="3"} 0
            nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="BACKEND",version="3"} 2
            nv_inference_request_failure{_zone_1="a\"b\\c\nd",model="m",reason="OTHER",version="3"} 0
            # HELP nv_inference_count Rows computed
            # TYPE nv_inference_count counter
            nv_inference_count{_zone_1="a\"b\\c\nd",model="m",version="3"} 12
            # HELP nv_inference_exec_count Batches executed
            # TYPE nv_inference_exec_count counter
            nv_inference_exec_count{_zone_1="a\"b\\c\nd",model="m",version="3"} 4
            # HELP nv_inference_request_duration_us Microseconds from the receipt of requests to their answers
            # TYPE nv_inference_request_duration_us counter
            nv_inference_request_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 7000
            # HELP nv_inference_queue_duration_us Microseconds of requests in queues
            # TYPE nv_inference_queue_duration_us counter
            nv_inference_queue_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 1
            # HELP nv_inference_compute_input_duration_us Microseconds of gathering inputs, per request
            # TYPE nv_inference_compute_input_duration_us counter
            nv_inference_compute_input_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 0
            # HELP nv_inference_compute_infer_duration_us Microseconds in the model, per request
            # TYPE nv_inference_compute_infer_duration_us counter
            nv_inference_compute_infer_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 0
            # HELP nv_inference_compute_output_duration_us Microseconds of splitting outputs, per request
            # TYPE nv_inference_compute_output_duration_us counter
            nv_inference_compute_output_duration_us{_zone_1="a\"b\\c\nd",model="m",version="3"} 0
            # HELP nv_inference_pending_request_count Requests that wait for execution
            # TYPE nv_inference_pending_request_count gauge
            nv_inference_pending_request_count{_zone_1="a\"b\\c\nd",model="m",version="3"} 2
            # HELP nv_cache_num_hits_per_model Requests answered from the response cache
            # TYPE nv_cache_num_hits_per_model counter
            nv_cache_num_hits_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 3
            # HELP nv_cache_num_misses_per_model Requests whose answer was not in the response cache
            # TYPE nv_cache_num_misses_per_model counter
            nv_cache_num_misses_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 2
            # HELP nv_cache_hit_duration_per_model Microseconds of response cache lookups that found the answer
            # TYPE nv_cache_hit_duration_per_model counter
            nv_cache_hit_duration_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 2
            # HELP nv_cache_miss_duration_per_model Microseconds of response cache lookups that did not find the answer, and of putting it there
            # TYPE nv_cache_miss_duration_per_model counter
            nv_cache_miss_duration_per_model{_zone_1="a\"b\\c\nd",model="m",version="3"} 9
            # HELP nv_model_load_duration_secs Seconds that the last load took
            # TYPE nv_model_load_duration_secs gauge
            nv_model_load_duration_secs{_zone_1="a\"b\\c\nd",model="m",version="3"} 0.25
        "#]]
        .assert_eq(&render(&[series("m", true)]));
    }

    #[test]
    fn cache_families_are_of_models_that_are_cached() {
        let page = render(&[Series { is_cached: false, ..series("plain", true) }, series("cached", true)]);
        let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("nv_cache_")).collect();
        assert_eq!(lines.len(), CACHE_COUNTERS.len(), "{page}");
        assert!(lines.iter().all(|line| line.contains("model=\"cached\"")), "{page}");
    }

    #[test]
    fn only_failures_are_left_of_what_was_unloaded() {
        let page = render(&[series("gone", false)]);
        let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line.starts_with("nv_inference_request_failure{")), "{page}");
    }
}
