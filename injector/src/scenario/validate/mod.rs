//! From what was typed to what it means: names are resolved, defaults filled in, rules between keys checked.
//!
//! Everything is checked even after an error, so that one reading finds all of them.

pub(crate) mod after;
pub(crate) mod direction;
mod expect;
mod fault;
mod ids;
mod matching;
mod when;

use std::collections::BTreeMap;

use super::diagnostic::Errors;
use super::document::{Document, PeersTable, VERSION};
use super::entries::{FaultEntry, TargetEntry};
use super::fields::{Reported, read_net};
use super::model::{Fault, PeerAddress, Scenario, Target};
use super::quantity::clip;
use super::read::{List, Named, Spanned};
use super::source::Span;
use super::tree::{Key, Node, Value};

pub(crate) use ids::fault_ids;

/// What a fault can refer to. Names are known even where what they stand for is wrong.
pub(crate) struct Scope<'s> {
    /// `None` if they could not be read.
    pub(crate) targets: Option<&'s [(Key, TargetEntry)]>,
    /// `None` if they could not be read.
    pub(crate) peers: Option<Vec<&'s str>>,
    pub(crate) duration_ns: Option<u64>,
}

/// Checks a whole document. The scenario is whole only if `errors` stays empty.
pub(crate) fn scenario(document: &Document, default_name: String, errors: &mut Errors) -> Scenario {
    let targets = document.targets.as_ref().map_or(&[][..], |Spanned { value: Named(targets), .. }| targets);
    let peers = document.peers.as_ref().map_or(&[][..], |Spanned { value: Named(peers), .. }| peers);
    let entries = document.faults.as_ref().map_or(&[][..], |Spanned { value: List(faults), .. }| faults);
    if let Some(version) = document.version.as_ref().filter(|version| version.value.0 != VERSION) {
        errors
            .at(
                version.span,
                format!("this injector does not know version {} of the language", version.value.0),
            )
            .expected(VERSION.to_string());
    }
    let duration_ns = document.duration.as_ref().and_then(|duration| {
        let ns = duration.value.0;
        if ns == 0 {
            errors.at(duration.span, "an experiment takes some time").expected("more than 0");
        }
        (ns > 0).then_some(ns)
    });
    let peer_sets = peer_sets(peers, errors);
    let is_read = |key| !document.unread.contains(&key);
    let scope = Scope {
        targets: is_read("target").then_some(targets),
        peers: is_read("peers").then(|| peers.iter().map(|(key, _)| key.text.as_str()).collect()),
        duration_ns,
    };
    let (entries, ids) = after::with_observers(entries, ids_of(entries), errors);
    let faults = faults(&entries, &ids, &scope, errors);
    let named_targets = named_targets(targets, errors);
    direction::check(&named_targets, &faults, &entries, &ids, errors);
    after::check(&entries, &ids, &faults, duration_ns, errors);
    let expectations =
        document.expectations.as_ref().map_or_else(Vec::new, |Spanned { value: List(list), .. }| {
            list.iter().flat_map(|item| expect::expectations(item, &ids, errors)).collect()
        });
    Scenario {
        name: name(document, default_name, errors),
        seed: document.seed.as_ref().map(|seed| seed.value.0),
        duration_ns: duration_ns.unwrap_or_default(),
        targets: named_targets,
        peers: peer_sets,
        faults,
        expectations,
    }
}

fn name(document: &Document, default_name: String, errors: &mut Errors) -> String {
    let Some(name) = &document.name else { return default_name };
    let is_valid = (1..=128).contains(&name.value.chars().count()) && !name.value.contains(char::is_control);
    if !is_valid {
        errors.at(name.span, "not a name").expected("1 to 128 characters in one line");
    }
    name.value.clone()
}

fn named_targets(entries: &[(Key, TargetEntry)], errors: &mut Errors) -> BTreeMap<String, Target> {
    let mut targets = BTreeMap::new();
    for (key, entry) in entries {
        if is_identifier(key.span, &key.text, "target", errors)
            && let Some(selector) = &entry.selector
        {
            let (selector, takeover, spares) = (selector.clone(), entry.takeover, entry.spares);
            let target = Target { name: key.text.clone(), selector, hook: entry.hook, takeover, spares };
            targets.insert(key.text.clone(), target);
        }
    }
    targets
}

/// Names that can stand in a path of `--set`, in a report and in a file name.
pub(crate) fn is_identifier(span: Span, name: &str, what: &str, errors: &mut Errors) -> bool {
    let is_valid = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !is_valid {
        errors
            .at(span, format!("\"{}\" can't be the name of a {what}", clip(name)))
            .expected("up to 64 letters, digits, `-`, `_` and `.`, the first a letter, digit or `_`");
    }
    is_valid
}

fn peer_sets(entries: &[(Key, PeersTable)], errors: &mut Errors) -> BTreeMap<String, Vec<PeerAddress>> {
    let mut sets = BTreeMap::new();
    for (key, table) in entries {
        if !is_identifier(key.span, &key.text, "set of addresses", errors) {
            continue;
        }
        if key.text.chars().all(|c| c.is_ascii_digit() || c == '.') {
            errors.at(key.span, "the name of a set of addresses can't look like an address");
            continue;
        }
        let Some(addresses) = &table.addresses else { continue };
        let list = addresses.value.0.iter().filter_map(|text| peer_address(text, errors)).collect();
        sets.insert(key.text.clone(), list);
    }
    sets
}

fn peer_address(text: &Spanned<String>, errors: &mut Errors) -> Option<PeerAddress> {
    let trimmed = text.value.trim();
    let node = Node { span: text.span, value: Value::Text(trimmed.to_owned()) };
    match read_net(&node, trimmed, errors) {
        Ok(Some(net)) => return Some(PeerAddress::Net(net)),
        Ok(None) => {}
        Err(Reported) => return None,
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let name = trimmed.strip_suffix('.').unwrap_or(trimmed);
    if name.len() > 253 || !name.split('.').all(is_label) {
        errors
            .at(text.span, format!("\"{}\" is neither an address nor a host name", clip(trimmed)))
            .expected("an address, a network, or a host name");
        return None;
    }
    Some(PeerAddress::Name(trimmed.to_owned()))
}

/// The ids of all faults, also of those that are wrong.
fn ids_of(entries: &[Spanned<FaultEntry>]) -> Vec<String> {
    ids::assign(entries.iter().map(|entry| {
        let table = &entry.value.table;
        (table.id.as_ref().map(|id| id.value.as_str()), table.kind.as_ref().map(|kind| kind.value.as_str()))
    }))
}

/// All faults that are right.
fn faults(
    entries: &[Spanned<FaultEntry>],
    ids: &[String],
    scope: &Scope<'_>,
    errors: &mut Errors,
) -> Vec<Fault> {
    for (n, entry) in entries.iter().enumerate() {
        if let Some(id) = &entry.value.table.id {
            // That of an observer is right if that of its fault is, which has been looked at or will be.
            let is_observer = entry.value.is_observer;
            let is_right = is_observer || is_identifier(id.span, &id.value, "fault", errors);
            let earlier = ids.iter().zip(entries).take(n);
            let mut same = earlier.filter(|(earlier, _)| **earlier == id.value);
            if is_right && same.any(|(_, other)| !(is_observer && other.value.is_observer)) {
                errors
                    .at(id.span, format!("there is a fault \"{}\" already", clip(&id.value)))
                    .hint("every fault has an id of its own");
            }
        }
    }
    let each = entries.iter().zip(ids);
    each.filter_map(|(entry, id)| fault::fault(id, &entry.value, scope, errors)).collect()
}
