//! Where in the message tree a place of the file is, and which fields were set twice.

use std::collections::HashMap;

use prost_reflect::{Kind as FieldKind, MessageDescriptor};

use super::error::PbtxtProblem;
use super::tokens::{Fault, Kind, Token, line_and_column};

/// The path of the field that byte `offset` belongs to, such as `input.dims`; none outside of all fields.
pub(super) fn path(text: &str, tokens: &[Token], offset: usize) -> Option<String> {
    join(names(text, tokens, offset))
}

/// The path of the message that byte `offset` stands in; none in the outermost message.
pub(super) fn enclosing(text: &str, tokens: &[Token], offset: usize) -> Option<String> {
    let mut names = names(text, tokens, offset);
    names.pop();
    join(names)
}

fn join(names: Vec<Option<&str>>) -> Option<String> {
    let names: Vec<&str> = names.into_iter().flatten().collect();
    if names.is_empty() { None } else { Some(names.join(".")) }
}

/// The names of the open brackets at `offset` (none for a list's elements), then the last field name.
fn names<'a>(text: &'a str, tokens: &[Token], offset: usize) -> Vec<Option<&'a str>> {
    let mut open: Vec<(Option<&str>, bool)> = Vec::new();
    let mut name = None;
    let mut before = Kind::Symbol(';');
    for token in tokens.iter().take_while(|token| token.start < offset) {
        let in_list = open.last().is_some_and(|(_, list)| *list);
        match token.kind {
            Kind::Name if is_field_name(before, in_list) => name = Some(token.text(text)),
            Kind::Symbol(symbol @ ('{' | '<' | '[')) => open.push((name.take(), symbol == '[')),
            Kind::Symbol('}' | '>' | ']') => {
                open.pop();
                name = None;
            }
            _ => {}
        }
        before = token.kind;
    }
    open.into_iter().map(|(name, _)| name).chain([name]).collect()
}

/// Whether a name is the name of a field and not a value, judged by the token before it.
fn is_field_name(before: Kind, in_list: bool) -> bool {
    !in_list && !matches!(before, Kind::Symbol(':' | '-'))
}

enum Frame {
    /// The fields set so far by name, and the oneofs by name with the field that was set.
    Message {
        message: Option<MessageDescriptor>,
        set: HashMap<String, usize>,
        chosen: HashMap<String, (String, usize)>,
    },
    List {
        element: Option<MessageDescriptor>,
    },
}

impl Frame {
    fn message(message: Option<MessageDescriptor>) -> Frame {
        Frame::Message { message, set: HashMap::new(), chosen: HashMap::new() }
    }
}

/// The first field that is set although it, or another of its oneof, was set before.
///
/// The parser behind us notices this only when the first value is not the default one; but a value that is
/// replaced in silence is a mistake of the file in either case.
pub(super) fn first_duplicate(text: &str, tokens: &[Token], root: &MessageDescriptor) -> Option<Fault> {
    let mut open = vec![Frame::message(Some(root.clone()))];
    let mut inner: Option<MessageDescriptor> = None;
    let mut before = Kind::Symbol(';');
    for token in tokens {
        match (token.kind, open.last_mut()) {
            (Kind::Name, Some(Frame::Message { message, set, chosen })) if is_field_name(before, false) => {
                let field = message.as_ref().and_then(|message| message.get_field_by_name(token.text(text)));
                inner = None;
                if let Some(field) = field {
                    if let FieldKind::Message(message) = field.kind() {
                        inner = Some(message);
                    }
                    if !field.is_list() && !field.is_map() {
                        let name = field.name().to_owned();
                        if let Some(first) = set.insert(name.clone(), token.start) {
                            let first_line = line_and_column(text, first).0;
                            return Some((token.start, PbtxtProblem::Duplicate { field: name, first_line }));
                        }
                        if let Some(oneof) = field.containing_oneof()
                            && let Some((other, at)) = chosen.insert(oneof.name().to_owned(), (name.clone(), token.start))
                        {
                            let other_line = line_and_column(text, at).0;
                            let oneof = oneof.name().to_owned();
                            let problem = PbtxtProblem::OneofClash { field: name, other, other_line, oneof };
                            return Some((token.start, problem));
                        }
                    }
                }
            }
            (Kind::Symbol('{' | '<'), Some(Frame::List { element })) => {
                let element = element.clone();
                open.push(Frame::message(element));
            }
            (Kind::Symbol('{' | '<'), _) => open.push(Frame::message(inner.take())),
            (Kind::Symbol('['), _) => open.push(Frame::List { element: inner.take() }),
            (Kind::Symbol('}' | '>' | ']'), _) => {
                open.pop();
            }
            _ => {}
        }
        before = token.kind;
    }
    None
}
