//! Prometheus' text format 0.0.4: families, series, labels, histograms, summaries.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::histogram::Histogram;
use super::super::summary::Summary;
use crate::clock::Timestamp;

/// Kind of a family whose series only go up.
pub(super) const COUNTER: &str = "counter";
/// Kind of a family whose series go up and down.
pub(super) const GAUGE: &str = "gauge";

/// A page that is being written.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// The labels of one series, in alphabetical order.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(BTreeMap<String, String>);

impl Labels {
    /// The same with one more.
    pub(super) fn with(&self, name: &str, value: impl ToString) -> Self {
        let mut labels = self.clone();
        labels.insert(name, &value.to_string());
        labels
    }

    /// Adds a label. Names hold only letters, digits and underscores; anything else would break the whole page.
    pub(super) fn insert(&mut self, name: &str, value: &str) {
        let name = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect();
        self.0.insert(name, escape(value).into_owned());
    }

    /// As it stands between the braces.
    fn text(&self) -> String {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        pairs.join(",")
    }
}

fn escape(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
    } else {
        value.into()
    }
}

impl Exposition {
    /// Begins a family.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Writes a series.
    pub(super) fn value(&mut self, name: &str, labels: &Labels, value: f64) {
        let _ = match labels.text() {
            labels if labels.is_empty() => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    /// Writes a histogram whose values are divided by `unit`.
    pub(super) fn histogram(&mut self, name: &str, labels: &Labels, histogram: &Histogram, unit: f64) {
        let labels = labels.text();
        let parted = if labels.is_empty() { "" } else { "," };
        for (bound, count) in histogram.cumulative() {
            let bound = number(bound) / unit;
            let _ = writeln!(self.0, "{name}_bucket{{{labels}{parted}le=\"{bound}\"}} {count}");
        }
        let count = histogram.count();
        let _ = writeln!(self.0, "{name}_bucket{{{labels}{parted}le=\"+Inf\"}} {count}");
        let _ = writeln!(self.0, "{name}_sum{{{labels}}} {}", number(histogram.sum()) / unit);
        let _ = writeln!(self.0, "{name}_count{{{labels}}} {count}");
    }

    /// Writes a summary; its quantiles are NaN where nothing happened in the last minute.
    pub(super) fn summary(&mut self, name: &str, labels: &Labels, summary: &Summary, quantiles: &[f64], now: Timestamp) {
        let labels = labels.text();
        let parted = if labels.is_empty() { "" } else { "," };
        let values = summary.quantiles(now, quantiles);
        for (position, quantile) in quantiles.iter().enumerate() {
            let value = values.as_ref().and_then(|values| values.get(position)).copied().unwrap_or(f64::NAN);
            let _ = writeln!(self.0, "{name}{{{labels}{parted}quantile=\"{quantile}\"}} {value}");
        }
        let _ = writeln!(self.0, "{name}_sum{{{labels}}} {}", number(summary.sum()));
        let _ = writeln!(self.0, "{name}_count{{{labels}}} {}", summary.count());
    }

    /// The page.
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// Counters are doubles in this format; they are exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn histograms_and_summaries_have_their_lines() {
        let mut page = Exposition::default();
        let mut histogram = Histogram::new(&[1_000_000, 2_500_000][..]);
        [500_000, 2_000_000, 9_000_000].into_iter().for_each(|value| histogram.record(value));
        let mut summary = Summary::default();
        page.family("h", "A histogram", "histogram");
        page.histogram("h", &Labels::default().with("model", "m"), &histogram, 1e9);
        page.summary("s", &Labels::default(), &summary, &[0.5], Timestamp::default());
        summary.record(Timestamp::default(), 7);
        page.summary("s", &Labels::default().with("model", "m"), &summary, &[0.5], Timestamp::default());
        expect![[r#"
            # HELP h A histogram
            # TYPE h histogram
            h_bucket{model="m",le="0.001"} 1
            h_bucket{model="m",le="0.0025"} 2
            h_bucket{model="m",le="+Inf"} 3
            h_sum{model="m"} 0.0115
            h_count{model="m"} 3
            s{quantile="0.5"} NaN
            s_sum{} 0
            s_count{} 0
            s{model="m",quantile="0.5"} 7
            s_sum{model="m"} 7
            s_count{model="m"} 1
        "#]]
        .assert_eq(&page.into_text());
    }
}
