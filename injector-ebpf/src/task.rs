//! What all hooks in the context of a process share: whose process it is, and what is told of a decision over what it does.
//!
//! The process may be preempted by another one on the same CPU, so counters are changed by atomic instructions.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use injector_common::decide::Outcome;
use injector_common::event::Event;
use injector_common::layout::{Control, Span};
use injector_common::packet::Packet;
use injector_common::rule::{CALL, Rule};

use crate::maps::{COUNTERS, EVENTS, EVENTS_LOST};
use crate::memory::{add, add_one};
use crate::strike::armed;
use crate::target::rules_of_cgroup;

/// The experiment, if it is armed and the caller is a target's with rules for what it does: with the target's id, and these rules.
#[inline(always)]
pub(crate) fn struck_task() -> Option<(&'static Control, u64, Span)> {
    let control = armed()?;
    let (target, rules) = rules_of_task(control)?;
    (rules.count != 0).then_some((control, target, rules))
}

/// The rules of the calls of the innermost target whose cgroup holds the caller, and its cgroup id.
#[inline(always)]
pub(crate) fn rules_of_task(control: &Control) -> Option<(u64, Span)> {
    let mut at = 0;
    for &level in &control.levels {
        if at >= control.level_count {
            return None;
        }
        at += 1;
        // SAFETY: the helper has no preconditions; it returns 0 for "none".
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if let Some(rules) = rules_of_cgroup(id, CALL) {
            return Some((id, rules));
        }
    }
    None
}

/// Counts a decision.
#[inline(always)]
pub(crate) fn count(index: u32, outcome: Outcome) {
    let Some(counters) = COUNTERS.get_ptr_mut(index) else { return };
    // SAFETY: the words are inside of a map value, and no reference to them is made.
    unsafe {
        add_one(&raw mut (*counters).matched);
        let word = match outcome {
            Outcome::Injected => &raw mut (*counters).injected,
            Outcome::SparedByLimit => &raw mut (*counters).spared_by_limit,
            Outcome::SparedByBudget => &raw mut (*counters).spared_by_budget,
            Outcome::Contended => &raw mut (*counters).contended,
            Outcome::QueueFull | Outcome::Matched | Outcome::NotMeant => return,
        };
        add_one(word);
    }
}

/// Counts what was not decided, since there was no room for its path.
#[inline(always)]
pub(crate) fn count_missed(index: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(index) else { return };
    // SAFETY: the word is inside of a map value, and no reference to it is made.
    add_one(unsafe { &raw mut (*counters).contended });
}

/// Takes back that a delay was injected, since no program was free for it.
#[inline(always)]
pub(crate) fn count_passed_by(index: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(index) else { return };
    // SAFETY: the words are inside of a map value, and no reference to them is made. The sum over all CPUs is never below 0.
    unsafe {
        add(&raw mut (*counters).injected, u64::MAX);
        add_one(&raw mut (*counters).contended);
    }
}

/// Writes a decision to the ring.
#[inline(always)]
pub(crate) fn record(
    rule: &Rule,
    (target, time_ns, delay_ns): (u64, u64, u64),
    (index, outcome): (u32, Outcome),
    packet: Packet,
) {
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        entry.write(Event {
            time_ns,
            target,
            rule: index,
            fault: rule.fault,
            outcome: outcome as u32,
            direction: rule.direction,
            delay_ns,
            packet,
            _pad: 0,
        });
        entry.submit(0);
    } else if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
        add_one(lost);
    }
}
