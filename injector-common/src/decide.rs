//! The decision over one packet that a rule may mean, from matching to the verdict.
//!
//! The order is: match, window, frequency, budget, limit. A packet that the budget spares does not use up
//! the limit, and only packets inside a window count for `nth`.

use crate::draw;
use crate::loss;
use crate::matching::{AddressSets, matches};
use crate::needs::Needs;
use crate::packet::Packet;
use crate::rule::{
    FREQUENCY_ALWAYS, FREQUENCY_MODEL, FREQUENCY_NTH, FREQUENCY_PROBABILITY, NO_LIMIT, RULE_EXCLUDES,
    RULE_LINKED, RULE_SPARES_GATEWAYS, RULE_SPARES_NEIGHBOURS, RULE_SPARES_PORTS, Rule,
};

/// What became of a packet under one rule.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule does not mean it, or not now. Not counted.
    NotMeant = 0,
    /// Meant, and not struck.
    Matched = 1,
    /// Struck.
    Injected = 2,
    /// Let go by the limit.
    SparedByLimit = 3,
    /// Let go by the budget.
    SparedByBudget = 4,
    /// Let go because other CPUs kept changing the state.
    Contended = 5,
    /// Dropped, because the queue in front of a link was full.
    QueueFull = 6,
}

/// A word of a fault's shared state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// `FaultState::ordinal`.
    Ordinal,
    /// `FaultState::injected`.
    Injected,
    /// `FaultState::budget`.
    Budget,
    /// `FaultState::channels` of egress.
    EgressChannel,
    /// `FaultState::channels` of ingress.
    IngressChannel,
    /// `FaultState::links` of egress.
    EgressLink,
    /// `FaultState::links` of ingress.
    IngressLink,
    /// `FaultState::first_injected_ns`.
    First,
}

/// The memory of a fault: atomics in a map, cells in the model.
pub trait Memory {
    /// Adds one and returns what was there before.
    fn increment(&self, word: Word) -> u64;
    /// Adds one to the sequence of a class and returns what was there before.
    fn next_sequence(&self, class: u32) -> u64;
    /// The later of `at_ns` and the last time that was returned for the class.
    fn not_before(&self, class: u32, at_ns: u64) -> u64;
    /// Reads a word.
    fn load(&self, word: Word) -> u64;
    /// Replaces `old` by `new` and returns true, or returns false if the word is no longer `old`.
    fn replace(&self, word: Word, old: u64, new: u64) -> bool;

    /// [`Word::First`] of the fault with another slot; 0 where nobody is followed.
    #[inline(always)]
    fn first_of(&self, _slot: u32) -> u64 {
        0
    }

    /// What rules can ask for here.
    #[inline(always)]
    fn needs(&self) -> Needs {
        Needs::ALL
    }
}

/// Attempts at a word that other CPUs keep changing. Each failure is another CPU's success.
const ATTEMPTS: u32 = 8;

/// Whether the rule means the packet: its `match`, its `not`, and what the safety rules spare.
#[inline(always)]
#[must_use]
pub fn is_meant<S: AddressSets>(rule: &Rule, packet: &Packet, sets: &S) -> bool {
    if !matches(&rule.include, packet, sets) {
        return false;
    }
    let needs = sets.needs();
    if needs.flags(RULE_EXCLUDES) != 0
        && rule.flags & RULE_EXCLUDES != 0
        && matches(&rule.exclude, packet, sets)
    {
        return false;
    }
    needs.flags(RULE_SPARES_NEIGHBOURS | RULE_SPARES_PORTS | RULE_SPARES_GATEWAYS) == 0
        || !is_spared(rule, packet, sets)
}

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_ICMPV6: u8 = 58;

/// The default allow-list of interface-wide faults.
#[inline(always)]
fn is_spared<S: AddressSets>(rule: &Rule, packet: &Packet, sets: &S) -> bool {
    let flags = sets.needs().flags(rule.flags);
    if flags & RULE_SPARES_NEIGHBOURS != 0
        && packet.protocol == PROTOCOL_ICMPV6
        && (133..=137).contains(&packet.icmp_type)
    {
        return true;
    }
    if flags & RULE_SPARES_PORTS != 0
        && packet.protocol == PROTOCOL_TCP
        && rule.spared_ports.iter().any(|&port| port != 0 && port == packet.local_port)
    {
        return true;
    }
    flags & RULE_SPARES_GATEWAYS != 0 && sets.spares(rule.spared_set, &packet.remote)
}

/// What becomes of a packet that the rule means.
///
/// `elapsed_ns` is the time since the start of the experiment; the caller has checked the deadline.
#[inline(always)]
pub fn decide<M: Memory>(rule: &Rule, packet: &Packet, elapsed_ns: u64, memory: &M) -> Outcome {
    match window_ns(rule, elapsed_ns, memory) {
        Some(window_ns) => decide_or_stay(rule, packet, (elapsed_ns, window_ns), memory, false),
        None => Outcome::NotMeant,
    }
}

/// The time that counts for the rule's window: since the start of the experiment, or since the first strike of the fault that it follows;
/// `None` before that.
#[inline(always)]
pub fn window_ns<M: Memory>(rule: &Rule, elapsed_ns: u64, memory: &M) -> Option<u64> {
    if memory.needs().flags(RULE_LINKED) == 0 || rule.follows == 0 {
        return Some(elapsed_ns);
    }
    // A CPU that looked at the clock before the first strike was noted may come after it.
    let first_ns = memory.first_of(rule.follows - 1).checked_sub(1)?;
    Some(elapsed_ns.saturating_sub(first_ns))
}

/// Notes that a fault has struck, for those that follow it. The first CPU's time stands.
#[inline(always)]
pub fn note_strike<M: Memory>(rule: &Rule, elapsed_ns: u64, memory: &M) {
    if memory.needs().flags(RULE_LINKED) != 0 && rule.is_followed != 0 && memory.load(Word::First) == 0 {
        let _ = memory.replace(Word::First, 0, elapsed_ns + 1);
    }
}

/// The same, of a fault that strikes in any case once it has struck, within its bounds: see [`stays`]; and with the time of its window, see
/// [`window_ns`].
#[inline(always)]
pub fn decide_or_stay<M: Memory>(
    rule: &Rule,
    packet: &Packet,
    (elapsed_ns, window_ns): (u64, u64),
    memory: &M,
    has_struck: bool,
) -> Outcome {
    let needs = memory.needs();
    if needs.window() && !rule.window.is_always_open() && !rule.window.is_open(window_ns) {
        return Outcome::NotMeant;
    }
    if !has_struck {
        match is_struck(rule, packet, elapsed_ns, memory) {
            None => return Outcome::Contended,
            Some(false) => return Outcome::Matched,
            Some(true) => {}
        }
    }
    if !needs.bounds() {
        return Outcome::Injected;
    }
    match take_budget(rule, elapsed_ns, memory) {
        None => return Outcome::Contended,
        Some(false) => return Outcome::SparedByBudget,
        Some(true) => {}
    }
    if needs.limit() && rule.limit != NO_LIMIT && memory.increment(Word::Injected) >= rule.limit {
        return Outcome::SparedByLimit;
    }
    Outcome::Injected
}

/// The word in which a fault that stays notes that it has struck. It has no channel.
const STAYING: Word = Word::EgressChannel;

/// Whether a fault has struck in the window that is open, and so stays: a disk that is full.
#[inline(always)]
pub fn stays<M: Memory>(rule: &Rule, window_ns: u64, memory: &M) -> bool {
    memory.load(STAYING) == rule.window.number(window_ns) + 1
}

/// Notes that it has struck. What another CPU writes meanwhile is the same.
#[inline(always)]
pub fn stay<M: Memory>(rule: &Rule, window_ns: u64, memory: &M) {
    let _ = memory.replace(STAYING, memory.load(STAYING), rule.window.number(window_ns) + 1);
}

/// Forgets it, and what was counted until then: there is room again.
#[inline(always)]
pub fn free<M: Memory>(memory: &M) {
    for word in [STAYING, Word::Ordinal] {
        let _ = memory.replace(word, memory.load(word), 0);
    }
}

/// `None` when the state could not be changed.
#[inline(always)]
fn is_struck<M: Memory>(rule: &Rule, packet: &Packet, elapsed_ns: u64, memory: &M) -> Option<bool> {
    let needs = memory.needs();
    match rule.frequency {
        FREQUENCY_ALWAYS => Some(true),
        FREQUENCY_PROBABILITY if needs.frequency(FREQUENCY_PROBABILITY) => {
            let class = packet.class(rule.direction);
            let bits = draw::draw(rule.stream, class, memory.next_sequence(class));
            Some(draw::chance(bits, rule.probability_p32))
        }
        FREQUENCY_NTH if needs.frequency(FREQUENCY_NTH) => {
            Some(rule.nth.strikes(memory.increment(Word::Ordinal).wrapping_add(1)))
        }
        FREQUENCY_MODEL if needs.frequency(FREQUENCY_MODEL) => step_channel(rule, elapsed_ns, memory),
        // Nothing else is ever written; an unknown word lets the packet go.
        _ => Some(false),
    }
}

#[inline(always)]
fn step_channel<M: Memory>(rule: &Rule, elapsed_ns: u64, memory: &M) -> Option<bool> {
    let word = if rule.direction == crate::rule::EGRESS { Word::EgressChannel } else { Word::IngressChannel };
    for _ in 0..ATTEMPTS {
        let old = memory.load(word);
        let (lost, new) = loss::step(&rule.model, rule.stream, rule.direction, old, elapsed_ns);
        if memory.replace(word, old, new) {
            return Some(lost);
        }
    }
    None
}

#[inline(always)]
fn take_budget<M: Memory>(rule: &Rule, elapsed_ns: u64, memory: &M) -> Option<bool> {
    if !memory.needs().budget() || rule.budget.period_ns == 0 {
        return Some(true);
    }
    for _ in 0..ATTEMPTS {
        let old = memory.load(Word::Budget);
        let Some(new) = rule.budget.take(old, elapsed_ns) else { return Some(false) };
        if memory.replace(Word::Budget, old, new) {
            return Some(true);
        }
    }
    None
}

#[cfg(test)]
mod tests;
