//! Calls by which a program asks for a connection or an address, as the decision sees them.
//!
//! A call has no packet yet, but the same keys tell calls apart: protocol, address, port, family. So it walks through the
//! rules as a [`Packet`] of which the kernel knows only that much.

use crate::packet::{Address, PACKET_HAS_PORTS, Packet};

/// `Treatment::bits`: connect(2), and what connects by sending (TCP Fast Open).
pub const CALL_CONNECT: u32 = 1 << 0;
/// `Treatment::bits`: bind(2).
pub const CALL_BIND: u32 = 1 << 1;
/// `Treatment::bits`: sendto(2), sendmsg(2) and sendmmsg(2) of a UDP socket that name an address.
pub const CALL_SENDMSG: u32 = 1 << 2;

/// The largest errno that a program can be given (`EHWPOISON`). What the kernel has beyond it is its own.
pub const MAX_ERRNO: u32 = 133;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A call with the address and the port, in host order, that its caller gave. Those of bind are the target's own.
#[inline(always)]
#[must_use]
pub fn packet(call: u32, protocol: u8, address: Address, port: u16) -> Packet {
    let mut packet = Packet {
        family: if address.is_v4() { 4 } else { 6 },
        protocol,
        segments: 1,
        // Sockets of ICMP are named by an identifier, which no rule asks for.
        flags: if protocol == ICMP || protocol == ICMPV6 { 0 } else { PACKET_HAS_PORTS },
        ..Packet::default()
    };
    if call == CALL_BIND {
        (packet.local, packet.local_port) = (address, port);
    } else {
        (packet.remote, packet.remote_port) = (address, port);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; 4] = [192, 0, 2, 7];

    #[test]
    fn bind_names_the_local_side_and_the_others_the_remote_one() {
        let address = Address::from_v4(V4);
        let bound = packet(CALL_BIND, 6, address, 80);
        assert_eq!((bound.local, bound.local_port), (address, 80));
        assert_eq!((bound.remote, bound.remote_port), (Address::default(), 0));
        for call in [CALL_CONNECT, CALL_SENDMSG] {
            let called = packet(call, 17, address, 53);
            assert_eq!((called.remote, called.remote_port), (address, 53));
            assert_eq!((called.local, called.local_port), (Address::default(), 0));
        }
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let family = |octets| packet(CALL_CONNECT, 6, Address::from_octets(octets), 80).family;
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7];
        assert_eq!(family(mapped), 4);
        assert_eq!(packet(CALL_CONNECT, 6, Address::from_v4(V4), 80).family, 4);
        // The deprecated compatible form, loopback, and a translation prefix are IPv6.
        assert_eq!(family([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7]), 6);
        assert_eq!(family([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), 6);
        assert_eq!(family([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]), 6);
    }

    #[test]
    fn a_call_is_one_segment_of_nothing_and_icmp_has_no_ports() {
        let called = packet(CALL_CONNECT, 6, Address::from_v4(V4), 80);
        assert_eq!((called.segments, called.length, called.wire_bytes), (1, 0, 0));
        assert_eq!(called.flags, PACKET_HAS_PORTS);
        assert_eq!(packet(CALL_CONNECT, ICMP, Address::from_v4(V4), 0).flags, 0);
    }
}
