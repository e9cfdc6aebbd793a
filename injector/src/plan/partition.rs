//! Who is cut off from whom in a partition, and what that is in rules.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use injector_common::draw::{self, PURPOSE_PARTITION};
use injector_common::rule as border;
use ipnet::IpNet;

use super::{PlanError, World};
use crate::scenario::{AddressRef, Effect, Fault, Match, Partition, Shape};

/// Two nodes that can't reach each other, by their numbers, the lower one first.
type Pair = (usize, usize);

/// The pairs that a shape cuts. `order` is a permutation of the nodes' numbers, and says which node stands where.
pub(super) fn cut(shape: Shape, order: &[usize]) -> BTreeSet<Pair> {
    let nodes = order.len();
    let half = nodes / 2;
    let is_cut = |a: usize, b: usize| match shape {
        Shape::Halves => a < half && half <= b,
        Shape::One => a == 0,
        // The node in the middle is the first of the larger half.
        Shape::Bridge => a < half && half < b,
        Shape::MajoritiesRing => !in_ring(nodes, a, b),
    };
    let pairs = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
    let numbers = |(a, b): Pair| (order[a].min(order[b]), order[a].max(order[b]));
    pairs.filter(|&(a, b)| is_cut(a, b)).map(numbers).collect()
}

/// Whether the places `a < b` of a majorities ring reach each other.
///
/// The smallest majority of `nodes` is `nodes / 2 + 1`, so each has `nodes / 2` links. An even number of links goes to
/// the nearest on both sides, which is Jepsen's perfect ring. An odd number has one more, across the ring; of an odd
/// number of nodes one is left over then, which shares the partner of another: that partner sees one node more.
fn in_ring(nodes: usize, a: usize, b: usize) -> bool {
    let links = nodes / 2;
    let near = links / 2;
    let (apart, across) = (b - a, nodes / 2);
    if apart <= near || nodes - apart <= near {
        return true;
    }
    links % 2 == 1 && (apart == across && a < across || nodes % 2 == 1 && (a, b) == (across - 1, nodes - 1))
}

/// Which node stands where: a permutation that is drawn from the seed and the fault's id (Fisher and Yates).
fn order(seed: u64, fault: &str, nodes: usize) -> Vec<usize> {
    let stream = draw::stream(seed, draw::fault_number(fault.as_bytes()), PURPOSE_PARTITION);
    let mut order: Vec<usize> = (0..nodes).collect();
    for last in (1..nodes).rev() {
        let drawn = draw::below(draw::draw(stream, 0, last as u64), last as u64 + 1);
        order.swap(last, drawn as usize);
    }
    order
}

/// The pairs of nodes that a fault cuts off from each other, in the order of the file; none if it has no nodes.
pub(super) fn cuts(fault: &Fault, seed: u64) -> Vec<[String; 2]> {
    let Effect::Partition(Partition::Nodes { shape, nodes }) = &fault.effect else { return Vec::new() };
    let pairs = cut(*shape, &order(seed, &fault.id, nodes.len()));
    pairs.into_iter().map(|(a, b)| [nodes[a].clone(), nodes[b].clone()]).collect()
}

/// Those that a node is cut off from.
fn cut_off<'c>(cuts: &'c [[String; 2]], node: &str) -> Vec<&'c str> {
    let other = |[a, b]: &'c [String; 2]| match node {
        _ if a == node => Some(b.as_str()),
        _ if b == node => Some(a.as_str()),
        _ => None,
    };
    cuts.iter().filter_map(other).collect()
}

/// The cuts of a partition in words: `n1, n3 are cut off from n2, n4; n5 from nobody`.
#[must_use]
pub fn words(nodes: &[String], cuts: &[[String; 2]]) -> String {
    // Nodes that are cut off from the same ones, in the order of the file.
    let mut groups: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for node in nodes {
        let others = cut_off(cuts, node);
        match groups.iter_mut().find(|(_, from)| *from == others) {
            Some((group, _)) => group.push(node),
            None => groups.push((vec![node], others)),
        }
    }
    let mut sentences: Vec<String> = Vec::new();
    for (n, (group, from)) in groups.iter().enumerate() {
        // Said already, the other way round.
        if groups[..n].iter().any(|(earlier, their)| earlier == from && their == group) {
            continue;
        }
        let verb = match (n, group.len()) {
            (0, 1) => " is cut off",
            (0, _) => " are cut off",
            _ => "",
        };
        let from = if from.is_empty() { "nobody".to_owned() } else { from.join(", ") };
        sentences.push(format!("{}{verb} from {from}", group.join(", ")));
    }
    sentences.join("; ")
}

/// Refuses nodes whose addresses don't tell them apart.
pub(crate) fn check_nodes(
    fault: &str,
    nodes: &[String],
    addresses: &BTreeMap<String, Vec<IpNet>>,
) -> Result<(), PlanError> {
    let of = |node: &String| addresses.get(node).map_or(&[][..], Vec::as_slice);
    for (n, node) in nodes.iter().enumerate() {
        for other in &nodes[..n] {
            let overlap =
                |net: &IpNet| of(other).iter().any(|their| their.contains(net) || net.contains(their));
            if let Some(shared) = of(node).iter().find(|net| overlap(net)) {
                return Err(PlanError::SharedAddress {
                    fault: fault.to_owned(),
                    nodes: [other.clone(), node.clone()],
                    address: shared.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// A fault as one of its targets meets it one way: the `match` of a partition has its other side. `None` where a
/// target is cut off from nobody.
pub(super) fn narrowed<'f>(
    fault: &'f Fault,
    target: &str,
    way: u32,
    seed: u64,
    world: &World,
) -> Option<Cow<'f, Fault>> {
    let Effect::Partition(partition) = &fault.effect else { return Some(Cow::Borrowed(fault)) };
    let remote = match partition {
        Partition::Peers { from, .. } if way == border::INGRESS => from.clone(),
        Partition::Peers { to, .. } => to.clone(),
        Partition::Nodes { .. } => {
            let cuts = cuts(fault, seed);
            let others = cut_off(&cuts, target).into_iter();
            others
                .filter_map(|node| world.nodes.get(node))
                .flatten()
                .map(|net| AddressRef::Net(*net))
                .collect()
        }
    };
    if remote.is_empty() {
        return None;
    }
    Some(Cow::Owned(Fault { matcher: Match { remote, ..fault.matcher.clone() }, ..fault.clone() }))
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
