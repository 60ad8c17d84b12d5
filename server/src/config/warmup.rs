//! `model_warmup`: requests that every instance runs before its model is ready.

use std::num::NonZeroUsize;
use std::sync::Arc;

use proto::inference::{ModelWarmup, model_warmup::input::InputDataType};

use crate::error::ConfigProblem;
use crate::tensor::{DataType, Shape};

use super::tensors;

/// Most runs of one sample.
const MAX_RUNS: u32 = 10_000;

/// One warmup request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmupSample {
    /// Name, for load errors.
    pub name: String,
    /// Requests of one row that are run together as one batch; 0 skips the sample.
    pub batch_rows: usize,
    /// How often it is run, at least once.
    pub runs: u32,
    /// Inputs.
    pub inputs: Vec<WarmupInput>,
}

/// One input of a warmup request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmupInput {
    /// Name of the model's input.
    pub name: Arc<str>,
    /// Datatype.
    pub datatype: DataType,
    /// Shape of one row.
    pub shape: Shape,
    /// Contents.
    pub source: WarmupSource,
}

/// Where the contents of a warmup input come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarmupSource {
    /// All zero; empty strings.
    Zero,
    /// Pseudo-random, the same at every load.
    Random,
    /// A file of raw contents in the model's folder `warmup`.
    File(String),
}

impl WarmupSample {
    /// Parses all samples of a model whose batches have at most `max_rows` rows.
    pub(super) fn parse_all(
        model: &str,
        samples: &[ModelWarmup],
        max_rows: Option<NonZeroUsize>,
        problems: &mut Vec<ConfigProblem>,
    ) -> Vec<Self> {
        samples.iter().map(|sample| Self::parse(model, sample, max_rows, problems)).collect()
    }

    fn parse(model: &str, sample: &ModelWarmup, max_rows: Option<NonZeroUsize>, problems: &mut Vec<ConfigProblem>) -> Self {
        let mut out_of_range = |field: String, expected, got: String| {
            problems.push(ConfigProblem::OutOfRange { model: model.to_owned(), field, expected, got });
        };
        let field = |name: &str| format!("model_warmup['{}'].{name}", sample.name);
        let batch_rows = usize::try_from(sample.batch_size).unwrap_or(usize::MAX);
        // The scheduler never forms such a batch, and the model would have to hold it all.
        if max_rows.is_some_and(|max_rows| batch_rows > max_rows.get()) {
            out_of_range(field("batch_size"), "at most 'max_batch_size'", sample.batch_size.to_string());
        }
        if sample.count > MAX_RUNS {
            out_of_range(field("count"), "at most 10000", sample.count.to_string());
        }
        let mut inputs = Vec::new();
        for (name, input) in &sample.inputs {
            let sizes = input.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect::<Option<Vec<_>>>();
            let Some(shape) = sizes.map(Shape::new) else {
                out_of_range(field(&format!("inputs['{name}'].dims")), "integers >= 0", format!("{:?}", input.dims));
                continue;
            };
            let Some(datatype) = tensors::datatype(input.data_type()) else {
                out_of_range(field(&format!("inputs['{name}'].data_type")), "a datatype", "TYPE_INVALID".to_owned());
                continue;
            };
            let source = match &input.input_data_type {
                Some(InputDataType::ZeroData(true)) => WarmupSource::Zero,
                Some(InputDataType::RandomData(true)) => WarmupSource::Random,
                Some(InputDataType::InputDataFile(file)) => WarmupSource::File(file.clone()),
                _ => {
                    let expected = "one of zero_data: true, random_data: true, input_data_file";
                    out_of_range(field(&format!("inputs['{name}']")), expected, "none".to_owned());
                    continue;
                }
            };
            inputs.push(WarmupInput { name: name.as_str().into(), datatype, shape, source });
        }
        Self { name: sample.name.clone(), batch_rows, runs: sample.count.max(1), inputs }
    }
}
