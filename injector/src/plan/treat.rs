//! Effects that keep the packet as treatments in the kernel's form.

use injector_common::call;
use injector_common::draw::{self, PURPOSE_VALUE};
use injector_common::frequency::Nth;
use injector_common::rule::{self as border, Rule};
use injector_common::treatment::{self as treat, Treatment};

use super::{Lowered, distribution};
use crate::scenario::{Corrupt, CorruptMode, Delay, Effect, Fault, Queue, Rate, Refusal, Reorder, Scenario};

/// Packets of this size may be in transmission when another one arrives.
const LARGEST_PACKET_BYTES: u64 = 65_536;
const NS_PER_S: u128 = 1_000_000_000;

/// Writes an effect that keeps the packet into the rule. Loss and drops are `lower`'s own.
pub(super) fn apply(rule: &mut Rule, fault: &Fault, seed: u64) {
    let number = draw::fault_number(fault.id.as_bytes());
    let plain = Treatment { stream: draw::stream(seed, number, PURPOSE_VALUE), ..Treatment::default() };
    let (action, treatment) = match fault.effect {
        Effect::Loss(_) | Effect::LocalDrop | Effect::Partition(_) => return,
        Effect::Delay(delay) => (border::ACTION_DELAY, delayed(plain, &delay)),
        Effect::Reorder(reorder) => {
            hold_every(rule, &reorder);
            (border::ACTION_DELAY, Treatment { delay_ns: reorder.delay_ns, ..plain })
        }
        Effect::Rate(rate) => (border::ACTION_RATE, over_link(plain, &rate)),
        Effect::Duplicate { copies } => (border::ACTION_DUPLICATE, Treatment { count: copies, ..plain }),
        Effect::Corrupt(corrupt) => (border::ACTION_CORRUPT, corrupted(plain, &corrupt)),
        Effect::MarkEcn => (border::ACTION_MARK_CE, plain),
        Effect::Connect(refusal) => (border::ACTION_CONNECT, refused(plain, &refusal)),
        Effect::Window { size } => (border::ACTION_WINDOW, Treatment { count: u32::from(size), ..plain }),
    };
    rule.action = action;
    rule.treatment = treatment;
}

fn delayed(plain: Treatment, delay: &Delay) -> Treatment {
    let order = if delay.reorder { 0 } else { treat::TREAT_KEEPS_ORDER };
    let spread = if delay.jitter_ns == 0 { 0 } else { treat::TREAT_DISTRIBUTED };
    Treatment { delay_ns: delay.delay_ns, flags: order | spread, ..plain }
}

/// Every `gap`-th match: a frequency of the kind's own.
fn hold_every(rule: &mut Rule, reorder: &Reorder) {
    if let Some(gap) = reorder.gap {
        rule.frequency = border::FREQUENCY_NTH;
        rule.nth = Nth { first: gap, last: u64::MAX, step: gap };
    }
}

fn over_link(plain: Treatment, rate: &Rate) -> Treatment {
    Treatment {
        byte_ns_q16: (((8 * NS_PER_S) << 16) / u128::from(rate.rate.0)) as u64,
        queue_ns: queue_ns(rate),
        burst_ns: ns_of(rate.burst_bytes, rate),
        overhead: rate.overhead_bytes,
        ..plain
    }
}

/// The wait that a queue of this size means at this rate.
fn queue_ns(rate: &Rate) -> u64 {
    match rate.queue {
        Queue::TimeNs(ns) => ns,
        Queue::Bytes(bytes) => ns_of(bytes, rate),
    }
}

fn ns_of(bytes: u64, rate: &Rate) -> u64 {
    u64::try_from(u128::from(bytes) * 8 * NS_PER_S / u128::from(rate.rate.0)).unwrap_or(u64::MAX)
}

fn corrupted(plain: Treatment, corrupt: &Corrupt) -> Treatment {
    let wire = if corrupt.mode == CorruptMode::Wire { treat::TREAT_WIRE } else { 0 };
    let placed = if corrupt.offset.is_some() { treat::TREAT_OFFSET } else { 0 };
    let offset = corrupt.offset.unwrap_or(0);
    Treatment { flags: wire | placed, bits: corrupt.bits, offset, ..plain }
}

fn refused(plain: Treatment, refusal: &Refusal) -> Treatment {
    let calls = [
        (call::CALL_CONNECT, refusal.connect),
        (call::CALL_BIND, refusal.bind),
        (call::CALL_SENDMSG, refusal.sendmsg),
    ];
    let bits = calls.iter().filter(|(_, fails)| *fails).map(|(bit, _)| bit).sum();
    Treatment { count: refusal.errno.unsigned_abs(), bits, ..plain }
}

/// Lays out the tables of all distributions, and tells each rule where its own is.
pub(super) fn lay_out_tables(scenario: &Scenario, lowered: &mut Lowered) {
    for (position, fault) in scenario.faults.iter().enumerate() {
        let Effect::Delay(delay) = fault.effect else { continue };
        let Some(table) = distribution::table(&delay) else { continue };
        let first = lowered.image.quantiles.len() as u32;
        lowered.image.quantiles.extend(table);
        let own = lowered.image.rules.iter_mut().zip(&lowered.fault_of_rule);
        for (rule, _) in own.filter(|(_, fault)| **fault == position) {
            rule.treatment.table = first;
        }
    }
}

/// The longest time that a packet may be kept back by one fault.
#[must_use]
pub(super) fn longest_ns(effect: &Effect) -> u64 {
    match effect {
        Effect::Delay(delay) => {
            distribution::table(delay).and_then(|table| table.into_iter().max()).unwrap_or(delay.delay_ns)
        }
        Effect::Reorder(reorder) => reorder.delay_ns,
        Effect::Rate(rate) => queue_ns(rate).saturating_add(ns_of(LARGEST_PACKET_BYTES * 2, rate)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::quantity::BitRate;

    #[test]
    fn a_rate_is_a_time_per_byte_and_a_queue_a_time() {
        let rate = Rate {
            rate: BitRate(10_000_000),
            queue: Queue::Bytes(12_500),
            burst_bytes: 1250,
            overhead_bytes: 18,
        };
        let treatment = over_link(Treatment::default(), &rate);
        assert_eq!(treatment.byte_ns_q16, 800 << 16);
        assert_eq!((treatment.queue_ns, treatment.burst_ns, treatment.overhead), (10_000_000, 1_000_000, 18));
        assert!(longest_ns(&Effect::Rate(rate)) >= 10_000_000 + 52_000_000);
    }

    #[test]
    fn every_gap_th_packet_is_held() {
        let mut rule = Rule::default();
        hold_every(&mut rule, &Reorder { delay_ns: 1, gap: Some(5) });
        let held: Vec<u64> = (1..=12).filter(|&n| rule.nth.strikes(n)).collect();
        assert_eq!(held, [5, 10]);
    }
}
