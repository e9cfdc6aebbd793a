//! `network.partition`: a target can't reach its peers, or nodes can't reach each other.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::fields::AddressText;
use crate::scenario::quantity::clip;
use crate::scenario::read::{OneOrMany, Spanned, Table as _, table};
use crate::scenario::words::Word as _;
use crate::scenario::{AddressRef, Effect, Errors, FaultTable, Key, Partition, Reader, Shape};

/// See the module.
pub(super) struct NetworkPartition;

table! {
    /// The own keys of `network.partition`.
    pub(crate) struct PartitionTable {
        /// What arrives from these is lost at the target: an address, a network, the name of `[peers]`, or a list.
        "from" from: OneOrMany<AddressText>,
        /// What the target sends to these is lost: likewise.
        "to" to: OneOrMany<AddressText>,
        /// How `nodes` are parted: `"halves"`, `"one"`, `"bridge"` or `"majorities-ring"`. Only with `nodes`.
        "shape" shape: Shape,
        /// Names of the targets that are parted, in place of `target`. Only with `shape`.
        "nodes" nodes: OneOrMany<String>,
    }
}

impl Kind for NetworkPartition {
    fn name(&self) -> &'static str {
        "network.partition"
    }

    fn summary(&self) -> &'static str {
        "Parts the network: packets between the sides of a cut are lost silently, one way or both."
    }

    fn keys(&self) -> &'static [Key] {
        PartitionTable::KEYS
    }

    fn in_place_of_target(&self) -> &'static [&'static str] {
        &["shape", "nodes"]
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = PartitionTable::read_from(own, errors);
        let references = own.references();
        references.targets = table.nodes.iter().flat_map(|nodes| nodes.value.0.iter().cloned()).collect();
        references.peers = [&table.from, &table.to].into_iter().flatten().flat_map(names).collect();
        if !table.unread.is_empty() {
            return None;
        }
        let is_among_nodes = table.shape.is_some() || table.nodes.is_some();
        let partition =
            if is_among_nodes { among_nodes(&table, own, errors) } else { from_peers(&table, own, errors) };
        partition.map(Effect::Partition)
    }

    /// The keys of a partition say the other side and the direction, so nothing else may.
    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        let is_among_nodes = effect.nodes().is_some();
        if let Some(direction) = &fault.direction {
            let hint = if is_among_nodes {
                "leave it out: a shape cuts both ways"
            } else {
                "leave it out: `to` is what leaves, `from` is what arrives, and both together are both"
            };
            errors.at(direction.span, "the keys of a partition say the direction").hint(hint);
        }
        if let Some(remote) = fault.matcher.as_ref().and_then(|matcher| matcher.value.remote.as_ref()) {
            let hint = if is_among_nodes {
                "leave it out: the other side of each node are those that it is cut off from"
            } else {
                "put the addresses in `from` or `to`; to spare some, use `match.not`"
            };
            errors.at(remote.span, "the keys of a partition say the other side").hint(hint);
        }
        if let Some(target) = fault.target.as_ref().filter(|_| is_among_nodes) {
            errors
                .at(target.span, "a partition among `nodes` has no target of its own")
                .hint("leave `target` out; every node is one");
        }
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        PartitionTable::properties(generator)
    }
}

/// The names of `[peers]` in a list.
fn names(list: &Spanned<OneOrMany<AddressText>>) -> Vec<Spanned<String>> {
    let name = |address: &Spanned<AddressText>| match &address.value {
        AddressText::Name(name) => Some(Spanned { span: address.span, value: name.clone() }),
        AddressText::Net(_) => None,
    };
    list.value.0.iter().filter_map(name).collect()
}

fn from_peers(table: &PartitionTable, own: &Reader<'_>, errors: &mut Errors) -> Option<Partition> {
    let list = |given: &Option<Spanned<OneOrMany<AddressText>>>| -> Vec<AddressRef> {
        given.iter().flat_map(|given| &given.value.0).map(|address| address.value.reference()).collect()
    };
    let (from, to) = (list(&table.from), list(&table.to));
    if from.is_empty() && to.is_empty() {
        errors.at(own.span(), "the partition has no other side").hint(
            "add `from` or `to` with addresses, or `shape` and `nodes` in place of `target`; to cut a target off from everybody: `network.loss`",
        );
        return None;
    }
    Some(Partition::Peers { from, to })
}

fn among_nodes(table: &PartitionTable, own: &Reader<'_>, errors: &mut Errors) -> Option<Partition> {
    let one_sided = [("from", &table.from), ("to", &table.to)];
    for (key, given) in one_sided.iter().filter_map(|(key, given)| given.as_ref().map(|given| (key, given))) {
        errors
            .at(given.span, format!("`{key}` is a key of a partition of one target"))
            .hint("a shape says who is cut off from whom: make another fault for this one");
    }
    let missing = |key: &str, errors: &mut Errors| {
        errors.at(own.span(), format!("a partition among nodes needs `{key}`")).hint(format!("add `{key}`"));
    };
    let Some(shape) = &table.shape else {
        missing("shape", errors);
        return None;
    };
    let Some(nodes) = &table.nodes else {
        missing("nodes", errors);
        return None;
    };
    let names: Vec<String> = nodes.value.0.iter().map(|node| node.value.clone()).collect();
    let twice = nodes.value.0.iter().enumerate().find(|(n, node)| names[..*n].contains(&node.value));
    if let Some((_, node)) = twice {
        errors
            .at(node.span, format!("the node \"{}\" is there already", clip(&node.value)))
            .hint("name each node once");
        return None;
    }
    let (shape, least) = (shape.value, shape.value.least());
    if names.len() < least {
        let word = Shape::WORDS.iter().find(|(_, known)| *known == shape).map_or("", |(word, _)| word);
        errors
            .at(nodes.span, format!("of {} there is no \"{word}\"", count(names.len())))
            .expected(format!("at least {least} names of targets"));
        return None;
    }
    Some(Partition::Nodes { shape, nodes: names })
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "one node".to_owned() } else { format!("{nodes} nodes") }
}
