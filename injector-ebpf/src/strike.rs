//! From a target to the verdict over one packet.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_loop};
use injector_common::answer::{can_mean, is_answer};
use injector_common::decide::{Outcome, decide, is_meant, note_strike};
use injector_common::layout::{Control, MAX_RULES_PER_TARGET, Span};
use injector_common::link_trace::Search;
use injector_common::packet::Packet;
use injector_common::rule::{
    ACTION_DNS, ACTION_LOCAL_DROP, ACTION_LOSS, ACTION_OBSERVE, ACTION_RATE, ACTION_REJECT, ACTION_RESET,
    EGRESS, Rule,
};
use injector_common::treatment::{Treated, Way, treat};
use injector_common::window::is_over;

use crate::clock::departure_ns;
pub(crate) use crate::clock::now_ns;
use crate::dns;
use crate::maps::{CONTROL, RULES, WALKS, needs, shape};
use crate::memory::{FaultMemory, clear};
use crate::parse::{self, Framing, Offsets};
use crate::reset;
pub(crate) use crate::sets::Tries;
use crate::tables::Tables;
use crate::tally::{count, trace};

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
    /// Whether it is always one packet of the wire, as far as anybody knows here.
    const IS_ONE_SEGMENT: bool;

    /// Reads it; `None` if it isn't IP or is cut short.
    fn parse(self, direction: u32, packet: &mut Packet, offsets: &mut Offsets) -> Option<()>;

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
    const IS_ONE_SEGMENT: bool = false;

    #[inline(always)]
    fn parse(self, direction: u32, packet: &mut Packet, offsets: &mut Offsets) -> Option<()> {
        parse::packet(self.skb, self.framing, direction, packet, offsets)
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
    let needs = needs();
    // One scratch per direction: a packet that arrives may interrupt one that leaves.
    let Some(walk) = WALKS.get_ptr_mut(direction) else { return Verdict::Pass };
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    let walk = unsafe { &mut *walk };
    let by_time = shape!(wants.time) != 0;
    let now_ns = if by_time { now_ns(control) } else { 0 };
    if if by_time { is_over(now_ns, control.deadline_ns) } else { is_over_by_tick(control, walk) } {
        return Verdict::Pass;
    }
    if source.parse(direction, &mut walk.packet, &mut walk.offsets).is_none() {
        return Verdict::Pass;
    }
    if shape!(wants.whole) != 0 {
        walk.start_ns = source.start_ns(direction, now_ns);
        // SAFETY: a way is made of numbers.
        unsafe { clear(&mut walk.way) };
        walk.way.at_ns = walk.start_ns;
        walk.way.origin_ns = control.start_ns;
        walk.target = target;
        walk.now_ns = now_ns;
        walk.asked = dns::UNREAD;
    }
    if by_time {
        walk.elapsed_ns = now_ns.wrapping_sub(control.start_ns);
    }
    match walk_on(source, walk, rules) {
        ACTION_LOSS => Verdict::Lose,
        ACTION_LOCAL_DROP => Verdict::LocalDrop,
        ACTION_DNS if needs.action(ACTION_DNS) && dns::ends_connection(walk) => Verdict::Reset,
        ACTION_DNS if needs.action(ACTION_DNS) => Verdict::Answer,
        ACTION_RESET if needs.action(ACTION_RESET) => Verdict::Reset,
        ACTION_REJECT if needs.action(ACTION_REJECT) => Verdict::Reject,
        _ if needs.treats() && walk.is_treated() => Verdict::Treat,
        _ => Verdict::Pass,
    }
}

/// Whether the deadline has come, by the kernel's tick. It is compared once in each tick and on each CPU, since between two ticks
/// the coarse clock stands still; the other packets only read the number of the tick, which is a load and no call. The clock may
/// advance a little behind the number, so the deadline holds to two ticks.
#[inline(always)]
pub(crate) fn is_over_by_tick(control: &Control, walk: &mut Walk) -> bool {
    // SAFETY: the helper has no preconditions.
    let tick = unsafe { bpf_jiffies64() };
    if walk.checked_tick == tick {
        return false;
    }
    // SAFETY: the helper has no preconditions.
    if is_over(unsafe { bpf_ktime_get_coarse_ns() }, control.deadline_ns) {
        return true;
    }
    walk.checked_tick = tick;
    false
}

/// Walks through the rules of the target; returns the action of the one that took the packet away, else 0.
#[inline(always)]
fn walk_on<S: Source>(source: S, walk: &mut Walk, rules: Span) -> u32 {
    let is_single = shape!(single_rules) == 1;
    if is_single && S::IS_ONE_SEGMENT {
        // A call costs more there than all the rest of a rule, and the code is in one program only.
        return apply(source, walk, rules.first);
    }
    walk.first = rules.first;
    walk.action = 0;
    let mut round = Round { source, walk };
    // The verifier cuts one of the two out.
    if is_single {
        // SAFETY: the context is what the callback wants.
        return unsafe {
            next_rule::<S>(0, (&raw mut round).cast());
            (*round.walk).action
        };
    }
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe {
        bpf_loop(
            rules.count.min(MAX_RULES_PER_TARGET),
            next_rule::<S> as *mut c_void,
            (&raw mut round).cast(),
            0,
        );
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
    pub(crate) now_ns: u64,
    /// When it would leave without us.
    pub(crate) start_ns: u64,
    elapsed_ns: u64,
    pub(crate) way: Way,
    /// The tick at which the deadline was last seen not to have come.
    checked_tick: u64,
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
#[inline(never)]
unsafe extern "C" fn next_rule<S: Source>(at: u32, context: *mut c_void) -> i64 {
    // SAFETY: `walk_on` passes a pointer to its own `Round`, which points to the `Walk` of this CPU.
    let (round, walk) = unsafe {
        let round = &*context.cast::<Round<S>>();
        (round, &mut *round.walk)
    };
    walk.action = apply(round.source, walk, walk.first + at);
    i64::from(walk.action != 0)
}

/// Applies one rule; returns its action if it struck and took the packet away, else 0.
#[inline(always)]
fn apply<S: Source>(source: S, walk: &mut Walk, index: u32) -> u32 {
    let Some(rule) = RULES.get(index) else { return 0 };
    // Read once: what the verifier knows of it, it knows of the copy.
    let needs = needs();
    if !is_meant(rule, &walk.packet, &Tries(needs)) {
        return 0;
    }
    // Before the decision, so that only what can be answered counts for `nth`.
    if needs.treats() && !can_be_answered(source, walk, rule) {
        return 0;
    }
    let memory = FaultMemory::of(rule.fault, needs);
    // The controller knows that they are as many as the packets then.
    let segments = if S::IS_ONE_SEGMENT { 0 } else { walk.packet.segments };
    let mut outcome = decide(rule, &walk.packet, walk.elapsed_ns, &memory);
    if outcome == Outcome::NotMeant {
        return 0;
    }
    // The verifier knows then that rules do nothing but to lose, or to look.
    if !needs.whole_packet() {
        count(rule, segments, index, outcome);
        if outcome != Outcome::Injected {
            return 0;
        }
        note_strike(rule, walk.elapsed_ns, &memory);
        return if needs.action(ACTION_OBSERVE) && rule.action == ACTION_OBSERVE { 0 } else { rule.action };
    }
    if outcome == Outcome::Injected
        && needs.treats()
        && rule.action > ACTION_LOCAL_DROP
        && rule.action != ACTION_OBSERVE
    {
        outcome = treat_by(rule, walk, &memory);
        walk.treated_by = index;
    }
    count(rule, segments, index, outcome);
    if outcome == Outcome::Injected {
        note_strike(rule, walk.elapsed_ns, &memory);
    }
    if needs.trace() {
        trace(rule, walk, index, outcome);
    }
    let takes_away =
        matches!(rule.action, ACTION_LOSS | ACTION_LOCAL_DROP | ACTION_DNS) || is_answer(rule.action);
    match outcome {
        Outcome::Injected if takes_away => rule.action,
        Outcome::QueueFull if needs.action(ACTION_RATE) => ACTION_LOSS,
        _ => 0,
    }
}

/// Whether a rule that answers means the packet, beyond what its `match` says; true for all others.
#[inline(always)]
fn can_be_answered<S: Source>(source: S, walk: &mut Walk, rule: &Rule) -> bool {
    let needs = needs();
    // SAFETY: a field of a map value. Volatile, or the verifier walks through all that follows once more for each action.
    let action = unsafe { (&raw const rule.action).read_volatile() };
    if needs.action(ACTION_DNS) && action == ACTION_DNS {
        return source.asks(walk, rule);
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
