//! Links in the kernel's form: a rate as a time per byte, a recording as it is.

use injector_common::link_trace::OPPORTUNITY_BYTES;
use injector_common::treatment::{TREAT_QUEUE_BYTES, TREAT_TRACE, Treatment};

use crate::scenario::quantity::{BitRate, format_ns};
use crate::scenario::{Capacity, Queue, Rate, Trace};

/// Packets of this size may be in transmission when another one arrives.
const LARGEST_PACKET_BYTES: u64 = 65_536;
const NS_PER_S: u128 = 1_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// The link of a fault. Where its trace is in the map is said later.
pub(super) fn treatment(plain: Treatment, rate: &Rate) -> Treatment {
    let common = Treatment { overhead: rate.overhead_bytes, ..plain };
    match &rate.capacity {
        Capacity::Constant { rate: bits, burst_bytes } => Treatment {
            byte_ns_q16: (((8 * NS_PER_S) << 16) / u128::from(bits.0)) as u64,
            queue: constant_queue_ns(rate, *bits),
            burst_ns: ns_of(*burst_bytes, *bits),
            ..common
        },
        Capacity::Trace(trace) => {
            let (queue, bytes) = match queue_bytes(rate) {
                Ok(bytes) => (bytes, TREAT_QUEUE_BYTES),
                Err(ns) => (ns, 0),
            };
            Treatment {
                delay_ns: period_ns(trace),
                queue,
                count: trace.at_ms().len() as u32,
                flags: TREAT_TRACE | bytes,
                ..common
            }
        }
    }
}

/// The bytes that a queue holds; a queue that is a time is that many ns instead.
fn queue_bytes(rate: &Rate) -> Result<u64, u64> {
    match rate.queue {
        Queue::TimeNs(ns) => Err(ns),
        Queue::Bytes(bytes) => Ok(bytes),
        Queue::Packets(packets) => {
            Ok(packets.saturating_mul(OPPORTUNITY_BYTES + u64::from(rate.overhead_bytes)))
        }
    }
}

/// The wait that a queue means at a constant rate.
fn constant_queue_ns(rate: &Rate, bits: BitRate) -> u64 {
    queue_bytes(rate).map_or_else(|ns| ns, |bytes| ns_of(bytes, bits))
}

fn ns_of(bytes: u64, bits: BitRate) -> u64 {
    u64::try_from(u128::from(bytes) * 8 * NS_PER_S / u128::from(bits.0)).unwrap_or(u64::MAX)
}

fn period_ns(trace: &Trace) -> u64 {
    u64::from(trace.period_ms()) * NS_PER_MS
}

/// The longest time for which the link keeps a packet back.
pub(super) fn longest_ns(rate: &Rate) -> u64 {
    match &rate.capacity {
        Capacity::Constant { rate: bits, .. } => {
            constant_queue_ns(rate, *bits).saturating_add(ns_of(LARGEST_PACKET_BYTES * 2, *bits))
        }
        Capacity::Trace(trace) => match queue_bytes(rate) {
            Ok(bytes) => longest_wait_ns(trace, bytes.saturating_add(LARGEST_PACKET_BYTES * 2)),
            Err(ns) => ns.saturating_add(longest_wait_ns(trace, LARGEST_PACKET_BYTES * 2)),
        },
    }
}

/// How long so many bytes take at the worst time to begin: just after an opportunity.
fn longest_wait_ns(trace: &Trace, bytes: u64) -> u64 {
    let (at_ms, count) = (trace.at_ms(), trace.at_ms().len() as u64);
    let opportunities = bytes / OPPORTUNITY_BYTES + 1;
    let rounds_ms = (opportunities / count).saturating_mul(u64::from(trace.period_ms()));
    let ahead = (opportunities % count) as usize;
    let later = at_ms.iter().skip(ahead).map(|&ms| u64::from(ms));
    let again = at_ms.iter().take(ahead).map(|&ms| u64::from(ms) + u64::from(trace.period_ms()));
    let gaps = at_ms.iter().zip(later.chain(again)).map(|(&from, to)| to.saturating_sub(u64::from(from)));
    gaps.max().unwrap_or(0).saturating_add(rounds_ms).saturating_mul(NS_PER_MS)
}

/// What a trace carries, in a sentence for the plan.
pub(super) fn note(trace: &Trace) -> String {
    let (opportunities, period_ns) = (trace.at_ms().len(), period_ns(trace));
    let bits =
        opportunities as u128 * u128::from(OPPORTUNITY_BYTES) * 8 * NS_PER_S / u128::from(period_ns.max(1));
    let mean = if bits >= 1000 { BitRate((bits / 1000 * 1000) as u64) } else { BitRate(bits as u64) };
    format!(
        "trace: {opportunities} opportunities of {OPPORTUNITY_BYTES} bytes in {}, {mean} on average; then it begins again, \
         for the first time when the experiment does",
        format_ns(period_ns)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn rate(queue: Queue) -> Rate {
        let capacity = Capacity::Constant { rate: BitRate(10_000_000), burst_bytes: 1250 };
        Rate { capacity, queue, overhead_bytes: 18 }
    }

    fn traced(at_ms: &[u32], queue: Queue) -> Rate {
        Rate { capacity: Capacity::Trace(Arc::new(Trace::of(at_ms))), ..rate(queue) }
    }

    #[test]
    fn a_rate_is_a_time_per_byte_and_a_queue_a_time() {
        let rate = rate(Queue::Bytes(12_500));
        let link = treatment(Treatment::default(), &rate);
        assert_eq!(link.byte_ns_q16, 800 << 16);
        assert_eq!((link.queue, link.burst_ns, link.overhead), (10_000_000, 1_000_000, 18));
        assert!(longest_ns(&rate) >= 10_000_000 + 52_000_000);
    }

    #[test]
    fn a_packet_of_a_queue_is_a_full_one_with_its_overhead() {
        let link = treatment(Treatment::default(), &rate(Queue::Packets(10)));
        assert_eq!(link.queue, 15_180 * 800);
        let link = treatment(Treatment::default(), &traced(&[1], Queue::Packets(10)));
        assert_eq!((link.queue, link.flags), (15_180, TREAT_TRACE | TREAT_QUEUE_BYTES));
    }

    #[test]
    fn a_trace_is_its_opportunities_and_its_length() {
        let link = treatment(Treatment::default(), &traced(&[0, 5, 5, 20], Queue::TimeNs(7)));
        assert_eq!((link.count, link.delay_ns, link.queue), (4, 20_000_000, 7));
        assert_eq!((link.flags, link.overhead, link.byte_ns_q16), (TREAT_TRACE, 18, 0));
    }

    #[test]
    fn the_longest_wait_begins_just_after_an_opportunity() {
        let wait = |at_ms: &[u32], bytes| longest_wait_ns(&Trace::of(at_ms), bytes) / NS_PER_MS;
        assert_eq!(wait(&[10], 1499), 10);
        assert_eq!(wait(&[10], 1500), 20);
        // One opportunity: the longest gap, also over the end. Three: all of the rest and one more.
        assert_eq!(wait(&[1, 2, 300], 1), 298);
        assert_eq!(wait(&[100, 101, 102], 1), 100);
        assert_eq!(wait(&[1, 2, 300], 4499), 300);
        assert_eq!(wait(&[1, 2, 300], 6000), 599);
    }

    #[test]
    fn the_plan_says_what_a_trace_carries() {
        let said = note(&Trace::of(&(1..=1000).collect::<Vec<u32>>()));
        assert!(
            said.starts_with("trace: 1000 opportunities of 1500 bytes in 1s, 12mbit on average"),
            "{said}"
        );
    }
}
