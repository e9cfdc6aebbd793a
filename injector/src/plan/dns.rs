//! DNS faults in the kernel's form: the questions that are meant, and where they are looked for.

use std::borrow::Cow;

use injector_common::dns as border;
use injector_common::rule::INGRESS;

use super::Lowered;
use crate::scenario::{Dns, DnsAnswer, DnsName, Effect, Fault, Match, PortRange, Scenario};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The port of name servers (RFC 1035, 4.2).
const SERVICE: PortRange = PortRange { low: 53, high: 53 };

/// The `match` of a fault. That of a DNS fault means UDP and TCP to the servers' port if it says nothing else.
pub(super) fn matcher(fault: &Fault, way: u32) -> Cow<'_, Match> {
    if !matches!(fault.effect, Effect::Dns(_)) {
        return Cow::Borrowed(&fault.matcher);
    }
    let mut matcher = fault.matcher.clone();
    if matcher.protocols.is_empty() {
        matcher.protocols = vec![TCP, UDP];
    }
    // A question that arrives is for a server of the target.
    let ports = if way == INGRESS { &mut matcher.local_ports } else { &mut matcher.remote_ports };
    if ports.is_empty() {
        ports.push(SERVICE);
    }
    Cow::Owned(matcher)
}

/// The answer as `Treatment::count` has it.
pub(super) const fn code(answer: DnsAnswer) -> u32 {
    match answer {
        DnsAnswer::NxDomain => border::ANSWER_NXDOMAIN,
        DnsAnswer::ServFail => border::ANSWER_SERVFAIL,
        DnsAnswer::Refused => border::ANSWER_REFUSED,
        DnsAnswer::Silence => border::ANSWER_SILENCE,
    }
}

/// Lays out what each DNS fault means, and tells its rules where that is.
pub(super) fn lay_out(scenario: &Scenario, lowered: &mut Lowered) {
    for (position, fault) in scenario.faults.iter().enumerate() {
        let Effect::Dns(dns) = &fault.effect else { continue };
        let entry = lowered.image.questions.len() as u32;
        lowered.image.questions.push(questions(dns));
        let own = lowered.image.rules.iter_mut().zip(&lowered.fault_of_rule);
        for (rule, _) in own.filter(|(_, fault)| **fault == position) {
            rule.treatment.table = entry;
        }
    }
}

/// The lists are no longer than the kernel half holds, which the kind has checked.
fn questions(dns: &Dns) -> border::Questions {
    let mut to = border::Questions {
        name_count: dns.names.len().min(border::MAX_NAMES) as u32,
        type_count: dns.types.len().min(border::MAX_TYPES) as u32,
        ..border::Questions::default()
    };
    for (slot, name) in to.names.iter_mut().zip(&dns.names) {
        *slot = pattern(name);
    }
    for (slot, kind) in to.types.iter_mut().zip(&dns.types) {
        *slot = *kind;
    }
    to
}

/// The name on the wire: each label with its length in front, and the empty one of the root.
fn pattern(name: &DnsName) -> border::NamePattern {
    let mut pattern = border::NamePattern {
        flags: if name.below { border::PATTERN_BELOW } else { 0 },
        ..border::NamePattern::default()
    };
    let labels = name.name.split('.').flat_map(|label| [label.len() as u8].into_iter().chain(label.bytes()));
    for (slot, byte) in pattern.name.iter_mut().zip(labels.chain([0])) {
        *slot = byte;
        pattern.length += 1;
    }
    pattern
}

/// What is not seen, and how answers differ from a server's.
pub(super) fn notes(dns: &Dns) -> Vec<String> {
    let mut notes = vec!["only questions in the clear are seen: not those over TLS, HTTPS or QUIC, nor what a daemon asks for the target (nscd, systemd-resolved, a proxy)".to_owned()];
    if dns.answer != DnsAnswer::Silence {
        notes.push("over TCP a question can't be answered in one packet: its connection is reset on both ends, and with silence its segment is lost each time it is sent".to_owned());
    }
    if dns.answer == DnsAnswer::NxDomain {
        notes.push("nxdomain comes without an SOA record, so resolvers don't cache it (RFC 2308)".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Overrides, Source, load};
    use injector_common::rule::EGRESS;

    fn fault(keys: &str) -> Fault {
        let text = format!(
            "duration = \"1s\"\n[target.t]\ncgroup = \"/t\"\n[[fault]]\ntarget = \"t\"\nkind = \"network.dns\"\n{keys}\n"
        );
        load(&Source::text("t.toml", text), &Overrides::default()).unwrap().faults.remove(0)
    }

    #[test]
    fn names_are_as_on_the_wire() {
        let fault = fault("names = [\"*.Internal\", \"db.example.org.\"]\ntypes = [\"A\", \"aaaa\", 257]");
        let Effect::Dns(dns) = &fault.effect else { panic!("{fault:?}") };
        let questions = questions(dns);
        assert_eq!((questions.name_count, questions.type_count), (2, 3));
        assert_eq!(questions.types[..4], [1, 28, 257, 0]);
        let [below, one, ..] = &questions.names;
        assert_eq!((&below.name[..11], below.length, below.flags), (&b"\x08internal\0\0"[..], 10, 1));
        assert_eq!((&one.name[..16], one.length, one.flags), (&b"\x02db\x07example\x03org\0"[..], 16, 0));
    }

    #[test]
    fn questions_go_to_port_53_unless_match_says_otherwise() {
        let plain = fault("");
        let out = matcher(&plain, EGRESS);
        assert_eq!((&out.remote_ports[..], &out.local_ports[..]), (&[SERVICE][..], &[][..]));
        assert_eq!(out.protocols, [TCP, UDP]);
        let into = matcher(&plain, INGRESS);
        assert_eq!((&into.remote_ports[..], &into.local_ports[..]), (&[][..], &[SERVICE][..]));
        let other = fault("match = { protocol = \"udp\", remote_port = 5300 }");
        let out = matcher(&other, EGRESS);
        assert_eq!((out.remote_ports[0].low, &out.protocols[..]), (5300, &[UDP][..]));
    }
}
