//! What the metrics page shows besides the counters that are always there. Pure.

/// Settings of `--metrics-config`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsOptions {
    /// The five counters of microseconds.
    pub counter_latencies: bool,
    /// The histogram of first responses.
    pub histogram_latencies: bool,
    /// The families of quantiles over the last minute.
    pub summary_latencies: bool,
    /// The quantiles that they show, ascending.
    pub quantiles: Vec<f64>,
    /// The families whose names begin with `alcedo_`.
    pub detailed: bool,
}

/// Most quantiles of a family.
const MAX_QUANTILES: usize = 32;

impl Default for MetricsOptions {
    fn default() -> Self {
        Self {
            counter_latencies: true,
            histogram_latencies: false,
            summary_latencies: false,
            quantiles: vec![0.5, 0.9, 0.95, 0.99, 0.999],
            detailed: true,
        }
    }
}

/// A setting that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum MetricsOptionError {
    #[error("'{got}' must be SETTING=VALUE")]
    NoValue { got: String },
    #[error(
        "there is no setting '{got}'; the settings are counter_latencies, histogram_latencies, summary_latencies, \
         summary_quantiles and detailed"
    )]
    Unknown { got: String },
    #[error("{setting} must be true or false, got '{got}'")]
    NoBool { setting: &'static str, got: String },
    #[error(
        "summary_quantiles must be pairs QUANTILE:ERROR parted by commas, each between 0 and 1, at most 32 of them; got '{got}'"
    )]
    Quantiles { got: String },
}

impl MetricsOptions {
    /// Takes one setting, written `name=value`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&mut self, text: &str) -> Result<(), MetricsOptionError> {
        let (name, value) = text.split_once('=').ok_or_else(|| MetricsOptionError::NoValue { got: text.to_owned() })?;
        match name.trim() {
            "counter_latencies" => self.counter_latencies = boolean("counter_latencies", value)?,
            "histogram_latencies" => self.histogram_latencies = boolean("histogram_latencies", value)?,
            "summary_latencies" => self.summary_latencies = boolean("summary_latencies", value)?,
            "summary_quantiles" => self.quantiles = quantiles(value)?,
            "detailed" => self.detailed = boolean("detailed", value)?,
            other => return Err(MetricsOptionError::Unknown { got: other.to_owned() }),
        }
        Ok(())
    }
}

fn boolean(setting: &'static str, value: &str) -> Result<bool, MetricsOptionError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "on" => Ok(true),
        "false" | "0" | "off" => Ok(false),
        _ => Err(MetricsOptionError::NoBool { setting, got: value.to_owned() }),
    }
}

/// The errors are checked and otherwise unused: the quantiles are more exact than any that one would write.
fn quantiles(value: &str) -> Result<Vec<f64>, MetricsOptionError> {
    let wrong = || MetricsOptionError::Quantiles { got: value.to_owned() };
    let share = |text: &str| text.trim().parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(wrong);
    let mut quantiles = value
        .split(',')
        .map(|pair| {
            let (quantile, error) = pair.split_once(':').ok_or_else(wrong)?;
            share(error).and_then(|_| share(quantile))
        })
        .collect::<Result<Vec<f64>, _>>()?;
    if quantiles.len() > MAX_QUANTILES {
        return Err(wrong());
    }
    quantiles.sort_by(f64::total_cmp);
    quantiles.dedup();
    Ok(quantiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_taken() {
        let mut options = MetricsOptions::default();
        for text in [
            "summary_latencies=true",
            "histogram_latencies=TRUE",
            "counter_latencies=false",
            "summary_quantiles=0.9:0.01, 0.5:0.05",
        ] {
            options.set(text).unwrap();
        }
        assert!(options.summary_latencies && options.histogram_latencies && options.detailed && !options.counter_latencies);
        assert_eq!(options.quantiles, [0.5, 0.9]);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let cases = [
            ("summary", "'summary' must be SETTING=VALUE"),
            ("sumary_latencies=true", "there is no setting 'sumary_latencies'"),
            ("detailed=maybe", "detailed must be true or false, got 'maybe'"),
            ("summary_quantiles=0.5", "must be pairs QUANTILE:ERROR"),
            ("summary_quantiles=1.5:0.1", "each between 0 and 1"),
            ("summary_quantiles=NaN:0.1", "each between 0 and 1"),
            ("summary_quantiles=", "must be pairs"),
        ];
        for (text, expected) in cases {
            let error = MetricsOptions::default().set(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
