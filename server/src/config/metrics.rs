//! `model_metrics`: the buckets of histograms that a model sets for itself.

use std::sync::Arc;

use proto::inference::{ModelMetrics, model_metrics::metric_control::MetricOptions};

use crate::error::ConfigProblem;

/// The one family whose buckets a model may set.
const FIRST_RESPONSE: &str = "nv_inference_first_response_histogram_ms";

/// Most buckets; each is a time series.
const MAX_BUCKETS: usize = 64;

/// Largest bound in milliseconds: a day.
const MAX_BOUND_MS: f64 = 86_400_000.0;

/// The bounds in nanoseconds of the histogram of first responses, where some are given.
pub(super) fn first_response_bounds(
    model: &str,
    written: Option<&ModelMetrics>,
    problems: &mut Vec<ConfigProblem>,
) -> Option<Arc<[u64]>> {
    let mut found = None;
    for (index, control) in written?.metric_control.iter().enumerate() {
        let family = control.metric_identifier.as_ref().map_or("", |identifier| &identifier.family);
        let Some(MetricOptions::HistogramOptions(options)) = &control.metric_options else { continue };
        if family != FIRST_RESPONSE {
            continue;
        }
        let in_range = |bound: &f64| *bound > 0.0 && *bound <= MAX_BOUND_MS;
        let ascending = options.buckets.is_sorted_by(|one, next| one < next);
        if options.buckets.is_empty()
            || options.buckets.len() > MAX_BUCKETS
            || !ascending
            || !options.buckets.iter().all(in_range)
        {
            problems.push(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: format!("model_metrics.metric_control[{index}].histogram_options.buckets"),
                expected: "1 to 64 ascending numbers of milliseconds above 0 and of at most a day",
                got: format!("{:?}", options.buckets),
            });
            continue;
        }
        found = Some(options.buckets.iter().map(|bound| nanos(*bound)).collect());
    }
    found
}

/// Milliseconds in range as nanoseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn nanos(millis: f64) -> u64 {
    (millis * 1e6).round() as u64
}

/// The settings that mean nothing here, for warnings.
pub(super) fn unused(written: Option<&ModelMetrics>) -> impl Iterator<Item = String> {
    let controls = written.map(|metrics| metrics.metric_control.as_slice()).unwrap_or_default();
    controls.iter().enumerate().filter_map(|(index, control)| {
        let family = control.metric_identifier.as_ref().map_or("", |identifier| &identifier.family);
        let used = family == FIRST_RESPONSE && control.metric_options.is_some();
        (!used).then(|| format!("model_metrics.metric_control[{index}] (family '{family}')"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Option<Vec<u64>>, Vec<String>, Vec<String>) {
        let text = format!("model_metrics {{ {text} }}");
        let metrics = proto::pbtxt::parse(&text, "config.pbtxt").unwrap().model_metrics;
        let mut problems = Vec::new();
        let bounds = first_response_bounds("m", metrics.as_ref(), &mut problems);
        let problems = problems.iter().map(ToString::to_string).collect();
        (bounds.map(|bounds| bounds.to_vec()), problems, unused(metrics.as_ref()).collect())
    }

    fn control(family: &str, buckets: &str) -> String {
        format!(
            "metric_control {{ metric_identifier {{ family: \"{family}\" }} histogram_options {{ buckets: [ {buckets} ] }} }}"
        )
    }

    #[test]
    fn buckets_are_taken_in_milliseconds() {
        let (bounds, problems, unused) = parse(&control(FIRST_RESPONSE, "0.5, 10, 100"));
        assert_eq!((bounds, problems, unused), (Some(vec![500_000, 10_000_000, 100_000_000]), vec![], vec![]));
    }

    #[test]
    fn what_makes_no_histogram_is_refused() {
        for buckets in ["", "10, 10", "10, 5", "0", "nan", "1, inf", "-1"] {
            let (bounds, problems, _) = parse(&control(FIRST_RESPONSE, buckets));
            assert_eq!((bounds, problems.len()), (None, 1), "{buckets}");
            assert!(problems[0].contains("metric_control[0].histogram_options.buckets"), "{}", problems[0]);
        }
    }

    #[test]
    fn other_families_are_named_in_a_warning() {
        let (bounds, problems, unused) = parse(&control("nv_other", "1"));
        assert_eq!((bounds, problems.len()), (None, 0));
        assert_eq!(unused, ["model_metrics.metric_control[0] (family 'nv_other')"]);
    }
}
