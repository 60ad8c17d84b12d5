//! What a request costs its batch, and the limit on it: `batch_cost` and `max_batch_tokens`.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use crate::error::ConfigProblem;
use crate::tensor::{DataType, Tensor, TensorSpec};

use super::model::BackendKind;

/// The parameter that limits the cost of a batch.
pub(super) const MAX_BATCH_TOKENS: &str = "max_batch_tokens";

/// The parameter that says what is counted.
pub(super) const BATCH_COST: &str = "batch_cost";

/// Bytes of text that make a token, about; texts in most languages have more.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that mark the beginning and the end of a text.
const MARKS_PER_TEXT: u64 = 2;

/// In front of each element of a BYTES tensor stands its length, in this many bytes.
const LENGTH_BYTES: u64 = 4;

/// What is counted as the work that a request makes. An input is given by its index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchCost {
    /// Its rows.
    #[default]
    Rows,
    /// The elements of an input, such as token ids, padding included.
    Elements(usize),
    /// The bytes of an input, each element of a BYTES tensor with its length field.
    Bytes(usize),
    /// The tokens that the texts of an input will make, estimated from their bytes.
    Texts(usize),
}

impl BatchCost {
    /// The cost of a request with these inputs, which are those of the configuration in its order; at least 1. An
    /// optional input that was left out costs as much as the rows.
    pub fn of(self, rows: usize, inputs: &[Option<Tensor>]) -> u64 {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let tensor = |index: usize| inputs.get(index).and_then(Option::as_ref);
        let elements = |tensor: &Tensor| count(tensor.shape().element_count().unwrap_or(usize::MAX));
        let bytes = |tensor: &Tensor| count(tensor.bytes().len());
        let cost = match self {
            Self::Rows => None,
            Self::Elements(input) => tensor(input).map(elements),
            Self::Bytes(input) => tensor(input).map(bytes),
            Self::Texts(input) => tensor(input).map(|tensor| {
                let texts = elements(tensor);
                let letters = bytes(tensor).saturating_sub(texts.saturating_mul(LENGTH_BYTES));
                (letters / BYTES_PER_TOKEN).saturating_add(texts.saturating_mul(MARKS_PER_TEXT))
            }),
        };
        cost.unwrap_or_else(|| count(rows)).max(1)
    }

    /// Parses both parameters.
    pub(super) fn parse(
        model: &str,
        backend: BackendKind,
        inputs: &[TensorSpec],
        parameters: &BTreeMap<String, String>,
        problems: &mut Vec<ConfigProblem>,
    ) -> (Self, Option<NonZeroU64>) {
        let mut out_of_range = |name: &str, expected: &'static str, got: &str| {
            problems.push(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: format!("parameters['{name}']"),
                expected,
                got: format!("'{got}'"),
            });
        };
        let limit = parameters.get(MAX_BATCH_TOKENS).and_then(|written| {
            let limit = written.parse().ok();
            if limit.is_none() {
                out_of_range(MAX_BATCH_TOKENS, "an integer >= 1", written);
            }
            limit
        });
        let Some(written) = parameters.get(BATCH_COST) else {
            let cost = if limit.is_some() { Self::of_texts(backend, inputs) } else { Self::Rows };
            return (cost, limit);
        };
        let input = |name: &str| inputs.iter().position(|input| &*input.name == name);
        let cost = match written.split_once(':') {
            None if written == "rows" => Some(Self::Rows),
            Some(("elements", name)) => input(name).map(Self::Elements),
            Some(("bytes", name)) => input(name).map(Self::Bytes),
            _ => None,
        };
        if cost.is_none() {
            out_of_range(BATCH_COST, "'rows', 'elements:<input>' or 'bytes:<input>' with an input of the model", written);
        }
        (cost.unwrap_or_default(), limit)
    }

    /// What a limit in tokens means where nothing else is written: for a text model on candle the tokens, as they come
    /// or estimated from the texts; for any other model rows.
    fn of_texts(backend: BackendKind, inputs: &[TensorSpec]) -> Self {
        if backend != BackendKind::Candle {
            return Self::Rows;
        }
        let position = |is: fn(&TensorSpec) -> bool| inputs.iter().position(is);
        position(|input| &*input.name == "input_ids")
            .map(Self::Elements)
            .or_else(|| position(|input| input.datatype == DataType::Bytes).map(Self::Texts))
            .unwrap_or_default()
    }
}
