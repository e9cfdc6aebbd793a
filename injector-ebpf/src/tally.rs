//! What is counted and told of a packet's decision.
//!
//! Programs of one CPU do not preempt each other on its counters, so they need no atomic instructions; those in the context of a process, which may be
//! preempted, have others (`task`).

use injector_common::decide::Outcome;
use injector_common::event::Event;
use injector_common::layout::Counters;
use injector_common::rule::{RULE_PER_SEGMENT, Rule};

use crate::maps::{COUNTERS, EVENTS, EVENTS_LOST};
use crate::memory::add_one;
use crate::strike::Walk;

/// Counts a packet of the wire that a rule has lost.
#[inline(always)]
pub(crate) fn count_lost(index: u32) {
    if let Some(counters) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a value of this CPU's own; programs of one CPU do not preempt each other on it.
        let counters = unsafe { &mut *counters };
        counters.matched += 1;
        counters.injected += 1;
    }
}

/// Counts a packet that a rule has struck, and that could not be treated.
#[inline(always)]
pub(crate) fn count_failed(index: u32) {
    if let Some(counters) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a value of this CPU's own; programs of one CPU do not preempt each other on it.
        unsafe { (*counters).failed += 1 };
    }
}

/// Counts a decision.
#[inline(always)]
pub(crate) fn count(rule: &Rule, segments: u32, index: u32, outcome: Outcome) {
    let Some(counters) = COUNTERS.get_ptr_mut(index) else { return };
    // SAFETY: a value of this CPU's own; programs of one CPU do not preempt each other on it.
    let counters: &mut Counters = unsafe { &mut *counters };
    let (only, segments) = (segments <= 1, segments as u64);
    counters.matched += 1;
    if segments != 0 {
        counters.segments_matched += segments;
    }
    if !only && rule.flags & RULE_PER_SEGMENT != 0 {
        counters.unsplit += 1;
    }
    match outcome {
        Outcome::Injected => {
            counters.injected += 1;
            if segments != 0 {
                counters.segments_injected += segments;
            }
        }
        Outcome::SparedByLimit => counters.spared_by_limit += 1,
        Outcome::SparedByBudget => counters.spared_by_budget += 1,
        Outcome::Contended => counters.contended += 1,
        Outcome::QueueFull => counters.queue_full += 1,
        Outcome::Matched | Outcome::NotMeant => {}
    }
}

/// Records a decision. A function of its own, so that what it keeps is not on the stack of all that the rules call: Linux 6.1 adds that up,
/// and has nothing left.
#[inline(never)]
pub(crate) fn trace(rule: &Rule, walk: &Walk, index: u32, outcome: Outcome) {
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        entry.write(Event {
            time_ns: walk.now_ns,
            target: walk.target,
            rule: index,
            fault: rule.fault,
            outcome: outcome as u32,
            direction: rule.direction,
            delay_ns: walk.way.at_ns.wrapping_sub(walk.start_ns),
            packet: walk.packet,
            _pad: 0,
        });
        entry.submit(0);
    } else if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
        // Of this CPU's own, but programs of both directions write it, and one may interrupt the other.
        add_one(lost);
    }
}
