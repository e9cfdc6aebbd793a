//! Any match against any packet, held against the plainest reading of the table.

use super::*;
use proptest::prelude::*;

/// Set n holds every address that ends in n.
struct LastOctet;

impl AddressSets for LastOctet {
    fn contains(&self, set: u32, address: &Address) -> bool {
        u32::from(address.octets()[15]) == set
    }
}

/// What a person reads in the table: the keys that are given one by one, and lists as lists.
fn means(m: &Match, packet: &Packet) -> bool {
    let given = |key| m.keys & key != 0;
    let holds = |key, condition: bool| !given(key) || condition;
    let has = |flag| packet.flags & flag != 0;
    let bits = |words: &[u64]| -> Vec<bool> {
        words.iter().flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1)).collect()
    };
    let ports = |ranges: &[PortRange], count: u32, port: u16| {
        let ranges = &ranges[..count as usize];
        has(PACKET_HAS_PORTS) && ranges.iter().any(|range| (range.low..=range.high).contains(&port))
    };
    let patterns = &m.tcp_flags[..m.tcp_flag_count as usize];
    let flags = has(PACKET_HAS_PORTS)
        && packet.protocol == 6
        && patterns.iter().any(|pattern| {
            (packet.tcp_flags ^ pattern.value) & pattern.mask == 0
                && (pattern.no_payload == 0 || packet.tcp_payload == 0)
        });
    let listed = |devices: &[u32]| packet.ifindex != 0 && devices.contains(&packet.ifindex);
    let last = |address: &Address| u32::from(address.octets()[15]);
    holds(KEY_PROTOCOL, bits(&m.protocols)[packet.protocol as usize])
        && holds(KEY_FAMILY, m.family == u32::from(packet.family))
        && holds(KEY_LOCAL_PORT, ports(&m.local_ports, m.local_port_count, packet.local_port))
        && holds(KEY_REMOTE_PORT, ports(&m.remote_ports, m.remote_port_count, packet.remote_port))
        && holds(KEY_LOCAL, last(&packet.local) == m.local_set)
        && holds(KEY_REMOTE, last(&packet.remote) == m.remote_set)
        && holds(KEY_TCP_FLAGS, flags)
        && holds(KEY_LENGTH, (m.length_min..=m.length_max).contains(&packet.length))
        && holds(KEY_DSCP, bits(&[m.dscp])[packet.dscp as usize])
        && holds(KEY_DEVICE, listed(&m.devices))
        && holds(KEY_DEVICE_EXCLUDED, !listed(&m.devices_excluded))
        && holds(KEY_ESTABLISHED, has(PACKET_HAS_SOCKET) && has(PACKET_ESTABLISHED) == (m.established == 1))
}

/// Few different values, so that what is asked for is often there. A list may be empty, and a range too.
fn some_match() -> impl Strategy<Value = Match> {
    let range = || (0_u16..6, 0_u16..6).prop_map(|(low, high)| PortRange { low, high });
    let ports = move || (prop::array::uniform16(range()), 0..=MAX_PORT_RANGES as u32);
    // A pattern that asks for a flag outside of its mask would never hold: the scenario has no such thing.
    let pattern = (any::<u8>(), any::<u8>(), 0_u8..2).prop_map(|(mask, value, no_payload)| FlagPattern {
        mask,
        value: value & mask,
        no_payload,
        _pad: 0,
    });
    let patterns = (prop::array::uniform4(pattern), 0..=MAX_FLAG_PATTERNS as u32);
    let devices = || prop::array::uniform8(0_u32..6);
    let sets = (any::<[u64; 4]>(), any::<u64>(), 0_u32..3, 0_u32..3);
    let numbers = (prop_oneof![Just(4_u32), Just(6)], 0_u32..60, 40_u32..100, 0_u32..2);
    (0_u32..1 << 12, 0_u32..1 << 12, sets, numbers, ports(), ports(), patterns, devices(), devices())
        .prop_map(|(keys, fewer, sets, numbers, local, remote, patterns, devices, devices_excluded)| {
            Match {
                // Of twelve keys that are all given one nearly always fails.
                keys: keys & fewer,
                family: numbers.0,
                protocols: sets.0,
                dscp: sets.1,
                local_set: sets.2,
                remote_set: sets.3,
                length_min: numbers.1,
                length_max: numbers.2,
                established: numbers.3,
                local_port_count: local.1,
                remote_port_count: remote.1,
                tcp_flag_count: patterns.1,
                local_ports: local.0,
                remote_ports: remote.0,
                tcp_flags: patterns.0,
                devices,
                devices_excluded,
            }
        })
}

fn some_packet() -> impl Strategy<Value = Packet> {
    let address = || (0_u8..3).prop_map(|last| Address::from_v4([10, 0, 0, last]));
    let family = prop_oneof![Just(4_u8), Just(6)];
    let protocol = prop_oneof![Just(6_u8), Just(17), any::<u8>()];
    let ports = (0_u16..6, 0_u16..6);
    let tcp = (any::<u8>(), 0_u32..2);
    (address(), address(), ports, family, protocol, 0_u8..64, tcp, 0_u32..120, 0_u32..6, 0_u32..8).prop_map(
        |(local, remote, ports, family, protocol, dscp, tcp, length, ifindex, flags)| Packet {
            local,
            remote,
            local_port: ports.0,
            remote_port: ports.1,
            family,
            protocol,
            dscp,
            tcp_flags: tcp.0,
            tcp_payload: tcp.1,
            length,
            ifindex,
            flags,
            ..Packet::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_match_means_what_its_table_says(m in some_match(), packet in some_packet()) {
        prop_assert_eq!(matches(&m, &packet, &LastOctet), means(&m, &packet));
    }

    /// All keys must hold: a match is what its keys are one by one, whatever stands in keys that are not given.
    #[test]
    fn a_match_is_all_of_its_keys(m in some_match(), packet in some_packet()) {
        let mut each = true;
        for bit in (0..12).filter(|bit| m.keys >> bit & 1 == 1) {
            each &= matches(&Match { keys: 1 << bit, ..m }, &packet, &LastOctet);
        }
        prop_assert_eq!(matches(&m, &packet, &LastOctet), each);
    }
}
