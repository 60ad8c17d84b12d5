//! What a builtin model finds in its configuration: which kind it is, its parameters and its tensors.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{ModelConfig, SCHEDULER_PARAMETERS};
use crate::error::{LoadError, TensorSide};
use crate::tensor::{DataType, Dim, Dims, TensorSpec};

use super::super::ServedVersion;
use super::Kind;

/// Parameters that every kind takes, besides those that the scheduler reads.
const COMMON_PARAMETERS: [&str; 3] = ["execute_delay_ms", "instance_wise_delay_multiplier", "creation_delay_sec"];

/// Names the kind.
const KIND_PARAMETER: &str = "model";

/// Longest delay that a configuration may ask for: longer than any test waits, and far from overflowing
/// however it is multiplied.
const MAX_DELAY_SECONDS: f64 = 86_400.0;

/// A kind as the table lists it.
pub(super) struct KindEntry {
    /// Name.
    pub(super) name: &'static str,
    /// Parameters besides the common ones.
    pub(super) parameters: &'static [&'static str],
    /// Checks tensors and parameters.
    pub(super) open: fn(&Setup<'_>) -> Result<Arc<dyn Kind>, LoadError>,
}

/// The configuration of one builtin model, as its kind reads it.
pub(super) struct Setup<'a> {
    /// The model's configuration.
    pub(super) config: &'a ModelConfig,
    /// Its kind.
    pub(super) kind: &'static str,
}

/// A tensor that a kind needs.
pub(super) struct Needed {
    /// Name in the configuration.
    pub(super) name: &'static str,
    /// Element type.
    pub(super) datatype: DataType,
    /// Dimensions without the batch dimension; the configured ones must be able to describe such a tensor.
    pub(super) dims: &'static [Dim],
}

/// One element.
pub(super) const ONE: &[Dim] = &[Dim::Fixed(1)];
/// Any number of elements.
pub(super) const ANY: &[Dim] = &[Dim::Variable];

impl<'a> Setup<'a> {
    /// Finds the kind of a version and checks the names of all parameters.
    ///
    /// Versions of one model may be of different kinds, so a parameter that only another version's kind takes
    /// is no error.
    pub(super) fn parse(
        served: &'a ServedVersion,
        kinds: &'static [KindEntry],
        known: &'static str,
    ) -> Result<(Self, &'static KindEntry), LoadError> {
        let config = served.config.as_ref();
        let parameters = &config.parameters;
        let version_key = format!("{KIND_PARAMETER}.{}", served.version);
        let name = parameters.get(&version_key).or_else(|| parameters.get(KIND_PARAMETER)).map_or("", String::as_str);
        let find = |name: &str| kinds.iter().find(|entry| entry.name == name);
        let entry = find(name).ok_or_else(|| LoadError::UnknownBuiltin {
            model: config.name.to_string(),
            kind: name.to_owned(),
            known,
        })?;
        let is_kind_key = |key: &str| {
            let version = key.strip_prefix(KIND_PARAMETER).and_then(|rest| rest.strip_prefix('.'));
            key == KIND_PARAMETER || version.is_some_and(|version| version.parse::<u64>().is_ok())
        };
        let named: Vec<&KindEntry> =
            parameters.iter().filter(|(key, _)| is_kind_key(key)).filter_map(|(_, kind)| find(kind)).collect();
        for key in parameters.keys() {
            let taken = is_kind_key(key)
                || SCHEDULER_PARAMETERS.contains(&key.as_str())
                || COMMON_PARAMETERS.contains(&key.as_str())
                || named.iter().any(|entry| entry.parameters.contains(&key.as_str()));
            if !taken {
                let parts =
                    [&[KIND_PARAMETER, "model.<version>"], &SCHEDULER_PARAMETERS[..], &COMMON_PARAMETERS, entry.parameters];
                let known = parts.concat().join(", ");
                let model = config.name.to_string();
                return Err(LoadError::UnknownParameter { model, kind: entry.name, parameter: key.clone(), known });
            }
        }
        Ok((Self { config, kind: entry.name }, entry))
    }

    /// A parameter as it is written.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.config.parameters.get(name).map(String::as_str)
    }

    /// The error for a parameter's value.
    pub(super) fn bad_parameter(&self, name: &str, expected: &'static str) -> LoadError {
        LoadError::Parameter {
            model: self.config.name.to_string(),
            parameter: name.to_owned(),
            expected,
            got: self.text(name).unwrap_or_default().to_owned(),
        }
    }

    /// An integer parameter.
    pub(super) fn integer(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, LoadError> {
        let parse = |text: &str| text.trim().parse().ok().filter(|value| range.contains(value));
        let expected = "an integer between 0 and 1000000";
        debug_assert_eq!(range, 0..=1_000_000, "the text above names the range");
        self.text(name).map(|text| parse(text).ok_or_else(|| self.bad_parameter(name, expected))).transpose()
    }

    /// A delay in milliseconds; none where it is not written.
    pub(super) fn milliseconds(&self, name: &str) -> Result<Duration, LoadError> {
        self.delay(name, 1e-3, "a number of milliseconds between 0 and 86400000 (one day)")
    }

    /// A delay in seconds; none where it is not written.
    pub(super) fn seconds(&self, name: &str) -> Result<Duration, LoadError> {
        self.delay(name, 1.0, "a number of seconds between 0 and 86400 (one day)")
    }

    /// A delay in microseconds; none where it is not written.
    pub(super) fn microseconds(&self, name: &str) -> Result<Duration, LoadError> {
        self.delay(name, 1e-6, "a number of microseconds between 0 and 86400000000 (one day)")
    }

    /// A delay in nanoseconds; none where it is not written.
    pub(super) fn nanoseconds(&self, name: &str) -> Result<Duration, LoadError> {
        self.delay(name, 1e-9, "a number of nanoseconds between 0 and 86400000000000 (one day)")
    }

    /// A number between 0 and 1; 0 where it is not written.
    pub(super) fn fraction(&self, name: &str) -> Result<f64, LoadError> {
        Ok(self.number(name, 0.0..=1.0, "a number between 0 and 1")?.unwrap_or(0.0))
    }

    /// A factor by which something grows.
    pub(super) fn factor(&self, name: &str) -> Result<Option<f64>, LoadError> {
        self.number(name, 1.0..=1000.0, "a number between 1 and 1000")
    }

    /// A seed; 0 where it is not written.
    pub(super) fn seed(&self, name: &str) -> Result<u64, LoadError> {
        let parse = |text: &str| text.trim().parse().map_err(|_| self.bad_parameter(name, "an integer between 0 and 2^64 - 1"));
        self.text(name).map_or(Ok(0), parse)
    }

    fn number(&self, name: &str, range: RangeInclusive<f64>, expected: &'static str) -> Result<Option<f64>, LoadError> {
        let parse = |text: &str| text.trim().parse().ok().filter(|value| range.contains(value));
        self.text(name).map(|text| parse(text).ok_or_else(|| self.bad_parameter(name, expected))).transpose()
    }

    fn delay(&self, name: &str, unit_seconds: f64, expected: &'static str) -> Result<Duration, LoadError> {
        let Some(text) = self.text(name) else {
            return Ok(Duration::ZERO);
        };
        let seconds = text.trim().parse::<f64>().map(|value| value * unit_seconds).ok();
        match seconds.filter(|seconds| (0.0..=MAX_DELAY_SECONDS).contains(seconds)) {
            Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
            None => Err(self.bad_parameter(name, expected)),
        }
    }

    /// The error for tensors or settings that do not suit the kind.
    pub(super) fn unsuited(&self, expected: impl Into<String>, got: impl Into<String>) -> LoadError {
        let model = self.config.name.to_string();
        LoadError::Signature { model, kind: self.kind, expected: expected.into(), got: got.into() }
    }

    /// Requires `model_transaction_policy { decoupled: true }`.
    pub(super) fn require_decoupled(&self) -> Result<(), LoadError> {
        match self.config.decoupled {
            true => Ok(()),
            false => Err(self.unsuited("'model_transaction_policy { decoupled: true }'", "a model that is not decoupled")),
        }
    }

    /// The position of an input that every request has.
    pub(super) fn input(&self, needed: &Needed) -> Result<usize, LoadError> {
        let index = self.optional_input(needed)?;
        let index = index.ok_or_else(|| self.unsuited(needed.describe(TensorSide::Input), "no such input"))?;
        match self.config.inputs[index].optional {
            false => Ok(index),
            true => Err(self.unsuited(needed.describe(TensorSide::Input), "it as an optional one")),
        }
    }

    /// The position of an input that the configuration may leave out.
    pub(super) fn optional_input(&self, needed: &Needed) -> Result<Option<usize>, LoadError> {
        self.find(needed, TensorSide::Input, &self.config.inputs)
    }

    /// The position of an output.
    pub(super) fn output(&self, needed: &Needed) -> Result<usize, LoadError> {
        let index = self.find(needed, TensorSide::Output, &self.config.outputs)?;
        index.ok_or_else(|| self.unsuited(needed.describe(TensorSide::Output), "no such output"))
    }

    /// The position of an output that the configuration may leave out.
    pub(super) fn output_if_any(&self, needed: &Needed) -> Result<Option<usize>, LoadError> {
        self.find(needed, TensorSide::Output, &self.config.outputs)
    }

    /// Requires that there are no tensors but these.
    pub(super) fn no_others(&self, inputs: &[&str], outputs: &[&str]) -> Result<(), LoadError> {
        let sides = [(TensorSide::Input, &self.config.inputs, inputs), (TensorSide::Output, &self.config.outputs, outputs)];
        for (side, specs, names) in sides {
            if let Some(spec) = specs.iter().find(|spec| !names.contains(&&*spec.name)) {
                let listed = names.join(", ");
                return Err(self.unsuited(format!("no {side} but {listed}"), format!("{side} '{}'", spec.name)));
            }
        }
        Ok(())
    }

    fn find(&self, needed: &Needed, side: TensorSide, specs: &[TensorSpec]) -> Result<Option<usize>, LoadError> {
        let Some(index) = specs.iter().position(|spec| &*spec.name == needed.name) else {
            return Ok(None);
        };
        let spec = &specs[index];
        let dims = model_dims(spec);
        let agree = dims.as_slice().len() == needed.dims.len()
            && dims.as_slice().iter().zip(needed.dims).all(|(dim, needed)| dim.agrees(*needed));
        match agree && spec.datatype == needed.datatype {
            true => Ok(Some(index)),
            false => Err(self.unsuited(needed.describe(side), format!("it as {} {dims}", spec.datatype))),
        }
    }
}

impl Needed {
    fn describe(&self, side: TensorSide) -> String {
        format!("{side} '{}' of {} {}", self.name, self.datatype, Dims::new(self.dims))
    }
}

/// The dimensions that the model sees.
pub(super) fn model_dims(spec: &TensorSpec) -> &Dims {
    spec.reshape.as_ref().unwrap_or(&spec.dims)
}
