//! Cuts a configuration file into tokens, checks its brackets and adds the colons that lists may leave out.
//!
//! The parser behind this pass refuses `input [ .. ]`, which most configuration files in use write, and takes
//! `input: [ .. ]`. So a colon is put in after every field name that is followed by `[`, and the places are
//! remembered: positions in the changed text are turned back into positions in the file.

use super::error::PbtxtProblem;

/// Levels of brackets. The deepest list of a configuration lies 9 levels down.
pub(super) const MAX_DEPTH: usize = 64;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A field name, an enum value, `true`, `inf`.
    Name,
    /// Begins with a digit, or with a dot and a digit.
    Number,
    /// A quoted string.
    Text,
    /// Any other single character with a meaning.
    Symbol(char),
}

/// A piece of the file, in bytes from its beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Token {
    /// The token as written in `text`.
    pub(super) fn text<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// A fault and the byte at which it is.
pub(super) type Fault = (usize, PbtxtProblem);

/// Cuts `text` into tokens, leaving out space and comments.
///
/// # Errors
/// [`PbtxtProblem::UnterminatedString`], [`PbtxtProblem::BadNumber`] and [`PbtxtProblem::BadCharacter`].
pub(super) fn lex(text: &str) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..)
        && let Some(first) = rest.chars().next()
    {
        let (kind, length) = match first {
            ' ' | '\t' | '\r' | '\n' | '\x0b' | '\x0c' => {
                at += 1;
                continue;
            }
            '#' => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            '"' | '\'' => {
                (Kind::Text, string_length(rest, first).ok_or((at, PbtxtProblem::UnterminatedString { quote: first }))?)
            }
            'A'..='Z' | 'a'..='z' | '_' => (Kind::Name, name_length(rest)),
            '0'..='9' => (Kind::Number, number_length(rest)),
            '.' if rest.chars().nth(1).is_some_and(|next| next.is_ascii_digit()) => (Kind::Number, number_length(rest)),
            '{' | '}' | '[' | ']' | '<' | '>' | ':' | ',' | ';' | '-' | '.' | '/' => (Kind::Symbol(first), 1),
            _ => return Err((at, PbtxtProblem::BadCharacter { found: describe(first) })),
        };
        let token = Token { kind, start: at, end: at + length };
        if kind == Kind::Number && !is_number(token.text(text)) {
            return Err((at, PbtxtProblem::BadNumber { number: shortened(token.text(text)) }));
        }
        tokens.push(token);
        at += length;
    }
    Ok(tokens)
}

/// Length of the string at the beginning of `rest` with its quotes; none if it does not end in its line.
fn string_length(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (offset, letter) in rest.char_indices().skip(1) {
        match letter {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return Some(offset + 1),
            _ => {}
        }
    }
    None
}

fn name_length(rest: &str) -> usize {
    rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(rest.len())
}

fn number_length(rest: &str) -> usize {
    let hexadecimal = rest.starts_with("0x") || rest.starts_with("0X");
    let mut before = ' ';
    for (offset, letter) in rest.char_indices() {
        let exponent_sign = matches!(letter, '+' | '-') && matches!(before, 'e' | 'E') && !hexadecimal;
        if !letter.is_ascii_alphanumeric() && letter != '_' && letter != '.' && !exponent_sign {
            return offset;
        }
        before = letter;
    }
    rest.len()
}

/// Whether `text` is a number of the text format, an integer or a float.
///
/// Decimal numbers with a zero in front are refused, floats too: they could be meant as octal.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let no_leading_zero = |whole: &str| whole.len() == 1 || !whole.starts_with('0');
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return !hex.is_empty() && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    }
    if digits(text) {
        return no_leading_zero(text) || text.bytes().all(|digit| digit <= b'7');
    }
    let float = text.strip_suffix(['f', 'F']).unwrap_or(text);
    let (mantissa, exponent) = match float.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (float, None),
    };
    let exponent_holds = exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    let mantissa_holds = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && no_leading_zero(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa) && no_leading_zero(mantissa),
    };
    exponent_holds && mantissa_holds
}

/// Longest piece of the file that an error repeats, in characters.
pub(super) const LONGEST_QUOTE: usize = 40;

/// At most the beginning of a text, so that an error stays readable.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST_QUOTE {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(LONGEST_QUOTE).collect();
    format!("{beginning}...")
}

/// A character so that it can be recognized when it cannot be seen.
pub(super) fn describe(letter: char) -> String {
    let code = u32::from(letter);
    if letter.is_control() || letter.is_whitespace() || (0x200b..=0x200f).contains(&code) || code == 0xfeff {
        format!("U+{code:04X}")
    } else if letter.is_ascii() {
        format!("`{letter}`")
    } else {
        format!("`{letter}` (U+{code:04X})")
    }
}

/// Checks that brackets are closed by their own kind and not nested too deep.
///
/// # Errors
/// [`PbtxtProblem::Unclosed`], [`PbtxtProblem::Mismatched`], [`PbtxtProblem::Unopened`] and
/// [`PbtxtProblem::TooDeep`].
pub(super) fn check_brackets(text: &str, tokens: &[Token]) -> Result<(), Fault> {
    let mut open: Vec<(char, usize)> = Vec::new();
    for token in tokens {
        let Kind::Symbol(symbol) = token.kind else { continue };
        if closer(symbol).is_some() {
            if open.len() == MAX_DEPTH {
                return Err((token.start, PbtxtProblem::TooDeep { limit: MAX_DEPTH }));
            }
            open.push((symbol, token.start));
        } else if matches!(symbol, '}' | '>' | ']') {
            let Some((opener, opened_at)) = open.pop() else {
                return Err((token.start, PbtxtProblem::Unopened { found: symbol }));
            };
            match closer(opener) {
                Some(expected) if expected != symbol => {
                    let opener_line = line_and_column(text, opened_at).0;
                    let problem = PbtxtProblem::Mismatched { found: symbol, expected, opener, opener_line };
                    return Err((token.start, problem));
                }
                _ => {}
            }
        }
    }
    if let Some((opener, opened_at)) = open.pop()
        && let Some(closer) = closer(opener)
    {
        let field = super::context::path(text, tokens, opened_at);
        return Err((opened_at, PbtxtProblem::Unclosed { opener, closer, field }));
    }
    Ok(())
}

fn closer(opener: char) -> Option<char> {
    match opener {
        '{' => Some('}'),
        '<' => Some('>'),
        '[' => Some(']'),
        _ => None,
    }
}

/// Line and column of a byte, both from 1, the column in characters.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// A text with colons added.
pub(super) struct WithColons {
    pub(super) text: String,
    /// Where a colon was added, in bytes of the original, ascending.
    added: Vec<usize>,
}

impl WithColons {
    /// The byte of the original text that byte `offset` of the changed text came from.
    pub(super) fn original(&self, offset: usize) -> usize {
        // The colon added n-th (from 0) at original byte `at` stands at byte `at + n` of the changed text.
        let before = self.added.iter().enumerate().take_while(|(n, at)| **at + n < offset).count();
        offset - before
    }
}

/// Adds a colon after every field name that is followed by `[`.
pub(super) fn add_colons(text: &str, tokens: &[Token]) -> WithColons {
    let mut result = WithColons { text: String::with_capacity(text.len() + 64), added: Vec::new() };
    let mut copied = 0;
    let mut before = Kind::Symbol(';');
    for pair in tokens.windows(2) {
        let [token, next] = pair else { continue };
        // A name after a colon is a value.
        if token.kind == Kind::Name && next.kind == Kind::Symbol('[') && before != Kind::Symbol(':') {
            result.text.push_str(text.get(copied..token.end).unwrap_or_default());
            result.text.push(':');
            result.added.push(token.end);
            copied = token.end;
        }
        before = token.kind;
    }
    result.text.push_str(text.get(copied..).unwrap_or_default());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_added_colons() {
        let text = "input [ { dims[ 1 ] reshape: { shape [ ] } } ]\noutput [ ]";
        let tokens = lex(text).unwrap();
        let changed = add_colons(text, &tokens);
        assert_eq!(changed.text, "input: [ { dims:[ 1 ] reshape: { shape: [ ] } } ]\noutput: [ ]");
        // Every character that is no added colon is found again where it was.
        let mut original = Vec::new();
        for (offset, letter) in changed.text.char_indices() {
            let back = changed.original(offset);
            if text[back..].starts_with(letter) && original.last() != Some(&back) {
                original.push(back);
            }
        }
        assert_eq!(original, (0..text.len()).collect::<Vec<_>>());
    }

    #[test]
    fn knows_numbers() {
        for number in
            ["0", "7", "10", "017", "00", "0x1f", "0XAB", "1.", ".5", "0.5", "1.5e3", "1e-3", "2E+9f", "3f", "0f", "1.f"]
        {
            assert!(is_number(number), "{number}");
        }
        for text in ["09", "08.5", "00.5", "0x", "0xg", "1.2.3", "1e", "1e+", "8x", "1_000", "1ff", "1..2", "0x1.8"] {
            assert!(!is_number(text), "{text}");
        }
    }

    #[test]
    fn lines_and_columns_count_characters() {
        let text = "a\r\nbü: 1\n";
        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, text.find(':').unwrap()), (2, 3));
        assert_eq!(line_and_column(text, text.len()), (3, 1));
        assert_eq!(line_and_column(text, 1000), (3, 1));
    }
}
