//! From texts to token ids: the tokenizer of a model directory, with truncation and padding as the model needs them.
//!
//! Owns: [`Tokenizer`], [`Encoded`], and how long texts are shortened beforehand (`cut`). May import: the `tokenizers`
//! library, this crate's JSON reader and errors. Must never import: encoders, plans, weights.

mod cut;
mod offsets;
#[cfg(test)]
mod tests;

use std::panic::AssertUnwindSafe;
use std::path::Path;

use serde_json::Value;
use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::ModelError;
use crate::json::{JsonFile, parse, read_file};
use cut::{Beginning, Boundaries};
use offsets::Characters;

/// The file that holds the tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The longest accepted `tokenizer.json`. Those of the largest multilingual vocabularies have about 35 MB.
const TOKENIZER_LIMIT_BYTES: u64 = 256 << 20;

/// How many bytes of a long text are tried first for each token that fits. English has four to five, so one try is
/// enough for ordinary text; what does not fill up `max_length` is tried again with more.
const FIRST_TRY_BYTES_PER_TOKEN: usize = 8;
/// By how much each further try is longer, so that all tries together cost little more than the last.
const TRY_GROWTH: usize = 4;

/// The tokenizer of a model directory.
///
/// Texts are truncated to a length given at load, special tokens kept, and padded on the right to the longest of their
/// batch, or to one length if told so. Whatever `tokenizer.json` says about truncation and padding is dropped. Nothing runs on
/// other threads.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    boundaries: Boundaries,
    max_length: usize,
    padding_id: i64,
    /// The length that every text is filled up to with padding that counts as tokens.
    pads_to: Option<usize>,
    lowercase: bool,
}

/// The tokens of one text, or of a text and the one that stands behind it.
#[derive(Debug, Clone)]
pub struct Tokens {
    encoding: tokenizers::Encoding,
    /// How many tokens there are with the padding that counts as such; it is not in `encoding`.
    length: usize,
    /// Of each token the characters that it stands for, if they were asked for.
    offsets: Vec<[i64; 2]>,
}

impl Tokens {
    /// How many tokens there are, special tokens included, and padding where it is part of the text.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What stands in a row of padded tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Token ids.
    Ids,
    /// 1 for tokens, and for padding where it is part of the text; 0 for other padding.
    Mask,
    /// Segment numbers.
    Types,
    /// Two numbers for each token: the first character (Unicode code point) of its text that it stands for, and the one
    /// behind the last, as `offsets_mapping` of the transformers library has them. `(0, 0)` for special tokens and padding.
    Offsets,
}

/// A batch of token sequences, padded on the right to the longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, `[rows, width]` in row-major order.
    pub ids: Vec<i64>,
    /// 1 for tokens (padding too where it is part of the texts), 0 for padding, `[rows, width]`.
    pub mask: Vec<i64>,
    /// Segment numbers, `[rows, width]`.
    pub type_ids: Vec<i64>,
    /// The number of texts.
    pub rows: usize,
    /// The length of the longest sequence.
    pub width: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of `dir`; texts will be truncated to `max_length` tokens, special tokens included.
    ///
    /// # Errors
    /// [`ModelError::FileMissing`] without `tokenizer.json`; [`ModelError::BadJson`] and [`ModelError::BadTokenizer`] for
    /// one that cannot be used, or whose special tokens alone are more than `max_length`; [`ModelError::FieldInvalid`]
    /// for truncation from the left, which is not supported; [`ModelError::FieldMissing`] if no file names a padding
    /// token.
    pub fn load(dir: &Path, max_length: usize) -> Result<Self, ModelError> {
        let path = dir.join(TOKENIZER_FILE);
        let Some(bytes) = read_file(&path, TOKENIZER_LIMIT_BYTES)? else {
            let hint = "texts cannot be tokenized without it; convert older vocabularies with save_pretrained";
            return Err(ModelError::FileMissing { path, hint });
        };
        // Read as plain JSON first: a mistake then has a line, and the rules for cutting texts are in here.
        let file = parse(&path, &bytes)?;
        let mut inner = deserialize(&path, &bytes)?;
        let config = JsonFile::read(&dir.join("tokenizer_config.json"))?;
        if let Some(config) = &config {
            refuse_left_truncation(config)?;
        }
        inner.with_padding(None);
        set_truncation(&mut inner, &path, max_length)?;
        let padding_id = padding_id(&inner, dir, config.as_ref(), &file["padding"])?;
        let added = inner.get_added_tokens_decoder();
        let added: Vec<&str> = added.values().map(|token| token.content.as_str()).collect();
        let boundaries = Boundaries::of(&file["normalizer"], &file["pre_tokenizer"], &file["model"], &added);
        let lowercase = lowercase(dir)?;
        Ok(Tokenizer { inner, boundaries, max_length, padding_id, pads_to: None, lowercase })
    }

    /// The same tokenizer, filling every text up to `length` tokens with padding that counts as tokens: the mask is 1 there.
    /// For models that were trained so, whose card says it (`ModelCard::pads_to`). A length below [`Tokenizer::max_length`]
    /// is taken for that.
    pub fn padded_to(self, length: Option<usize>) -> Self {
        Tokenizer { pads_to: length.map(|length| length.max(self.max_length)), ..self }
    }

    /// Tokenizes texts. An empty text gives its special tokens; no texts give an empty batch.
    ///
    /// # Errors
    /// [`ModelError::Tokenize`] names the text that the tokenizer library refused.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Encoded, ModelError> {
        let mut all = Vec::with_capacity(texts.len());
        for (row, text) in texts.iter().enumerate() {
            all.push(self.encode(text, None, false).map_err(|reason| ModelError::Tokenize { row, reason })?);
        }
        let rows: Vec<&Tokens> = all.iter().collect();
        let width = Self::width(&rows);
        let part = |part: Part| self.padded(&rows, width, part);
        Ok(Encoded { ids: part(Part::Ids), mask: part(Part::Mask), type_ids: part(Part::Types), rows: texts.len(), width })
    }

    /// Tokenizes a text, or a text and the `pair` that stands behind it, with special tokens, truncated to the length of the
    /// tokenizer: of a pair the longer text is cut first, until both are equally long. With `offsets` it also finds out
    /// where tokens stand, for [`Part::Offsets`].
    ///
    /// # Errors
    /// What the tokenizer library says against it.
    pub fn encode(&self, text: &str, pair: Option<&str>, offsets: bool) -> Result<Tokens, String> {
        let lowered = |text: &str| self.lowercase.then(|| text.to_lowercase());
        let (low, low_pair) = (lowered(text), pair.and_then(lowered));
        let first = low.as_deref().unwrap_or(text);
        let (first, second) = match pair {
            None => (self.deciding(first)?, None),
            Some(pair) => {
                let second = self.tightly(low_pair.as_deref().unwrap_or(pair))?;
                (self.tightly(first)?, Some(second))
            }
        };
        let encoding = match (first.encoding, &second) {
            (Some(encoding), None) => encoding,
            (None, None) => guarded(|| self.inner.encode(&*first.beginning.text, true))?,
            (_, Some(second)) => guarded(|| self.inner.encode((&*first.beginning.text, &*second.beginning.text), true))?,
        };
        let mut stands = Vec::new();
        if offsets {
            let beginnings = [Some(&first.beginning), second.as_ref().map(|second| &second.beginning)];
            stands = self.offsets(&encoding, [text, pair.unwrap_or_default()], beginnings);
        }
        let length = encoding.len().max(self.pads_to.unwrap_or(0));
        Ok(Tokens { encoding, length, offsets: stands })
    }

    /// The width of rows that hold these tokens: that of the longest.
    pub fn width(rows: &[&Tokens]) -> usize {
        rows.iter().map(|tokens| tokens.len()).max().unwrap_or(0)
    }

    /// One part of the tokens as `[rows, width]`, and `[rows, width, 2]` of offsets, filled up on the right.
    ///
    /// # Panics
    /// A row is longer than `width`.
    pub fn padded(&self, rows: &[&Tokens], width: usize, part: Part) -> Vec<i64> {
        let each = if part == Part::Offsets { 2 } else { 1 };
        let fill = if part == Part::Ids { self.padding_id } else { 0 };
        let mut all = Vec::with_capacity(rows.len() * width * each);
        for (row, tokens) in rows.iter().enumerate() {
            match part {
                Part::Ids => all.extend(tokens.encoding.get_ids().iter().map(|id| i64::from(*id))),
                Part::Mask => all.extend(std::iter::repeat_n(1, tokens.len())),
                Part::Types => all.extend(tokens.encoding.get_type_ids().iter().map(|id| i64::from(*id))),
                Part::Offsets => all.extend(tokens.offsets.iter().flatten()),
            }
            let end = (row + 1) * width * each;
            assert!(all.len() <= end, "a row of {} tokens is longer than {width}", tokens.len());
            all.resize(end, fill);
        }
        all
    }

    /// The length in tokens that texts are truncated to.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The id that shorter texts of a batch are filled up with.
    pub fn padding_id(&self) -> i64 {
        self.padding_id
    }

    /// A beginning of a text that decides every token that is kept of it, and its tokens where it was tokenized to find out.
    ///
    /// Of a pair, each text is cut to what decides as many tokens as could be kept of it. Where both have more tokens than
    /// fit at all and an odd number fits, the one that cannot be shared goes to the text with the longer beginning: which of
    /// the two has more tokens is not worth tokenizing megabytes.
    fn deciding<'a>(&self, text: &'a str) -> Result<Decided<'a>, String> {
        let mut length = self.max_length.saturating_mul(FIRST_TRY_BYTES_PER_TOKEN).saturating_add(self.boundaries.guard());
        loop {
            let beginning = self.boundaries.beginning(text, length);
            if beginning.is_whole {
                return Ok(Decided { beginning, encoding: None });
            }
            let encoding = guarded(|| self.inner.encode(&*beginning.text, true))?;
            if self.boundaries.decided(&encoding, &beginning) {
                return Ok(Decided { beginning, encoding: Some(encoding) });
            }
            length = beginning.text.len().saturating_mul(TRY_GROWTH);
        }
    }

    /// As [`Tokenizer::deciding`] for one of two texts. The library makes every combination of what overflows of the one and
    /// of the other, so nothing is left of a long text that is not needed.
    fn tightly<'a>(&self, text: &'a str) -> Result<Decided<'a>, String> {
        let Decided { beginning, encoding } = self.deciding(text)?;
        if encoding.is_none() && beginning.text.len() <= self.max_length.saturating_mul(FIRST_TRY_BYTES_PER_TOKEN) {
            return Ok(Decided { beginning, encoding });
        }
        let encoding = match encoding {
            Some(encoding) => encoding,
            None => guarded(|| self.inner.encode(&*beginning.text, true))?,
        };
        Ok(Decided { beginning: self.boundaries.tightened(beginning, &encoding), encoding: None })
    }

    /// Where each token stands in its text, in characters of the text as it was given.
    fn offsets(
        &self,
        encoding: &tokenizers::Encoding,
        texts: [&str; 2],
        beginnings: [Option<&Beginning<'_>>; 2],
    ) -> Vec<[i64; 2]> {
        let of = |text: &str| if self.lowercase { Characters::of_lowered(text) } else { Characters::of(text) };
        let characters = texts.map(of);
        let special = encoding.get_special_tokens_mask();
        let sequences = encoding.get_sequence_ids();
        let ranges = encoding.get_offsets().iter().zip(special).zip(sequences);
        ranges
            .map(|((range, special), sequence)| {
                let sequence = sequence.filter(|_| *special == 0).map(|sequence| sequence.min(1));
                let place = sequence.and_then(|sequence| Some((sequence, beginnings[sequence]?)));
                place.map_or([0, 0], |(sequence, beginning)| characters[sequence].range(beginning.range_in_text(*range)))
            })
            .collect()
    }
}

/// What is enough of a text.
struct Decided<'a> {
    beginning: Beginning<'a>,
    encoding: Option<tokenizers::Encoding>,
}

/// Builds the library's tokenizer from `tokenizer.json`.
fn deserialize(path: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer, ModelError> {
    guarded(|| tokenizers::Tokenizer::from_bytes(bytes))
        .map_err(|reason| ModelError::BadTokenizer { path: path.to_path_buf(), reason })
}

/// Runs a call of the tokenizer library, which unwraps in places that a damaged file can reach: its panic becomes an
/// error. The library keeps no state that a panic could leave half changed but a cache of words behind a lock, which it
/// skips when it cannot take it.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library panicked".to_owned()),
    }
}

fn set_truncation(inner: &mut tokenizers::Tokenizer, path: &Path, max_length: usize) -> Result<(), ModelError> {
    let special = inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
    if special > max_length {
        let reason = format!("{special} special tokens do not fit into the maximum length of {max_length}");
        return Err(ModelError::BadTokenizer { path: path.to_path_buf(), reason });
    }
    let truncation = TruncationParams {
        direction: TruncationDirection::Right,
        max_length,
        strategy: TruncationStrategy::LongestFirst,
        stride: 0,
    };
    let set = inner.with_truncation(Some(truncation)).map(|_| ());
    set.map_err(|error| ModelError::BadTokenizer { path: path.to_path_buf(), reason: error.to_string() })
}

fn refuse_left_truncation(config: &JsonFile) -> Result<(), ModelError> {
    match config.string(&["truncation_side"])? {
        Some("left") => {
            let expected = "\"right\": truncation from the left is not supported";
            Err(config.invalid("truncation_side", &Value::from("left"), expected))
        }
        _ => Ok(()),
    }
}

/// The id of the padding token: the token that `tokenizer_config.json` names, else the one that `tokenizer.json` pads
/// with, else `pad_token_id` of `config.json`.
fn padding_id(inner: &tokenizers::Tokenizer, dir: &Path, config: Option<&JsonFile>, padding: &Value) -> Result<i64, ModelError> {
    // A token is written as its text, or as an object with the text in `content`.
    let named = config.and_then(|config| config.value(&["pad_token"])).and_then(|(_, token)| {
        let content = token.get("content").unwrap_or(token);
        inner.token_to_id(content.as_str()?).map(i64::from)
    });
    let padded = || padding.get("pad_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).map(i64::from);
    if let Some(id) = named.or_else(padded) {
        return Ok(id);
    }
    let path = dir.join("config.json");
    let model = JsonFile::read(&path)?;
    let id = match &model {
        Some(model) => model.integer(&["pad_token_id"], 0..=u32::MAX as usize)?,
        None => None,
    };
    id.map(|id| id as i64).ok_or_else(|| ModelError::FieldMissing {
        path,
        field: "pad_token_id".to_owned(),
        expected: "the id of the padding token, since neither tokenizer_config.json nor tokenizer.json names one".to_owned(),
    })
}

/// Whether sentence-transformers lower-cases texts itself, before the tokenizer sees them.
fn lowercase(dir: &Path) -> Result<bool, ModelError> {
    match JsonFile::read(&dir.join("sentence_bert_config.json"))? {
        Some(config) => Ok(config.boolean(&["do_lower_case"])?.unwrap_or(false)),
        None => Ok(false),
    }
}
