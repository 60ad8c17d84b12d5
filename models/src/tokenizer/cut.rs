//! Where a long text may be cut before tokenization without changing the tokens that are kept.
//!
//! Only the first `max_length` tokens of a text are used, so a megabyte need not be tokenized whole. Cutting is exact
//! when three things hold, and each is checked rather than hoped for:
//!
//! 1. The cut is where the tokenizer itself ends a word. Words are tokenized one by one, so the words before the cut have
//!    the same tokens as in the whole text. What ends a word is read from `tokenizer.json`; a tokenizer whose words we do
//!    not know how to find is given the whole text.
//! 2. The part before the cut fills the length up: some of its tokens overflow. Characters that leave no token (control
//!    characters, spaces) cannot lead to a wrong answer, only to a longer try.
//! 3. The last token kept ends some way before the cut (the *guard*). Added tokens such as `[MASK]` are looked up in the
//!    raw text, across words, so an added token that the cut splits is tokenized differently; the guard is longer than any
//!    of them, which keeps that difference beyond the tokens that are kept.
//!
//! A word without end (a megabyte of letters, or any text in a language that puts no spaces between words) has no such
//! place, and is not tokenized whole either:
//!
//! - WordPiece replaces a word that has too many characters by one unknown token. So a run of letters and digits of more
//!   than those can lose its end without changing anything: the word remains too long, and what is behind it remains.
//!   Offsets behind it are moved back.
//! - Other models tokenize a word by what is near, and are cut inside it, with a guard of [`IN_WORD_GUARD_BYTES`]: a token
//!   that is kept could only differ if the choice between two ways to divide the letters were open for that many bytes.
//!   This is the one thing that is measured (against whole texts, in the tests) and not proved.

use std::borrow::Cow;

use serde_json::Value;

/// The least guard in bytes. Added tokens are longer only in rare tokenizers; Unicode sequences that a normalizer looks
/// at as one are shorter.
const LEAST_GUARD_BYTES: usize = 64;

/// The least guard where a word is cut inside: many times the longest tokens of vocabularies.
const IN_WORD_GUARD_BYTES: usize = 512;

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
    /// Characters that a word may have before it becomes one unknown token; `None` where there is no such limit, or where
    /// added tokens might be part of words.
    longest_word: Option<usize>,
}

/// What is tokenized in place of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Beginning<'a> {
    /// The text, perhaps without its end, and without the ends of endless words.
    pub(super) text: Cow<'a, str>,
    /// Where ends of words have been left out.
    gaps: Vec<Gap>,
    /// Whether nothing follows.
    pub(super) is_whole: bool,
    /// Whether it ends inside a word.
    in_word: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    /// Where it is in the beginning, in bytes.
    at: usize,
    /// How much was left out.
    bytes: usize,
}

impl Beginning<'_> {
    /// The range of bytes of the text that a range of the beginning stands for.
    pub(super) fn range_in_text(&self, (start, end): (usize, usize)) -> (usize, usize) {
        // A word that ends at a gap ends where the whole word did.
        let before =
            |fits: &dyn Fn(&Gap) -> bool| -> usize { self.gaps.iter().filter(|gap| fits(gap)).map(|gap| gap.bytes).sum() };
        (start + before(&|gap| gap.at <= start && gap.at < end), end + before(&|gap| gap.at <= end && end > start))
    }
}

impl Boundaries {
    /// Reads the rules from the `normalizer` and `pre_tokenizer` of `tokenizer.json`; the longest added token has
    /// `longest_added` bytes.
    pub(super) fn of(normalizer: &Value, pre_tokenizer: &Value, model: &Value, added: &[&str]) -> Self {
        let longest_added = added.iter().map(|token| token.len()).max().unwrap_or(0);
        let mut ends = word_ends(pre_tokenizer);
        if !keeps_words_apart(normalizer) {
            ends = WordEnds::Unknown;
        }
        if let WordEnds::Bert { ideographs } = &mut ends {
            *ideographs = splits_ideographs(normalizer);
        }
        let limit = model.get("max_input_chars_per_word").and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok());
        let longest_word = limit.filter(|limit| {
            kind(model) == "WordPiece"
                && matches!(ends, WordEnds::Bert { .. })
                && longest_added <= *limit
                && added.iter().all(|token| !token.chars().all(is_plain))
        });
        // Twice, as normalization may have made the token longer than it stands in the text or the reverse.
        Boundaries { ends, guard: LEAST_GUARD_BYTES.max(longest_added.saturating_mul(2)), longest_word }
    }

    /// A beginning of `text` of at least `length` bytes, or all of it.
    pub(super) fn beginning<'a>(&self, text: &'a str, length: usize) -> Beginning<'a> {
        match self.longest_word {
            Some(longest) => self.shortened(text, length, longest),
            None if self.ends == WordEnds::Unknown => Beginning::until(text, text.len(), false),
            None => {
                let most = length.saturating_add(IN_WORD_GUARD_BYTES.max(self.guard));
                let near = if most < text.len() { &text[..next_character(text, most)] } else { text };
                let end = self.end_of_word_from(near, length);
                Beginning::until(text, end, end == near.len() && end < text.len())
            }
        }
    }

    /// As [`Boundaries::beginning`], where a word of more than `longest` characters is one unknown token.
    fn shortened<'a>(&self, text: &'a str, length: usize, longest: usize) -> Beginning<'a> {
        let mut made = String::new();
        let (mut gaps, mut taken, mut run, mut cut) = (Vec::new(), 0, 0, None);
        let mut previous = None;
        let mut close = |end: usize, cut: &mut Option<usize>, taken: &mut usize| {
            if let Some(from) = cut.take() {
                made.push_str(&text[*taken..from]);
                gaps.push(Gap { at: made.len(), bytes: end - from });
                *taken = end;
            }
            made.len() + (end - *taken)
        };
        let mut end = text.len();
        for (at, next) in text.char_indices() {
            if is_plain(next) {
                run += 1;
                if run == longest + 2 {
                    cut = Some(at);
                }
            } else {
                run = 0;
                if close(at, &mut cut, &mut taken) >= length && self.ends_word(previous, next) {
                    end = at;
                    break;
                }
            }
            previous = Some(next);
        }
        close(end, &mut cut, &mut taken);
        if gaps.is_empty() {
            return Beginning::until(text, end, false);
        }
        made.push_str(&text[taken..end]);
        Beginning { text: Cow::Owned(made), gaps, is_whole: end == text.len(), in_word: false }
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
        let start = next_character(text, from);
        let mut previous = text[..start].chars().next_back();
        for (offset, next) in text[start..].char_indices() {
            if self.ends_word(previous, next) {
                return start + offset;
            }
            previous = Some(next);
        }
        text.len()
    }

    /// Whether a word ends between these characters.
    fn ends_word(&self, previous: Option<char>, next: char) -> bool {
        // A run of spaces is never cut inside: byte-level tokenizers keep it together.
        let after_word = previous.is_some_and(|previous| !previous.is_whitespace());
        match self.ends {
            WordEnds::Unknown => false,
            WordEnds::Space => next == ' ' && after_word,
            WordEnds::WhiteSpace => next.is_whitespace() && after_word,
            WordEnds::Bert { ideographs } => {
                (next.is_whitespace() && after_word) || next.is_ascii_punctuation() || (ideographs && is_ideograph(next))
            }
        }
    }

    /// Of a beginning that has more tokens than are kept, no more than decides those that are.
    pub(super) fn tightened<'a>(&self, beginning: Beginning<'a>, encoding: &tokenizers::Encoding) -> Beginning<'a> {
        let guard = self.guard.max(IN_WORD_GUARD_BYTES);
        let end = next_character(&beginning.text, last_kept(encoding).saturating_add(guard));
        if encoding.get_overflowing().is_empty() || end >= beginning.text.len() {
            return beginning;
        }
        let text = match beginning.text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        };
        Beginning { text, is_whole: false, in_word: true, ..beginning }
    }

    /// Whether the tokens of a beginning are those of the whole text: something overflowed, and the last token kept ends
    /// before the guard.
    pub(super) fn decided(&self, encoding: &tokenizers::Encoding, beginning: &Beginning<'_>) -> bool {
        if encoding.get_overflowing().is_empty() {
            return false;
        }
        let guard = if beginning.in_word { self.guard.max(IN_WORD_GUARD_BYTES) } else { self.guard };
        last_kept(encoding).saturating_add(guard) <= beginning.text.len()
    }
}

impl<'a> Beginning<'a> {
    fn until(text: &'a str, end: usize, in_word: bool) -> Self {
        Beginning { text: Cow::Borrowed(&text[..end]), gaps: Vec::new(), is_whole: end == text.len(), in_word }
    }
}

/// Where the last token of the text that is kept ends, in bytes.
fn last_kept(encoding: &tokenizers::Encoding) -> usize {
    let of_text = encoding.get_offsets().iter().zip(encoding.get_special_tokens_mask()).filter(|(_, special)| **special == 0);
    of_text.map(|((_, end), _)| *end).max().unwrap_or(0)
}

/// The first beginning of a character at or after `from` bytes.
fn next_character(text: &str, from: usize) -> usize {
    (from..text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(text.len())
}

/// Letters and digits of which normalization makes at least one character of a word each, and no other words. There are
/// more; text in their scripts is tokenized whole where it has words without end.
fn is_plain(character: char) -> bool {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        // Latin without the signs for times and divided by, Greek without its punctuation, Cyrillic, Hangul.
        '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{24F}' => true,
        '\u{388}'..='\u{38A}' | '\u{38E}'..='\u{3A1}' | '\u{3A3}'..='\u{3F5}' | '\u{3F7}'..='\u{481}' => true,
        '\u{48A}'..='\u{52F}' | '\u{AC00}'..='\u{D7A3}' => true,
        _ => false,
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
