//! The ids of faults: those that are given, and the default `<kind>-<n>`.

use std::collections::BTreeMap;

use crate::scenario::tree::{Node, Table, Value};

/// An id for each fault, from its own id and its kind. A default never takes the id of another fault.
pub(crate) fn assign<'t>(
    faults: impl Iterator<Item = (Option<&'t str>, Option<&'t str>)> + Clone,
) -> Vec<String> {
    let given: Vec<&str> = faults.clone().filter_map(|(id, _)| id).collect();
    let mut counts = BTreeMap::new();
    faults
        .map(|(id, kind)| match id {
            Some(id) => id.to_owned(),
            None => next_default(kind.unwrap_or("fault"), &given, &mut counts),
        })
        .collect()
}

fn next_default<'t>(kind: &'t str, given: &[&str], counts: &mut BTreeMap<&'t str, u32>) -> String {
    let count = counts.entry(kind).or_insert(0);
    loop {
        *count += 1;
        let id = format!("{kind}-{count}");
        if !given.contains(&id.as_str()) {
            return id;
        }
    }
}

/// The ids of the faults of a document that is not yet read.
pub(crate) fn fault_ids(document: &Table) -> Vec<String> {
    let items: &[Node] = match document.get("fault").map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    };
    assign(items.iter().map(|item| (text(item, "id"), text(item, "kind"))))
}

fn text<'t>(item: &'t Node, key: &str) -> Option<&'t str> {
    match &item.value {
        Value::Table(table) => match &table.get(key)?.value {
            Value::Text(text) | Value::Bare(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}
