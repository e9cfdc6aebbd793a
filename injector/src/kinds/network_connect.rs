//! `network.connect`: connect(2), bind(2) or a UDP send fails with an errno that the program sees.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::errno::Errno;
use crate::scenario::fields::Protocol;
use crate::scenario::read::{OneOrMany, Spanned, Table as _, table};
use crate::scenario::source::Span;
use crate::scenario::words::Operation;
use crate::scenario::{Effect, Errors, FaultTable, Key, MatchTable, Reader, Refusal};

/// See the module.
pub(super) struct NetworkConnect;

table! {
    /// The own keys of `network.connect`.
    pub(crate) struct ConnectTable {
        /// The errno with which the call fails: a name, such as `"ECONNREFUSED"`, or a number from 1 to 133.
        required "errno" errno: Errno,
        /// Which calls fail: `"connect"` (default), `"bind"`, `"sendmsg"` (UDP sends that name an address), or a list of
        /// these.
        "operations" operations: OneOrMany<Operation>,
    }
}

impl Kind for NetworkConnect {
    fn name(&self) -> &'static str {
        "network.connect"
    }

    fn summary(&self) -> &'static str {
        "Makes calls that ask for a connection or an address fail, with an errno that the program sees."
    }

    fn keys(&self) -> &'static [Key] {
        ConnectTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = ConnectTable::read_from(own, errors);
        let errno = table.errno.as_ref()?.value.0;
        if table.unread.contains(&"operations") {
            return None;
        }
        let mut refusal = Refusal { errno, connect: false, bind: false, sendmsg: false };
        let Some(operations) = &table.operations else {
            return Some(Effect::Connect(Refusal { connect: true, ..refusal }));
        };
        let mut is_right = true;
        for operation in &operations.value.0 {
            match operation.value {
                Operation::Connect => refusal.connect = true,
                Operation::Bind => refusal.bind = true,
                Operation::Sendmsg => refusal.sendmsg = true,
                Operation::Accept => {
                    refuse_accept(operation.span, errors);
                    is_right = false;
                }
            }
        }
        is_right.then_some(Effect::Connect(refusal))
    }

    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        let Some(refusal) = effect.calls() else { return };
        if let Some(direction) = &fault.direction {
            errors
                .at(direction.span, "a call has no direction: it is always the target's own")
                .hint("leave `direction` out");
        }
        let Some(given) = &fault.matcher else { return };
        if let Some(protocol) = &given.value.protocol {
            check_protocols(protocol, refusal, errors);
        }
        for table in std::iter::once(&given.value).chain(given.value.not.as_ref().map(|not| &*not.value)) {
            check_packets(table, errors);
            check_sides(table, refusal, errors);
        }
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        ConnectTable::properties(generator)
    }
}

/// No program of a cgroup runs in accept(2): `inet_accept` asks none, and those of getpeername, which it may reach, can't fail.
fn refuse_accept(span: Span, errors: &mut Errors) {
    errors
        .at(span, "`accept` can't be made to fail: the kernel asks no program of a cgroup there")
        .expected("\"connect\", \"bind\", \"sendmsg\"")
        .hint(
            "to keep connections out, lose what arrives (network.loss, direction = \"ingress\"); to end those that are \
             accepted, reset them (network.reset)",
        );
}

/// A key that is given, and where.
fn given<T>(key: &'static str, value: Option<&Spanned<T>>) -> Option<(&'static str, Span)> {
    value.map(|value| (key, value.span))
}

/// Keys that ask something of a packet, of which a call has none yet.
fn check_packets(table: &MatchTable, errors: &mut Errors) {
    let of_packets = [
        given("tcp_flags", table.tcp_flags.as_ref()),
        given("length", table.length.as_ref()),
        given("dscp", table.dscp.as_ref()),
        given("interface", table.interface.as_ref()),
        given("device_exclude", table.device_exclude.as_ref()),
        given("established", table.established.as_ref()),
    ];
    for (key, span) in of_packets.into_iter().flatten() {
        errors
            .at(span, format!("`{key}` is asked of packets, and when a program calls there is none"))
            .hint("calls are told apart by `protocol`, `family`, and the address and port that they name");
    }
}

/// A call names one side: bind the local one, the others the remote one.
fn check_sides(table: &MatchTable, refusal: &Refusal, errors: &mut Errors) {
    let remote = [given("remote", table.remote.as_ref()), given("remote_port", table.remote_port.as_ref())];
    for (key, span) in remote.into_iter().flatten().filter(|_| refusal.bind) {
        errors
            .at(span, format!("`{key}` with `bind`, which names the local side alone"))
            .hint("use `local` and `local_port`, or a fault of its own for `bind`");
    }
    let local = [given("local", table.local.as_ref()), given("local_port", table.local_port.as_ref())];
    for (key, span) in local.into_iter().flatten().filter(|_| refusal.connect || refusal.sendmsg) {
        errors
            .at(span, format!("`{key}` with `connect` or `sendmsg`, which name the remote side alone"))
            .hint("use `remote` and `remote_port`, or a fault of its own for `bind`");
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const UDP_LITE: u8 = 136;

/// The operations that are to fail, each with the protocols in whose calls the kernel asks the programs of a cgroup.
fn asked(refusal: &Refusal) -> impl Iterator<Item = (&'static str, &'static [u8])> {
    let all: [(bool, &str, &[u8]); 3] = [
        (refusal.connect, "connect", &[TCP, UDP, ICMP, ICMP6]),
        (refusal.bind, "bind", &[TCP, UDP, UDP_LITE]),
        (refusal.sendmsg, "sendmsg", &[UDP, UDP_LITE]),
    ];
    all.into_iter().filter(|(fails, ..)| *fails).map(|(_, operation, protocols)| (operation, protocols))
}

/// Each operation must have a protocol, and each protocol an operation.
fn check_protocols(given: &Spanned<OneOrMany<Protocol>>, refusal: &Refusal, errors: &mut Errors) {
    let protocols = &given.value.0;
    for protocol in protocols {
        if !asked(refusal).any(|(_, seen)| seen.contains(&protocol.value.0)) {
            errors
                .at(protocol.span, "the kernel asks no program of a cgroup in such calls of this protocol")
                .hint("it does in connect of TCP, UDP and ICMP sockets, in bind of TCP and UDP, in sends of UDP");
            return;
        }
    }
    for (operation, seen) in asked(refusal) {
        if !protocols.iter().any(|protocol| seen.contains(&protocol.value.0)) {
            errors
                .at(given.span, format!("no call of `{operation}` is of such a protocol"))
                .hint(format!("leave \"{operation}\" out of `operations`, or give it a fault of its own"));
        }
    }
}
