//! What the answers to a packet share: its ends swapped, its checksum told apart, the way back to its sender.
//!
//! An answer is made out of the packet that it answers, which does not arrive. The sender's stack gets it as if it had come
//! from the network: by the ingress of the device by which the packet leaves, or out of the device by which it came.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_l4_csum_replace, bpf_redirect};
use injector_common::packet::Packet;
use injector_common::rule::{EGRESS, Rule};

use crate::change::{load, network_offset, store};
use crate::maps::{RULES, WALKS};
use crate::parse::Framing;
use crate::strike::Walk;
use crate::tally::count_failed;
use crate::tc::lose;

/// `BPF_F_INGRESS`.
const TO_INGRESS: u64 = 1;
/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX`, include/net/net_namespace.h).
pub(crate) const LOOPBACK: u32 = 1;
/// Length of an Ethernet header.
const ETHERNET: u32 = 14;
/// Offset of the fragment field in an IPv4 header.
const IPV4_FRAGMENT: u32 = 6;
/// Offset of the addresses in their headers.
const IPV4_ADDRESSES: u32 = 12;
const IPV6_ADDRESSES: u32 = 8;

/// What an answer needs beside the packet.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) skb: *mut __sk_buff,
    pub(crate) direction: u32,
    /// What the answer carries in `tc_index`, if the programs of its device would decide over it; else 0.
    pub(crate) mark: u32,
    /// Where the network header begins in the buffer.
    pub(crate) network: u32,
    /// The rule that struck. Copied: an answer may pass another program before it is out of our hands, and that has the walk too.
    rule_index: u32,
}

/// Answers a packet that a rule has struck, which `strike` has just left. `make` makes the answer and returns what the program
/// returns, or `None` if it can't.
///
/// Inlined into one function for each kind of answer: another frame would not fit on the stack.
#[inline(always)]
pub(crate) fn answer(
    (skb, framing): (*mut __sk_buff, Framing),
    direction: u32,
    mark: u32,
    make: impl FnOnce(&Question, &Walk, &Rule) -> Option<i32>,
) -> i32 {
    let Some((walk, rule)) = struck(direction) else { return lost(direction) };
    let rule_index = walk.treated_by;
    let network = network_offset(skb, framing, walk.packet.family);
    let made =
        network.and_then(|network| make(&Question { skb, direction, mark, network, rule_index }, walk, rule));
    made.unwrap_or_else(|| {
        count_failed(rule_index);
        lost(direction)
    })
}

#[inline(always)]
fn struck(direction: u32) -> Option<(&'static Walk, &'static Rule)> {
    let walk = WALKS.get_ptr(direction)?;
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    let walk = unsafe { &*walk };
    let rule = RULES.get(walk.treated_by)?;
    Some((walk, rule))
}

/// The packet is lost, and its sender does not hear of it.
#[inline(always)]
fn lost(direction: u32) -> i32 {
    // At ingress nobody is told of a drop.
    if direction == EGRESS { lose() } else { TC_ACT_SHOT as i32 }
}

impl Question {
    /// The packet is lost, and nobody is told.
    #[inline(always)]
    pub(crate) fn lose(&self) -> i32 {
        lost(self.direction)
    }

    /// Counts that the answer could not be made.
    #[inline(always)]
    pub(crate) fn count_failed(&self) {
        count_failed(self.rule_index);
    }

    /// The index of the packet's device.
    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the verifier checks each access to a field of the context.
        unsafe { (*self.skb).ifindex }
    }

    /// By which way the packet's sender is reached. On loopback what leaves arrives; and a packet that is handed to its
    /// ingress loses its route, without which 127.0.0.1 is refused as a martian (`ip_route_input_slow` in net/ipv4/route.c).
    #[inline(always)]
    fn way_back(&self) -> u64 {
        if self.direction == EGRESS && self.device() != LOOPBACK { TO_INGRESS } else { 0 }
    }

    #[inline(always)]
    fn set_mark(&self) {
        if self.mark != 0 {
            // SAFETY: as in `device`.
            unsafe { (*self.skb).tc_index = self.mark };
        }
    }

    /// Sends the packet, as it is now, to its sender; returns what the program returns.
    #[inline(always)]
    pub(crate) fn send_back(&self) -> i32 {
        self.set_mark();
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_redirect(self.device(), self.way_back()) as i32 }
    }

    /// Sends a clone of the packet, as it is now, to its sender.
    #[inline(always)]
    pub(crate) fn send_clone_back(&self) -> bool {
        // SAFETY: as in `device`.
        let before = unsafe { (*self.skb).tc_index };
        self.set_mark();
        // SAFETY: the helper has no preconditions, and the field is the context's.
        unsafe {
            let status = bpf_clone_redirect(self.skb, self.device(), self.way_back());
            (*self.skb).tc_index = before;
            status == 0
        }
    }

    /// Swaps the addresses of the network header, which changes no checksum, and those of an Ethernet header.
    #[inline(always)]
    pub(crate) fn swap_ends(&self, family: u8) -> bool {
        self.swap_ethernet() && if family == 4 { self.swap_ipv4() } else { self.swap_ipv6() }
    }

    #[inline(always)]
    pub(crate) fn swap_ethernet(&self) -> bool {
        if self.network != ETHERNET {
            return true;
        }
        let Some([a, b, c, d, e, f]) = load::<[u16; 6]>(self.skb, 0) else { return false };
        store(self.skb, 0, [d, e, f, a, b, c], 0)
    }

    #[inline(always)]
    fn swap_ipv4(&self) -> bool {
        let at = self.network + IPV4_ADDRESSES;
        let Some([source, destination]) = load::<[u32; 2]>(self.skb, at) else { return false };
        store(self.skb, at, [destination, source], 0)
    }

    #[inline(always)]
    fn swap_ipv6(&self) -> bool {
        let at = self.network + IPV6_ADDRESSES;
        let Some([a, b, c, d, e, f, g, h]) = load::<[u32; 8]>(self.skb, at) else { return false };
        store(self.skb, at, [e, f, g, h, a, b, c, d], 0)
    }

    /// Flags and offset of the fragment field of an IPv4 header.
    #[inline(always)]
    pub(crate) fn ipv4_fragment(&self) -> Option<u16> {
        load::<u16>(self.skb, self.network + IPV4_FRAGMENT).map(u16::from_be)
    }

    /// Whether the packet is sent to a group on its link.
    #[inline(always)]
    pub(crate) fn is_for_group(&self) -> bool {
        self.network == ETHERNET && load::<u8>(self.skb, 0).is_some_and(|first| first & 1 != 0)
    }

    /// Whether the checksum at `at` is still to be computed by a device (`CHECKSUM_PARTIAL`): then only the pseudo header's
    /// sum stands there. No helper says so, but one behaves accordingly: a change of what the device will add up itself
    /// does not change the field (`inet_proto_csum_replace4` in net/core/utils.c). `None`: there is no such field.
    #[inline(always)]
    pub(crate) fn is_partial(&self, at: u32) -> Option<bool> {
        let before = load::<u16>(self.skb, at)?;
        // SAFETY: the helper checks the offset.
        let status = unsafe { bpf_l4_csum_replace(self.skb, at, 0, 1, size_of::<u16>() as u64) };
        let after = load::<u16>(self.skb, at)?;
        if status != 0 {
            return None;
        }
        if before != after { store(self.skb, at, before, 0).then_some(false) } else { Some(true) }
    }

    /// Writes to the packet, and to a checksum of all of it (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    pub(crate) fn write<T: Copy>(&self, offset: u32, value: T) -> bool {
        store(self.skb, offset, value, BPF_F_RECOMPUTE_CSUM as u64)
    }
}

/// Source and destination of an answer to the packet's sender.
#[inline(always)]
pub(crate) fn ends_of_answer(packet: &Packet, direction: u32) -> ([u32; 4], [u32; 4]) {
    let (local, remote) = (packet.local.words, packet.remote.words);
    if direction == EGRESS { (remote, local) } else { (local, remote) }
}
