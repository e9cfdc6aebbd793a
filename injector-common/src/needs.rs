//! What the rules of one experiment can ask for, known before the programs are loaded.
//!
//! The loader writes it into the object's read-only data. The kernel freezes those, its verifier takes what it reads there for
//! a constant (`bpf_map_is_rdonly` in `kernel/bpf/verifier.c`), does not walk branches that it rules out, and cuts them out of the
//! program. So an experiment pays, at load and per packet, for what it uses.

use crate::matching::{
    KEY_DEVICE, KEY_DEVICE_EXCLUDED, KEY_DSCP, KEY_ESTABLISHED, KEY_FAMILY, KEY_LENGTH, KEY_LOCAL,
    KEY_LOCAL_PORT, KEY_PROTOCOL, KEY_REMOTE, KEY_REMOTE_PORT, KEY_TCP_FLAGS,
};
use crate::rule::{
    FREQUENCY_MODEL, FREQUENCY_PROBABILITY, NO_LIMIT, RULE_EXCLUDES, RULE_LINKED, RULE_SPARES_GATEWAYS,
    RULE_SPARES_NEIGHBOURS, RULE_SPARES_PORTS, Rule,
};

/// A set of what rules can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs(u64);

const FLAGS_SHIFT: u32 = 16;
const FREQUENCIES_SHIFT: u32 = 24;
const WINDOW: u64 = 1 << 28;
const BUDGET: u64 = 1 << 29;
const LIMIT: u64 = 1 << 30;
/// Decisions are recorded.
const TRACE: u64 = 1 << 31;
/// Above all that loss needs: a mask of the lower half is part of the instruction.
const ACTIONS_SHIFT: u32 = 32;

impl Needs {
    /// Everything: nothing is ruled out.
    pub const ALL: Self = Self(u64::MAX);

    /// What these rules ask for.
    #[must_use]
    pub fn of(rules: &[Rule], trace: bool) -> Self {
        rules.iter().fold(Self(if trace { TRACE } else { 0 }), |needs, rule| Self(needs.0 | needs_of(rule)))
    }

    /// From what the loader has written.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// For the loader to write.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The keys of a match, without those that no rule has.
    #[inline(always)]
    #[must_use]
    pub const fn keys(self, keys: u32) -> u32 {
        keys & (self.0 & ((1 << FLAGS_SHIFT) - 1)) as u32
    }

    /// The flags of a rule, without those that no rule has.
    #[inline(always)]
    #[must_use]
    pub const fn flags(self, flags: u32) -> u32 {
        flags & (self.0 >> FLAGS_SHIFT) as u32 & 0xff
    }

    /// Whether some rule has the action.
    #[inline(always)]
    #[must_use]
    pub const fn action(self, action: u32) -> bool {
        self.0 & (1 << (ACTIONS_SHIFT + action)) != 0
    }

    /// Whether some rule has an action that keeps the packet.
    #[inline(always)]
    #[must_use]
    pub const fn treats(self) -> bool {
        // An operation is no packet.
        let taking = (1_u64 << crate::rule::ACTION_LOSS)
            | (1 << crate::rule::ACTION_LOCAL_DROP)
            | crate::rule::OPERATION_ACTIONS;
        let all = ((1_u64 << (u64::BITS - ACTIONS_SHIFT)) - 1) & !(taking | 1);
        self.0 & (all << ACTIONS_SHIFT) != 0
    }

    /// Whether some rule has the frequency.
    #[inline(always)]
    #[must_use]
    pub const fn frequency(self, frequency: u32) -> bool {
        self.0 & (1 << (FREQUENCIES_SHIFT + frequency)) != 0
    }

    /// The same without what only packets have: models of loss.
    #[inline(always)]
    #[must_use]
    pub const fn of_operations(self) -> Self {
        Self(self.0 & !(1 << (FREQUENCIES_SHIFT + FREQUENCY_MODEL)))
    }

    /// Whether some rule has a window that is not always open, or counts from another fault's first strike on.
    #[inline(always)]
    #[must_use]
    pub const fn window(self) -> bool {
        self.0 & WINDOW != 0
    }

    /// Whether some rule has a budget.
    #[inline(always)]
    #[must_use]
    pub const fn budget(self) -> bool {
        self.0 & BUDGET != 0
    }

    /// Whether some rule has a limit.
    #[inline(always)]
    #[must_use]
    pub const fn limit(self) -> bool {
        self.0 & LIMIT != 0
    }

    /// Whether some rule has a window, a budget or a limit.
    #[inline(always)]
    #[must_use]
    pub const fn bounds(self) -> bool {
        self.0 & (WINDOW | BUDGET | LIMIT) != 0
    }

    /// Whether all rules do nothing but to lose whatever comes, at all times and without end.
    #[must_use]
    pub const fn loses_all(self) -> bool {
        self.0
            == 1 << (ACTIONS_SHIFT + crate::rule::ACTION_LOSS)
                | 1 << (FREQUENCIES_SHIFT + crate::rule::FREQUENCY_ALWAYS)
    }

    /// Whether decisions are recorded.
    #[inline(always)]
    #[must_use]
    pub const fn trace(self) -> bool {
        self.0 & TRACE != 0
    }

    /// Whether anything but the deadline looks at the time.
    #[inline(always)]
    #[must_use]
    pub const fn time(self) -> bool {
        self.window() || self.budget() || self.frequency(FREQUENCY_MODEL) || self.whole_packet()
    }

    /// Whether a packet must be known with all that can be: it is recorded, or more is done to it than to lose it.
    #[inline(always)]
    #[must_use]
    pub const fn whole_packet(self) -> bool {
        self.trace() || self.treats()
    }

    /// Whether something looks at the other side's address.
    #[inline(always)]
    #[must_use]
    pub const fn remote(self) -> bool {
        // The class of a draw is made of it.
        self.frequency(FREQUENCY_PROBABILITY)
            || self.keys(KEY_REMOTE) != 0
            || self.flags(RULE_SPARES_GATEWAYS) != 0
            || self.whole_packet()
    }

    /// Whether something looks at the target's address.
    #[inline(always)]
    #[must_use]
    pub const fn local(self) -> bool {
        self.keys(KEY_LOCAL) != 0 || self.whole_packet()
    }

    /// Whether something looks at the header of the transport.
    #[inline(always)]
    #[must_use]
    pub const fn transport(self) -> bool {
        self.frequency(FREQUENCY_PROBABILITY)
            || self.keys(KEY_LOCAL_PORT | KEY_REMOTE_PORT | KEY_TCP_FLAGS) != 0
            || self.flags(RULE_SPARES_NEIGHBOURS | RULE_SPARES_PORTS) != 0
            || self.whole_packet()
    }

    /// Whether something looks at the protocol of the transport.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(self) -> bool {
        self.keys(KEY_PROTOCOL | KEY_ESTABLISHED) != 0 || self.transport()
    }

    /// Whether something looks at the length.
    #[inline(always)]
    #[must_use]
    pub const fn length(self) -> bool {
        self.keys(KEY_LENGTH) != 0 || self.whole_packet()
    }

    /// Whether something looks at what else the network header says.
    #[inline(always)]
    #[must_use]
    pub const fn header(self) -> bool {
        self.keys(KEY_FAMILY | KEY_DSCP) != 0 || self.whole_packet()
    }

    /// Whether something looks at a packet at all.
    #[inline(always)]
    #[must_use]
    pub const fn any(self) -> bool {
        self.header()
            || self.protocol()
            || self.remote()
            || self.local()
            || self.length()
            || self.device()
            || self.socket()
    }

    /// Whether something looks at the device.
    #[inline(always)]
    #[must_use]
    pub const fn device(self) -> bool {
        self.keys(KEY_DEVICE | KEY_DEVICE_EXCLUDED) != 0 || self.whole_packet()
    }

    /// Whether something looks at the socket.
    #[inline(always)]
    #[must_use]
    pub const fn socket(self) -> bool {
        self.keys(KEY_ESTABLISHED) != 0 || self.whole_packet()
    }
}

fn needs_of(rule: &Rule) -> u64 {
    let excluded = if rule.flags & RULE_EXCLUDES == 0 { 0 } else { rule.exclude.keys };
    let mut needs = u64::from(rule.include.keys | excluded);
    needs |= u64::from(rule.flags) << FLAGS_SHIFT;
    needs |= 1 << (ACTIONS_SHIFT + rule.action);
    needs |= 1 << (FREQUENCIES_SHIFT + rule.frequency);
    for (needed, bit) in [
        // Who follows, and who is followed, has to know the time as who has a window.
        (!rule.window.is_always_open() || rule.flags & RULE_LINKED != 0, WINDOW),
        (rule.budget.period_ns != 0, BUDGET),
        (rule.limit != NO_LIMIT, LIMIT),
    ] {
        needs |= if needed { bit } else { 0 };
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frequency::Budget;
    use crate::matching::{KEY_LOCAL_PORT, KEY_PROTOCOL, Match};
    use crate::rule::{
        ACTION_DELAY, ACTION_LOSS, FREQUENCY_ALWAYS, FREQUENCY_MODEL, FREQUENCY_NTH, RULE_SPARES_PORTS,
    };
    use crate::window::Window;

    #[test]
    fn what_no_rule_asks_for_is_ruled_out() {
        let keys = |keys| Match { keys, ..Match::default() };
        let loss = Rule { action: ACTION_LOSS, include: keys(KEY_PROTOCOL), ..Rule::default() };
        let needs = Needs::of(&[loss], false);
        assert_eq!(needs.keys(u32::MAX), KEY_PROTOCOL);
        assert_eq!(needs.flags(u32::MAX), 0);
        assert!(needs.action(ACTION_LOSS) && !needs.action(ACTION_DELAY) && !needs.treats());
        assert!(needs.frequency(FREQUENCY_ALWAYS) && !needs.frequency(FREQUENCY_MODEL));
        assert!(!needs.window() && !needs.budget() && !needs.limit() && !needs.trace());

        let flags = RULE_EXCLUDES | RULE_SPARES_PORTS;
        let delay = Rule { action: ACTION_DELAY, exclude: keys(KEY_LOCAL_PORT), flags, ..Rule::default() };
        let both = Needs::of(&[loss, delay], true);
        assert_eq!(both.keys(u32::MAX), KEY_PROTOCOL | KEY_LOCAL_PORT);
        assert_eq!(both.flags(u32::MAX), flags);
        assert!(both.action(ACTION_LOSS) && both.action(ACTION_DELAY) && both.treats() && both.trace());
    }

    #[test]
    fn who_loses_all_asks_for_nothing() {
        let all = Rule { action: ACTION_LOSS, ..Rule::default() };
        assert!(Needs::of(&[all, all], false).loses_all());
        assert!(!Needs::of(&[all], true).loses_all() && !Needs::of(&[], false).loses_all());
        let window = Window { start_ns: 1, ..Window::default() };
        for other in [
            Rule { action: ACTION_DELAY, ..all },
            Rule { limit: 1, ..all },
            Rule { window, ..all },
            Rule { flags: RULE_SPARES_PORTS, ..all },
            Rule { frequency: FREQUENCY_NTH, ..all },
            Rule { include: Match { keys: KEY_PROTOCOL, ..Match::default() }, ..all },
        ] {
            assert!(!Needs::of(&[all, other], false).loses_all(), "{other:?}");
        }
    }

    /// The keys of an `exclude` that is not given are nobody's.
    #[test]
    fn each_part_of_a_rule_is_told_from_the_others() {
        let of = |rule| Needs::of(&[rule], false);
        let exclude = Match { keys: KEY_PROTOCOL, ..Match::default() };
        assert_eq!(of(Rule { exclude, ..Rule::default() }).keys(u32::MAX), 0);
        assert!(of(Rule { limit: 1, ..Rule::default() }).limit());
        assert!(of(Rule { budget: Budget { count: 1, period_ns: 1 }, ..Rule::default() }).budget());
        assert!(of(Rule { window: Window { for_ns: 1, ..Window::default() }, ..Rule::default() }).window());
        assert!(of(Rule { frequency: FREQUENCY_NTH, ..Rule::default() }).frequency(FREQUENCY_NTH));
    }

    #[test]
    fn of_a_packet_only_what_some_rule_looks_at_is_read() {
        let of = |rule: Rule| {
            let needs = Needs::of(&[Rule { action: ACTION_LOSS, ..rule }], false);
            [needs.protocol(), needs.transport(), needs.remote(), needs.local(), needs.length(), needs.time()]
        };
        let key = |keys| Rule { include: Match { keys, ..Match::default() }, ..Rule::default() };
        assert_eq!(of(Rule::default()), [false; 6]);
        assert_eq!(of(key(KEY_PROTOCOL)), [true, false, false, false, false, false]);
        assert_eq!(of(key(KEY_LOCAL_PORT)), [true, true, false, false, false, false]);
        assert_eq!(of(key(KEY_REMOTE)), [false, false, true, false, false, false]);
        assert_eq!(of(key(KEY_LOCAL)), [false, false, false, true, false, false]);
        assert_eq!(of(key(KEY_LENGTH)), [false, false, false, false, true, false]);
        let drawn = Rule { frequency: FREQUENCY_PROBABILITY, ..Rule::default() };
        assert_eq!(of(drawn), [true, true, true, false, false, false]);
        let model = Rule { frequency: FREQUENCY_MODEL, ..Rule::default() };
        assert_eq!(of(model), [false, false, false, false, false, true]);
        let whole = Needs::of(&[Rule { action: ACTION_DELAY, ..Rule::default() }], false);
        assert!(whole.protocol() && whole.transport() && whole.remote() && whole.local() && whole.time());
        assert!(Needs::of(&[Rule { action: ACTION_LOSS, ..Rule::default() }], true).socket(), "recorded");
    }

    #[test]
    fn nothing_is_ruled_out_by_default() {
        let all = Needs::from_bits(Needs::ALL.bits());
        assert_eq!((all.keys(0xfff), all.flags(0x1f)), (0xfff, 0x1f));
        let operations = all.of_operations();
        assert!(!operations.frequency(FREQUENCY_MODEL) && operations.frequency(FREQUENCY_NTH));
        assert!(all.treats() && all.trace() && all.window() && all.budget() && all.limit());
        assert!(all.time() && all.remote() && all.local() && all.transport() && all.length() && all.socket());
    }
}
