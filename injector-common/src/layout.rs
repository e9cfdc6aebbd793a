//! The maps' keys and values, rules apart.

use crate::assert_layout;

/// Rules that one target may have in one direction: as many as one packet may walk through.
pub const MAX_RULES_PER_TARGET: u32 = 64;
/// Distinct depths of the cgroup tree at which targets may live.
pub const MAX_LEVELS: usize = 8;
/// Words of the filter in front of the targets: 16,384 bits, so that of 1,000 targets one stranger in 16 passes it.
pub const FILTER_WORDS: u32 = 256;

/// Where a target's id is in the filter: the word and the bit.
#[inline(always)]
#[must_use]
pub const fn filter_place(id: u64) -> (u32, u64) {
    // The upper bits of a product depend on all bits of the id.
    let hash = id.wrapping_mul(crate::draw::GOLDEN_GAMMA) >> (64 - 14);
    ((hash >> 6) as u32, 1 << (hash & 63))
}

/// Extension headers of IPv6 that are followed to the transport header.
pub const MAX_EXTENSION_HEADERS: usize = 6;

/// `Control::flags`: write an event for each decision.
pub const CONTROL_TRACE: u32 = 1;
/// `Control::flags`: some rule looks at the time, so it must be finer than the kernel's tick.
pub const CONTROL_FINE_CLOCK: u32 = 2;

/// `Control::flags`: some rule for operations names a path.
pub const CONTROL_PATHS: u32 = 4;
/// `Control::flags`: some rule for operations names a device or a kind of file system.
pub const CONTROL_DEVICES: u32 = 8;

/// The experiment: one value in the map `CONTROL`, read first by every program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// 0 makes every program inert: the kill switch.
    pub armed: u32,
    /// [`crate::ABI_VERSION`] of the loader.
    pub abi_version: u32,
    /// Start of the experiment, `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// No program strikes from here on, `CLOCK_MONOTONIC`.
    pub deadline_ns: u64,
    /// Seed of the experiment, for the record: the rules carry the streams made of it.
    pub seed: u64,
    /// How many of `levels` count.
    pub level_count: u32,
    /// `CONTROL_` bits.
    pub flags: u32,
    /// Depths at which targets live, deepest first.
    pub levels: [u32; MAX_LEVELS],
    /// Written to `skb->tc_index` of a packet that was decided, so that a second device below the first
    /// (VLAN, tunnel) does not decide again. Never 0.
    pub mark: u32,
    /// Zero.
    pub _pad: u32,
}

assert_layout!(Control, size 80, align 8, {
    armed: 0, abi_version: 4, start_ns: 8, deadline_ns: 16, seed: 24, level_count: 32, flags: 36, levels: 40,
    mark: 72, _pad: 76,
});

/// The rules of one direction of a target: `count` of them in the map `RULES`, from `first`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Index of the first rule.
    pub first: u32,
    /// Number of rules, at most [`MAX_RULES_PER_TARGET`].
    pub count: u32,
}

assert_layout!(Span, size 8, align 4, { first: 0, count: 4 });

/// A target's entry in `TARGETS` (by cgroup id) or `INTERFACES` (by device index).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Rules of packets that leave the target.
    pub egress: Span,
    /// Rules of packets that arrive at it.
    pub ingress: Span,
    /// Rules of its own calls. Apart from the others, so that no packet walks through them.
    pub calls: Span,
}

assert_layout!(Target, size 24, align 4, { egress: 0, ingress: 8, calls: 16 });

/// What a fault remembers, shared by its rules and by all CPUs. Changed by atomic operations alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultState {
    /// Matching packets so far; kept only for `nth`.
    pub ordinal: u64,
    /// Injections so far; kept only for `limit`.
    pub injected: u64,
    /// State word of the budget, see [`crate::frequency::Budget::take`].
    pub budget: u64,
    /// State words of the loss model, one per direction, see [`crate::loss`].
    pub channels: [u64; 2],
    /// Time from the start of the experiment to the first injection, and one; 0 before it. Kept only where others follow this fault.
    pub first_injected_ns: u64,
    /// When the link is free again, one word per direction, see [`crate::treatment`].
    pub links: [u64; 2],
}

assert_layout!(FaultState, size 64, align 8, {
    ordinal: 0, injected: 8, budget: 16, channels: 24, first_injected_ns: 40, links: 48,
});

/// What a rule did, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that the rule meant, inside its windows.
    pub matched: u64,
    /// The same in packets on the wire: a GSO packet is several. 0 where each is one, which [`Self::with_segments`] fills in.
    pub segments_matched: u64,
    /// Packets that were struck.
    pub injected: u64,
    /// The same in packets on the wire.
    pub segments_injected: u64,
    /// Packets that would have been struck, but for the limit.
    pub spared_by_limit: u64,
    /// Packets that would have been struck, but for the budget.
    pub spared_by_budget: u64,
    /// Packets that were let go, because other CPUs kept changing the fault's state.
    pub contended: u64,
    /// Packets of several segments that a rule for single segments met.
    pub unsplit: u64,
    /// Packets that a full queue dropped.
    pub queue_full: u64,
    /// Packets that could not be treated as they should: no memory, or a shape that the kernel does not change.
    pub failed: u64,
}

assert_layout!(Counters, size 80, align 8, {
    matched: 0, segments_matched: 8, injected: 16, segments_injected: 24, spared_by_limit: 32, spared_by_budget: 40,
    contended: 48, unsplit: 56, queue_full: 64, failed: 72,
});

impl Counters {
    /// The same with all segments: there are as many as packets at least.
    #[must_use]
    pub fn with_segments(self) -> Self {
        Self {
            segments_matched: self.segments_matched.max(self.matched),
            segments_injected: self.segments_injected.max(self.injected),
            ..self
        }
    }
}

/// Key of the trie `ADDRESSES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressKey {
    /// Number of the set. It takes the first 32 bits of every prefix.
    pub set: u32,
    /// The address, IPv4 mapped.
    pub address: crate::packet::Address,
}

assert_layout!(AddressKey, size 20, align 4, { set: 0, address: 4 });

/// Key of the map `CONNECTIONS`: a connection in one direction, as one fault sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionKey {
    /// The target's address.
    pub local: crate::packet::Address,
    /// The other side's address.
    pub remote: crate::packet::Address,
    /// The target's port.
    pub local_port: u16,
    /// The other side's port.
    pub remote_port: u16,
    /// Slot of the fault.
    pub fault: u32,
    /// `EGRESS` or `INGRESS`.
    pub direction: u32,
}

assert_layout!(ConnectionKey, size 44, align 4, {
    local: 0, remote: 16, local_port: 32, remote_port: 34, fault: 36, direction: 40,
});

/// The level of the socket option by which the controller asks whose a socket is. No protocol has such a level.
pub const ASK_LEVEL: i32 = 0x696e_6a63;

/// Connections whose bytes are counted at once, where a rule counts them; the longest unseen makes room for a new one.
pub const CONNECTIONS: u32 = 65_536;

/// Bits of an `AddressKey` before the address.
pub const SET_BITS: u32 = 32;
