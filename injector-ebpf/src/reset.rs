//! Resets of TCP connections: the segment that strikes becomes the reset, for its sender, its receiver, or both.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_l3_csum_replace, bpf_skb_change_tail};
use injector_common::answer::{
    ACK, RST, SYN, Segment, fold, hearers, is_past, pseudo_header, reset_to_receiver, reset_to_sender, sum,
};
use injector_common::layout::ConnectionKey;
use injector_common::packet::Packet;
use injector_common::rule::Rule;

use crate::answer::{Question, answer};
use crate::change::{load, store};
use crate::maps::CONNECTIONS;
use crate::memory::add;
use crate::parse::Framing;
use crate::strike::Walk;

const TCP: u8 = 6;
/// Length of a TCP header without options.
const TCP_LENGTH: u32 = 20;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u32 = 16;
/// Offsets in an IPv4 header.
const IPV4_TOTAL_LENGTH: u32 = 2;
const IPV4_CHECKSUM: u32 = 10;
/// Offsets in an IPv6 header, and its length.
const IPV6_PAYLOAD_LENGTH: u32 = 4;
const IPV6_NEXT_HEADER: u32 = 6;
const IPV6_LENGTH: u32 = 40;
/// More fragments follow, or came before.
const IS_FRAGMENT: u16 = 0x3fff;
/// The next header is that of a fragment.
const FRAGMENT: u8 = 44;

/// A TCP header without options, as it lies in memory.
type Header = [u16; 10];

/// Counts the payload of a connection; whether this segment is beyond what goes through before the reset.
///
/// What is sent again is counted again. Without room for the connection nothing is reset.
#[inline(never)]
pub(crate) fn is_beyond(rule: &Rule, packet: &Packet) -> bool {
    let key = ConnectionKey {
        local: packet.local,
        remote: packet.remote,
        local_port: packet.local_port,
        remote_port: packet.remote_port,
        fault: rule.fault,
        direction: rule.direction,
    };
    // A SYN begins another connection, also between the ports of an earlier one.
    if packet.tcp_flags & SYN != 0 || CONNECTIONS.get_ptr(&key).is_none() {
        let _ = CONNECTIONS.insert(&key, &0, 0);
    }
    let Some(passed) = CONNECTIONS.get_ptr_mut(&key) else { return false };
    is_past(add(passed, packet.tcp_payload as u64), packet.tcp_payload, rule.treatment.after_bytes)
}

/// Makes the resets out of the segment; returns what the program returns.
#[inline(never)]
pub(crate) fn reset(skb: *mut __sk_buff, framing: Framing, direction: u32, mark: u32) -> i32 {
    answer((skb, framing), direction, mark, try_reset)
}

#[inline(always)]
fn try_reset(question: &Question, walk: &Walk, rule: &Rule) -> Option<i32> {
    let transport = question.network + walk.offsets.transport;
    let (family, packet) = (walk.packet.family, &walk.packet);
    let is_fragment = if family == 4 {
        question.ipv4_fragment().is_none_or(|field| field & IS_FRAGMENT != 0)
    } else {
        load::<u8>(question.skb, question.network + IPV6_NEXT_HEADER).is_none_or(|next| next == FRAGMENT)
    };
    let header = load::<Header>(question.skb, transport)?;
    if is_fragment || walk.offsets.transport == 0 || !cut(question, walk, transport) {
        return None;
    }
    let is_partial = question.is_partial(transport + TCP_CHECKSUM)?;
    let pseudo = fold(pseudo_header(&packet.local, &packet.remote, TCP, TCP_LENGTH as u16));
    let writer = Writer { transport, header, pseudo, is_partial };
    let (sender, receiver) = hearers(rule.treatment.flags, question.direction);
    let segment = segment(&header, packet);
    // A SYN has no connection to reset at its receiver.
    let receiver = receiver && segment.flags & ACK != 0;
    if sender {
        if !writer.to_sender(question, &segment) || !question.swap_ends(family) {
            return None;
        }
        if !receiver {
            return Some(question.send_back());
        }
        if !question.send_clone_back() || !question.swap_ends(family) {
            return None;
        }
    }
    writer.to_receiver(question, &segment).then_some(TC_ACT_UNSPEC)
}

/// Cuts the packet behind a TCP header without options, and mends the length in the network header.
#[inline(always)]
fn cut(question: &Question, walk: &Walk, transport: u32) -> bool {
    let skb = question.skb;
    // SAFETY: the helper checks the length.
    if unsafe { bpf_skb_change_tail(skb, transport + TCP_LENGTH, 0) } != 0 {
        return false;
    }
    let length = walk.offsets.transport + TCP_LENGTH;
    if walk.packet.family != 4 {
        let at = question.network + IPV6_PAYLOAD_LENGTH;
        return question.write(at, (length.wrapping_sub(IPV6_LENGTH) as u16).to_be());
    }
    let at = question.network + IPV4_TOTAL_LENGTH;
    let Some(old) = load::<u16>(skb, at) else { return false };
    let new = (length as u16).to_be();
    let checksum = question.network + IPV4_CHECKSUM;
    // SAFETY: the helper checks the offset.
    let status = unsafe { bpf_l3_csum_replace(skb, checksum, u64::from(old), u64::from(new), 2) };
    status == 0 && store(skb, at, new, 0)
}

#[inline(always)]
fn segment(header: &Header, packet: &Packet) -> Segment {
    let [_, _, s0, s1, a0, a1, ..] = *header;
    Segment {
        sequence: number(s0, s1),
        acknowledgement: number(a0, a1),
        flags: packet.tcp_flags,
        payload: packet.tcp_payload,
    }
}

/// A number of two words in network byte order.
#[inline(always)]
const fn number(high: u16, low: u16) -> u32 {
    (u16::from_be(high) as u32) << 16 | u16::from_be(low) as u32
}

#[inline(always)]
const fn words(number: u32) -> [u16; 2] {
    [((number >> 16) as u16).to_be(), (number as u16).to_be()]
}

/// What the headers of both resets share.
struct Writer {
    transport: u32,
    /// The segment's own.
    header: Header,
    /// Sum of the pseudo header, which is the same in both directions.
    pseudo: u16,
    is_partial: bool,
}

impl Writer {
    #[inline(always)]
    fn to_sender(&self, question: &Question, segment: &Segment) -> bool {
        let [source, destination, ..] = self.header;
        self.write(question, [destination, source], reset_to_sender(segment))
    }

    #[inline(always)]
    fn to_receiver(&self, question: &Question, segment: &Segment) -> bool {
        let [source, destination, ..] = self.header;
        self.write(question, [source, destination], reset_to_receiver(segment))
    }

    #[inline(always)]
    fn write(&self, question: &Question, ports: [u16; 2], (sequence, acknowledgement): (u32, u32)) -> bool {
        let ([source, destination], [s0, s1], [a0, a1]) = (ports, words(sequence), words(acknowledgement));
        let offset_flags = u16::from_ne_bytes([5 << 4, RST | ACK]);
        let mut header: Header = [source, destination, s0, s1, a0, a1, offset_flags, 0, 0, 0];
        let [.., checksum, _] = &mut header;
        *checksum = self.pseudo;
        if !self.is_partial {
            let complete = !fold(sum(&header));
            let [.., checksum, _] = &mut header;
            *checksum = complete;
        }
        question.write(self.transport, header)
    }
}
