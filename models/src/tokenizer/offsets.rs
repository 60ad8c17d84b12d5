//! Where tokens stand in their text, counted in characters.

/// For every byte of a text, and for its end, the character (Unicode code point) that it belongs to.
#[derive(Debug)]
pub(super) struct Characters {
    /// Empty for ASCII, where bytes are characters.
    of_bytes: Vec<u32>,
}

impl Characters {
    /// The characters of `text`.
    pub(super) fn of(text: &str) -> Self {
        if text.is_ascii() {
            return Characters { of_bytes: Vec::new() };
        }
        let mut of_bytes = Vec::with_capacity(text.len() + 1);
        for (index, character) in text.chars().enumerate() {
            of_bytes.extend(std::iter::repeat_n(index as u32, character.len_utf8()));
        }
        of_bytes.push(of_bytes.last().map_or(0, |last| last + 1));
        Characters { of_bytes }
    }

    /// The characters of the lower-case form of `text`, counted as those of `text` that they came from.
    pub(super) fn of_lowered(text: &str) -> Self {
        let mut of_bytes = Vec::with_capacity(text.len() + 1);
        for (index, character) in text.chars().enumerate() {
            // A sigma at the end of a word becomes another letter of the same length.
            let bytes = character.to_lowercase().map(char::len_utf8).sum();
            of_bytes.extend(std::iter::repeat_n(index as u32, bytes));
        }
        of_bytes.push(of_bytes.last().map_or(0, |last| last + 1));
        Characters { of_bytes }
    }

    /// The range of characters for a range of bytes.
    pub(super) fn range(&self, (start, end): (usize, usize)) -> [i64; 2] {
        let at = |byte: usize| match self.of_bytes.last() {
            None => byte as i64,
            Some(last) => i64::from(self.of_bytes.get(byte).copied().unwrap_or(*last)),
        };
        [at(start), at(end)]
    }
}
