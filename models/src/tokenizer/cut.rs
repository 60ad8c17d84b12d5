//! Where a long text may be cut before tokenization without changing the tokens that are kept.
//!
//! Only the first `max_length` tokens of a text are used, so a megabyte need not be tokenized whole. Cutting is exact
//! when three things hold, and each is checked rather than hoped for:
//!
//! 1. The cut is where the tokenizer itself ends a word. Words are tokenized one by one, so the words before the cut have
//!    the same tokens as in the whole text. What ends a word is read from `tokenizer.json`; a tokenizer whose words we do
//!    not know how to find is given the whole text. A word without end (a megabyte of letters) is never cut: the cut goes
//!    after it, since any part of it may be tokenized differently (WordPiece replaces a word that is too long by one
//!    unknown token).
//! 2. The part before the cut fills the length up: some of its tokens overflow. Characters that leave no token (control
//!    characters, spaces) cannot lead to a wrong answer, only to a longer try.
//! 3. The last token kept ends some way before the cut (the *guard*). Added tokens such as `[MASK]` are looked up in the
//!    raw text, across words, so an added token that the cut splits is tokenized differently; the guard is longer than any
//!    of them, which keeps that difference beyond the tokens that are kept.

use serde_json::Value;

/// The least guard in bytes. Added tokens are longer only in rare tokenizers; Unicode sequences that a normalizer looks
/// at as one are shorter.
const LEAST_GUARD_BYTES: usize = 64;

/// What ends a word for a tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WordEnds {
    /// Unknown: texts are never cut.
    Unknown,
    /// A space, but not surely other white space.
    Space,
    /// Any white space.
    WhiteSpace,
    /// White space, ASCII punctuation, and if `ideographs` also Chinese characters, each of which is a word of its own.
    Bert { ideographs: bool },
}

/// Where texts may be cut for one tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Boundaries {
    ends: WordEnds,
    guard: usize,
}

impl Boundaries {
    /// Reads the rules from the `normalizer` and `pre_tokenizer` of `tokenizer.json`; the longest added token has
    /// `longest_added` bytes.
    pub(super) fn of(normalizer: &Value, pre_tokenizer: &Value, longest_added: usize) -> Self {
        let mut ends = word_ends(pre_tokenizer);
        if !keeps_words_apart(normalizer) {
            ends = WordEnds::Unknown;
        }
        if let WordEnds::Bert { ideographs } = &mut ends {
            *ideographs = splits_ideographs(normalizer);
        }
        // Twice, as normalization may have made the token longer than it stands in the text or the reverse.
        Boundaries { ends, guard: LEAST_GUARD_BYTES.max(longest_added.saturating_mul(2)) }
    }

    /// How many bytes before the cut the last token kept must end.
    pub(super) fn guard(&self) -> usize {
        self.guard
    }

    /// The first position at or after `from` bytes where the tokenizer ends a word; the end of the text if there is none.
    pub(super) fn end_of_word_from(&self, text: &str, from: usize) -> usize {
        if self.ends == WordEnds::Unknown || from >= text.len() {
            return text.len();
        }
        let start = (from..text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(text.len());
        let mut previous = text[..start].chars().next_back();
        for (offset, next) in text[start..].char_indices() {
            // A run of spaces is never cut inside: byte-level tokenizers keep it together.
            let after_word = previous.is_some_and(|previous| !previous.is_whitespace());
            let ends = match self.ends {
                WordEnds::Unknown => false,
                WordEnds::Space => next == ' ' && after_word,
                WordEnds::WhiteSpace => next.is_whitespace() && after_word,
                WordEnds::Bert { ideographs } => {
                    (next.is_whitespace() && after_word) || next.is_ascii_punctuation() || (ideographs && is_ideograph(next))
                }
            };
            if ends {
                return start + offset;
            }
            previous = Some(next);
        }
        text.len()
    }

    /// Whether the tokens of the part that was cut at `end` bytes are surely those of the whole text: something
    /// overflowed, and the last token kept ends before the guard.
    pub(super) fn decided(&self, encoding: &tokenizers::Encoding, end: usize) -> bool {
        if encoding.get_overflowing().is_empty() {
            return false;
        }
        let special = encoding.get_special_tokens_mask();
        let of_text = encoding.get_offsets().iter().zip(special).filter(|(_, special)| **special == 0);
        let last = of_text.map(|((_, end), _)| *end).max().unwrap_or(0);
        last.saturating_add(self.guard) <= end
    }
}

/// What the pre-tokenizer ends words at. A sequence ends them wherever one of its members does.
fn word_ends(pre_tokenizer: &Value) -> WordEnds {
    match kind(pre_tokenizer) {
        "BertPreTokenizer" => WordEnds::Bert { ideographs: false },
        "Whitespace" | "WhitespaceSplit" => WordEnds::WhiteSpace,
        "ByteLevel" if pre_tokenizer.get("use_regex").is_none_or(|value| value == &Value::Bool(true)) => WordEnds::WhiteSpace,
        "Metaspace" if pre_tokenizer.get("split").is_none_or(|value| value == &Value::Bool(true)) => WordEnds::Space,
        "Split" if is_clip_split(pre_tokenizer) => WordEnds::WhiteSpace,
        "Sequence" => {
            let members = pre_tokenizer.get("pretokenizers").and_then(Value::as_array);
            // Only the first member sees the text as it is, so only its word ends are surely in the text.
            members.and_then(|members| members.first()).map_or(WordEnds::Unknown, word_ends)
        }
        _ => WordEnds::Unknown,
    }
}

/// Whether a `Split` keeps what CLIP's pattern finds and drops the rest. No word that it finds has white space in it.
fn is_clip_split(split: &Value) -> bool {
    const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    const SPECIAL: &str = r"<\|startoftext\|>|<\|endoftext\|>|";
    let pattern = split.pointer("/pattern/Regex").and_then(Value::as_str).unwrap_or("");
    pattern.strip_prefix(SPECIAL).unwrap_or(pattern) == PATTERN
        && split.get("behavior").and_then(Value::as_str) == Some("Removed")
        && split.get("invert") == Some(&Value::Bool(true))
}

/// Whether what the normalizer does to a word depends on that word alone.
fn keeps_words_apart(normalizer: &Value) -> bool {
    if normalizer.is_null() {
        return true;
    }
    match kind(normalizer) {
        "BertNormalizer" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "Strip" | "StripAccents" | "Nmt" | "Precompiled" => {
            true
        }
        // Runs of spaces are never cut, so what joins them is harmless; other patterns may span words.
        "Replace" => {
            let pattern = normalizer.pointer("/pattern/Regex").and_then(Value::as_str);
            let joined = normalizer.get("content").and_then(Value::as_str) == Some(" ");
            pattern == Some(" {2,}") || (pattern == Some(r"\s+") && joined)
        }
        "Sequence" => {
            let members = normalizer.get("normalizers").and_then(Value::as_array);
            members.is_some_and(|members| members.iter().all(keeps_words_apart))
        }
        _ => false,
    }
}

/// Whether the normalizer makes every Chinese character a word of its own.
fn splits_ideographs(normalizer: &Value) -> bool {
    match kind(normalizer) {
        "BertNormalizer" => normalizer.get("handle_chinese_chars") == Some(&Value::Bool(true)),
        "Sequence" => {
            let members = normalizer.get("normalizers").and_then(Value::as_array);
            members.and_then(|members| members.first()).is_some_and(splits_ideographs)
        }
        _ => false,
    }
}

fn kind(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or("")
}

/// The main block of CJK ideographs. The rarer blocks are left out: fewer places to cut at is always correct.
fn is_ideograph(character: char) -> bool {
    ('\u{4E00}'..='\u{9FFF}').contains(&character)
}
