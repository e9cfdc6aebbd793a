//! Which packets are meant: the rules between the keys of a `match`.

use super::Scope;
use crate::scenario::diagnostic::Errors;
use crate::scenario::document::MatchTable;
use crate::scenario::entries::is_interface_name;
use crate::scenario::fields::{AddressText, Ports};
use crate::scenario::matching::{
    AddressRef, Family, MAX_INTERFACES, MAX_PORT_RANGES, MAX_TCP_FLAGS, Match, PortRange, TCP,
};
use crate::scenario::nearest;
use crate::scenario::quantity::clip;
use crate::scenario::read::{OneOrMany, Spanned};
use crate::scenario::source::Span;

/// IP protocol number of UDP.
const UDP: u8 = 17;
/// IP protocol numbers of ICMP for IPv4 and for IPv6.
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// A `match` of a fault.
pub(super) fn matcher(table: &MatchTable, scope: &Scope<'_>, errors: &mut Errors) -> Match {
    let matcher = read(table, scope, errors);
    check(table, &matcher, &matcher.protocols, errors);
    matcher
}

/// The `not` of a `match`. Where it names no protocol, that of the `match` holds.
pub(super) fn exclude(
    not: &Spanned<Box<MatchTable>>,
    matcher: &Match,
    scope: &Scope<'_>,
    errors: &mut Errors,
) -> Match {
    let table = &not.value;
    if let Some(inner) = &table.not {
        errors.at(inner.span, "a `not` within a `not`").hint("give what is meant in `match` itself");
    }
    if let Some(devices) = &table.device_exclude {
        errors
            .at(devices.span, "`device_exclude` within a `not`")
            .hint("use `interface` there, or `device_exclude` in `match`");
    }
    let exclude = read(table, scope, errors);
    if exclude == Match::default() && table.unread.is_empty() && table.not.is_none() {
        errors.at(not.span, "an empty `not` excludes every packet").hint("leave it out");
    }
    let protocols = if exclude.protocols.is_empty() { &matcher.protocols } else { &exclude.protocols };
    check(table, &exclude, protocols, errors);
    exclude
}

fn read(table: &MatchTable, scope: &Scope<'_>, errors: &mut Errors) -> Match {
    Match {
        protocols: list(table.protocol.as_ref(), |protocol| protocol.0),
        local_ports: ports("local_port", table.local_port.as_ref(), errors),
        remote_ports: ports("remote_port", table.remote_port.as_ref(), errors),
        local: addresses(table.local.as_ref(), scope, errors),
        remote: addresses(table.remote.as_ref(), scope, errors),
        tcp_flags: {
            at_most(MAX_TCP_FLAGS, "tcp_flags", "patterns", table.tcp_flags.as_ref(), errors);
            list(table.tcp_flags.as_ref(), |flags| flags.0)
        },
        length: table.length.as_ref().map(|length| length.value),
        dscp: list(table.dscp.as_ref(), |dscp| dscp.0),
        family: table.family.as_ref().map(|family| family.value.0),
        interfaces: interfaces("interface", table.interface.as_ref(), errors),
        device_exclude: interfaces("device_exclude", table.device_exclude.as_ref(), errors),
        established: table.established.as_ref().map(|established| established.value),
    }
}

fn list<T, U>(given: Option<&Spanned<OneOrMany<T>>>, convert: impl Fn(&T) -> U) -> Vec<U> {
    given.map_or_else(Vec::new, |given| given.value.0.iter().map(|item| convert(&item.value)).collect())
}

/// What the kernel half holds of one list.
fn at_most<T>(
    most: usize,
    key: &str,
    what: &str,
    given: Option<&Spanned<OneOrMany<T>>>,
    errors: &mut Errors,
) {
    let Some(given) = given else { return };
    let count = given.value.0.len();
    if count > most {
        errors
            .at(given.span, format!("`{key}` has {count} {what}"))
            .expected(format!("at most {most}"))
            .hint("split the fault in two");
    }
}

fn ports(key: &str, given: Option<&Spanned<OneOrMany<Ports>>>, errors: &mut Errors) -> Vec<PortRange> {
    at_most(MAX_PORT_RANGES, key, "ranges", given, errors);
    list(given, |ports| ports.0)
}

fn interfaces(key: &str, given: Option<&Spanned<OneOrMany<String>>>, errors: &mut Errors) -> Vec<String> {
    at_most(MAX_INTERFACES, key, "interfaces", given, errors);
    for name in given.iter().flat_map(|given| &given.value.0) {
        is_interface_name(name.span, &name.value, errors);
    }
    list(given, Clone::clone)
}

fn addresses(
    given: Option<&Spanned<OneOrMany<AddressText>>>,
    scope: &Scope<'_>,
    errors: &mut Errors,
) -> Vec<AddressRef> {
    for address in given.iter().flat_map(|given| &given.value.0) {
        if let AddressText::Name(name) = &address.value {
            check_peers(address.span, name, scope, errors);
        }
    }
    list(given, AddressText::reference)
}

/// Notes a name that no `[peers]` set has.
pub(super) fn check_peers(span: Span, name: &str, scope: &Scope<'_>, errors: &mut Errors) {
    let Some(peers) = scope.peers.as_ref().filter(|peers| !peers.contains(&name)) else { return };
    let hint = nearest::nearest(name, peers.iter().copied()).map_or_else(
        || "an address, a network, or a set of `[peers.NAME]`, where host names go".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    errors.at(span, format!("unknown peers \"{}\"", clip(name))).hint(hint);
}

/// Rules between keys: what can match no packet is refused.
fn check(table: &MatchTable, matcher: &Match, protocols: &[u8], errors: &mut Errors) {
    check_ports(table, protocols, errors);
    let only_tcp = [
        ("tcp_flags", table.tcp_flags.as_ref().map(|given| given.span)),
        ("established", table.established.as_ref().map(|given| given.span)),
    ];
    for (key, span) in only_tcp {
        if let Some(span) = span.filter(|_| protocols != [TCP]) {
            errors.at(span, format!("`{key}` is TCP's alone")).hint("add protocol = \"tcp\"");
        }
    }
    check_family(table, matcher, errors);
}

fn check_ports(table: &MatchTable, protocols: &[u8], errors: &mut Errors) {
    let Some(portless) = protocols.iter().copied().find(|protocol| ![TCP, UDP].contains(protocol)) else {
        return;
    };
    let given = [("local_port", &table.local_port), ("remote_port", &table.remote_port)];
    for (key, span) in given.iter().filter_map(|(key, given)| given.as_ref().map(|given| (key, given.span))) {
        let name = match portless {
            ICMP => "icmp".to_owned(),
            ICMP6 => "icmp6".to_owned(),
            number => format!("protocol {number}"),
        };
        errors
            .at(span, format!("`{key}` with {name}, which has no ports"))
            .hint("ports go with protocol = \"tcp\", \"udp\", or both");
    }
}

fn check_family(table: &MatchTable, matcher: &Match, errors: &mut Errors) {
    let Some(family) = matcher.family else { return };
    let (version, other_icmp) = match family {
        Family::V4 => (4, ICMP6),
        Family::V6 => (6, ICMP),
    };
    for address in [&table.local, &table.remote].into_iter().flatten().flat_map(|given| &given.value.0) {
        if let AddressText::Net(net) = &address.value
            && net.addr().is_ipv4() != (family == Family::V4)
        {
            errors.at(
                address.span,
                format!("\"{net}\" is no address of IPv{version}, which `family` asks for"),
            );
        }
    }
    for protocol in table.protocol.iter().flat_map(|given| &given.value.0) {
        if protocol.value.0 == other_icmp {
            errors.at(
                protocol.span,
                format!("there is no such protocol in IPv{version}, which `family` asks for"),
            );
        }
    }
}
