//! What interface-wide faults spare unless their own `match` names it: what keeps the operator connected.

use injector_common::rule::{self as border, Rule};

use super::addresses::{AddressSets, single};
use super::{World, matching};
use crate::scenario::{Effect, Fault, Match, PortRange};

const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// TCP ports that one rule can spare.
pub const MAX_SPARED_PORTS: usize = 4;

/// Gives a rule its allow-list.
pub(super) fn apply(rule: &mut Rule, fault: &Fault, world: &World, sets: &mut AddressSets) {
    if harms_no_connection(fault) {
        return;
    }
    if !fault.matcher.protocols.contains(&ICMPV6) {
        rule.flags |= border::RULE_SPARES_NEIGHBOURS;
    }
    for (slot, port) in rule.spared_ports.iter_mut().zip(ports(fault, &world.spared_ports)) {
        *slot = port;
        rule.flags |= border::RULE_SPARES_PORTS;
    }
    let remote = matching::networks(&fault.matcher.remote, &world.peers);
    let gateways: Vec<_> = world
        .spared_addresses
        .iter()
        .filter(|gateway| !remote.iter().any(|network| network.contains(*gateway)))
        .map(single)
        .collect();
    if !gateways.is_empty() {
        rule.spared_set = sets.number(gateways);
        rule.flags |= border::RULE_SPARES_GATEWAYS;
    }
}

/// Whether it strikes nothing but questions, of which the gateway is often asked, or nothing at all.
fn harms_no_connection(fault: &Fault) -> bool {
    matches!(fault.effect, Effect::Dns(_) | Effect::Observe)
}

/// The ports of an operator that a fault has no room to spare, the most important first in `wanted`.
#[must_use]
pub fn unspared_ports(fault: &Fault, wanted: &[u16]) -> Vec<u16> {
    ports(fault, wanted).skip(MAX_SPARED_PORTS).collect()
}

/// The ports that a fault must spare by itself: it could strike them, does not name them, nor leaves them out.
fn ports(fault: &Fault, wanted: &[u16]) -> impl Iterator<Item = u16> {
    let matcher = &fault.matcher;
    // With a list of ports it strikes what it names, and nothing else.
    let strikes_any = !harms_no_connection(fault)
        && matcher.local_ports.is_empty()
        && (matcher.protocols.is_empty() || matcher.protocols.contains(&TCP));
    let left_out = move |port| fault.exclude.as_ref().is_some_and(|not| leaves_out(not, port));
    wanted.iter().copied().filter(move |port| strikes_any && !left_out(*port))
}

fn lists(ranges: &[PortRange], port: u16) -> bool {
    ranges.iter().any(|range| range.low <= port && port <= range.high)
}

/// Whether a `not` leaves out all TCP on this local port: no other key of it may be narrower.
fn leaves_out(not: &Match, port: u16) -> bool {
    let of_tcp = not.protocols.is_empty() || not.protocols.contains(&TCP);
    let others = Match { protocols: Vec::new(), local_ports: Vec::new(), ..not.clone() };
    of_tcp && lists(&not.local_ports, port) && others == Match::default()
}
