//! Faults that take a packet away and answer it: TCP resets, and ICMP errors.
//!
//! Which packets can be answered, what the answer says, and its checksums. How the answer is made out of the packet is the
//! kernel half's.

use crate::packet::{Address, PACKET_HAS_PORTS, Packet};
use crate::rule::{ACTION_REJECT, ACTION_RESET, EGRESS};
use crate::treatment::{TREAT_RESETS_LOCAL, TREAT_RESETS_REMOTE, Treatment};

/// `Treatment::count` of [`ACTION_REJECT`]: nobody listens on the port.
pub const REJECT_PORT: u32 = 0;
/// `Treatment::count`: the host can't be reached.
pub const REJECT_HOST: u32 = 1;
/// `Treatment::count`: there is no route to the network.
pub const REJECT_NET: u32 = 2;
/// `Treatment::count`: a filter forbids it.
pub const REJECT_ADMIN: u32 = 3;
/// `Treatment::count`: the packet is too big for the next link, whose MTU is `Treatment::bits`.
pub const REJECT_TOO_BIG: u32 = 4;

/// TCP flags (RFC 9293, 3.1).
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Whether `action` takes the packet away and answers it.
#[inline(always)]
#[must_use]
pub const fn is_answer(action: u32) -> bool {
    action == ACTION_RESET || action == ACTION_REJECT
}

/// Whether a rule that answers can mean the packet at all.
///
/// A reset is never answered by a reset. A SYN has nothing to reset at its receiver, so one that only the receiver is to
/// hear of goes through, and the connection is reset when there is one. A router calls too big what is longer than the link's MTU.
#[inline(always)]
#[must_use]
pub fn can_mean(action: u32, treatment: &Treatment, packet: &Packet, direction: u32) -> bool {
    match action {
        ACTION_RESET => {
            let (sender, _) = hearers(treatment.flags, direction);
            packet.protocol == TCP
                && packet.flags & PACKET_HAS_PORTS != 0
                && packet.tcp_flags & RST == 0
                && (sender || packet.tcp_flags & ACK != 0)
        }
        ACTION_REJECT => treatment.count != REJECT_TOO_BIG || packet.length > treatment.bits,
        _ => true,
    }
}

/// Who hears of a reset, of a packet in this direction: its sender, its receiver.
#[inline(always)]
#[must_use]
pub const fn hearers(flags: u32, direction: u32) -> (bool, bool) {
    let local = flags & TREAT_RESETS_LOCAL != 0;
    let remote = flags & TREAT_RESETS_REMOTE != 0;
    if direction == EGRESS { (local, remote) } else { (remote, local) }
}

/// Whether a segment belongs to what comes after the first `after` bytes of a connection, of which `passed` have come.
///
/// A segment that goes beyond them does, and so does one without payload once they are all there.
#[inline(always)]
#[must_use]
pub const fn is_past(passed: u64, payload: u32, after: u64) -> bool {
    passed.saturating_add(if payload == 0 { 1 } else { payload as u64 }) > after
}

/// What of a TCP segment decides over the resets that answer it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Its sequence number.
    pub sequence: u32,
    /// Its acknowledgement number; without meaning unless `flags` has [`ACK`].
    pub acknowledgement: u32,
    /// Its flags.
    pub flags: u8,
    /// Bytes that it carries.
    pub payload: u32,
}

/// Sequence and acknowledgement number of the reset that its sender gets, as if the receiver had sent it.
///
/// RFC 9293, 3.10.7.1. It must be exactly what the sender expects next (RFC 5961), which is what its segment acknowledges; in
/// SYN-SENT that is nothing yet, and the acknowledgement of the SYN is looked at.
#[inline(always)]
#[must_use]
pub const fn reset_to_sender(segment: &Segment) -> (u32, u32) {
    let sequence = if segment.flags & ACK == 0 { 0 } else { segment.acknowledgement };
    let counted = (segment.flags & SYN != 0) as u32 + (segment.flags & FIN != 0) as u32;
    (sequence, segment.sequence.wrapping_add(segment.payload).wrapping_add(counted))
}

/// Sequence and acknowledgement number of the reset that its receiver gets in its place.
///
/// It is what the receiver expects next if all before it has arrived, and nothing of it.
#[inline(always)]
#[must_use]
pub const fn reset_to_receiver(segment: &Segment) -> (u32, u32) {
    (segment.sequence, segment.acknowledgement)
}

/// Type and code of the ICMP or ICMPv6 message that says so (RFC 792, RFC 1812, RFC 4443).
#[inline(always)]
#[must_use]
pub const fn message(reason: u32, family: u8) -> (u8, u8) {
    if family == 4 {
        let code = match reason {
            REJECT_HOST => 1,
            REJECT_NET => 0,
            REJECT_ADMIN => 13,
            REJECT_TOO_BIG => 4,
            _ => 3,
        };
        (3, code)
    } else {
        match reason {
            REJECT_HOST => (1, 3),
            REJECT_NET => (1, 0),
            REJECT_ADMIN => (1, 1),
            REJECT_TOO_BIG => (2, 0),
            _ => (1, 4),
        }
    }
}

/// Whether a packet may be answered by an ICMP error (RFC 1122, 3.2.2; RFC 4443, 2.4 (e)): no error about an error, none to
/// or about a group, none to nobody. About a reset neither, which is not in these, but ends what there is to tell of.
///
/// That later fragments are not answered either is the caller's: a [`Packet`] does not say that it is one.
#[inline(always)]
#[must_use]
pub const fn may_be_answered(packet: &Packet, direction: u32) -> bool {
    let error = match packet.protocol {
        ICMP => matches!(packet.icmp_type, 3 | 4 | 5 | 11 | 12),
        // Errors are below 128, and a redirect is not to be answered either.
        ICMPV6 => packet.icmp_type < 128 || packet.icmp_type == 137,
        TCP => packet.tcp_flags & RST != 0,
        _ => false,
    };
    let (source, destination) =
        if direction == EGRESS { (&packet.local, &packet.remote) } else { (&packet.remote, &packet.local) };
    !error
        && !is_group(destination, packet.family)
        && !is_group(source, packet.family)
        && !is_unspecified(source, packet.family)
}

#[inline(always)]
const fn is_group(address: &Address, family: u8) -> bool {
    let [first, _, _, last] = address.words;
    if family == 4 {
        // Class D, and 255.255.255.255 above it (and class E, which nobody has).
        last.to_ne_bytes()[0] >= 224
    } else {
        first.to_ne_bytes()[0] == 0xff
    }
}

#[inline(always)]
const fn is_unspecified(address: &Address, family: u8) -> bool {
    let [a, b, c, d] = address.words;
    if family == 4 { d == 0 } else { a | b | c | d == 0 }
}

/// The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1), to be [`fold`]ed.
///
/// Words are taken as they lie in memory, which such a sum allows (RFC 1071, 2 (B)). What maps an IPv4 address into IPv6
/// is 0xffff, which counts as 0.
#[inline(always)]
#[must_use]
pub const fn pseudo_header(a: &Address, b: &Address, protocol: u8, length: u16) -> u64 {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.words, b.words);
    let source = a0 as u64 + a1 as u64 + a2 as u64 + a3 as u64;
    let destination = b0 as u64 + b1 as u64 + b2 as u64 + b3 as u64;
    source + destination + (protocol as u16).to_be() as u64 + length.to_be() as u64
}

/// The sum of words as they lie in memory, to be [`fold`]ed.
#[inline(always)]
#[must_use]
pub fn sum(words: &[u16]) -> u64 {
    let mut sum = 0;
    for &word in words {
        sum += word as u64;
    }
    sum
}

/// The 16-bit one's complement sum that a wider sum stands for; its complement is the checksum.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    // The second halves the carry of the first, and so on: 64, 33, 18, 17, 16 bits.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A checksum after two of the bytes that it covers have changed (RFC 1624, 3, equation 3).
#[inline(always)]
#[must_use]
pub const fn mended(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::INGRESS;
    use proptest::prelude::*;

    fn segment(sequence: u32, acknowledgement: u32, flags: u8, payload: u32) -> Segment {
        Segment { sequence, acknowledgement, flags, payload }
    }

    #[test]
    fn a_reset_is_what_each_side_expects() {
        // SYN-SENT: the acknowledgement counts (RFC 9293, 3.10.7.3).
        assert_eq!(reset_to_sender(&segment(100, 77, SYN, 0)), (0, 101));
        assert_eq!(reset_to_sender(&segment(u32::MAX, 7, ACK, 10)), (7, 9));
        assert_eq!(reset_to_sender(&segment(5, 7, ACK | FIN, 10)), (7, 16));
        assert_eq!(reset_to_receiver(&segment(5, 7, ACK, 10)), (5, 7));
    }

    fn tcp(tcp_flags: u8) -> Packet {
        Packet { protocol: TCP, flags: PACKET_HAS_PORTS, tcp_flags, ..Packet::default() }
    }

    #[test]
    fn a_reset_means_segments_that_have_something_to_reset() {
        let both = Treatment { flags: TREAT_RESETS_LOCAL | TREAT_RESETS_REMOTE, ..Treatment::default() };
        let local = Treatment { flags: TREAT_RESETS_LOCAL, ..Treatment::default() };
        let remote = Treatment { flags: TREAT_RESETS_REMOTE, ..Treatment::default() };
        let means = |treatment, packet| can_mean(ACTION_RESET, treatment, &packet, EGRESS);
        assert!(means(&both, tcp(SYN)) && means(&local, tcp(SYN)) && !means(&remote, tcp(SYN)));
        assert!(means(&remote, tcp(ACK)) && means(&remote, tcp(SYN | ACK)));
        assert!(!means(&both, tcp(RST)) && !means(&both, tcp(RST | ACK)));
        assert!(!means(&both, Packet { flags: 0, ..tcp(0) }), "a later fragment");
        assert!(!means(&both, Packet { protocol: 17, ..tcp(0) }));
        assert!(!can_mean(ACTION_RESET, &local, &tcp(SYN), INGRESS), "it arrives where nothing is yet");
        assert!(can_mean(ACTION_RESET, &remote, &tcp(SYN), INGRESS));
    }

    #[test]
    fn the_bytes_before_come_through_and_no_byte_more() {
        assert!(is_past(0, 0, 0) && is_past(0, 1, 0));
        assert!(!is_past(90, 10, 100) && is_past(90, 11, 100));
        assert!(!is_past(99, 0, 100) && is_past(100, 0, 100));
    }

    #[test]
    fn only_what_is_longer_than_the_mtu_is_too_big() {
        let treatment = Treatment { count: REJECT_TOO_BIG, bits: 1280, ..Treatment::default() };
        let at =
            |length| can_mean(ACTION_REJECT, &treatment, &Packet { length, ..Packet::default() }, EGRESS);
        assert!(!at(1280) && at(1281));
    }

    #[test]
    fn errors_groups_and_resets_are_not_answered() {
        let v4 = |a| Address::from_v4(a);
        let ask = |packet: &Packet| may_be_answered(packet, EGRESS);
        let plain = Packet {
            family: 4,
            protocol: 17,
            local: v4([10, 0, 0, 1]),
            remote: v4([10, 0, 0, 2]),
            ..Packet::default()
        };
        assert!(ask(&plain));
        for remote in [[224, 0, 0, 251], [239, 1, 2, 3], [255; 4]] {
            assert!(!ask(&Packet { remote: v4(remote), ..plain }), "{remote:?}");
        }
        assert!(!ask(&Packet { local: v4([0; 4]), ..plain }), "nobody to tell");
        for icmp_type in [3, 5, 11, 12] {
            assert!(!ask(&Packet { protocol: ICMP, icmp_type, ..plain }));
        }
        assert!(ask(&Packet { protocol: ICMP, icmp_type: 8, ..plain }));
        assert!(!ask(&Packet { protocol: TCP, tcp_flags: RST, ..plain }));
        let mut group = [0; 16];
        group[0] = 0xff;
        let v6 = Packet {
            family: 6,
            local: Address::from_octets([0xfd; 16]),
            remote: Address::from_octets([0xfd; 16]),
            ..plain
        };
        assert!(ask(&v6));
        assert!(!ask(&Packet { remote: Address::from_octets(group), ..v6 }));
        assert!(!ask(&Packet { local: Address::default(), ..v6 }));
        assert!(!ask(&Packet { protocol: ICMPV6, icmp_type: 1, ..v6 }));
        assert!(ask(&Packet { protocol: ICMPV6, icmp_type: 128, ..v6 }));
    }

    /// RFC 1071, 1, byte by byte.
    fn plainly(bytes: &[u8]) -> u16 {
        let pairs =
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
        let mut sum: u32 = pairs.sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        /// What was right stays right, and what was wrong by some difference stays wrong by it.
        #[test]
        fn a_mended_checksum_covers_the_new_bytes(words in proptest::collection::vec(1_u16.., 2..20), new in 1_u16.., at: proptest::sample::Index) {
            let checksum = !fold(sum(&words));
            let at = at.index(words.len());
            let mut changed = words.clone();
            changed[at] = new;
            prop_assert_eq!(fold(sum(&changed) + u64::from(mended(checksum, words[at], new))), 0xffff);
        }

        #[test]
        fn sums_are_those_of_rfc_1071(bytes in proptest::collection::vec(any::<u8>(), 20..=20)) {
            let words: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
            prop_assert_eq!(fold(sum(&words)).to_ne_bytes(), plainly(&bytes).to_be_bytes());
        }

        #[test]
        fn a_pseudo_header_is_summed_as_it_would_be_sent(a: [u8; 4], b: [u8; 4], c: [u8; 16], d: [u8; 16], length: u16) {
            let v4 = [&a[..], &b[..], &[0, 6], &length.to_be_bytes()].concat();
            let sum = fold(pseudo_header(&Address::from_v4(a), &Address::from_v4(b), 6, length));
            // 0xffff and 0 are the same number.
            prop_assert_eq!(u16::from_be(sum) % 0xffff, plainly(&v4) % 0xffff);
            let v6 = [&c[..], &d[..], &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
            let sum = fold(pseudo_header(&Address::from_octets(c), &Address::from_octets(d), 58, length));
            prop_assert_eq!(u16::from_be(sum) % 0xffff, plainly(&v6) % 0xffff);
        }
    }
}
