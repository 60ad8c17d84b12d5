//! What enters a batch, where it stands, and what is refused in which words.

use super::*;

const INPUT: TokenInput =
    TokenInput { vocab_size: 10, positions: 4, token_types: 2, counted_after: None, no_gaps: false, padding_id: 0 };

fn bytes(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Rows of one request; `None` for an input that was left out.
struct Request<'r> {
    rows: usize,
    ids: &'r [i64],
    mask: Option<&'r [i64]>,
    types: Option<&'r [i64]>,
}

impl<'r> Request<'r> {
    fn new(rows: usize, ids: &'r [i64]) -> Self {
        Request { rows, ids, mask: None, types: None }
    }

    fn masked(rows: usize, ids: &'r [i64], mask: &'r [i64]) -> Self {
        Request { mask: Some(mask), ..Request::new(rows, ids) }
    }

    /// Pushes the request in messages that begin at an odd address.
    fn push(&self, batch: &mut Batch<'_>, input: &TokenInput) -> Result<(), String> {
        let odd = |values: &[i64]| [vec![0], bytes(values)].concat();
        let (ids, mask, types) = (odd(self.ids), self.mask.map(odd), self.types.map(odd));
        let texts = Texts {
            rows: self.rows,
            width: self.ids.len() / self.rows.max(1),
            ids: Integers::new(&ids[1..]),
            mask: mask.as_ref().map(|bytes| Integers::new(&bytes[1..])),
            types: types.as_ref().map(|bytes| Integers::new(&bytes[1..])),
        };
        batch.push_texts(input, &texts).map_err(|error| error.to_string())
    }
}

fn refusal(request: &Request<'_>) -> String {
    refusal_by(&INPUT, request)
}

fn refusal_by(input: &TokenInput, request: &Request<'_>) -> String {
    let mut batch = Batch::new();
    let text = request.push(&mut batch, input).unwrap_err();
    assert_eq!((batch.tokens(), batch.sequences().len()), (0, 0));
    text
}

#[test]
fn refusals_name_input_row_column_value_and_range() {
    let ids = &[1, 2, 3, 4, 5, 6];
    let masked = |ids, mask| refusal(&Request::masked(2, ids, mask));
    let typed = |types| refusal(&Request { types: Some(types), ..Request::new(2, ids) });
    let ones = &[1; 6];
    assert_eq!(masked(&[1, 2, 3, 4, 10, 6], ones), "input 'input_ids', row 1, column 1: got 10; expected 0 to 9");
    assert_eq!(masked(&[1, 2, -3, 4, 10, 6], ones), "input 'input_ids', row 0, column 2: got -3; expected 0 to 9");
    let least = format!("input 'input_ids', row 0, column 0: got {}; expected 0 to 9", i64::MIN);
    assert_eq!(masked(&[i64::MIN, 2, 3, 4, 5, 6], ones), least);
    assert_eq!(masked(ids, &[1, 1, 2, 1, 1, 1]), "input 'attention_mask', row 0, column 2: got 2; expected 0 to 1");
    assert_eq!(masked(ids, &[1, 1, -1, 1, 1, 1]), "input 'attention_mask', row 0, column 2: got -1; expected 0 to 1");
    assert_eq!(masked(ids, &[1, 1, 0, 0, 0, 0]), "input 'attention_mask', row 1: got no 1; expected at least one token");
    assert_eq!(typed(&[0, 1, 0, 0, 0, 2]), "input 'token_type_ids', row 1, column 2: got 2; expected 0 to 1");
    assert_eq!(masked(ids, &[1; 4]), "input 'attention_mask': got 4 values; expected those of shape [2,3]");
    assert_eq!(typed(&[1; 7]), "input 'token_type_ids': got 7 values; expected those of shape [2,3]");
    assert_eq!(
        refusal(&Request::masked(1, &[1; 5], &[1; 5])),
        "input 'input_ids': got 5 columns; expected at most 4 columns (the positions of the model)"
    );
    assert_eq!(refusal(&Request::masked(2, &[], &[])), "input 'attention_mask', row 0: got no 1; expected at least one token");
    let untyped = TokenInput { token_types: 0, ..INPUT };
    assert_eq!(
        refusal_by(&untyped, &Request { types: Some(&[0; 6]), ..Request::new(2, ids) }),
        "input 'token_type_ids': got the input; expected none: this model has no token types"
    );
}

#[test]
fn shapes_that_overflow_are_refused() {
    let texts = Texts { rows: usize::MAX, width: 3, ids: Integers::new(&[]), mask: None, types: None };
    let error = Batch::new().push_texts(&INPUT, &texts).unwrap_err().to_string();
    assert_eq!(error, format!("input 'input_ids': got 0 values; expected those of shape [{},3]", usize::MAX));
}

#[test]
fn tokens_are_packed_with_their_columns() {
    let mut batch = Batch::new();
    Request::masked(3, &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[1, 1, 0, 0, 1, 1, 1, 0, 1]).push(&mut batch, &INPUT).unwrap();
    Request::new(1, &[9]).push(&mut batch, &INPUT).unwrap();
    assert_eq!(batch.ids, [1, 2, 5, 6, 7, 9, 9]);
    assert_eq!(batch.columns, [0, 1, 1, 2, 0, 2, 0]);
    assert_eq!(batch.positions, batch.columns, "positions are columns, with gaps too");
    assert!(batch.types.is_empty());
    let ranges: Vec<_> = batch.sequences().iter().map(|sequence| (sequence.tokens.clone(), sequence.real)).collect();
    assert_eq!(ranges, [(0..2, 2), (2..4, 2), (4..6, 2), (6..7, 1)]);
    assert_eq!(batch.tokens(), 7);
}

#[test]
fn positions_are_counted_after_the_padding_id() {
    let input = TokenInput { counted_after: Some(1), padding_id: 1, ..INPUT };
    let mut batch = Batch::new();
    Request::new(2, &[5, 1, 6, 1, 1, 7]).push(&mut batch, &input).unwrap();
    assert_eq!(batch.positions, [2, 1, 3, 1, 1, 2]);
    // What is masked counts if it is not the padding id: the mask plays no part, as in the original implementation.
    let mut batch = Batch::new();
    Request::masked(1, &[5, 6, 1, 7], &[0, 1, 0, 1]).push(&mut batch, &input).unwrap();
    assert_eq!(batch.positions, [3, 4]);
}

#[test]
fn gaps_are_refused_where_distances_matter() {
    let input = TokenInput { no_gaps: true, ..INPUT };
    let mut batch = Batch::new();
    // Padding on either side leaves the tokens together.
    Request::masked(2, &[1, 2, 3, 4, 5, 6], &[0, 1, 1, 1, 1, 0]).push(&mut batch, &input).unwrap();
    assert_eq!(batch.ids, [2, 3, 4, 5]);
    assert_eq!(
        refusal_by(&input, &Request::masked(2, &[1, 2, 3, 4, 5, 6], &[1, 1, 1, 1, 0, 1])),
        "input 'attention_mask', row 1: got a gap before column 2; expected all tokens together: this model counts the \
         distances between them"
    );
    // The column before a row's first token is not compared with the row before.
    let mut batch = Batch::new();
    Request::masked(2, &[1, 2, 3, 4, 5, 6], &[1, 0, 0, 0, 0, 1]).push(&mut batch, &input).unwrap();
    assert_eq!(batch.ids, [1, 6]);
}

#[test]
fn types_are_kept_once_one_is_not_0() {
    let mut batch = Batch::new();
    Request::new(1, &[1, 2]).push(&mut batch, &INPUT).unwrap();
    Request { types: Some(&[0, 0]), ..Request::new(1, &[3, 4]) }.push(&mut batch, &INPUT).unwrap();
    assert!(batch.types.is_empty());
    Request { types: Some(&[0, 1]), mask: Some(&[1, 1]), ..Request::new(1, &[5, 6]) }.push(&mut batch, &INPUT).unwrap();
    Request::new(1, &[7]).push(&mut batch, &INPUT).unwrap();
    assert_eq!(batch.types, [0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn refused_texts_leave_the_batch_as_it_was() {
    let input = TokenInput { no_gaps: true, ..INPUT };
    let good = Request { types: Some(&[0, 0, 1]), ..Request::new(1, &[1, 2, 3]) };
    let bad: [Request<'_>; 4] = [
        // The first row is fine and has been added when the second is refused.
        Request { types: Some(&[1, 1, 1, 1, 1, 1]), ..Request::masked(2, &[4, 5, 6, 7, 8, 9], &[1, 1, 1, 0, 0, 0]) },
        Request { types: Some(&[1, 1, 1, 1, 1, 1]), ..Request::masked(2, &[4, 5, 6, 7, 8, 9], &[1, 1, 1, 1, 0, 1]) },
        Request::new(1, &[4, 10]),
        Request { types: Some(&[0, 2]), ..Request::new(1, &[4, 5]) },
    ];
    for first in [None, Some(&Request::new(1, &[3, 2])), Some(&good)] {
        let mut batch = Batch::new();
        if let Some(first) = first {
            first.push(&mut batch, &input).unwrap();
        }
        let before = format!("{batch:?}");
        for bad in &bad {
            bad.push(&mut batch, &input).unwrap_err();
            assert_eq!(format!("{batch:?}"), before);
        }
        good.push(&mut batch, &input).unwrap();
        assert_eq!(batch.types.iter().rev().take(3).copied().collect::<Vec<_>>(), [1, 0, 0]);
    }
}

#[test]
fn requests_without_rows_add_nothing() {
    let mut batch = Batch::new();
    Request::masked(0, &[], &[]).push(&mut batch, &INPUT).unwrap();
    assert_eq!((batch.tokens(), batch.sequences().len()), (0, 0));
}

#[test]
fn padding_fills_up_to_the_longest() {
    let input = TokenInput { counted_after: Some(3), padding_id: 3, ..INPUT };
    let mut batch = Batch::new();
    Request { types: Some(&[0, 1, 1]), ..Request::new(1, &[1, 2, 4]) }.push(&mut batch, &input).unwrap();
    Request::new(1, &[5]).push(&mut batch, &input).unwrap();
    batch.pad(&input);
    assert_eq!(batch.ids, [1, 2, 4, 5, 3, 3]);
    assert_eq!(batch.positions, [4, 5, 6, 4, 3, 3]);
    assert_eq!(batch.types, [0, 1, 1, 0, 0, 0]);
    assert_eq!(batch.sequences(), [Sequence { tokens: 0..3, real: 3 }, Sequence { tokens: 3..6, real: 1 }]);
    assert_eq!(batch.tokens(), 6);
}

#[test]
fn rows_per_token_are_spread_over_the_request() {
    let mut batch = Batch::new();
    Request::new(1, &[1]).push(&mut batch, &INPUT).unwrap();
    Request::masked(2, &[1, 2, 3, 4, 5, 6], &[0, 1, 0, 1, 0, 1]).push(&mut batch, &INPUT).unwrap();
    let values: Vec<f32> = (1..=8).map(|value| value as f32).collect();
    let spread = batch.spread(&values, 2, 1..3, 3);
    assert_eq!(spread, [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0, 7.0, 8.0]);
    assert_eq!(batch.spread(&values, 2, 0..1, 1), [1.0, 2.0]);
    assert!(batch.is_dense(0..1, 1) && !batch.is_dense(1..3, 3) && !batch.is_dense(0..1, 2));
    // Padding that was computed is not part of the answer.
    let mut padded = batch.clone();
    padded.pad(&INPUT);
    let values: Vec<f32> = (1..=6).map(|value| value as f32).collect();
    assert_eq!(padded.spread(&values, 1, 0..3, 3), [1.0, 0.0, 0.0, 0.0, 3.0, 0.0, 5.0, 0.0, 6.0]);
    assert!(!padded.is_dense(0..1, 1));
}

#[test]
fn images_must_be_whole() {
    let input = ImageInput { channels: 1, height: 2, width: 4, patch: (2, 2), first_tokens: 1 };
    let pixels = vec![0u8; 2 * 32];
    let mut batch = Batch::new();
    batch.push_images(&input, &pixels).unwrap();
    assert_eq!((batch.sequences().len(), batch.tokens()), (2, 6));
    assert_eq!(batch.columns, [0, 1, 2, 0, 1, 2]);
    let error = batch.push_images(&input, &pixels[..40]).unwrap_err().to_string();
    assert_eq!(error, "input 'pixel_values': got 40 bytes; expected whole images of 32 bytes");
    assert_eq!(batch.tokens(), 6);
}
