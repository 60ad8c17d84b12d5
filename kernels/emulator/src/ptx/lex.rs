//! Splits PTX text into tokens that know their lines.

use super::PtxError;

/// What a token is; words keep their dots, so `add.s32`, `.reg` and `%tid.x` are one token each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Word(&'a str),
    Number(&'a str),
    Text(&'a str),
    Sign(char),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) line: u32,
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// Where the word that starts at `start` ends; `.L2::128B` is part of a word.
fn word_end(bytes: &[u8], start: usize) -> usize {
    let mut end = start;
    loop {
        while end < bytes.len() && in_word(bytes[end]) {
            end += 1;
        }
        if bytes[end..].starts_with(b"::") {
            end += 2;
        } else {
            return end;
        }
    }
}

/// Where a comment that starts at `start` ends, if one does.
fn comment_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = &bytes[start..];
    if rest.starts_with(b"//") {
        return Some(start + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        let close = rest[2..].windows(2).position(|pair| pair == b"*/");
        return Some(close.map_or(bytes.len(), |at| start + at + 4));
    }
    None
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, PtxError> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut found = Vec::new();
    while at < bytes.len() {
        let byte = bytes[at];
        if let Some(end) = comment_end(bytes, at) {
            line += bytes[at..end].iter().filter(|&&b| b == b'\n').count() as u32;
            at = end;
            continue;
        }
        let (kind, end) = match byte {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            _ if byte.is_ascii_whitespace() || byte == 0 => {
                at += 1;
                continue;
            }
            b'"' => {
                let close = bytes[at + 1..].iter().position(|&b| b == b'"');
                let end = at + 1 + close.ok_or_else(|| PtxError::new(line, "a string that never ends"))?;
                (Kind::Text(&text[at + 1..end]), end + 1)
            }
            _ if byte.is_ascii_digit() => {
                let end = at + bytes[at..].iter().position(|&b| !in_word(b)).unwrap_or(bytes.len() - at);
                (Kind::Number(&text[at..end]), end)
            }
            _ if in_word(byte) => {
                // Directives may follow each other without a space, as in `.reg.b32`.
                let length = bytes[at + 1..].iter().position(|&b| b == b'.' || !in_word(b));
                let end = if byte == b'.' { length.map_or(bytes.len(), |length| at + 1 + length) } else { word_end(bytes, at) };
                (Kind::Word(&text[at..end]), end)
            }
            _ if byte.is_ascii() => (Kind::Sign(char::from(byte)), at + 1),
            _ => return Err(PtxError::new(line, "a character that is not ASCII")),
        };
        found.push(Token { kind, line });
        at = end;
    }
    Ok(found)
}
