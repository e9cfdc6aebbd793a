//! A link that packets take one after the other: each waits until it is free, and leaves when its last byte has.
//!
//! What the link remembers is one word, where it will be free: a time (the virtual clock of Zhang, "`VirtualClock`", SIGCOMM
//! 1990), or the position of a byte in a trace of opportunities ([`crate::link_trace`]).

use crate::decide::{Memory, Word};
use crate::draw;
use crate::link_trace::{LinkTrace, Opportunities};
use crate::packet::Packet;
use crate::rule::EGRESS;
use crate::treatment::{TREAT_QUEUE_BYTES, TREAT_TRACE, Treated, Treatment, Way};

/// Attempts at the word of a link. At rates where many CPUs meet here each takes a few nanoseconds.
const ATTEMPTS: u32 = 16;

/// What a packet asks of a link, in the link's unit: nanoseconds, or bytes of a trace.
#[derive(Clone, Copy)]
struct Claim {
    /// It begins here if the link is free.
    earliest: u64,
    /// It may begin here at the latest: what begins later waits for too long.
    latest: u64,
    /// So much it takes.
    cost: u64,
}

impl Claim {
    /// A link that was idle may be up to `burst_ns` behind the clock, which is what a token bucket of that size gives.
    #[inline(always)]
    fn of_time(treatment: &Treatment, packet: &Packet, way: &Way) -> Self {
        Self {
            earliest: way.at_ns.saturating_sub(treatment.burst_ns),
            latest: way.at_ns.saturating_add(treatment.queue),
            cost: transmission_ns(treatment, packet),
        }
    }

    #[inline(always)]
    fn of_trace<O: Opportunities>(
        treatment: &Treatment,
        packet: &Packet,
        opportunities: &O,
        elapsed_ns: u64,
    ) -> Self {
        let trace = trace(treatment);
        let earliest = trace.first_byte_after(opportunities, elapsed_ns);
        let latest = if treatment.flags & TREAT_QUEUE_BYTES != 0 {
            earliest.saturating_add(treatment.queue)
        } else {
            let late_ns = elapsed_ns.saturating_add(treatment.queue);
            trace.first_byte_after(opportunities, late_ns).saturating_sub(1)
        };
        Self { earliest, latest, cost: bytes(treatment, packet) }
    }

    /// Takes its part of the link; returns where the link is free then.
    #[inline(always)]
    fn take<M: Memory>(self, memory: &M, word: Word) -> Result<u64, Treated> {
        for _ in 0..ATTEMPTS {
            let free = memory.load(word);
            let start = if free > self.earliest { free } else { self.earliest };
            if start > self.latest {
                return Err(Treated::QueueFull);
            }
            let next = start.saturating_add(self.cost);
            if memory.replace(word, free, next) {
                return Ok(next);
            }
        }
        Err(Treated::Contended)
    }
}

/// Sends the packet over the link of a rule.
#[inline(always)]
pub(crate) fn transmit<M: Memory, O: Opportunities>(
    treatment: &Treatment,
    packet: &Packet,
    direction: u32,
    memory: &M,
    opportunities: &O,
    way: &mut Way,
) -> Treated {
    let word = if direction == EGRESS { Word::EgressLink } else { Word::IngressLink };
    let is_traced = treatment.flags & TREAT_TRACE != 0;
    let claim = if is_traced {
        let elapsed_ns = way.at_ns.saturating_sub(way.origin_ns);
        Claim::of_trace(treatment, packet, opportunities, elapsed_ns)
    } else {
        Claim::of_time(treatment, packet, way)
    };
    let next = match claim.take(memory, word) {
        Ok(next) => next,
        Err(treated) => return treated,
    };
    let left_ns = if is_traced {
        let last_byte = next.saturating_sub(1);
        way.origin_ns.saturating_add(trace(treatment).leaves_ns(opportunities, last_byte))
    } else {
        next
    };
    way.at_ns = if left_ns > way.at_ns { left_ns } else { way.at_ns };
    // All that takes one link leaves in one order, whatever came before.
    way.hash = draw::mix(treatment.stream) as u32;
    Treated::GoesOn
}

/// The bytes of a packet on the link, all its segments together.
#[inline(always)]
const fn bytes(treatment: &Treatment, packet: &Packet) -> u64 {
    packet.wire_bytes as u64 + packet.segments as u64 * treatment.overhead as u64
}

/// A packet's time on a link of a rate, all its segments together.
#[inline(always)]
#[must_use]
pub const fn transmission_ns(treatment: &Treatment, packet: &Packet) -> u64 {
    bytes(treatment, packet).wrapping_mul(treatment.byte_ns_q16) >> 16
}

/// The trace of a link that has one.
#[inline(always)]
const fn trace(treatment: &Treatment) -> LinkTrace {
    LinkTrace { first: treatment.table, count: treatment.count, period_ns: treatment.delay_ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Memory;
    use crate::rule::INGRESS;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::VecDeque;

    /// The words of two links.
    #[derive(Default)]
    struct Links([Cell<u64>; 2]);

    impl Memory for Links {
        fn increment(&self, _: Word) -> u64 {
            0
        }
        fn next_sequence(&self, _: u32) -> u64 {
            0
        }
        fn not_before(&self, _: u32, at_ns: u64) -> u64 {
            at_ns
        }
        fn load(&self, word: Word) -> u64 {
            self.0[usize::from(word == Word::IngressLink)].get()
        }
        fn replace(&self, word: Word, _: u64, new: u64) -> bool {
            self.0[usize::from(word == Word::IngressLink)].set(new);
            true
        }
    }

    struct Table(Vec<u32>);

    impl Opportunities for Table {
        fn at_ms(&self, index: u32) -> u32 {
            self.0.get(index as usize).copied().unwrap_or(u32::MAX)
        }
    }

    const MS: u64 = 1_000_000;
    /// When the experiments of these tests begin.
    const ORIGIN_NS: u64 = 77_000_123;

    fn traced(table: &Table, queue: u64, flags: u32) -> Treatment {
        let period_ns = u64::from(*table.0.last().unwrap()) * MS;
        let count = table.0.len() as u32;
        Treatment { delay_ns: period_ns, count, queue, flags: TREAT_TRACE | flags, ..Treatment::default() }
    }

    /// When packets leave that arrive at the given times with so many bytes, since the experiment began; `None` for those
    /// that are dropped.
    fn leave(table: &Table, treatment: &Treatment, packets: &[(u64, u32)]) -> Vec<Option<u64>> {
        let links = Links::default();
        let one = |&(at_ns, wire_bytes): &(u64, u32)| {
            let packet = Packet { wire_bytes, segments: 1, ..Packet::default() };
            let mut way = Way { at_ns: ORIGIN_NS + at_ns, origin_ns: ORIGIN_NS, ..Way::default() };
            let treated = transmit(treatment, &packet, EGRESS, &links, table, &mut way);
            assert!(treated != Treated::Contended);
            (treated == Treated::GoesOn).then_some(way.at_ns - ORIGIN_NS)
        };
        packets.iter().map(one).collect()
    }

    #[test]
    fn a_queue_as_a_time_bounds_the_wait_of_the_first_byte() {
        let table = Table(vec![10, 20, 30]);
        // The third begins at 20 ms, in the rest of that opportunity; the fifth would at 30 ms.
        let left = leave(&table, &traced(&table, 20 * MS, 0), &[(0, 1000); 5]);
        assert_eq!(left, [Some(10 * MS), Some(20 * MS), Some(20 * MS), None, None]);
        // A pause that is longer than the queue loses what comes early in it.
        let table = Table(vec![1, 500]);
        let left =
            leave(&table, &traced(&table, 100 * MS, 0), &[(MS, 100), (399 * MS, 100), (400 * MS, 100)]);
        assert_eq!(left, [None, None, Some(500 * MS)]);
    }

    #[test]
    fn overhead_takes_room_and_each_direction_has_its_own_link() {
        let table = Table(vec![10, 20]);
        let with = Treatment { overhead: 501, ..traced(&table, u64::MAX, 0) };
        assert_eq!(leave(&table, &with, &[(0, 1000)]), [Some(20 * MS)]);
        let links = Links::default();
        let packet = Packet { wire_bytes: 1500, segments: 1, ..Packet::default() };
        for direction in [EGRESS, INGRESS] {
            let mut way = Way::default();
            transmit(&traced(&table, u64::MAX, 0), &packet, direction, &links, &table, &mut way);
            assert_eq!(way.at_ns, 10 * MS);
        }
    }

    proptest! {
        /// Against a queue that holds single bytes, and forgets them as opportunities pass.
        #[test]
        fn a_queue_in_bytes_counts_exactly(
            gaps in prop::collection::vec(0_u32..20, 1..30),
            queue in 0_u64..10_000,
            packets in prop::collection::vec((0_u64..8 * MS, 1_u32..4000), 1..100),
        ) {
            let mut schedule: Vec<u32> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            schedule.push(schedule.last().unwrap() + 1);
            let table = Table(schedule.clone());
            let packets: Vec<(u64, u32)> =
                packets.iter().scan(0, |at, &(gap, bytes)| { *at += gap; Some((*at, bytes)) }).collect();
            let left = leave(&table, &traced(&table, queue, TREAT_QUEUE_BYTES), &packets);
            let period = u64::from(*schedule.last().unwrap());
            let mut opportunities = (0_u64..).flat_map(|round| {
                schedule.iter().map(move |&ms| (round * period + u64::from(ms)) * MS)
            }).peekable();
            let mut waiting = VecDeque::<u32>::new();
            for ((at_ns, bytes), left_ns) in packets.into_iter().zip(left) {
                while opportunities.next_if(|opportunity| *opportunity <= at_ns).is_some() {
                    let mut room = 1500;
                    while let Some(packet) = waiting.front_mut() {
                        let sent = room.min(*packet);
                        *packet -= sent;
                        room -= sent;
                        if *packet > 0 { break }
                        waiting.pop_front();
                    }
                }
                let ahead: u64 = waiting.iter().map(|&bytes| u64::from(bytes)).sum();
                prop_assert_eq!(left_ns.is_some(), ahead <= queue, "{} bytes ahead", ahead);
                if left_ns.is_some() {
                    waiting.push_back(bytes);
                }
            }
        }
    }
}
