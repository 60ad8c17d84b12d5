//! Packed batches: the tokens of all texts one after the other, checked once, without padding.
//!
//! Owns: [`Batch`], what it is checked against ([`Input`]), and how it is filled. May import: this crate's errors. Must never
//! import: plans, weights, anything that computes.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::error::{ModelError, Position};

/// The input of token ids.
pub const INPUT_IDS: &str = "input_ids";
/// The input that tells tokens (1) from padding (0).
pub const ATTENTION_MASK: &str = "attention_mask";
/// The optional input of segment numbers.
pub const TOKEN_TYPE_IDS: &str = "token_type_ids";
/// The input of images.
pub const PIXEL_VALUES: &str = "pixel_values";

/// What a plan takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Texts.
    Tokens(TokenInput),
    /// Images.
    Images(ImageInput),
}

/// What texts are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInput {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Tokens that a text may have.
    pub positions: usize,
    /// Rows of the token type table; 0 if the model has none, and then no types are taken.
    pub token_types: usize,
    /// The padding id that positions are counted after; `None` where positions are columns.
    pub counted_after: Option<u32>,
    /// Whether distances between tokens matter, so that a gap in a text would shift what is behind it.
    pub no_gaps: bool,
    /// What [`Batch::pad`] fills up with.
    pub padding_id: u32,
}

/// What images are checked against: `[channels, height, width] f32` each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInput {
    /// Channels.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Height and width of a patch. What an image has right of and below its last whole patch is not looked at.
    pub patch: (usize, usize),
    /// Tokens before those of the patches.
    pub first_tokens: usize,
}

impl ImageInput {
    /// Rows of patches, and patches of a row.
    pub fn grid(&self) -> (usize, usize) {
        (self.height / self.patch.0, self.width / self.patch.1)
    }

    /// Rows of pixels, and pixels of a row, that patches cover.
    pub fn covered(&self) -> (usize, usize) {
        let (down, across) = self.grid();
        (down * self.patch.0, across * self.patch.1)
    }

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        let (down, across) = self.grid();
        down * across
    }

    /// Tokens of an image.
    pub fn tokens(&self) -> usize {
        self.patches() + self.first_tokens
    }

    /// Bytes of an image.
    pub fn bytes(&self) -> usize {
        self.channels * self.height * self.width * size_of::<f32>()
    }
}

impl Input {
    /// The most tokens that one item may have.
    pub(crate) fn longest(&self) -> usize {
        match self {
            Input::Tokens(tokens) => tokens.positions,
            Input::Images(images) => images.tokens(),
        }
    }
}

/// One text or image of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Its tokens in the batch.
    pub tokens: Range<usize>,
    /// How many of them, from the first, are real; others are padding, which no real token sees.
    pub real: usize,
}

/// Integers of a tensor as they came: 64 bits each, low byte first, aligned or not.
#[derive(Debug, Clone, Copy)]
pub struct Integers<'a>(&'a [u8]);

impl<'a> Integers<'a> {
    /// The integers in `bytes`; trailing bytes that make up no whole integer are left out.
    pub fn new(bytes: &'a [u8]) -> Self {
        Integers(bytes)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len() / 8
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn iter(self) -> impl Iterator<Item = i64> + 'a {
        self.0.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes))
    }
}

/// The tokens of one request, `[rows, width]` each.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    /// Texts.
    pub rows: usize,
    /// Columns.
    pub width: usize,
    /// Token ids.
    pub ids: Integers<'a>,
    /// 1 for tokens, 0 for padding; without it every column is a token.
    pub mask: Option<Integers<'a>>,
    /// Segment numbers; without them every token is of type 0.
    pub types: Option<Integers<'a>>,
}

/// Texts or images, checked and packed. Images stay where they are.
#[derive(Debug, Clone, Default)]
pub struct Batch<'a> {
    pub(crate) sequences: Vec<Sequence>,
    /// Per token.
    pub(crate) ids: Vec<u32>,
    /// Per token: which row of the position table or of the rotary table.
    pub(crate) positions: Vec<u32>,
    /// Per token; empty if all are 0.
    pub(crate) types: Vec<u32>,
    /// Per token: where it stood in its row of the request.
    pub(crate) columns: Vec<u32>,
    /// Per item: f32, low byte first.
    pub(crate) images: Vec<&'a [u8]>,
    tokens: usize,
}

impl<'a> Batch<'a> {
    /// A batch of nothing.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Checks the texts of a request and adds their tokens; masked ones are left out. Texts that are refused leave the batch
    /// as it was. This is the one copy of the tokens between the received message and the model.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] names input, row, column, value and allowed range: ids outside the vocabulary, token
    /// types outside their table, mask values other than 0 and 1, a row without tokens or (where distances matter) with gaps
    /// between them, more columns than positions, shapes that disagree.
    pub fn push_texts(&mut self, input: &TokenInput, texts: &Texts<'_>) -> Result<(), ModelError> {
        let Texts { rows, width, ids, mask, types } = *texts;
        if width > input.positions {
            let expected = format!("at most {} columns (the positions of the model)", input.positions);
            return Err(whole(INPUT_IDS, format!("{width} columns"), expected));
        }
        for (name, values) in [(INPUT_IDS, Some(ids)), (ATTENTION_MASK, mask), (TOKEN_TYPE_IDS, types)] {
            if let Some(got) = values.map(|values| values.len()).filter(|got| Some(*got) != rows.checked_mul(width)) {
                return Err(whole(name, format!("{got} values"), format!("those of shape [{rows},{width}]")));
            }
        }
        if input.token_types == 0 && types.is_some() {
            return Err(whole(TOKEN_TYPE_IDS, "the input".to_owned(), "none: this model has no token types".to_owned()));
        }
        check_range(INPUT_IDS, ids, width, input.vocab_size)?;
        if let Some(mask) = mask {
            check_range(ATTENTION_MASK, mask, width, 2)?;
        }
        if let Some(types) = types {
            check_range(TOKEN_TYPE_IDS, types, width, input.token_types)?;
        }
        let (sequences, tokens, types) = (self.sequences.len(), self.tokens, self.types.len());
        let result = self.add_rows(input, texts);
        if result.is_err() {
            self.sequences.truncate(sequences);
            self.ids.truncate(tokens);
            self.positions.truncate(tokens);
            self.columns.truncate(tokens);
            // Not those of all tokens: there may have been none.
            self.types.truncate(types);
            self.tokens = tokens;
        }
        result
    }

    /// Adds rows whose values are known to be in range.
    fn add_rows(&mut self, input: &TokenInput, texts: &Texts<'_>) -> Result<(), ModelError> {
        let mut ids = texts.ids.iter();
        let mut mask = texts.mask.map(Integers::iter);
        let mut types = texts.types.map(Integers::iter);
        for row in 0..texts.rows {
            let start = self.tokens;
            let mut next = input.counted_after.map_or(0, |padding| padding + 1);
            let mut gap = None;
            for column in 0..texts.width {
                let id = ids.next().unwrap_or_default() as u32;
                let kept = mask.as_mut().and_then(Iterator::next).is_none_or(|mask| mask != 0);
                let kind = types.as_mut().and_then(Iterator::next).unwrap_or_default() as u32;
                // Columns count whether masked or not; padding ids, where positions follow them, do not.
                let position = match input.counted_after {
                    Some(padding) if id == padding => padding,
                    _ => {
                        next += 1;
                        next - 1
                    }
                };
                if !kept {
                    continue;
                }
                if self.tokens > start && self.columns.last().is_some_and(|last| *last as usize + 1 != column) {
                    gap = gap.or(Some(column));
                }
                self.add_token(id, position, kind, column as u32);
            }
            let refuse = |got: String, expected: &str| {
                let (input, at) = (ATTENTION_MASK.to_owned(), Position::Row(row));
                Err(ModelError::InvalidInput { input, at, got, expected: expected.to_owned() })
            };
            if self.tokens == start {
                return refuse("no 1".to_owned(), "at least one token");
            }
            if let Some(column) = gap.filter(|_| input.no_gaps) {
                let expected = "all tokens together: this model counts the distances between them";
                return refuse(format!("a gap before column {column}"), expected);
            }
            self.sequences.push(Sequence { tokens: start..self.tokens, real: self.tokens - start });
        }
        Ok(())
    }

    fn add_token(&mut self, id: u32, position: u32, kind: u32, column: u32) {
        if kind != 0 && self.types.is_empty() {
            self.types.resize(self.tokens, 0);
        }
        if kind != 0 || !self.types.is_empty() {
            self.types.push(kind);
        }
        self.ids.push(id);
        self.positions.push(position);
        self.columns.push(column);
        self.tokens += 1;
    }

    /// Adds images of a request: `[items, channels, height, width] f32`, low byte first. Nothing is copied.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] if the bytes are not those of whole images.
    pub fn push_images(&mut self, input: &ImageInput, pixels: &'a [u8]) -> Result<(), ModelError> {
        if !pixels.len().is_multiple_of(input.bytes()) {
            let expected = format!("whole images of {} bytes", input.bytes());
            return Err(whole(PIXEL_VALUES, format!("{} bytes", pixels.len()), expected));
        }
        for image in pixels.chunks_exact(input.bytes()) {
            let start = self.tokens;
            self.tokens += input.tokens();
            self.columns.extend(0..input.tokens() as u32);
            self.sequences.push(Sequence { tokens: start..self.tokens, real: input.tokens() });
            self.images.push(image);
        }
        Ok(())
    }

    /// Fills every text up to the longest with padding that is computed and thrown away, as servers without packing do. Only
    /// for comparing the two: results are the same, to the bit.
    pub fn pad(&mut self, input: &TokenInput) {
        let longest = self.sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(0);
        let packed = std::mem::take(self);
        for sequence in packed.sequences {
            let start = self.tokens;
            for token in sequence.tokens.clone() {
                let kind = packed.types.get(token).copied().unwrap_or(0);
                self.add_token(packed.ids[token], packed.positions[token], kind, packed.columns[token]);
            }
            let real = self.tokens - start;
            for _ in real..longest {
                self.add_token(input.padding_id, input.counted_after.unwrap_or(0), 0, 0);
            }
            self.sequences.push(Sequence { tokens: start..self.tokens, real });
        }
    }

    /// Texts or images.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// Tokens that are computed, padding included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The batch without its images, which are only lent: what its results are read by.
    pub fn without_images(self) -> Batch<'static> {
        let Batch { sequences, ids, positions, types, columns, images: _, tokens } = self;
        Batch { sequences, ids, positions, types, columns, images: Vec::new(), tokens }
    }

    /// Spreads rows of `size` numbers per token over `[sequences, width, size]`, with zeros where a request had no token.
    /// `values` begins at the first token of the batch, `sequences` are those of one request.
    pub fn spread(&self, values: &[f32], size: usize, sequences: Range<usize>, width: usize) -> Vec<f32> {
        let mut all = vec![0.0; sequences.len() * width * size];
        for (row, sequence) in self.sequences[sequences].iter().enumerate() {
            for token in sequence.tokens.clone().take(sequence.real) {
                let to = (row * width + self.columns[token] as usize) * size;
                all[to..to + size].copy_from_slice(&values[token * size..][..size]);
            }
        }
        all
    }

    /// Whether the tokens of these sequences stand as they did in their request of `width` columns, nothing left out, so that
    /// rows per token need not be spread.
    pub fn is_dense(&self, sequences: Range<usize>, width: usize) -> bool {
        self.sequences[sequences].iter().all(|sequence| sequence.real == width && sequence.tokens.len() == width)
    }
}

/// Every value must be at least 0 and below `end`.
fn check_range(name: &str, values: Integers<'_>, width: usize, end: usize) -> Result<(), ModelError> {
    let end = i64::try_from(end).unwrap_or(i64::MAX);
    let found = values.iter().enumerate().find(|(_, value)| !(0..end).contains(value));
    let Some((index, value)) = found else { return Ok(()) };
    Err(ModelError::InvalidInput {
        input: name.to_owned(),
        // There is a value, so there are columns.
        at: Position::Element { row: index / width.max(1), column: index % width.max(1) },
        got: value.to_string(),
        expected: format!("0 to {}", end.saturating_sub(1)),
    })
}

fn whole(input: &str, got: String, expected: String) -> ModelError {
    ModelError::InvalidInput { input: input.to_owned(), at: Position::Whole, got, expected }
}
