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

/// The limit on the cost of a batch where tokens are counted and nothing is written: far more than a processor needs to be
/// busy with, and little enough that a batch does not keep others waiting for seconds.
const DEFAULT_BATCH_TOKENS: NonZeroU64 = NonZeroU64::new(16384).unwrap();

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
    /// The work that an encoder has with the tokens of each row: of `n` tokens `n + n^2 / quadratic`, since attention looks at
    /// pairs of them. Masked tokens are none.
    Tokens {
        /// Token ids, `[rows, width]`.
        ids: usize,
        /// 1 for tokens, 0 for padding; where it is not given every column is a token.
        mask: Option<usize>,
        /// Tokens at which attention is as much work as everything else; `None` counts tokens alone.
        quadratic: Option<NonZeroU64>,
    },
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
            Self::Tokens { ids, mask, quadratic } => {
                let given = mask.and_then(tensor);
                tensor(ids).map(|ids| of_rows(ids.shape().row_sizes().iter().product(), rows, given, quadratic))
            }
        };
        cost.unwrap_or_else(|| count(rows)).max(1)
    }

    /// Parses both parameters; `limits` says whether the batcher can limit the cost of a batch.
    pub(super) fn parse(
        model: &str,
        (backend, limits): (BackendKind, bool),
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
            let cost = Self::of_texts(backend, inputs, limit.is_some());
            return (cost, limit.or(cost.default_limit(limits)));
        };
        let input = |name: &str| inputs.iter().position(|input| &*input.name == name);
        let cost = match (written.as_str(), written.split_once([':', '/'])) {
            ("rows", _) => Some(Self::Rows),
            ("tokens", _) => Self::of_tokens(inputs, None),
            (_, Some(("elements", name))) => input(name).map(Self::Elements),
            (_, Some(("bytes", name))) => input(name).map(Self::Bytes),
            (_, Some(("tokens", quadratic))) => quadratic.parse().ok().and_then(|count| Self::of_tokens(inputs, Some(count))),
            _ => None,
        };
        if cost.is_none() {
            const EXPECTED: &str = "'rows', 'elements:<input>' or 'bytes:<input>' with an input of the model, or, with an input \
                                    'input_ids', 'tokens' or 'tokens/<tokens at which attention costs as much as the rest>'";
            out_of_range(BATCH_COST, EXPECTED, written);
        }
        let cost = cost.unwrap_or_default();
        (cost, limit.or(cost.default_limit(limits)))
    }

    /// The limit where none is written: encoders have one, since what a batch of theirs takes grows without bound with the
    /// length of texts.
    fn default_limit(self, limits: bool) -> Option<NonZeroU64> {
        (limits && matches!(self, Self::Tokens { .. })).then_some(DEFAULT_BATCH_TOKENS)
    }

    fn of_tokens(inputs: &[TensorSpec], quadratic: Option<NonZeroU64>) -> Option<Self> {
        let input = |name: &str| inputs.iter().position(|input| &*input.name == name && input.datatype == DataType::Int64);
        input("input_ids").map(|ids| Self::Tokens { ids, mask: input("attention_mask"), quadratic })
    }

    /// What is counted where nothing is written: for an encoder on candle its tokens; for other text models on candle, where
    /// there is a limit in tokens, those that the texts will make; else rows.
    fn of_texts(backend: BackendKind, inputs: &[TensorSpec], is_limited: bool) -> Self {
        if backend != BackendKind::Candle {
            return Self::Rows;
        }
        let texts = || inputs.iter().position(|input| input.datatype == DataType::Bytes).filter(|_| is_limited);
        Self::of_tokens(inputs, None).or_else(|| texts().map(Self::Texts)).unwrap_or_default()
    }
}

/// The work of rows of up to `width` tokens. A mask of another size than the ids is refused later; here it counts as none.
fn of_rows(width: usize, rows: usize, mask: Option<&Tensor>, quadratic: Option<NonZeroU64>) -> u64 {
    let work = |tokens: u64| {
        let pairs = quadratic.map_or(0, |quadratic| tokens.saturating_mul(tokens) / quadratic);
        tokens.saturating_add(pairs)
    };
    let given = mask.map(|mask| mask.bytes().as_chunks::<8>().0).filter(|mask| Some(mask.len()) == width.checked_mul(rows));
    match given.filter(|_| width > 0) {
        Some(mask) => {
            let tokens = |row: &[[u8; 8]]| row.iter().map(|value| u64::from(*value != [0; 8])).sum();
            mask.chunks_exact(width).map(|row| work(tokens(row))).fold(0, u64::saturating_add)
        }
        None => {
            let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
            work(count(width)).saturating_mul(count(rows))
        }
    }
}
