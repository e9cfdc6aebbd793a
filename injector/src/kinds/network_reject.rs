//! `network.reject`: packets are lost, and their sender gets an ICMP error.

use schemars::SchemaGenerator;
use serde_json::{Map, Value};

use super::Kind;
use crate::scenario::read::{Table as _, Whole, table};
use crate::scenario::{Effect, Errors, Family, FaultTable, IcmpError, Key, Reader, Reject};

/// See the module.
pub(super) struct NetworkReject;

/// The least MTU of IPv6 (RFC 8200, 5), and what tunnels leave of an Ethernet frame at worst.
const DEFAULT_MTU: u16 = 1280;
/// The least MTU of a path that IPv6 has.
const LEAST_MTU_V6: u16 = 1280;

table! {
    /// The own keys of `network.reject`.
    pub(crate) struct RejectTable {
        /// What the error says: `"port-unreachable"` (default), `"host-unreachable"`, `"net-unreachable"`, `"admin-prohibited"`,
        /// or `"fragmentation-needed"`, which strikes packets that are longer than `mtu`.
        "icmp" icmp: IcmpError,
        /// fragmentation-needed: the MTU of the path in bytes, 576 to 65535; for IPv6 at least 1280. Default: 1280.
        "mtu" mtu: Whole<576, 65535>,
    }
}

impl Kind for NetworkReject {
    fn name(&self) -> &'static str {
        "network.reject"
    }

    fn summary(&self) -> &'static str {
        "Rejects packets: they are lost, and their sender gets an ICMP error, as from a router or a closed port."
    }

    fn keys(&self) -> &'static [Key] {
        RejectTable::KEYS
    }

    fn read(&self, own: &mut Reader<'_>, errors: &mut Errors) -> Option<Effect> {
        let table = RejectTable::read_from(own, errors);
        if !table.unread.is_empty() {
            return None;
        }
        let icmp = table.icmp.as_ref().map_or(IcmpError::PortUnreachable, |given| given.value);
        if icmp != IcmpError::FragmentationNeeded
            && let Some(mtu) = &table.mtu
        {
            errors
                .at(mtu.span, "`mtu` goes with icmp = \"fragmentation-needed\"")
                .hint("no other error says an MTU");
        }
        Some(Effect::Reject(Reject {
            icmp,
            mtu: table.mtu.as_ref().map_or(DEFAULT_MTU, |given| given.value.0 as u16),
        }))
    }

    /// IPv6 has no path with an MTU below 1280: who is told of one goes on as before (RFC 8201, 4).
    fn check(&self, effect: &Effect, fault: &FaultTable, errors: &mut Errors) {
        let Effect::Reject(Reject { icmp: IcmpError::FragmentationNeeded, mtu }) = effect else { return };
        let family = fault.matcher.as_ref().and_then(|matcher| matcher.value.family.as_ref());
        let only_ipv4 = family.is_some_and(|given| given.value.0 == Family::V4);
        if *mtu < LEAST_MTU_V6
            && !only_ipv4
            && let Some(kind) = &fault.kind
        {
            errors
                .at(kind.span, format!("an MTU of {mtu} is none of IPv6, whose least is {LEAST_MTU_V6}"))
                .hint("add match = { family = 4 }, or give a larger `mtu`");
        }
    }

    fn schema(&self, generator: &mut SchemaGenerator) -> Map<String, Value> {
        RejectTable::properties(generator)
    }
}
