//! What the decision knows of a packet: parsed once, seen from the target.

use crate::{assert_layout, draw};

/// The packet carries ports (TCP or UDP, and not a later fragment).
pub const PACKET_HAS_PORTS: u32 = 1;
/// Its socket is known.
pub const PACKET_HAS_SOCKET: u32 = 2;
/// Its socket is a TCP socket past the handshake (`TCP_ESTABLISHED` or later, not `TCP_LISTEN`).
pub const PACKET_ESTABLISHED: u32 = 4;

/// Number of classes of one fault. Two flows that fall into one class share a sequence, which costs
/// reproducibility when they interleave, and nothing else.
pub const CLASSES: u32 = 256;

/// An IPv6 address, or an IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2), in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// The bytes as they are on the wire, four to a word: what the word is as a number depends on the host.
    pub words: [u32; 4],
}

assert_layout!(Address, size 16, align 4, { words: 0 });

impl Address {
    /// From the bytes on the wire.
    #[must_use]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        let words = [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]];
        let [a, b, c, d] = words;
        Self {
            words: [
                u32::from_ne_bytes(a),
                u32::from_ne_bytes(b),
                u32::from_ne_bytes(c),
                u32::from_ne_bytes(d),
            ],
        }
    }

    /// The bytes on the wire.
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.words;
        let [a, b, c, d] = [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes()];
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a, b);
        let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c, d);
        [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
    }

    /// The mapped form of an IPv4 address.
    #[must_use]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(v4))
    }

    /// The mapped form of an IPv4 address, given as its four bytes lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_word(v4: u32) -> Self {
        Self { words: [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), v4] }
    }

    /// Whether it is an IPv4 address in its mapped form.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.words;
        a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }

    #[inline(always)]
    fn halves(&self) -> (u64, u64) {
        let [a, b, c, d] = self.words;
        (a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32)
    }
}

/// One packet as the target sees it: `local` is the target's side in both directions.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The target's address.
    pub local: Address,
    /// The other side's address.
    pub remote: Address,
    /// The target's port; 0 without ports.
    pub local_port: u16,
    /// The other side's port; 0 without ports.
    pub remote_port: u16,
    /// 4 or 6.
    pub family: u8,
    /// IANA protocol number of the transport header.
    pub protocol: u8,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// Byte 13 of the TCP header; 0 for other protocols.
    pub tcp_flags: u8,
    /// Length in bytes of the IP packet on the wire; of a GSO packet, of each full segment.
    pub length: u32,
    /// Bytes after the TCP header, all segments together; 0 for other protocols.
    pub tcp_payload: u32,
    /// Number of packets on the wire, at least 1.
    pub segments: u32,
    /// Index of the device, in its own network namespace.
    pub ifindex: u32,
    /// `PACKET_` bits.
    pub flags: u32,
    /// Type of an ICMP or ICMPv6 message; 0 for other protocols.
    pub icmp_type: u8,
    /// Code point of explicit congestion notification, 0 to 3 (RFC 3168); 0 is "not capable".
    pub ecn: u8,
    /// Zero.
    pub _pad: [u8; 2],
    /// Bytes of the IP packets on the wire: of a GSO packet all its segments, each with its headers.
    pub wire_bytes: u32,
}

assert_layout!(Packet, size 68, align 4, {
    local: 0, remote: 16, local_port: 32, remote_port: 34, family: 36, protocol: 37, dscp: 38, tcp_flags: 39,
    length: 40, tcp_payload: 44, segments: 48, ifindex: 52, flags: 56, icmp_type: 60, ecn: 61, _pad: 62,
    wire_bytes: 64,
});

impl Packet {
    /// The packet's class among the draws of a fault: its direction, protocol, remote address and the
    /// lower of the two ports.
    ///
    /// The higher port is as a rule the client's ephemeral one, which changes from run to run; the lower
    /// one names the service. So the n-th packet to a service meets the same draw on every run.
    #[inline(always)]
    #[must_use]
    pub fn class(&self, direction: u32) -> u32 {
        let service = if self.local_port < self.remote_port { self.local_port } else { self.remote_port };
        let (high, low) = self.remote.halves();
        let head = (direction as u64) << 24 | (self.protocol as u64) << 16 | service as u64;
        // One multiplication spreads what differs between flows over the upper bits.
        let spread = (high ^ low.rotate_left(17) ^ head << 20).wrapping_mul(draw::GOLDEN_GAMMA);
        (spread >> 48) as u32 & (CLASSES - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(remote: u8, local_port: u16, remote_port: u16) -> Packet {
        Packet {
            remote: Address::from_v4([10, 0, 0, remote]),
            local_port,
            remote_port,
            protocol: 17,
            ..Packet::default()
        }
    }

    #[test]
    fn the_ephemeral_port_does_not_change_the_class() {
        assert_eq!(packet(1, 40_000, 53).class(0), packet(1, 50_001, 53).class(0));
        assert_eq!(packet(1, 53, 40_000).class(1), packet(1, 53, 50_001).class(1));
    }

    #[test]
    fn classes_spread_over_peers_and_services() {
        let mut seen = std::collections::BTreeSet::new();
        for remote in 0..64 {
            for port in 5000..5016 {
                seen.insert(packet(remote, 40_000, port).class(0));
            }
        }
        // 1,024 flows in 256 classes leave 256 * e^-4, or about 5, classes empty.
        assert!(seen.len() > 240, "only {} classes", seen.len());
    }
}
