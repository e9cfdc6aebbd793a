//! What a rule does to the packets that it strikes, beyond taking them away: later, more of them, other ones.
//!
//! The faults of a target are stages of one path, in the order of the file. A packet has one time on that path
//! ([`Way::at_ns`]): a delay adds to it, a link of a given rate moves it to the end of its transmission. So a rate
//! before a delay serialises and then propagates, as a real link does, and nothing needs a queue per stage.

use crate::assert_layout;
use crate::decide::Memory;
use crate::distribution::{Quantiles, quantile};
use crate::draw;
use crate::link::transmit;
use crate::link_trace::Opportunities;
use crate::packet::Packet;
use crate::rule::{
    ACTION_CORRUPT, ACTION_DELAY, ACTION_DNS, ACTION_DUPLICATE, ACTION_MARK_CE, ACTION_RATE, ACTION_WINDOW,
};

/// `Treatment::flags`: a packet never leaves before one of its flow that came earlier.
pub const TREAT_KEEPS_ORDER: u32 = 1 << 0;
/// `Treatment::flags`: the corruption breaks a checksum, so that the receiver notices.
pub const TREAT_WIRE: u32 = 1 << 1;
/// `Treatment::flags`: `table` says the distribution; else `delay_ns` is the delay.
pub const TREAT_DISTRIBUTED: u32 = 1 << 2;
/// `Treatment::flags`: `offset` says where the corruption begins; else it is drawn.
pub const TREAT_OFFSET: u32 = 1 << 3;
/// `Treatment::flags`: the link is the trace of `count` opportunities from `table` on, which lasts `delay_ns`.
pub const TREAT_TRACE: u32 = 1 << 4;
/// `Treatment::flags`: `queue` is a number of bytes. Only with [`TREAT_TRACE`].
pub const TREAT_QUEUE_BYTES: u32 = 1 << 5;
/// `Treatment::flags`: the target's side of the connection is reset.
pub const TREAT_RESETS_LOCAL: u32 = 1 << 6;
/// `Treatment::flags`: the other side of the connection is reset.
pub const TREAT_RESETS_REMOTE: u32 = 1 << 7;
/// `Treatment::flags`: `bits` is the maximum error of the clock that is told, in microseconds.
pub const TREAT_MAX_ERROR: u32 = 1 << 8;
/// `Treatment::flags`: `offset` is the estimated error of the clock that is told, in microseconds.
pub const TREAT_ESTIMATED_ERROR: u32 = 1 << 9;
/// `Treatment::flags`: the clock is said to be synchronised.
pub const TREAT_SYNCHRONISED: u32 = 1 << 10;
/// `Treatment::flags`: the clock is said not to be synchronised.
pub const TREAT_UNSYNCHRONISED: u32 = 1 << 11;

/// What [`ACTION_DELAY`] and the other actions that keep the packet need to know. 0 where an action has no use for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Stream of the values that are drawn, see [`draw::PURPOSE_VALUE`].
    pub stream: u64,
    /// Delay of every packet, where it is fixed; the time after which the trace of a link begins again.
    pub delay_ns: u64,
    /// A byte's time on the link, in units of 2^-16 ns.
    pub byte_ns_q16: u64,
    /// The longest wait for the link, in ns, or with [`TREAT_QUEUE_BYTES`] the most bytes that wait for it; who would wait
    /// longer, or behind more, is dropped.
    pub queue: u64,
    /// So far the link may run ahead of its rate after a pause.
    pub burst_ns: u64,
    /// First entry of the distribution in `QUANTILES`, of the trace in `OPPORTUNITIES`; entry of the names in `QUESTIONS`.
    pub table: u32,
    /// `TREAT_` bits.
    pub flags: u32,
    /// Bytes of the link's own around each packet on the wire; entry in `SUBJECTS` of the operations that are meant.
    pub overhead: u32,
    /// Additional copies of a duplicated packet; the size of the window of a TCP segment; the errno of a call or an operation that fails; a signal;
    /// opportunities of a trace; the answer to a DNS question; why a packet is rejected, one of the `REJECT_` constants of
    /// [`crate::answer`].
    pub count: u32,
    /// Bits to flip; the maximum error of a clock in microseconds; the calls that fail, `CALL_` bits of [`crate::call`]; the MTU that a rejection names, in bytes.
    pub bits: u32,
    /// Byte of the payload at which the flips begin; the estimated error of a clock in microseconds.
    pub offset: u32,
    /// Payload that a connection carries in the rule's direction before it is reset, in bytes.
    pub after_bytes: u64,
}

assert_layout!(Treatment, size 72, align 8, {
    stream: 0, delay_ns: 8, byte_ns_q16: 16, queue: 24, burst_ns: 32, table: 40, flags: 44, overhead: 48, count: 52,
    bits: 56, offset: 60, after_bytes: 64,
});

/// `Way::marks`: set the congestion-experienced code point.
pub const MARK_CE: u32 = 1 << 0;
/// `Way::marks`: flip bits, checksums mended.
pub const MARK_SILENT: u32 = 1 << 1;
/// `Way::marks`: break a checksum.
pub const MARK_WIRE: u32 = 1 << 2;
/// `Way::marks`: replace the window of a TCP segment.
pub const MARK_WINDOW: u32 = 1 << 3;

/// Copies that one packet can have at most, over all faults.
pub const MAX_COPIES: u32 = 8;

/// What the stages have made of one packet so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// When it arrives at the next stage; at the end when it leaves. `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// When the experiment began, `CLOCK_MONOTONIC`: where the traces of links begin.
    pub origin_ns: u64,
    /// Random bits of the corruption.
    pub bits: u64,
    /// Additional copies.
    pub copies: u32,
    /// `MARK_` bits.
    pub marks: u32,
    /// Bits to flip.
    pub flips: u32,
    /// Byte of the payload at which the flips begin, or `u32::MAX` to draw it.
    pub offset: u32,
    /// The window to set.
    pub window: u32,
    /// What the packet waits with: packets of one hash leave in the order of their times, and one that comes later with an
    /// earlier time may have to wait for the others (`fq_dequeue` in `net/sched/sch_fq.c` wakes a flow for its first packet).
    pub hash: u32,
    /// The answer to the DNS question.
    pub answer: u32,
}

/// What became of a packet that a stage has treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treated {
    /// It goes on.
    GoesOn,
    /// It is no packet that can be treated so, and goes on as it was.
    NotCapable,
    /// The link's queue was full.
    QueueFull,
    /// Other CPUs kept changing the link's state: it goes on as it was.
    Contended,
}

/// Applies the action of a rule that strikes the packet, and that does not take it away.
#[inline(always)]
pub fn treat<M: Memory, T: Quantiles + Opportunities>(
    action: u32,
    treatment: &Treatment,
    packet: &Packet,
    direction: u32,
    memory: &M,
    tables: &T,
    way: &mut Way,
) -> Treated {
    let needs = memory.needs();
    match action {
        ACTION_DELAY if needs.action(ACTION_DELAY) => {
            delay(treatment, packet, direction, memory, tables, way);
        }
        ACTION_RATE if needs.action(ACTION_RATE) => {
            return transmit(treatment, packet, direction, memory, tables, way);
        }
        ACTION_DUPLICATE if needs.action(ACTION_DUPLICATE) => {
            let copies = way.copies.saturating_add(treatment.count);
            way.copies = if copies > MAX_COPIES { MAX_COPIES } else { copies };
        }
        ACTION_MARK_CE if packet.ecn == 0 => return Treated::NotCapable,
        ACTION_MARK_CE if needs.action(ACTION_MARK_CE) => way.marks |= MARK_CE,
        ACTION_WINDOW if needs.action(ACTION_WINDOW) => {
            way.marks |= MARK_WINDOW;
            way.window = treatment.count;
        }
        ACTION_DNS if needs.action(ACTION_DNS) => way.answer = treatment.count,
        ACTION_CORRUPT if needs.action(ACTION_CORRUPT) => corrupt(treatment, packet, direction, memory, way),
        _ => {}
    }
    Treated::GoesOn
}

#[inline(always)]
fn delay<M: Memory, Q: Quantiles>(
    treatment: &Treatment,
    packet: &Packet,
    direction: u32,
    memory: &M,
    quantiles: &Q,
    way: &mut Way,
) {
    let class = packet.class(direction);
    // Times that grow from packet to packet may share a queue; times that are drawn must not.
    let shared = draw::mix(treatment.stream ^ class as u64);
    let (delay_ns, apart) = if treatment.flags & TREAT_DISTRIBUTED == 0 {
        (treatment.delay_ns, shared)
    } else {
        let bits = draw::draw(treatment.stream, class, memory.next_sequence(class));
        (quantile(quantiles, treatment.table, bits), draw::mix(bits))
    };
    let ordered = treatment.flags & TREAT_KEEPS_ORDER != 0;
    way.at_ns = way.at_ns.saturating_add(delay_ns);
    way.hash = if ordered { shared as u32 } else { way.hash ^ apart as u32 };
    if ordered {
        way.at_ns = memory.not_before(class, way.at_ns);
    }
}

#[inline(always)]
fn corrupt<M: Memory>(treatment: &Treatment, packet: &Packet, direction: u32, memory: &M, way: &mut Way) {
    let class = packet.class(direction);
    way.bits = draw::draw(treatment.stream, class, memory.next_sequence(class));
    way.flips = treatment.bits;
    way.offset = if treatment.flags & TREAT_OFFSET == 0 { u32::MAX } else { treatment.offset };
    way.marks |= if treatment.flags & TREAT_WIRE == 0 { MARK_SILENT } else { MARK_WIRE };
}

/// Where the n-th flip of a packet falls: which pair of bytes of the payload, and which bit of it. Bit 0 is the lowest of
/// the first byte, as the bytes lie.
///
/// With an `offset` the bits are consecutive; else each is drawn from `bits`, of so many `words`.
#[inline(always)]
#[must_use]
pub const fn flip(offset: u32, bits: u64, number: u32, words: u32) -> (u32, u32) {
    if offset == u32::MAX {
        let bits = draw::mix(bits.wrapping_add(number as u64));
        (draw::below(bits, words as u64) as u32, (bits & 15) as u32)
    } else {
        let at = (offset & 1) * 8 + number;
        (offset / 2 + at / 16, at & 15)
    }
}

#[cfg(test)]
mod tests;
