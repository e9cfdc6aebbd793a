//! What the kernel half tells the user half while it works.

use crate::assert_layout;

/// One decision over one packet, written when [`crate::layout::CONTROL_TRACE`] is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Cgroup id or device index of the target.
    pub target: u64,
    /// Index of the rule.
    pub rule: u32,
    /// Slot of the fault.
    pub fault: u32,
    /// One of the numbers of [`crate::decide::Outcome`].
    pub outcome: u32,
    /// `EGRESS`, `INGRESS`, `CALL` or `OPERATION`.
    pub direction: u32,
    /// By how much the packet is later so far, by this fault and those before it.
    pub delay_ns: u64,
    /// The packet.
    pub packet: crate::packet::Packet,
    /// Zero.
    pub _pad: u32,
}

assert_layout!(Event, size 112, align 8, {
    time_ns: 0, target: 8, rule: 16, fault: 20, outcome: 24, direction: 28, delay_ns: 32, packet: 40,
    _pad: 108,
});
