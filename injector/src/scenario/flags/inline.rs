//! Inline faults: `KIND=VALUE[:key=value]...`.

use super::text::{Part, split, value};
use crate::kinds::{self, Kind, Strikes};
use crate::scenario::diagnostic::Errors;
use crate::scenario::entries::names_targets;
use crate::scenario::quantity::clip;
use crate::scenario::source::Span;
use crate::scenario::tree::{Key, Node, Table, Value};

/// The target of inline faults, unless the file has another name for its command.
const COMMAND: &str = "command";

/// Adds the fault to the document, and the command as a target if it is none yet.
pub(super) fn add(text: &str, document: &mut Table, errors: &mut Errors) {
    let all = super::whole("--fault", text, errors);
    let Some(mut fault) = parse(all, text, errors) else { return };
    let Some(target) = command_target(all, document, errors) else { return };
    if fault.get("target").is_none() && !names_targets(&fault) {
        let node = Node { span: all, value: Value::Text(target) };
        fault.set(Key { span: all, text: "target".to_owned() }, node);
    }
    let node = Node { span: all, value: Value::Table(fault) };
    match document.get_mut("fault").map(|node| &mut node.value) {
        Some(Value::List(faults)) => faults.push(node),
        // Something that is no list of faults is an error when the document is read.
        Some(_) => {}
        None => {
            let list = Node { span: all, value: Value::List(vec![node]) };
            document.set(Key { span: all, text: "fault".to_owned() }, list);
        }
    }
}

fn parse(all: Span, text: &str, errors: &mut Errors) -> Option<Table> {
    let kind_len = text.find(['=', ':']).unwrap_or(text.len());
    let (kind, rest) = text.split_at(kind_len);
    let kind_span = Span { end: all.start + kind_len, ..all };
    if kind.trim().is_empty() {
        errors
            .at(all, "the inline fault has no kind")
            .expected("KIND=VALUE[:key=value]..., such as network.loss=5%");
        return None;
    }
    let mut fault = Table::default();
    let kind_node = Node { span: kind_span, value: Value::Text(kind.trim().to_owned()) };
    fault.set(Key { span: kind_span, text: "kind".to_owned() }, kind_node);
    // An unknown kind is an error when the fault is read, and what its value means is unknown too.
    let Some(known) = kinds::find(kind.trim()).filter(|_| !rest.is_empty()) else { return Some(fault) };
    let parts = split(&rest[1..], begins_pair);
    let mut pairs = parts.iter();
    if rest.starts_with('=') {
        let first = pairs.next()?;
        let offset = kind_len + 1 + first.start;
        let key = value_key(
            known,
            first.text,
            Span { start: offset, end: offset + first.text.len(), ..all },
            errors,
        )?;
        insert(&mut fault, key, kind_span, value(all.source, offset, first.text, errors)?, errors);
    }
    for pair in pairs {
        add_pair(&mut fault, all, kind_len + 1, pair, errors)?;
    }
    Some(fault)
}

/// Whether a colon separates: only before `key=`, so that IPv6 addresses need no quotes.
fn begins_pair(text: &str, at: usize) -> bool {
    let Some(after) = text[at..].strip_prefix(':') else { return false };
    let key_len = after
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
        .unwrap_or(after.len());
    key_len > 0 && after[key_len..].starts_with('=')
}

/// The key that the value of the kind itself sets.
fn value_key(kind: &dyn Kind, text: &str, span: Span, errors: &mut Errors) -> Option<&'static str> {
    // What strikes whole processes has no probability.
    let is_share_of_matches = !matches!(kind.strikes(), Strikes::Processes | Strikes::Limits(_));
    if text.trim().ends_with('%') && is_share_of_matches {
        return Some("probability");
    }
    let Some(first) = kind.keys().first() else {
        errors
            .at(span, format!("`{}` takes no value but a percentage", kind.name()))
            .expected("the probability, such as 5%");
        return None;
    };
    let is_number = !text.is_empty() && text.trim().chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_number {
        errors
            .at(span, format!("\"{}\" needs a unit, such as \"{}%\"", clip(text), clip(text.trim())))
            .expected(format!("a percentage, or the kind's `{}`", first.name));
        return None;
    }
    Some(first.name)
}

fn add_pair(fault: &mut Table, all: Span, base: usize, pair: &Part<'_>, errors: &mut Errors) -> Option<()> {
    let start = base + pair.start;
    let span = Span { start, end: start + pair.text.len(), ..all };
    let Some((path, text)) = pair.text.split_once('=') else {
        errors.at(span, format!("\"{}\" has no value", clip(pair.text))).expected("key=value");
        return None;
    };
    let key_span = Span { end: start + path.len(), ..span };
    let node = value(all.source, start + path.len() + 1, text, errors)?;
    insert(fault, path.trim(), key_span, node, errors);
    Some(())
}

/// Puts a value at a path of keys with dots between them.
pub(super) fn insert(fault: &mut Table, path: &str, span: Span, node: Node, errors: &mut Errors) {
    let mut table = fault;
    let (tables, last) = path.rsplit_once('.').map_or((None, path), |(tables, last)| (Some(tables), last));
    for name in tables.iter().flat_map(|tables| tables.split('.')) {
        let Some(inner) = table.table_mut(name, span) else {
            errors.at(span, format!("`{}` is a value, and has no keys", clip(name)));
            return;
        };
        table = inner;
    }
    if table.get(last).is_some() {
        errors.at(span, format!("`{}` is given twice", clip(path)));
        return;
    }
    table.set(Key { span, text: last.to_owned() }, node);
}

/// The name of the command among the targets, made if there is none.
fn command_target(span: Span, document: &mut Table, errors: &mut Errors) -> Option<String> {
    // Something that is no table of targets is an error when the document is read.
    let Some(targets) = document.table_mut("target", span) else { return Some(COMMAND.to_owned()) };
    let is_command =
        |node: &Node| matches!(&node.value, Value::Table(table) if table.get("command").is_some());
    if let Some((key, _)) = targets.0.iter().find(|(_, node)| is_command(node)) {
        return Some(key.text.clone());
    }
    if targets.get(COMMAND).is_some() {
        errors
            .at(span, "the target of an inline fault is the command, but the file has a target of that name")
            .hint("rename `[target.command]`, or make it `command = true`");
        return None;
    }
    let selector =
        Table(vec![(Key { span, text: "command".to_owned() }, Node { span, value: Value::Boolean(true) })]);
    targets.set(Key { span, text: COMMAND.to_owned() }, Node { span, value: Value::Table(selector) });
    Some(COMMAND.to_owned())
}
