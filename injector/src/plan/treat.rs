//! Effects that keep the packet as treatments in the kernel's form.

use injector_common::draw::{self, PURPOSE_VALUE};
use injector_common::frequency::Nth;
use injector_common::rule::{self as border, Rule};
use injector_common::treatment::{self as treat, Treatment};
use injector_common::{answer, call};

use super::{Lowered, distribution, dns, link};
use crate::scenario::{
    Capacity, Corrupt, CorruptMode, Delay, Effect, Fault, Harm, IcmpError, OperationFault, Rate, Refusal,
    Reject, Reorder, Reset, ResetSide, Scenario, Times, Uncertainty,
};

/// Writes an effect that keeps the packet into the rule. Loss and drops are `lower`'s own.
pub(super) fn apply(rule: &mut Rule, fault: &Fault, seed: u64) {
    let number = draw::fault_number(fault.id.as_bytes());
    let plain = Treatment { stream: draw::stream(seed, number, PURPOSE_VALUE), ..Treatment::default() };
    let (action, treatment) = match &fault.effect {
        Effect::Loss(_)
        | Effect::LocalDrop
        | Effect::Partition(_)
        | Effect::Link
        | Effect::Process(_)
        | Effect::Clock(_) => {
            return;
        }
        Effect::Delay(delay) => {
            let order = if delay.reorder { 0 } else { treat::TREAT_KEEPS_ORDER };
            let delayed = delayed(plain, &delay.times);
            (border::ACTION_DELAY, Treatment { flags: delayed.flags | order, ..delayed })
        }
        Effect::Reorder(reorder) => {
            hold_every(rule, reorder);
            (border::ACTION_DELAY, Treatment { delay_ns: reorder.delay_ns, ..plain })
        }
        Effect::Rate(rate) => (border::ACTION_RATE, link::treatment(plain, rate)),
        Effect::Duplicate { copies } => (border::ACTION_DUPLICATE, Treatment { count: *copies, ..plain }),
        Effect::Corrupt(corrupt) => (border::ACTION_CORRUPT, corrupted(plain, corrupt)),
        Effect::MarkEcn => (border::ACTION_MARK_CE, plain),
        Effect::Observe => (border::ACTION_OBSERVE, plain),
        Effect::Connect(refusal) => (border::ACTION_CONNECT, refused(plain, refusal)),
        // What is asked over TCP is reset on both ends instead.
        Effect::Dns(asked) => {
            let flags = treat::TREAT_RESETS_LOCAL | treat::TREAT_RESETS_REMOTE;
            (border::ACTION_DNS, Treatment { count: dns::code(asked.answer), flags, ..plain })
        }
        Effect::Window { size } => (border::ACTION_WINDOW, Treatment { count: u32::from(*size), ..plain }),
        Effect::Reset(reset) => (border::ACTION_RESET, torn_down(plain, reset)),
        Effect::Reject(reject) => (border::ACTION_REJECT, rejected(plain, reject)),
        Effect::Operations(fault) => harmed(plain, &fault.harm),
    };
    rule.action = action;
    rule.treatment = treatment;
}

fn delayed(plain: Treatment, times: &Times) -> Treatment {
    let (delay_ns, flags) = match times {
        Times::Spread { delay_ns, jitter_ns: 0, .. } => (*delay_ns, 0),
        Times::Spread { delay_ns, .. } => (*delay_ns, treat::TREAT_DISTRIBUTED),
        Times::Measured(_) => (0, treat::TREAT_DISTRIBUTED),
    };
    Treatment { delay_ns, flags, ..plain }
}

/// What becomes of an operation or a system call.
fn harmed(plain: Treatment, harm: &Harm) -> (u32, Treatment) {
    match harm {
        Harm::Error(failure) => {
            (border::ACTION_OPERATION, Treatment { count: failure.errno.unsigned_abs(), ..plain })
        }
        Harm::Delay(times) => (border::ACTION_SLEEP, delayed(plain, times)),
        Harm::Signal(signal) => (border::ACTION_SIGNAL, Treatment { count: signal.0 as u32, ..plain }),
        Harm::Lost => (border::ACTION_LOSE, plain),
        Harm::Corrupt { bits, offset } => {
            let flags = if offset.is_some() { treat::TREAT_OFFSET } else { 0 };
            (border::ACTION_ROT, Treatment { flags, bits: *bits, offset: offset.unwrap_or(0), ..plain })
        }
        Harm::Uncertainty(told) => (border::ACTION_UNCERTAINTY, uncertain(plain, told)),
        Harm::Observe => (border::ACTION_OBSERVE, plain),
        // The kernel half has no part in it.
        Harm::Short(_) => (0, plain),
    }
}

fn uncertain(plain: Treatment, told: &Uncertainty) -> Treatment {
    let flags = [
        (told.max_error_us.is_some(), treat::TREAT_MAX_ERROR),
        (told.estimated_error_us.is_some(), treat::TREAT_ESTIMATED_ERROR),
        (told.synchronised == Some(true), treat::TREAT_SYNCHRONISED),
        (told.synchronised == Some(false), treat::TREAT_UNSYNCHRONISED),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum();
    let (bits, offset) = (told.max_error_us.unwrap_or(0), told.estimated_error_us.unwrap_or(0));
    Treatment { flags, bits, offset, ..plain }
}

/// Every `gap`-th match: a frequency of the kind's own.
fn hold_every(rule: &mut Rule, reorder: &Reorder) {
    if let Some(gap) = reorder.gap {
        rule.frequency = border::FREQUENCY_NTH;
        rule.nth = Nth { first: gap, last: u64::MAX, step: gap };
    }
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

fn torn_down(plain: Treatment, reset: &Reset) -> Treatment {
    let flags = match reset.side {
        ResetSide::Local => treat::TREAT_RESETS_LOCAL,
        ResetSide::Remote => treat::TREAT_RESETS_REMOTE,
        ResetSide::Both => treat::TREAT_RESETS_LOCAL | treat::TREAT_RESETS_REMOTE,
    };
    Treatment { flags, after_bytes: reset.after_bytes, ..plain }
}

fn rejected(plain: Treatment, reject: &Reject) -> Treatment {
    let (count, mtu) = match reject.icmp {
        IcmpError::PortUnreachable => (answer::REJECT_PORT, 0),
        IcmpError::HostUnreachable => (answer::REJECT_HOST, 0),
        IcmpError::NetUnreachable => (answer::REJECT_NET, 0),
        IcmpError::AdminProhibited => (answer::REJECT_ADMIN, 0),
        IcmpError::FragmentationNeeded => (answer::REJECT_TOO_BIG, u32::from(reject.mtu)),
    };
    Treatment { count, bits: mtu, ..plain }
}

/// Lays out the tables of all distributions and the traces of all links, and tells each rule where its own is.
pub(super) fn lay_out_tables(scenario: &Scenario, lowered: &mut Lowered) {
    let Lowered { image, fault_of_rule } = lowered;
    for (position, fault) in scenario.faults.iter().enumerate() {
        let first = match &fault.effect {
            Effect::Delay(Delay { times, .. })
            | Effect::Operations(OperationFault { harm: Harm::Delay(times), .. }) => {
                let Some(table) = distribution::table(times) else { continue };
                let first = image.quantiles.len();
                image.quantiles.extend(table);
                first
            }
            Effect::Rate(Rate { capacity: Capacity::Trace(trace), .. }) => {
                let first = image.opportunities.len();
                image.opportunities.extend(trace.at_ms());
                first
            }
            _ => continue,
        };
        let own = image.rules.iter_mut().zip(&*fault_of_rule);
        for (rule, _) in own.filter(|(_, fault)| **fault == position) {
            rule.treatment.table = first as u32;
        }
    }
}

/// The longest time that a packet may be kept back by one fault.
#[must_use]
pub(super) fn longest_ns(effect: &Effect) -> u64 {
    match effect {
        Effect::Delay(delay) => match &delay.times {
            Times::Measured(profile) => profile.longest_ns(),
            Times::Spread { delay_ns, .. } => distribution::table(&delay.times)
                .and_then(|table| table.into_iter().max())
                .unwrap_or(*delay_ns),
        },
        Effect::Reorder(reorder) => reorder.delay_ns,
        Effect::Rate(rate) => link::longest_ns(rate),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_bits_and_only_too_big_a_packet_has_an_mtu() {
        let side = |side| torn_down(Treatment::default(), &Reset { side, after_bytes: 7 });
        assert_eq!(side(ResetSide::Local).flags, treat::TREAT_RESETS_LOCAL);
        assert_eq!(side(ResetSide::Remote).flags, treat::TREAT_RESETS_REMOTE);
        assert_eq!(side(ResetSide::Both).flags, treat::TREAT_RESETS_LOCAL | treat::TREAT_RESETS_REMOTE);
        assert_eq!(side(ResetSide::Both).after_bytes, 7);
        let reject = |icmp| rejected(Treatment::default(), &Reject { icmp, mtu: 1300 });
        assert_eq!(reject(IcmpError::HostUnreachable).bits, 0);
        let too_big = reject(IcmpError::FragmentationNeeded);
        assert_eq!((too_big.count, too_big.bits), (answer::REJECT_TOO_BIG, 1300));
    }

    #[test]
    fn every_gap_th_packet_is_held() {
        let mut rule = Rule::default();
        hold_every(&mut rule, &Reorder { delay_ns: 1, gap: Some(5) });
        let held: Vec<u64> = (1..=12).filter(|&n| rule.nth.strikes(n)).collect();
        assert_eq!(held, [5, 10]);
    }
}
