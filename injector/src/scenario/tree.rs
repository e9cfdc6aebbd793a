//! The scenario as a tree of values, each of which knows where it was written.
//!
//! A tree of our own, because a value can come from a file or from a flag: `--set` and `--fault` graft their values
//! into the tree of the file, and every later step and message treats them alike.

use toml::de::{DeTable, DeValue};

use super::diagnostic::Errors;
use super::source::Span;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// A value, not yet of any type of ours.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Quoted text.
    Text(String),
    /// Text of a flag: unquoted there, so it may be a number, a word or a boolean, whatever is asked for.
    Bare(String),
    /// A whole number, or the nearest that 128 bits can hold.
    Integer(i128),
    /// A number with a point; kept as text, for no quantity of the language is one.
    Float(String),
    Boolean(bool),
    Datetime,
    List(Vec<Node>),
    Table(Table),
}

impl Node {
    /// Whether it is to be read as a number: what a flag says unquoted can be one.
    pub(crate) fn is_number(&self) -> bool {
        match &self.value {
            Value::Bare(text) => text.trim().parse::<i128>().is_ok(),
            Value::Integer(_) | Value::Float(_) => true,
            _ => false,
        }
    }
}

impl Value {
    /// What it is, with its article, for messages.
    pub(crate) const fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Bare(_) => "text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Datetime => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// A key and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) text: String,
}

/// Keys and values in the order of the text.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table(pub(crate) Vec<(Key, Node)>);

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&(Key, Node)> {
        self.0.iter().find(|(known, _)| known.text == key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|(known, _)| known.text == key).map(|(_, node)| node)
    }

    /// Puts a value in the place of the key's old one.
    pub(crate) fn set(&mut self, key: Key, node: Node) {
        self.remove(&key.text);
        self.0.push((key, node));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.0.retain(|(known, _)| known.text != key);
    }

    /// The table under a key, made if it is not there. `None` if something else is there.
    pub(crate) fn table_mut(&mut self, key: &str, span: Span) -> Option<&mut Self> {
        if self.get(key).is_none() {
            let node = Node { span, value: Value::Table(Self::default()) };
            self.0.push((Key { span, text: key.to_owned() }, node));
        }
        match self.get_mut(key).map(|node| &mut node.value) {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        }
    }
}

/// Reads a whole TOML document. `None` after a syntax error, which `errors` then has.
pub(crate) fn parse_document(source: usize, text: &str, errors: &mut Errors) -> Option<Node> {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if syntax_errors.is_empty() {
        let span = Span { source, start: 0, end: 0 };
        return Some(Node {
            span,
            value: Value::Table(table(Origin { source, offset: 0 }, document.get_ref())),
        });
    }
    report(source, 0, text, &syntax_errors, errors);
    None
}

/// Reads one TOML value that stands at `offset` of its source.
pub(crate) fn parse_value(source: usize, offset: usize, text: &str, errors: &mut Errors) -> Option<Node> {
    let (value, syntax_errors) = DeValue::parse_recoverable(text);
    if syntax_errors.is_empty() {
        return Some(node(Origin { source, offset }, value.span(), value.get_ref()));
    }
    report(source, offset, text, &syntax_errors, errors);
    None
}

/// Notes the first syntax error of each line: what follows on the line is mostly an echo of it.
fn report(source: usize, offset: usize, text: &str, syntax_errors: &[toml::de::Error], errors: &mut Errors) {
    let mut last_line = None;
    for error in syntax_errors {
        let range = visible(text, error.span().unwrap_or(0..0));
        let line = text.get(..range.start).map(|before| before.matches('\n').count());
        if line.is_some() && line == last_line {
            continue;
        }
        last_line = line;
        let (message, expected) = match error.message().split_once(", expected ") {
            Some((message, expected)) => (message, Some(expected)),
            None => (error.message(), None),
        };
        // The parser's own term for it means little to those who just forgot the quotes.
        let expected = if message.contains("must be quoted") { Some("text in quotes") } else { expected };
        let span = Span { source, start: offset + range.start, end: offset + range.end };
        let diagnostic = errors.at(span, format!("not TOML: {message}"));
        if let Some(expected) = expected {
            diagnostic.expected(expected);
        }
    }
}

/// A place that can be marked: where something is missing at the end of a line, its last character.
fn visible(text: &str, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
    let last = text.get(..range.start).and_then(|before| before.chars().next_back());
    match last {
        Some(last) if range.is_empty() && last != '\n' => range.start - last.len_utf8()..range.end,
        _ => range,
    }
}

/// Where the spans of a parsed text start.
#[derive(Clone, Copy)]
struct Origin {
    source: usize,
    offset: usize,
}

impl Origin {
    const fn span(self, range: &std::ops::Range<usize>) -> Span {
        Span { source: self.source, start: self.offset + range.start, end: self.offset + range.end }
    }
}

fn table(origin: Origin, parsed: &DeTable<'_>) -> Table {
    let mut entries: Vec<(Key, Node)> = parsed
        .iter()
        .map(|(key, value)| {
            let key_node = Key { span: origin.span(&key.span()), text: key.get_ref().to_string() };
            (key_node, node(origin, value.span(), value.get_ref()))
        })
        .collect();
    entries.sort_by_key(|(key, _)| key.span);
    Table(entries)
}

fn node(origin: Origin, range: std::ops::Range<usize>, parsed: &DeValue<'_>) -> Node {
    let value = match parsed {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            let saturated = if number.as_str().starts_with('-') { i128::MIN } else { i128::MAX };
            Value::Integer(parsed.unwrap_or(saturated))
        }
        DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(list) => {
            Value::List(list.iter().map(|item| node(origin, item.span(), item.get_ref())).collect())
        }
        DeValue::Table(parsed) => Value::Table(table(origin, parsed)),
    };
    Node { span: origin.span(&range), value }
}
