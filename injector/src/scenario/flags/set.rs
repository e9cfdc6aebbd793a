//! `--set PATH=VALUE`: one key of the file gets another value.

use super::text::value;
use crate::scenario::diagnostic::Errors;
use crate::scenario::entries::SELECTORS;
use crate::scenario::nearest;
use crate::scenario::quantity::clip;
use crate::scenario::source::Span;
use crate::scenario::tree::{Key, Node, Table, Value};
use crate::scenario::validate::fault_ids;

/// Keys of which a fault has only one: a new one takes the place of the others.
const EXCLUSIVE: [&[&str]; 2] = [&["probability", "nth"], &["when.after", "when.after_end", "when.on"]];

/// Where the new value belongs.
struct Place<'t> {
    /// The whole path, for the value's key.
    span: Span,
    path: &'t str,
}

/// Applies one assignment to the document.
pub(super) fn set(assignment: &str, document: &mut Table, errors: &mut Errors) {
    let all = super::whole("--set", assignment, errors);
    let Some((path, text)) = assignment.split_once('=') else {
        errors.at(all, "the assignment has no value").expected("PATH=VALUE, such as duration=10s");
        return;
    };
    let Some(node) = value(all.source, path.len() + 1, text, errors) else { return };
    let place = Place { span: Span { end: path.len(), ..all }, path: path.trim() };
    match place.path.split_once('.') {
        None => set_top(&place, node, document, errors),
        Some(("fault", rest)) => set_in_fault(&place, rest, node, document, errors),
        Some(("target", rest)) => set_in_named("target", &[&SELECTORS], &place, rest, node, document, errors),
        Some(("peers", rest)) => set_in_named("peers", &[], &place, rest, node, document, errors),
        Some(_) => refuse(&place, errors),
    }
}

fn refuse(place: &Place<'_>, errors: &mut Errors) {
    errors
        .at(place.span, format!("`{}` is no path to a key", clip(place.path)))
        .expected("duration, seed, name, fault.ID.KEY, target.NAME.KEY or peers.NAME.addresses");
}

fn set_top(place: &Place<'_>, node: Node, document: &mut Table, errors: &mut Errors) {
    if place.path.is_empty() || ["fault", "target", "peers", "expect"].contains(&place.path) {
        refuse(place, errors);
    } else {
        document.set(Key { span: place.span, text: place.path.to_owned() }, node);
    }
}

fn set_in_fault(place: &Place<'_>, rest: &str, node: Node, document: &mut Table, errors: &mut Errors) {
    let ids = fault_ids(document);
    // Ids may have dots of their own, so the longest one that fits is meant.
    let found = ids
        .iter()
        .enumerate()
        .filter_map(|(n, id)| Some((n, id.len(), rest.strip_prefix(id.as_str())?.strip_prefix('.')?)))
        .max_by_key(|(_, id_len, _)| *id_len);
    let Some((n, _, key_path)) = found else {
        if ids.iter().any(|id| id == rest) {
            errors.at(place.span, format!("`{}` is a fault", clip(place.path))).expected("fault.ID.KEY");
            return;
        }
        let id = rest.split('.').next().unwrap_or_default();
        let hint = nearest::hint(id, ids.iter().map(String::as_str));
        errors.at(place.span, format!("unknown fault in `{}`", clip(place.path))).maybe_hint(hint);
        return;
    };
    if let Some(Value::List(faults)) = document.get_mut("fault").map(|node| &mut node.value)
        && let Some(Value::Table(fault)) = faults.get_mut(n).map(|node| &mut node.value)
    {
        replace(fault, key_path, &EXCLUSIVE, place, node, errors);
    }
}

fn set_in_named(
    what: &str,
    exclusive: &[&[&str]],
    place: &Place<'_>,
    rest: &str,
    node: Node,
    document: &mut Table,
    errors: &mut Errors,
) {
    let Some((name, key)) = rest.rsplit_once('.') else { return refuse(place, errors) };
    let Some(Value::Table(tables)) = document.get_mut(what).map(|node| &mut node.value) else {
        errors.at(place.span, format!("the scenario has no `{what}`"));
        return;
    };
    if let Some(Value::Table(table)) = tables.get_mut(name).map(|node| &mut node.value) {
        return replace(table, key, exclusive, place, node, errors);
    }
    let hint = nearest::hint(name, tables.0.iter().map(|(key, _)| key.text.as_str()));
    errors.at(place.span, format!("unknown {what} in `{}`", clip(place.path))).maybe_hint(hint);
}

/// Puts a value in the place of the old one, and of those that it excludes.
fn replace(
    table: &mut Table,
    path: &str,
    exclusive: &[&[&str]],
    place: &Place<'_>,
    node: Node,
    errors: &mut Errors,
) {
    // A key within one of them is none of them.
    for key in exclusive.iter().filter(|keys| keys.contains(&path)).copied().flatten() {
        remove(table, key);
    }
    remove(table, path);
    super::inline::insert(table, path, place.span, node, errors);
}

fn remove(table: &mut Table, path: &str) {
    match path.split_once('.') {
        None => table.remove(path),
        Some((name, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(name).map(|node| &mut node.value) {
                remove(inner, rest);
            }
        }
    }
}
