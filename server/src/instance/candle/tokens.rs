//! The tokens of a request, checked, and the padded buffers that an encoder runs on.

use std::ops::Range;

use models::ModelCard;
use models::ModelError;
use models::encoder::{ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS};
use models::error::Position;

use crate::error::ExecuteError;
use crate::request::ValidRequest;
use crate::tensor::Tensor;

use super::refused;

/// Most elements of the largest tensor inside the encoder (attention scores, or the feed-forward layer):
/// 256 MiB of f32. A batch that would need more runs in several passes, so that one batch of long texts
/// cannot use up the memory of the machine.
const MAX_ELEMENTS: usize = 1 << 26;

/// What token ids are checked against.
#[derive(Clone, Debug)]
pub(super) struct TokenLimits {
    vocab_size: usize,
    positions: usize,
    token_types: usize,
    padding_id: i64,
    heads: usize,
    intermediate_size: usize,
    max_elements: usize,
}

impl TokenLimits {
    /// The limits of the model of this card.
    pub(super) fn of(card: &ModelCard) -> Self {
        Self {
            vocab_size: card.vocab_size,
            positions: card.positions,
            token_types: card.token_types,
            // Padding is masked; only families that count positions from the padding id need the very one.
            padding_id: card.pad_token_id.and_then(|id| i64::try_from(id).ok()).unwrap_or(0),
            heads: card.heads,
            intermediate_size: card.intermediate_size,
            max_elements: MAX_ELEMENTS,
        }
    }

    /// The same, with passes of at most so many elements.
    #[cfg(test)]
    pub(super) fn with_max_elements(self, max_elements: usize) -> Self {
        Self { max_elements, ..self }
    }

    /// Whether `rows` texts of `width` tokens may share a pass.
    fn fits(&self, rows: usize, width: usize) -> bool {
        let per_token = self.heads.saturating_mul(width).max(self.intermediate_size);
        rows.saturating_mul(width).saturating_mul(per_token) <= self.max_elements
    }
}

/// Where the token tensors are among a model's inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenInputs {
    /// `input_ids`.
    pub(super) ids: usize,
    /// `attention_mask`.
    pub(super) mask: usize,
    /// `token_type_ids`, where configured.
    pub(super) types: Option<usize>,
}

/// The tokens of one request: `[rows, width] INT64` each, every value in range.
#[derive(Clone, Debug)]
pub(super) struct RequestTokens {
    ids: Tensor,
    mask: Tensor,
    types: Option<Tensor>,
    rows: usize,
    width: usize,
}

impl RequestTokens {
    /// Checks what the encoder itself would refuse, so that a bad request fails alone and not with its batch.
    ///
    /// # Errors
    /// Names input, row, column, value and allowed range.
    pub(super) fn parse(request: &ValidRequest, inputs: TokenInputs, limits: &TokenLimits) -> Result<Self, ExecuteError> {
        let given = |index: usize| request.inputs.get(index).cloned().flatten();
        let (Some(ids), Some(mask)) = (given(inputs.ids), given(inputs.mask)) else {
            return Err(ExecuteError::Internal { message: format!("the request came without {INPUT_IDS} or {ATTENTION_MASK}") });
        };
        let types = inputs.types.and_then(given);
        let &[rows, width] = ids.shape().sizes() else {
            return Err(whole(INPUT_IDS, format!("shape {}", ids.shape()), "shape [rows,width]".to_owned()));
        };
        if width > limits.positions {
            let expected = format!("at most {} columns (the positions of the model)", limits.positions);
            return Err(whole(INPUT_IDS, format!("{width} columns"), expected));
        }
        for (name, tensor) in [(ATTENTION_MASK, Some(&mask)), (TOKEN_TYPE_IDS, types.as_ref())] {
            if let Some(tensor) = tensor.filter(|tensor| tensor.shape() != ids.shape()) {
                let expected = format!("shape {}, as {INPUT_IDS} has", ids.shape());
                return Err(whole(name, format!("shape {}", tensor.shape()), expected));
            }
        }
        check_range(INPUT_IDS, &ids, width, limits.vocab_size)?;
        check_range(ATTENTION_MASK, &mask, width, 2)?;
        if let Some(types) = &types {
            check_range(TOKEN_TYPE_IDS, types, width, limits.token_types)?;
        }
        let tokens = Self { ids, mask, types, rows, width };
        match (0..rows).find(|row| numbers(&tokens.mask, tokens.row(*row)).all(|value| value == 0)) {
            None => Ok(tokens),
            Some(row) => Err(invalid(ATTENTION_MASK, Position::Row(row), "no 1".to_owned(), "at least one token".to_owned())),
        }
    }

    /// Texts of the request.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Where a row's elements are.
    fn row(&self, row: usize) -> Range<usize> {
        row * self.width..(row + 1) * self.width
    }
}

/// Tokens of several requests in one buffer, `[rows, width]` each, padded on the right to the longest row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Padded {
    /// Token ids.
    pub(super) ids: Vec<i64>,
    /// 1 for tokens, 0 for padding.
    pub(super) mask: Vec<i64>,
    /// Token types; `None` where no request names any.
    pub(super) types: Option<Vec<i64>>,
    /// Texts.
    pub(super) rows: usize,
    /// Columns.
    pub(super) width: usize,
}

impl Padded {
    /// Tokens that are not masked out: neither the server nor the client put them there to fill a row.
    pub(super) fn real_tokens(&self) -> usize {
        self.mask.iter().filter(|mask| **mask != 0).count()
    }
}

/// Puts the rows of all requests, in order, into as few buffers as the limit on a pass allows. This is the
/// only copy of the tokens between the received message and the model.
pub(super) fn pad(requests: &[&RequestTokens], limits: &TokenLimits) -> Vec<Padded> {
    let rows: Vec<(&RequestTokens, usize)> =
        requests.iter().flat_map(|tokens| (0..tokens.rows).map(move |row| (*tokens, row))).collect();
    let mut passes = Vec::new();
    let mut rest = rows.as_slice();
    while let Some(((first, _), others)) = rest.split_first() {
        let (mut taken, mut width) = (1, first.width);
        for (tokens, _) in others {
            let wider = width.max(tokens.width);
            if !limits.fits(taken + 1, wider) {
                break;
            }
            (taken, width) = (taken + 1, wider);
        }
        let (pass, later) = rest.split_at(taken);
        passes.push(pad_rows(pass, width, limits.padding_id));
        rest = later;
    }
    passes
}

fn pad_rows(rows: &[(&RequestTokens, usize)], width: usize, padding_id: i64) -> Padded {
    let size = rows.len() * width;
    let typed = rows.iter().any(|(tokens, _)| tokens.types.is_some());
    let (mut ids, mut mask) = (Vec::with_capacity(size), Vec::with_capacity(size));
    let mut types = typed.then(|| Vec::with_capacity(size));
    for (index, (tokens, row)) in rows.iter().enumerate() {
        let end = (index + 1) * width;
        ids.extend(numbers(&tokens.ids, tokens.row(*row)));
        ids.resize(end, padding_id);
        mask.extend(numbers(&tokens.mask, tokens.row(*row)));
        mask.resize(end, 0);
        if let Some(types) = &mut types {
            if let Some(given) = &tokens.types {
                types.extend(numbers(given, tokens.row(*row)));
            }
            types.resize(end, 0);
        }
    }
    Padded { ids, mask, types, rows: rows.len(), width }
}

/// The elements `range` of an `INT64` tensor.
fn numbers(tensor: &Tensor, range: Range<usize>) -> impl Iterator<Item = i64> + '_ {
    let elements = tensor.bytes().as_chunks::<8>().0;
    elements.get(range).unwrap_or_default().iter().map(|bytes| i64::from_le_bytes(*bytes))
}

/// Every value must be at least 0 and below `end`.
fn check_range(name: &str, tensor: &Tensor, width: usize, end: usize) -> Result<(), ExecuteError> {
    let end = i64::try_from(end).unwrap_or(i64::MAX);
    let found = numbers(tensor, 0..tensor.bytes().len() / 8).enumerate().find(|(_, value)| !(0..end).contains(value));
    match found {
        None => Ok(()),
        Some((index, value)) => {
            // There is an element, so there are columns.
            let at = Position::Element { row: index / width.max(1), column: index % width.max(1) };
            Err(invalid(name, at, value.to_string(), format!("0 to {}", end.saturating_sub(1))))
        }
    }
}

fn whole(input: &str, got: String, expected: String) -> ExecuteError {
    invalid(input, Position::Whole, got, expected)
}

fn invalid(input: &str, at: Position, got: String, expected: String) -> ExecuteError {
    refused(&ModelError::InvalidInput { input: input.to_owned(), at, got, expected })
}
