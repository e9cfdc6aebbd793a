//! Values as they stand in a flag: without the quotes that a shell makes a nuisance.

use crate::scenario::diagnostic::Errors;
use crate::scenario::source::Span;
use crate::scenario::tree::{Node, Value, parse_value};

/// The value of a stretch of a flag's text. Quotes and braces are TOML's; brackets make a list of such values;
/// everything else is read as whatever its key asks for.
pub(super) fn value(source: usize, offset: usize, text: &str, errors: &mut Errors) -> Option<Node> {
    let start = offset + (text.len() - text.trim_start().len());
    let trimmed = text.trim();
    let span = Span { source, start, end: start + trimmed.len() };
    if trimmed.starts_with(['{', '"', '\'']) {
        return parse_value(source, start, trimmed, errors);
    }
    let Some(inside) = trimmed.strip_prefix('[') else {
        return Some(Node { span, value: Value::Bare(trimmed.to_owned()) });
    };
    let Some(inside) = inside.strip_suffix(']') else {
        errors.at(span, "the list does not end").expected("a closing bracket");
        return None;
    };
    let mut items = Vec::new();
    let parts = split(inside, |inside, at| inside[at..].starts_with(','));
    for part in parts.iter().filter(|part| !part.text.trim().is_empty()) {
        items.push(value(source, start + 1 + part.start, part.text, errors)?);
    }
    Some(Node { span, value: Value::List(items) })
}

/// A part of a text, and where it starts.
pub(super) struct Part<'t> {
    pub(super) start: usize,
    pub(super) text: &'t str,
}

/// Splits a text at one-byte separators outside of quotes and brackets.
pub(super) fn split(text: &str, is_separator: impl Fn(&str, usize) -> bool) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut quote) = (0, 0usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, c) if depth == 0 && c.is_ascii() && is_separator(text, at) => {
                parts.push(Part { start, text: &text[start..at] });
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(Part { start, text: &text[start..] });
    parts
}
