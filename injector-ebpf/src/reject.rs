//! Rejections: the packet is lost, and its sender gets an ICMP error about it.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use injector_common::answer::{REJECT_TOO_BIG, fold, may_be_answered, message, sum};
use injector_common::packet::Packet;
use injector_common::rule::Rule;

use crate::answer::{Question, answer, ends_of_answer};
use crate::change::load;
use crate::maps::QUOTES;
use crate::parse::Framing;
use crate::strike::Walk;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Most bytes of the packet that an error quotes, its network header included: it stays below the 576 bytes of IPv4 (RFC 1812,
/// 4.3.2.3) and the 1280 of IPv6 (RFC 4443, 3.1).
pub(crate) const QUOTE_BYTES: usize = 512;
/// Lengths of the headers in front of the quote: the network's and that of ICMP.
pub(crate) const IPV4_HEADERS: u32 = 20 + 8;
pub(crate) const IPV6_HEADERS: u32 = 40 + 8;
/// `BPF_ADJ_ROOM_MAC`: behind the header of the link.
const BEHIND_LINK: u32 = 1;
/// Must not be fragmented, in the fragment field of IPv4.
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;
/// How far the answer may go.
const HOP_LIMIT: u8 = 64;
/// Internetwork control, as routers send errors (RFC 1812, 4.3.2.5).
const PRECEDENCE: u8 = 0xc0;

/// An error while it is made; too large for the stack.
#[repr(C)]
pub(crate) struct Quote {
    /// The beginning of the packet. Twice the room, so that a mask is enough for the verifier to know that the word behind
    /// the packet is in here.
    pub(crate) bytes: [u32; QUOTE_BYTES / 2],
    /// The headers in front of it.
    pub(crate) headers: [u16; 24],
}

impl Quote {
    /// Writes the headers of the error about so many bytes; returns how long they are.
    #[inline(always)]
    pub(crate) fn write_headers(&mut self, family: u8, length: u32, icmp: &Message, ends: Ends) -> u32 {
        if family == 4 {
            write_ipv4(self, length, icmp, ends);
            IPV4_HEADERS
        } else {
            write_ipv6(self, length, icmp, ends);
            IPV6_HEADERS
        }
    }
}

/// Makes the error out of the packet; returns what the program returns.
#[inline(never)]
pub(crate) fn reject(skb: *mut __sk_buff, framing: Framing, direction: u32, mark: u32) -> i32 {
    answer((skb, framing), direction, mark, try_reject)
}

#[inline(always)]
fn try_reject(question: &Question, walk: &Walk, rule: &Rule) -> Option<i32> {
    let direction = question.direction;
    if walk.offsets.transport == 0 || question.is_for_group() || !may_be_answered(&walk.packet, direction) {
        return Some(question.lose());
    }
    let (reason, mtu) = (rule.treatment.count, rule.treatment.bits);
    // A router cuts into fragments what may be cut; we can't, and don't lie about it.
    let may_be_cut = walk.packet.family == 4
        && reason == REJECT_TOO_BIG
        && question.ipv4_fragment().is_none_or(|field| field & DONT_FRAGMENT == 0);
    if may_be_cut {
        question.count_failed();
        return Some(TC_ACT_UNSPEC);
    }
    let quote = QUOTES.get_ptr_mut(direction)?;
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    let quote = unsafe { &mut *quote };
    let (length, quoted) = quote_packet(question, walk, quote)?;
    let ends = ends_of_answer(&walk.packet, direction);
    let icmp = Message { kind_code: message(reason, walk.packet.family), mtu, quoted };
    let headers = quote.write_headers(walk.packet.family, length, &icmp, ends);
    (put_in_front(question, quote, headers) && question.swap_ethernet()).then(|| question.send_back())
}

/// Cuts the packet to what is quoted of it; returns the length of that, and its sum as the receiver of the error finds it.
#[inline(always)]
fn quote_packet(question: &Question, walk: &Walk, quote: &mut Quote) -> Option<(u32, u64)> {
    // A big TCP packet (RFC 2675) says 0 for its length, and is the longest here too. In this form the number that is bounded is
    // the one that is used, which is all that the verifier of Linux 6.1 can follow.
    let length = walk.offsets.end.wrapping_sub(1).min(QUOTE_BYTES as u32 - 1) + 1;
    // SAFETY: the helper checks the length.
    if unsafe { bpf_skb_change_tail(question.skb, question.network + length, 0) } != 0 {
        return None;
    }
    let transport = walk.offsets.transport;
    let checksum = unfinished(question, transport, &walk.packet)?;
    // SAFETY: the word with the byte behind the quote is within the 1,024 bytes of the buffer, and so are the bytes of the quote;
    // the verifier checks both as well.
    let status = unsafe {
        quote.bytes.as_mut_ptr().byte_add((length & 0x3fc) as usize).write(0);
        bpf_skb_load_bytes(question.skb.cast(), question.network, quote.bytes.as_mut_ptr().cast(), length)
    };
    if status != 0 {
        return None;
    }
    let Some(checksum) = checksum else { return Some((length, sum_of(quote, length)?)) };
    // A device that computes the transport's checksum on the way makes its part of the packet sum up to the complement of
    // what stands there now, whatever it is (net/core/checksum offload, "LCO" in Documentation/networking/checksum-offloads.rst).
    Some((length, sum_of(quote, transport)? + u64::from(!checksum)))
}

/// The checksum of the transport if it is still to be computed by a device, as it stands there. The outer `None`: it is of
/// a kind that makes the error's own unknowable.
#[inline(always)]
fn unfinished(question: &Question, transport: u32, packet: &Packet) -> Option<Option<u16>> {
    let offset = match packet.protocol {
        TCP => 16,
        UDP => 6,
        SCTP => 8,
        _ => return Some(None),
    };
    let at = question.network + transport + offset;
    // A packet that is too short for the field has nobody compute it.
    match question.is_partial(at) {
        Some(true) if packet.protocol == SCTP => None,
        Some(true) => load::<u16>(question.skb, at).map(Some),
        _ => Some(None),
    }
}

/// The sum of the first bytes of the quote.
#[inline(always)]
pub(crate) fn sum_of(quote: &mut Quote, length: u32) -> Option<u64> {
    let words = (length + 3) & 0x3fc;
    if words > QUOTE_BYTES as u32 {
        return None;
    }
    // SAFETY: the buffer is as long, which the verifier checks as well.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, quote.bytes.as_mut_ptr(), words, 0) };
    (sum >= 0).then_some(sum as u64)
}

/// What the header of ICMP says.
pub(crate) struct Message {
    pub(crate) kind_code: (u8, u8),
    pub(crate) mtu: u32,
    /// Sum of the quote.
    pub(crate) quoted: u64,
}

impl Message {
    /// The header without its checksum. The MTU is the second half of IPv4's rest, and all of IPv6's.
    #[inline(always)]
    fn header(&self) -> [u16; 4] {
        let (kind, code) = self.kind_code;
        [u16::from_ne_bytes([kind, code]), 0, ((self.mtu >> 16) as u16).to_be(), (self.mtu as u16).to_be()]
    }
}

pub(crate) type Ends = ([u32; 4], [u32; 4]);

/// The two halves of a word, as they lie in memory.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

#[inline(always)]
fn write_ipv4(quote: &mut Quote, length: u32, icmp: &Message, ends: Ends) {
    let ([.., source], [.., destination]) = ends;
    let ([s0, s1], [d0, d1]) = (halves(source), halves(destination));
    let version_tos = u16::from_ne_bytes([0x45, PRECEDENCE]);
    let total = ((IPV4_HEADERS + length) as u16).to_be();
    let ttl_protocol = u16::from_ne_bytes([HOP_LIMIT, ICMP]);
    let checksum = !fold(sum(&[version_tos, total, ttl_protocol, s0, s1, d0, d1]));
    let [kind_code, _, rest_0, rest_1] = icmp.header();
    let message = !fold(sum(&[kind_code, rest_0, rest_1]) + icmp.quoted);
    let [headers @ .., _, _, _, _, _, _, _, _, _, _] = &mut quote.headers;
    *headers = [
        version_tos,
        total,
        0,
        0,
        ttl_protocol,
        checksum,
        s0,
        s1,
        d0,
        d1,
        kind_code,
        message,
        rest_0,
        rest_1,
    ];
}

#[inline(always)]
fn write_ipv6(quote: &mut Quote, length: u32, icmp: &Message, ends: Ends) {
    let payload = ((8 + length) as u16).to_be();
    let next_hop = u16::from_ne_bytes([ICMPV6, HOP_LIMIT]);
    let ([a, b, c, d], [e, f, g, h]) = ends;
    let [kind_code, _, rest_0, rest_1] = icmp.header();
    // The pseudo header: the addresses, the length, and the protocol.
    let addresses = a as u64 + b as u64 + c as u64 + d as u64 + e as u64 + f as u64 + g as u64 + h as u64;
    let pseudo = addresses + payload as u64 + u16::from(ICMPV6).to_be() as u64;
    let message = !fold(sum(&[kind_code, rest_0, rest_1]) + pseudo + icmp.quoted);
    let [fixed_0, fixed_1, fixed_2, fixed_3, addresses @ .., icmp_0, icmp_1, icmp_2, icmp_3] =
        &mut quote.headers;
    (*fixed_0, *fixed_1, *fixed_2, *fixed_3) = (u16::from_ne_bytes([0x60, 0]), 0, payload, next_hop);
    let words = [a, b, c, d, e, f, g, h];
    for (pair, word) in addresses.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *pair = halves(word);
    }
    (*icmp_0, *icmp_1, *icmp_2, *icmp_3) = (kind_code, message, rest_0, rest_1);
}

/// Makes room between the header of the link and the quote, and writes the headers of the error there.
#[inline(always)]
fn put_in_front(question: &Question, quote: &Quote, length: u32) -> bool {
    let flags = BPF_F_RECOMPUTE_CSUM as u64;
    // SAFETY: the helper checks the packet itself, and reads so many bytes of the headers.
    unsafe {
        bpf_skb_adjust_room(question.skb, length as i32, BEHIND_LINK, 0) == 0
            && bpf_skb_store_bytes(
                question.skb,
                question.network,
                quote.headers.as_ptr().cast(),
                length,
                flags,
            ) == 0
    }
}
