//! The tables of a scenario file as they are typed: every key, what it means, and its type.
//!
//! These declarations are the one place that says which keys there are. The kinds' own keys are with the kinds.

use schemars::{Schema, SchemaGenerator};

use super::diagnostic::Errors;
use super::elsewhere;
use super::entries::{FaultEntry, TargetEntry};
use super::fields::{AddressText, Comparable, Dscp, FamilyNumber, FlagsText, Ports, Protocol, RateBound};
use super::model::{Direction, InterfaceHook};
use super::on::OnTable;
use super::quantity::{Budget, DurationNs, LengthRange, Nth, P32};
use super::read::{List, Named, OneOrMany, Read, Whole, table};
use super::source::Span;
use super::tree::Node;

/// The one version of the language there is.
pub(crate) const VERSION: u64 = 1;

table! {
    /// One experiment: who is hit, by what, when, how it ends, and what must have been seen.
    pub(crate) struct Document {
        /// Version of the language: 1, which is also the default.
        "version" version: Whole<VERSION, { u64::MAX }>,
        /// Name of the experiment, for reports and conflicts. Default: the name of the file without its ending.
        "name" name: String,
        /// Seed of every random draw. Default: a new one each time, which is reported.
        "seed" seed: Whole<0, { u64::MAX }>,
        /// Upper bound of the experiment, such as `"2m"`. The kernel enforces it, whatever becomes of the controller.
        required "duration" duration: DurationNs,
        /// Named targets: who can be hit.
        "target" targets: Named<TargetEntry>,
        /// Named sets of addresses, for `local` and `remote` of a `match`.
        "peers" peers: Named<PeersTable>,
        /// The faults, one `[[fault]]` each.
        "fault" faults: List<FaultEntry>,
        /// What must have been seen at the end, one `[[expect]]` each.
        "expect" expectations: List<ExpectTable>,
    }
    elsewhere: elsewhere::document
}

table! {
    /// Who can be hit: exactly one selector. Children and later descendants are always included.
    pub(crate) struct TargetTable {
        /// A cgroup: its absolute path in the cgroup v2 hierarchy, such as `"/app.slice/db"`.
        "cgroup" cgroup: String,
        /// A process by its number.
        "pid" pid: Whole<1, 4_194_304>,
        /// All traffic of one network interface, such as `"eth0"`. Only for network kinds.
        "interface" interface: String,
        /// `true`: the command that `injector run` starts.
        "command" command: bool,
        /// Where what arrives at an `interface` is struck: `"tc"`, or `"xdp"`, where packets can be lost, corrupted, rejected and observed.
        /// Default: `"tc"`.
        "hook" hook: InterfaceHook,
        /// `true`: a configured root qdisc may be replaced for faults that keep packets back even if it can't be put back
        /// as it is. Default: `false`, such an experiment is refused.
        "takeover" takeover: bool,
        /// `false`: what is spared of an `interface` by default (SSH, the default gateways, IPv6 neighbour discovery) is struck too. Default: `true`.
        "spare" spare: bool,
    }
    elsewhere: elsewhere::target
}

table! {
    /// A named set of addresses.
    pub(crate) struct PeersTable {
        /// Addresses, networks (`"10.0.1.0/24"`), and host names, which are resolved when the experiment is planned.
        required "addresses" addresses: OneOrMany<String>,
    }
}

table! {
    /// The keys that every fault has.
    pub struct FaultTable {
        /// Name of the fault, unique in the scenario. Default: `<kind>-<n>`.
        "id" id: String,
        /// Name of the target.
        required "target" target: String,
        /// What happens; see the kinds.
        required "kind" kind: String,
        /// Which packets, seen from the target: `"egress"` (default) leave it, `"ingress"` arrive at it, or `"both"`.
        "direction" direction: Direction,
        /// Which packets are meant. Default: all.
        "match" matcher: MatchTable,
        /// The chance of each match to be struck, such as `"2.5%"`. Default: 100 %. Resolution: 2^-32. Not with `nth`.
        "probability" probability: P32,
        /// Which matches are struck: `"3"` the third, `"3+2"` the third, fifth, ..., `"3..10"`, `"3..10+2"`.
        "nth" nth: Nth,
        /// At most so many injections.
        "limit" limit: Whole<1, { u64::MAX }>,
        /// At most so many injections per time, such as `"1000/s"`.
        "budget" budget: Budget,
        /// When the fault may strike. Default: the whole duration.
        "when" when: WhenTable,
    }
}

impl FaultTable {
    /// The keys that are given of those which choose among the packets that are meant, for kinds that take all of them.
    pub(crate) fn choosing_keys(&self) -> impl Iterator<Item = (&'static str, Span)> {
        let given = [
            ("probability", self.probability.as_ref().map(|given| given.span)),
            ("nth", self.nth.as_ref().map(|given| given.span)),
            ("limit", self.limit.as_ref().map(|given| given.span)),
            ("budget", self.budget.as_ref().map(|given| given.span)),
        ];
        given.into_iter().filter_map(|(key, span)| Some((key, span?)))
    }
}

table! {
    /// When a fault may strike, counted from the start of the experiment.
    pub(crate) struct WhenTable {
        /// The first window opens here. Default: at once.
        "start" start: DurationNs,
        /// Length of a window. Default: to the end.
        "for" for_: DurationNs,
        /// A window opens each time this has passed. Only with `for`.
        "every" every: DurationNs,
        /// Each window opens later by a random time below this, drawn from the seed.
        "jitter" jitter: DurationNs,
        /// Id of another fault: the times count from when it first strikes. Not for devices and clocks.
        "after" after: String,
        /// Id of another fault that has one window: the times count from when that closes.
        "after_end" after_end: String,
        /// An event: the times count from when it happens. Not for devices and clocks.
        "on" on: OnTable,
    }
}

table! {
    /// Which packets are meant: all given keys must hold, and a list is any of. Local and remote are seen from the
    /// target, in both directions.
    pub(crate) struct MatchTable {
        /// `"tcp"`, `"udp"`, `"icmp"`, `"icmp6"`, or a protocol number.
        "protocol" protocol: OneOrMany<Protocol>,
        /// The target's port: a number, a range `"6000-6010"`, or a list of at most 16.
        "local_port" local_port: OneOrMany<Ports>,
        /// The other side's port: a number, a range `"6000-6010"`, or a list of at most 16.
        "remote_port" remote_port: OneOrMany<Ports>,
        /// The target's address: an address, a network, the name of `[peers]`, or a list.
        "local" local: OneOrMany<AddressText>,
        /// The other side's address: an address, a network, the name of `[peers]`, or a list.
        "remote" remote: OneOrMany<AddressText>,
        /// Flags that are set or, with `!`, not set: `"syn"`, `"ack,!syn"`; `"pure-ack"` is an ACK without data.
        /// At most 4 patterns. Only with `protocol = "tcp"`.
        "tcp_flags" tcp_flags: OneOrMany<FlagsText>,
        /// Length of the IP packet in bytes: `">= 1000"`, `"< 100"`, `"== 40"` or `"100..200"`.
        "length" length: LengthRange,
        /// Differentiated-services code point: a number below 64, or a name such as `"ef"`, `"af41"`, `"cs1"`.
        "dscp" dscp: OneOrMany<Dscp>,
        /// Version of IP: 4 or 6.
        "family" family: FamilyNumber,
        /// Name of the network interface; at most 8.
        "interface" interface: OneOrMany<String>,
        /// Names of network interfaces that are spared; at most 8.
        "device_exclude" device_exclude: OneOrMany<String>,
        /// `true`: after the TCP handshake; `false`: before. Only with `protocol = "tcp"`, not for an interface.
        "established" established: bool,
        /// Packets that are spared after all: the same keys.
        "not" not: Box<MatchTable>,
    }
}

table! {
    /// What a fault must have done at the end; a miss is exit status 6.
    pub(crate) struct ExpectTable {
        /// Id of the fault.
        required "fault" fault: String,
        /// How many packets matched: `"> 0"`, `"== 1"`, or a number.
        "matched" matched: Comparable,
        /// How many were struck.
        "injected" injected: Comparable,
        /// How many segments on the wire were struck.
        "segments_injected" segments_injected: Comparable,
        /// Struck per matched: `"<= 12%"`.
        "realised_rate" realised_rate: RateBound,
    }
}

impl Read for Box<MatchTable> {
    fn read(node: &Node, errors: &mut Errors) -> Option<Self> {
        MatchTable::read(node, errors).map(Self::new)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        MatchTable::schema(generator)
    }
}
