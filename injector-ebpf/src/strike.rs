//! From a target to the verdict over one packet.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_loop, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::maps::lpm_trie::Key;
use injector_common::answer::{can_mean, is_answer};
use injector_common::decide::{Outcome, decide, is_meant};
use injector_common::distribution::MAX_DELAY_NS;
use injector_common::event::Event;
use injector_common::layout::{
    AddressKey, CONTROL_FINE_CLOCK, Control, Counters, MAX_RULES_PER_TARGET, SET_BITS, Span, Target,
    filter_place,
};
use injector_common::link_trace::Search;
use injector_common::matching::AddressSets;
use injector_common::needs::Needs;
use injector_common::packet::{Address, Packet};
use injector_common::rule::{
    ACTION_DNS, ACTION_LOCAL_DROP, ACTION_LOSS, ACTION_RATE, ACTION_REJECT, ACTION_RESET, EGRESS,
    RULE_PER_SEGMENT, Rule,
};
use injector_common::treatment::{Treated, Way, treat};
use injector_common::window::is_over;

use crate::dns;
use crate::maps::{ADDRESSES, CONTROL, COUNTERS, EVENTS, EVENTS_LOST, FILTER, RULES, TARGETS, WALKS, needs};
use crate::memory::{FaultMemory, clear};
use crate::parse::{self, Framing, Offsets};
use crate::reset;
use crate::tables::Tables;

/// What is to be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Pass,
    /// The network lost it.
    Lose,
    /// The sender's own stack drops it, and knows.
    LocalDrop,
    /// Its connection is reset in its place, as the rule [`Walk::treated_by`] says.
    Reset,
    /// Its sender gets an ICMP error in its place, likewise.
    Reject,
    /// It is to be changed, copied or kept back, as [`Walk::way`] of its direction says.
    Treat,
    /// It is a DNS question, to which [`Walk::way`] of its direction has the answer.
    Answer,
}

/// The experiment, if it is armed.
#[inline(always)]
pub(crate) fn armed() -> Option<&'static Control> {
    let control = CONTROL.get(0)?;
    (control.armed != 0).then_some(control)
}

/// The innermost target whose cgroup holds the packet's socket, and its cgroup id.
///
/// A bystander pays one lookup for each depth of the tree at which targets live, as a rule one. Packets
/// without a full socket belong to the root cgroup or to none, and are nobody's.
#[inline(always)]
pub(crate) fn target_of_socket(control: &Control, skb: *mut __sk_buff) -> Option<(u64, Target)> {
    let mut at = 0;
    for &level in &control.levels {
        if at >= control.level_count {
            return None;
        }
        at += 1;
        // SAFETY: the helper only reads the packet's socket; it returns 0 for "none".
        let id = unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) };
        if id == 0 || !may_be_target(id) {
            continue;
        }
        // SAFETY: the entry is copied out; the controller replaces entries whole and before it arms.
        if let Some(target) = unsafe { TARGETS.get(id) } {
            return Some((id, *target));
        }
    }
    None
}

/// Whether the filter has the bit of a cgroup: false for most strangers.
#[inline(always)]
pub(crate) fn may_be_target(id: u64) -> bool {
    let (word, bit) = filter_place(id);
    FILTER.get(word).is_some_and(|bits| bits & bit != 0)
}

pub(crate) struct Tries;

impl AddressSets for Tries {
    #[inline(always)]
    fn contains(&self, set: u32, address: &Address) -> bool {
        let key = AddressKey { set, address: *address };
        ADDRESSES.get(Key::new(SET_BITS + 128, key)) == Some(&1)
    }

    #[inline(always)]
    fn needs(&self) -> Needs {
        needs()
    }
}

/// Applies the rules of a target to a packet, in the order of the file. The first that takes the packet
/// away ends it: what is lost on one stage of a path never reaches the next.
#[inline(always)]
pub(crate) fn strike(
    control: &Control,
    skb: *mut __sk_buff,
    framing: Framing,
    target: u64,
    rules: Span,
    direction: u32,
) -> Verdict {
    strike_at(control, Buffer { skb, framing }, target, rules, direction)
}

/// A packet as its hook has it. Methods and not closures, which can't be made to be inlined.
pub(crate) trait Source: Copy {
    /// Reads it; `None` if it isn't IP or is cut short.
    fn parse(self, direction: u32, packet: &mut Packet) -> Option<Offsets>;

    /// When it would leave without us.
    fn start_ns(self, direction: u32, now_ns: u64) -> u64;

    /// Whether it carries a DNS question that the rule means.
    fn asks(self, walk: &mut Walk, rule: &Rule) -> bool;
}

/// A packet in a socket buffer.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    pub(crate) skb: *mut __sk_buff,
    pub(crate) framing: Framing,
}

impl Source for Buffer {
    #[inline(always)]
    fn parse(self, direction: u32, packet: &mut Packet) -> Option<Offsets> {
        parse::packet(self.skb, self.framing, direction, packet)
    }

    #[inline(always)]
    fn start_ns(self, direction: u32, now_ns: u64) -> u64 {
        if direction == EGRESS { departure_ns(self.skb, now_ns) } else { now_ns }
    }

    #[inline(always)]
    fn asks(self, walk: &mut Walk, rule: &Rule) -> bool {
        dns::asks(self.skb, self.framing, walk, rule)
    }
}

/// [`strike`], whatever the packet is to its hook.
#[inline(always)]
pub(crate) fn strike_at(
    control: &Control,
    source: impl Source,
    target: u64,
    rules: Span,
    direction: u32,
) -> Verdict {
    if rules.count == 0 {
        return Verdict::Pass;
    }
    let now_ns = now_ns(control);
    if is_over(now_ns, control.deadline_ns) {
        return Verdict::Pass;
    }
    // One scratch per direction: a packet that arrives may interrupt one that leaves.
    let Some(walk) = WALKS.get_ptr_mut(direction) else { return Verdict::Pass };
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    let walk = unsafe { &mut *walk };
    let Some(offsets) = source.parse(direction, &mut walk.packet) else { return Verdict::Pass };
    walk.offsets = offsets;
    walk.start_ns = source.start_ns(direction, now_ns);
    // SAFETY: a way is made of numbers.
    unsafe { clear(&mut walk.way) };
    walk.way.at_ns = walk.start_ns;
    walk.way.origin_ns = control.start_ns;
    walk.target = target;
    walk.now_ns = now_ns;
    walk.elapsed_ns = now_ns.wrapping_sub(control.start_ns);
    walk.first = rules.first;
    walk.action = 0;
    walk.asked = dns::UNREAD;
    match walk_on(source, walk, rules.count) {
        ACTION_LOSS => Verdict::Lose,
        ACTION_LOCAL_DROP => Verdict::LocalDrop,
        ACTION_DNS if needs().action(ACTION_DNS) && dns::ends_connection(walk) => Verdict::Reset,
        ACTION_DNS if needs().action(ACTION_DNS) => Verdict::Answer,
        ACTION_RESET if needs().action(ACTION_RESET) => Verdict::Reset,
        ACTION_REJECT if needs().action(ACTION_REJECT) => Verdict::Reject,
        _ if needs().treats() && walk.is_treated() => Verdict::Treat,
        _ => Verdict::Pass,
    }
}

/// When the packet would leave without us: now, or at the time that somebody has set before (TCP's pacing, another stage).
#[inline(always)]
pub(crate) fn departure_ns(skb: *mut __sk_buff, now_ns: u64) -> u64 {
    // SAFETY: the verifier checks each access to a field of the context.
    let set_ns = unsafe { (*skb).tstamp };
    // Other clocks may stand there too (`SO_TXTIME`); theirs are decades away from the monotonic one.
    if set_ns > now_ns && set_ns - now_ns <= MAX_DELAY_NS { set_ns } else { now_ns }
}

/// The time. Without windows or budgets nobody needs it finer than the kernel's tick, which costs a tenth; a
/// deadline then holds to one tick (1 to 10 ms).
#[inline(always)]
pub(crate) fn now_ns(control: &Control) -> u64 {
    // SAFETY: the helpers have no preconditions.
    unsafe {
        if control.flags & CONTROL_FINE_CLOCK == 0 { bpf_ktime_get_coarse_ns() } else { bpf_ktime_get_ns() }
    }
}

/// Walks through the rules of the target; returns the action of the one that took the packet away, else 0.
#[inline(always)]
fn walk_on<S: Source>(source: S, walk: &mut Walk, count: u32) -> u32 {
    let mut round = Round { source, walk };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe {
        bpf_loop(count.min(MAX_RULES_PER_TARGET), next_rule::<S> as *mut c_void, (&raw mut round).cast(), 0);
        (*round.walk).action
    }
}

/// For the callback of `bpf_loop`.
struct Round<S> {
    source: S,
    walk: *mut Walk,
}

/// What the rules of a target share while one packet walks through them.
///
/// It lives in a map and not on the stack, because the verifier forgets what a map holds: the paths through
/// the parser come together behind it, instead of each being walked on through every rule.
pub(crate) struct Walk {
    pub(crate) packet: Packet,
    pub(crate) offsets: Offsets,
    /// Who it is for or from: the target's id, as events have it.
    pub(crate) target: u64,
    now_ns: u64,
    /// When it would leave without us.
    pub(crate) start_ns: u64,
    elapsed_ns: u64,
    pub(crate) way: Way,
    first: u32,
    action: u32,
    /// The rule that treated the packet last, to count what can't be done.
    pub(crate) treated_by: u32,
    /// Where the network header begins in the buffer.
    pub(crate) network: u32,
    /// 1: a treatment has failed.
    pub(crate) failed: u32,
    search: Search,
    /// Whether it carries a DNS question, as far as somebody has looked: a constant of `dns`.
    pub(crate) asked: u32,
}

impl Walk {
    #[inline(always)]
    fn is_treated(&self) -> bool {
        self.way.at_ns != self.start_ns || self.way.copies != 0 || self.way.marks != 0
    }
}

/// One round of `bpf_loop`, which the verifier walks once and not for each rule. Returns 1 to stop.
unsafe extern "C" fn next_rule<S: Source>(at: u32, context: *mut c_void) -> i64 {
    // SAFETY: `walk_on` passes a pointer to its own `Round`, which points to the `Walk` of this CPU.
    let (round, walk) = unsafe {
        let round = &*context.cast::<Round<S>>();
        (round, &mut *round.walk)
    };
    walk.action = apply(round, walk, walk.first + at);
    i64::from(walk.action != 0)
}

/// Applies one rule; returns its action if it struck and took the packet away, else 0.
#[inline(always)]
fn apply<S: Source>(round: &Round<S>, walk: &mut Walk, index: u32) -> u32 {
    let Some(rule) = RULES.get(index) else { return 0 };
    if !is_meant(rule, &walk.packet, &Tries) {
        return 0;
    }
    // Before the decision, so that only what can be answered counts for `nth`.
    if !can_be_answered(round, walk, rule) {
        return 0;
    }
    let Some(memory) = FaultMemory::of(rule.fault) else { return 0 };
    let mut outcome = decide(rule, &walk.packet, walk.elapsed_ns, &memory);
    if outcome == Outcome::NotMeant {
        return 0;
    }
    if outcome == Outcome::Injected && needs().treats() && rule.action > ACTION_LOCAL_DROP {
        outcome = treat_by(rule, walk, &memory);
        walk.treated_by = index;
    }
    count(rule, &walk.packet, index, outcome);
    if needs().trace() {
        trace(rule, walk, index, outcome);
    }
    let takes_away =
        matches!(rule.action, ACTION_LOSS | ACTION_LOCAL_DROP | ACTION_DNS) || is_answer(rule.action);
    match outcome {
        Outcome::Injected if takes_away => rule.action,
        Outcome::QueueFull if needs().action(ACTION_RATE) => ACTION_LOSS,
        _ => 0,
    }
}

/// Whether a rule that answers means the packet, beyond what its `match` says; true for all others.
#[inline(always)]
fn can_be_answered<S: Source>(round: &Round<S>, walk: &mut Walk, rule: &Rule) -> bool {
    let needs = needs();
    // SAFETY: a field of a map value. Volatile, or the verifier walks through all that follows once more for each action.
    let action = unsafe { (&raw const rule.action).read_volatile() };
    if needs.action(ACTION_DNS) && action == ACTION_DNS {
        return round.source.asks(walk, rule);
    }
    if (needs.action(ACTION_RESET) || needs.action(ACTION_REJECT)) && is_answer(action) {
        // Counted first, so that a SYN which goes through begins a connection too.
        return (rule.treatment.after_bytes == 0 || reset::is_beyond(rule, &walk.packet))
            && can_mean(action, &rule.treatment, &walk.packet, rule.direction);
    }
    true
}

/// Applies a rule that keeps the packet.
#[inline(always)]
fn treat_by(rule: &Rule, walk: &mut Walk, memory: &FaultMemory) -> Outcome {
    let (action, treatment) = (rule.action, &rule.treatment);
    let tables = Tables { search: &raw mut walk.search };
    match treat(action, treatment, &walk.packet, rule.direction, memory, &tables, &mut walk.way) {
        Treated::GoesOn => Outcome::Injected,
        Treated::NotCapable => Outcome::Matched,
        Treated::QueueFull => Outcome::QueueFull,
        Treated::Contended => Outcome::Contended,
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

#[inline(always)]
fn count(rule: &Rule, packet: &Packet, index: u32, outcome: Outcome) {
    let Some(counters) = COUNTERS.get_ptr_mut(index) else { return };
    // SAFETY: a value of this CPU's own; programs of one CPU do not preempt each other on it.
    let counters: &mut Counters = unsafe { &mut *counters };
    let segments = packet.segments as u64;
    counters.matched += 1;
    counters.segments_matched += segments;
    if rule.flags & RULE_PER_SEGMENT != 0 && segments > 1 {
        counters.unsplit += 1;
    }
    match outcome {
        Outcome::Injected => {
            counters.injected += 1;
            counters.segments_injected += segments;
        }
        Outcome::SparedByLimit => counters.spared_by_limit += 1,
        Outcome::SparedByBudget => counters.spared_by_budget += 1,
        Outcome::Contended => counters.contended += 1,
        Outcome::QueueFull => counters.queue_full += 1,
        Outcome::Matched | Outcome::NotMeant => {}
    }
}

#[inline(always)]
fn trace(rule: &Rule, walk: &Walk, index: u32, outcome: Outcome) {
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
        // SAFETY: a value of this CPU's own.
        unsafe { *lost += 1 };
    }
}

/// The rules of one direction.
#[inline(always)]
pub(crate) fn span(target: &Target, direction: u32) -> Span {
    if direction == EGRESS { target.egress } else { target.ingress }
}
