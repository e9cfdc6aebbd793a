//! The `match` table of a fault: which packets it means.

use crate::assert_layout;
use crate::needs::Needs;
use crate::packet::{Address, PACKET_ESTABLISHED, PACKET_HAS_PORTS, PACKET_HAS_SOCKET, Packet};

/// Port ranges in one list.
pub const MAX_PORT_RANGES: usize = 16;
/// Patterns of TCP flags in one list.
pub const MAX_FLAG_PATTERNS: usize = 4;
/// Devices in one list.
pub const MAX_DEVICES: usize = 8;

/// `Match::keys`: `protocols` is given.
pub const KEY_PROTOCOL: u32 = 1 << 0;
/// `Match::keys`: `family` is given.
pub const KEY_FAMILY: u32 = 1 << 1;
/// `Match::keys`: `local_ports` is given.
pub const KEY_LOCAL_PORT: u32 = 1 << 2;
/// `Match::keys`: `remote_ports` is given.
pub const KEY_REMOTE_PORT: u32 = 1 << 3;
/// `Match::keys`: `local_set` is given.
pub const KEY_LOCAL: u32 = 1 << 4;
/// `Match::keys`: `remote_set` is given.
pub const KEY_REMOTE: u32 = 1 << 5;
/// `Match::keys`: `tcp_flags` is given.
pub const KEY_TCP_FLAGS: u32 = 1 << 6;
/// `Match::keys`: `length_min` and `length_max` are given.
pub const KEY_LENGTH: u32 = 1 << 7;
/// `Match::keys`: `dscp` is given.
pub const KEY_DSCP: u32 = 1 << 8;
/// `Match::keys`: `devices` is given.
pub const KEY_DEVICE: u32 = 1 << 9;
/// `Match::keys`: `devices_excluded` is given.
pub const KEY_DEVICE_EXCLUDED: u32 = 1 << 10;
/// `Match::keys`: `established` is given.
pub const KEY_ESTABLISHED: u32 = 1 << 11;

const PROTOCOL_TCP: u8 = 6;

/// Ports from `low` to `high`, both included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub low: u16,
    /// Last port.
    pub high: u16,
}

impl PortRange {
    #[inline(always)]
    const fn holds(self, port: u16) -> bool {
        port >= self.low && port <= self.high
    }
}

assert_layout!(PortRange, size 4, align 2, { low: 0, high: 2 });

/// TCP flags that must be as in `value` where `mask` is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlagPattern {
    /// The flags that are looked at; bits of byte 13 of the TCP header.
    pub mask: u8,
    /// What they must be.
    pub value: u8,
    /// 1: the segment must carry no data.
    pub no_payload: u8,
    /// Zero.
    pub _pad: u8,
}

assert_layout!(FlagPattern, size 4, align 1, { mask: 0, value: 1, no_payload: 2, _pad: 3 });

/// All keys that are given must hold; a list is any of. The default matches every IP packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// `KEY_` bits: which of the keys below are given.
    pub keys: u32,
    /// 4 or 6.
    pub family: u32,
    /// Set of protocol numbers, one bit each.
    pub protocols: [u64; 4],
    /// Set of code points, one bit each.
    pub dscp: u64,
    /// Number of the set of local addresses.
    pub local_set: u32,
    /// Number of the set of remote addresses.
    pub remote_set: u32,
    /// Shortest IP packet, bytes.
    pub length_min: u32,
    /// Longest IP packet, bytes.
    pub length_max: u32,
    /// 1: only after the TCP handshake; 0: only before.
    pub established: u32,
    /// How many of `local_ports` count.
    pub local_port_count: u32,
    /// How many of `remote_ports` count.
    pub remote_port_count: u32,
    /// How many of `tcp_flags` count.
    pub tcp_flag_count: u32,
    /// The target's ports.
    pub local_ports: [PortRange; MAX_PORT_RANGES],
    /// The other side's ports.
    pub remote_ports: [PortRange; MAX_PORT_RANGES],
    /// Patterns of TCP flags.
    pub tcp_flags: [FlagPattern; MAX_FLAG_PATTERNS],
    /// Indices of the devices meant; 0 is none.
    pub devices: [u32; MAX_DEVICES],
    /// Indices of the devices not meant; 0 is none.
    pub devices_excluded: [u32; MAX_DEVICES],
}

assert_layout!(Match, size 288, align 8, {
    keys: 0, family: 4, protocols: 8, dscp: 40, local_set: 48, remote_set: 52, length_min: 56, length_max: 60,
    established: 64, local_port_count: 68, remote_port_count: 72, tcp_flag_count: 76, local_ports: 80,
    remote_ports: 144, tcp_flags: 208, devices: 224, devices_excluded: 256,
});

/// Membership in numbered sets of networks; longest-prefix tries in the kernel.
pub trait AddressSets {
    /// Whether the address lies in a network of the set.
    fn contains(&self, set: u32, address: &Address) -> bool;

    /// The same of a set of spared addresses.
    #[inline(always)]
    fn spares(&self, set: u32, address: &Address) -> bool {
        self.contains(set, address)
    }

    /// What rules can ask for here.
    #[inline(always)]
    fn needs(&self) -> Needs {
        Needs::ALL
    }
}

/// Whether a packet is meant.
#[inline(always)]
#[must_use]
pub fn matches<S: AddressSets>(m: &Match, packet: &Packet, sets: &S) -> bool {
    let keys = sets.needs().keys(m.keys);
    keys == 0
        || (header_matches(m, keys, packet)
            && ports_match(m, keys, packet)
            && (keys & KEY_TCP_FLAGS == 0 || flags_match(m, packet))
            && devices_match(m, keys, packet.ifindex)
            && (keys & KEY_REMOTE == 0 || sets.contains(m.remote_set, &packet.remote))
            && (keys & KEY_LOCAL == 0 || sets.contains(m.local_set, &packet.local)))
}

#[inline(always)]
fn header_matches(m: &Match, keys: u32, packet: &Packet) -> bool {
    if keys & KEY_PROTOCOL != 0 {
        let [a, b, c, d] = m.protocols;
        let word = match packet.protocol >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        if word >> (packet.protocol & 63) & 1 == 0 {
            return false;
        }
    }
    if keys & KEY_FAMILY != 0 && m.family != packet.family as u32 {
        return false;
    }
    if keys & KEY_DSCP != 0 && m.dscp >> (packet.dscp & 63) & 1 == 0 {
        return false;
    }
    if keys & KEY_LENGTH != 0 && (packet.length < m.length_min || packet.length > m.length_max) {
        return false;
    }
    keys & KEY_ESTABLISHED == 0
        || (packet.flags & PACKET_HAS_SOCKET != 0
            && (packet.flags & PACKET_ESTABLISHED != 0) == (m.established != 0))
}

#[inline(always)]
fn ports_match(m: &Match, keys: u32, packet: &Packet) -> bool {
    if keys & (KEY_LOCAL_PORT | KEY_REMOTE_PORT) == 0 {
        return true;
    }
    packet.flags & PACKET_HAS_PORTS != 0
        && (keys & KEY_LOCAL_PORT == 0 || in_ranges(&m.local_ports, m.local_port_count, packet.local_port))
        && (keys & KEY_REMOTE_PORT == 0
            || in_ranges(&m.remote_ports, m.remote_port_count, packet.remote_port))
}

/// Whether a port is in one of the ranges. Nearly always there is one, which is not worth a call.
#[inline(always)]
fn in_ranges(ranges: &[PortRange; MAX_PORT_RANGES], count: u32, port: u16) -> bool {
    let [first, ..] = ranges;
    count != 0 && (first.holds(port) || (count != 1 && in_others(ranges, count, port)))
}

/// Out of line, so that the verifier walks the loop once per caller and not once per path through it.
#[inline(never)]
fn in_others(ranges: &[PortRange; MAX_PORT_RANGES], count: u32, port: u16) -> bool {
    let mut at = 0;
    for range in ranges {
        if at >= count {
            return false;
        }
        if range.holds(port) {
            return true;
        }
        at += 1;
    }
    false
}

#[inline(always)]
fn flags_match(m: &Match, packet: &Packet) -> bool {
    if packet.protocol != PROTOCOL_TCP || packet.flags & PACKET_HAS_PORTS == 0 {
        return false;
    }
    let mut at = 0;
    for pattern in &m.tcp_flags {
        if at >= m.tcp_flag_count {
            return false;
        }
        if packet.tcp_flags & pattern.mask == pattern.value
            && (pattern.no_payload == 0 || packet.tcp_payload == 0)
        {
            return true;
        }
        at += 1;
    }
    false
}

#[inline(always)]
fn devices_match(m: &Match, keys: u32, ifindex: u32) -> bool {
    (keys & KEY_DEVICE == 0 || is_listed(&m.devices, ifindex))
        && (keys & KEY_DEVICE_EXCLUDED == 0 || !is_listed(&m.devices_excluded, ifindex))
}

#[inline(always)]
fn is_listed(devices: &[u32; MAX_DEVICES], ifindex: u32) -> bool {
    devices.iter().any(|&device| device != 0 && device == ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set n holds the one address that ends in n.
    struct LastOctet;

    impl AddressSets for LastOctet {
        fn contains(&self, set: u32, address: &Address) -> bool {
            u32::from(address.octets()[15]) == set
        }
    }

    fn tcp() -> Packet {
        Packet {
            local: Address::from_v4([10, 0, 0, 1]),
            remote: Address::from_v4([10, 0, 0, 2]),
            local_port: 40_000,
            remote_port: 5432,
            family: 4,
            protocol: 6,
            dscp: 46,
            tcp_flags: 0x10,
            length: 52,
            segments: 1,
            ifindex: 3,
            flags: PACKET_HAS_PORTS,
            ..Packet::default()
        }
    }

    fn ports(range: PortRange) -> [PortRange; MAX_PORT_RANGES] {
        let mut all = [PortRange::default(); MAX_PORT_RANGES];
        all[1] = range;
        all
    }

    /// Each key alone: a value that holds for `tcp()` and one that does not.
    fn pairs() -> Vec<(&'static str, Match, Match)> {
        let port = |keys, low, high| Match {
            keys,
            local_ports: ports(PortRange { low, high }),
            remote_ports: ports(PortRange { low, high }),
            local_port_count: 2,
            remote_port_count: 2,
            ..Match::default()
        };
        let flag = |mask, value| {
            let mut tcp_flags = [FlagPattern::default(); MAX_FLAG_PATTERNS];
            tcp_flags[0] = FlagPattern { mask, value, no_payload: 1, _pad: 0 };
            Match { keys: KEY_TCP_FLAGS, tcp_flags, tcp_flag_count: 1, ..Match::default() }
        };
        let length =
            |length_min, length_max| Match { keys: KEY_LENGTH, length_min, length_max, ..Match::default() };
        let protocol =
            |n: u32| Match { keys: KEY_PROTOCOL, protocols: [1 << n, 0, 0, 0], ..Match::default() };
        let device = |keys, n| {
            let devices = [0, n, 0, 0, 0, 0, 0, 0];
            Match { keys, devices, devices_excluded: devices, ..Match::default() }
        };
        let family = |family| Match { keys: KEY_FAMILY, family, ..Match::default() };
        let dscp = |n: u32| Match { keys: KEY_DSCP, dscp: 1 << n, ..Match::default() };
        let remote = |remote_set| Match { keys: KEY_REMOTE, remote_set, ..Match::default() };
        let local = |local_set| Match { keys: KEY_LOCAL, local_set, ..Match::default() };
        vec![
            ("protocol", protocol(6), protocol(17)),
            ("family", family(4), family(6)),
            ("local port", port(KEY_LOCAL_PORT, 39_999, 40_000), port(KEY_LOCAL_PORT, 40_001, 50_000)),
            ("remote port", port(KEY_REMOTE_PORT, 5432, 5432), port(KEY_REMOTE_PORT, 1, 5431)),
            ("local", local(1), local(2)),
            ("remote", remote(2), remote(1)),
            ("tcp flags", flag(0x12, 0x10), flag(0x12, 0x02)),
            ("length", length(52, 52), length(53, 1500)),
            ("dscp", dscp(46), dscp(0)),
            ("device", device(KEY_DEVICE, 3), device(KEY_DEVICE, 4)),
            ("excluded device", device(KEY_DEVICE_EXCLUDED, 4), device(KEY_DEVICE_EXCLUDED, 3)),
        ]
    }

    #[test]
    fn each_key_decides_alone() {
        for (key, yes, no) in pairs() {
            assert!(matches(&yes, &tcp(), &LastOctet), "{key} must match");
            assert!(!matches(&no, &tcp(), &LastOctet), "{key} must not match");
        }
    }

    #[test]
    fn the_empty_match_means_every_packet() {
        assert!(matches(&Match::default(), &tcp(), &LastOctet));
        assert!(matches(&Match::default(), &Packet::default(), &LastOctet));
    }

    #[test]
    fn a_later_fragment_has_no_ports_to_match() {
        let fragment = Packet { flags: 0, local_port: 0, remote_port: 0, ..tcp() };
        let any_port = Match {
            keys: KEY_REMOTE_PORT,
            remote_ports: ports(PortRange { low: 0, high: u16::MAX }),
            remote_port_count: 2,
            ..Match::default()
        };
        assert!(matches(&any_port, &tcp(), &LastOctet));
        assert!(!matches(&any_port, &fragment, &LastOctet));
    }

    #[test]
    fn a_pure_ack_carries_nothing() {
        let (_, pure_ack, _) = pairs().remove(6);
        assert!(matches(&pure_ack, &tcp(), &LastOctet));
        assert!(!matches(&pure_ack, &Packet { tcp_payload: 1, ..tcp() }, &LastOctet));
    }

    #[test]
    fn established_needs_a_socket() {
        let m = |established| Match { keys: KEY_ESTABLISHED, established, ..Match::default() };
        let with = |flags| Packet { flags, ..tcp() };
        let socket = PACKET_HAS_PORTS | PACKET_HAS_SOCKET;
        assert!(matches(&m(1), &with(socket | PACKET_ESTABLISHED), &LastOctet));
        assert!(!matches(&m(1), &with(socket), &LastOctet));
        assert!(matches(&m(0), &with(socket), &LastOctet));
        assert!(!matches(&m(0), &with(PACKET_HAS_PORTS), &LastOctet));
    }
}

#[cfg(test)]
#[path = "matching_properties.rs"]
mod properties;
