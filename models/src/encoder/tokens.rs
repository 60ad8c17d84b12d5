//! Token ids, mask and token types of a batch, checked once.

use candle_core::{DType, Device, Tensor};

use super::{ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS};
use crate::error::{During, ModelError, Position};

/// What is added to the score of a masked position: so large that its exponential is exactly 0, and finite, so that
/// nothing becomes NaN (0 times infinity) whatever the mask.
const MASKED_SCORE: f32 = f32::MIN;

/// What token batches are checked against.
#[derive(Debug, Clone)]
pub(super) struct TokenLimits {
    pub(super) vocab_size: usize,
    pub(super) positions: usize,
    pub(super) token_types: usize,
    /// For families whose positions are counted from the padding id: that id.
    pub(super) padding_id: Option<usize>,
}

/// A batch of tokens whose every value has been checked, on the device of its encoder.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    rows: usize,
    width: usize,
    ids: Tensor,
    mask: Tensor,
    score_bias: Option<Tensor>,
    type_ids: Option<Tensor>,
    position_ids: Option<Tensor>,
}

impl TokenBatch {
    pub(super) fn parse(
        ids: &Tensor,
        mask: &Tensor,
        types: Option<&Tensor>,
        limits: &TokenLimits,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let &[rows, width] = ids.dims() else {
            return Err(whole(INPUT_IDS, format!("shape {:?}", ids.dims()), "shape [rows, width]".to_owned()));
        };
        if width > limits.positions {
            let expected = format!("at most {} columns (the positions of the model)", limits.positions);
            return Err(whole(INPUT_IDS, format!("{width} columns"), expected));
        }
        let ids = host(INPUT_IDS, ids, (rows, width))?;
        let mask = host(ATTENTION_MASK, mask, (rows, width))?;
        let types = types.map(|types| host(TOKEN_TYPE_IDS, types, (rows, width))).transpose()?;
        check_range(INPUT_IDS, &ids, width, limits.vocab_size)?;
        check_range(ATTENTION_MASK, &mask, width, 2)?;
        if let Some(types) = &types {
            check_range(TOKEN_TYPE_IDS, types, width, limits.token_types)?;
        }
        if let Some(row) = (0..rows).find(|row| mask[row * width..][..width].iter().all(|value| *value == 0)) {
            return Err(ModelError::InvalidInput {
                input: ATTENTION_MASK.to_owned(),
                at: Position::Row(row),
                got: "no 1".to_owned(),
                expected: "at least one token".to_owned(),
            });
        }
        let positions = limits.padding_id.map(|padding| positions_after_padding(&ids, width, padding as i64));
        let bias = mask
            .contains(&0)
            .then(|| mask.iter().map(|value| if *value == 0 { MASKED_SCORE } else { 0.0 }).collect::<Vec<f32>>());
        let tensors = || -> candle_core::Result<TokenBatch> {
            let flat = |values: Vec<i64>| Tensor::from_vec(values, rows * width, device);
            Ok(TokenBatch {
                rows,
                width,
                ids: flat(ids)?,
                mask: Tensor::from_vec(mask, (rows, width), device)?,
                score_bias: bias.map(|bias| Tensor::from_vec(bias, (rows, 1, 1, width), device)).transpose()?,
                type_ids: types.map(flat).transpose()?,
                position_ids: positions.map(flat).transpose()?,
            })
        };
        tensors().during("moving the tokens to the device")
    }

    /// The rows from `start` on, `rows` of them.
    pub(super) fn part(&self, start: usize, rows: usize) -> candle_core::Result<TokenBatch> {
        let flat = |tensor: &Tensor| tensor.narrow(0, start * self.width, rows * self.width);
        Ok(TokenBatch {
            rows,
            width: self.width,
            ids: flat(&self.ids)?,
            mask: self.mask.narrow(0, start, rows)?,
            score_bias: self.score_bias.as_ref().map(|bias| bias.narrow(0, start, rows)).transpose()?,
            type_ids: self.type_ids.as_ref().map(flat).transpose()?,
            position_ids: self.position_ids.as_ref().map(flat).transpose()?,
        })
    }

    /// Texts in the batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: the length of the longest text, or more.
    pub fn width(&self) -> usize {
        self.width
    }

    /// `[rows, width] i64`, 1 for tokens and 0 for padding.
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// `[rows * width] i64`.
    pub(super) fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// `[rows * width] i64`; `None` if every token is of type 0.
    pub(super) fn type_ids(&self) -> Option<&Tensor> {
        self.type_ids.as_ref()
    }

    /// `[rows * width] i64`; `None` if positions are the columns.
    pub(super) fn position_ids(&self) -> Option<&Tensor> {
        self.position_ids.as_ref()
    }

    /// `[rows, 1, 1, width] f32`, to be added to attention scores; `None` if nothing is masked.
    pub(super) fn score_bias(&self) -> Option<&Tensor> {
        self.score_bias.as_ref()
    }
}

/// The values of an input in row-major order, after a check of its type and shape.
fn host(name: &str, tensor: &Tensor, (rows, width): (usize, usize)) -> Result<Vec<i64>, ModelError> {
    if tensor.dtype() != DType::I64 {
        return Err(whole(name, format!("element type {:?}", tensor.dtype()), "I64".to_owned()));
    }
    if tensor.dims() != [rows, width] {
        let expected = format!("shape [{rows}, {width}], as {INPUT_IDS} has");
        return Err(whole(name, format!("shape {:?}", tensor.dims()), expected));
    }
    tensor.flatten_all().and_then(|flat| flat.to_vec1()).during("reading the tokens")
}

/// Every value must be at least 0 and below `end`.
fn check_range(name: &str, values: &[i64], width: usize, end: usize) -> Result<(), ModelError> {
    let end = i64::try_from(end).unwrap_or(i64::MAX);
    let Some(index) = values.iter().position(|value| !(0..end).contains(value)) else { return Ok(()) };
    Err(ModelError::InvalidInput {
        input: name.to_owned(),
        at: Position::Element { row: index / width, column: index % width },
        got: values[index].to_string(),
        expected: format!("0 to {}", end - 1),
    })
}

/// RoBERTa's positions: `padding + 1` for a row's first token that is not the padding id, counting only such tokens; the
/// padding id itself has position `padding`. The mask plays no part, as in the reference implementation.
fn positions_after_padding(ids: &[i64], width: usize, padding: i64) -> Vec<i64> {
    let mut positions = Vec::with_capacity(ids.len());
    for row in ids.chunks(width.max(1)) {
        let mut next = padding + 1;
        for id in row {
            if *id == padding {
                positions.push(padding);
            } else {
                positions.push(next);
                next += 1;
            }
        }
    }
    positions
}

fn whole(input: &str, got: String, expected: String) -> ModelError {
    ModelError::InvalidInput { input: input.to_owned(), at: Position::Whole, got, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TokenLimits = TokenLimits { vocab_size: 10, positions: 4, token_types: 2, padding_id: None };

    fn tensor<const W: usize>(rows: &[[i64; W]]) -> Tensor {
        Tensor::from_vec(rows.concat(), (rows.len(), W), &Device::Cpu).unwrap()
    }

    fn refusal(ids: &Tensor, mask: &Tensor, types: Option<&Tensor>) -> String {
        TokenBatch::parse(ids, mask, types, &LIMITS, &Device::Cpu).unwrap_err().to_string()
    }

    #[test]
    fn refusals_name_input_row_column_value_and_range() {
        let (ids, ones) = (tensor(&[[1, 2, 3], [4, 5, 6]]), tensor(&[[1, 1, 1], [1, 1, 1]]));
        assert_eq!(
            refusal(&tensor(&[[1, 2, 3], [4, 10, 6]]), &ones, None),
            "input 'input_ids', row 1, column 1: got 10; expected 0 to 9"
        );
        assert_eq!(
            refusal(&tensor(&[[1, 2, -3], [4, 10, 6]]), &ones, None),
            "input 'input_ids', row 0, column 2: got -3; expected 0 to 9"
        );
        assert_eq!(
            refusal(&ids, &tensor(&[[1, 1, 2], [1, 1, 1]]), None),
            "input 'attention_mask', row 0, column 2: got 2; expected 0 to 1"
        );
        assert_eq!(
            refusal(&ids, &tensor(&[[1, 1, 0], [0, 0, 0]]), None),
            "input 'attention_mask', row 1: got no 1; expected at least one token"
        );
        assert_eq!(
            refusal(&ids, &ones, Some(&tensor(&[[0, 1, 0], [0, 0, 2]]))),
            "input 'token_type_ids', row 1, column 2: got 2; expected 0 to 1"
        );
        assert_eq!(
            refusal(&ids, &tensor(&[[1, 1], [1, 1]]), None),
            "input 'attention_mask': got shape [2, 2]; expected shape [2, 3], as input_ids has"
        );
        assert_eq!(
            refusal(&tensor(&[[1; 5]]), &tensor(&[[1; 5]]), None),
            "input 'input_ids': got 5 columns; expected at most 4 columns (the positions of the model)"
        );
        assert_eq!(
            refusal(&ids.to_dtype(DType::U8).unwrap(), &ones, None),
            "input 'input_ids': got element type U8; expected I64"
        );
        let none = Tensor::zeros((2, 0), DType::I64, &Device::Cpu).unwrap();
        assert_eq!(refusal(&none, &none, None), "input 'attention_mask', row 0: got no 1; expected at least one token");
    }

    #[test]
    fn positions_are_counted_after_the_padding_id() {
        assert_eq!(positions_after_padding(&[5, 1, 6, 1, 1, 7], 3, 1), [2, 1, 3, 1, 1, 2]);
        assert!(positions_after_padding(&[], 0, 1).is_empty());
    }

    #[test]
    fn a_mask_of_ones_needs_no_bias() {
        let ids = tensor(&[[1, 2]]);
        let full = TokenBatch::parse(&ids, &tensor(&[[1, 1]]), None, &LIMITS, &Device::Cpu).unwrap();
        assert!(full.score_bias().is_none());
        let padded = TokenBatch::parse(&ids, &tensor(&[[1, 0]]), None, &LIMITS, &Device::Cpu).unwrap();
        let bias: Vec<f32> = padded.score_bias().unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(bias, [0.0, f32::MIN]);
    }
}
