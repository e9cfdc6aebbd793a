//! Traffic control: packets that leave a target, and both directions of a device.
//!
//! A packet that the network loses is redirected to device 0. No such device exists, so the kernel frees
//! the packet, and unlike after `TC_ACT_SHOT` the sender hears `NET_XMIT_SUCCESS`
//! (`sch_handle_egress` in net/core/dev.c). `TC_ACT_STOLEN` would do the same under clsact, but under tcx
//! it drops nothing.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use injector_common::rule::{EGRESS, INGRESS};

use crate::act;
use crate::answer::LOOPBACK;
use crate::dns;
use crate::parse::Framing;
use crate::reject;
use crate::reset;
use crate::strike::{Verdict, armed, strike};
use crate::target::{rules_of_device, rules_of_socket};

/// Packets that leave a cgroup, on every device of every network namespace it uses.
#[classifier]
#[inline(always)]
pub fn injector_egress(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast();
    act_on_egress(skb, Framing::Ethernet, NO_MARKS, cgroup_egress(skb, Framing::Ethernet))
}

/// Packets that leave by a device, whoever sent them.
#[classifier]
#[inline(always)]
pub fn injector_dev_out(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast();
    act_on_egress(skb, Framing::Ethernet, device_marks(), device(skb, Framing::Ethernet, EGRESS))
}

/// Packets that arrive at a device, whoever they are for.
#[classifier]
#[inline(always)]
pub fn injector_dev_in(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast();
    act_on_ingress(skb, Framing::Ethernet, device(skb, Framing::Ethernet, INGRESS))
}

/// `injector_egress` for devices whose frames begin otherwise.
#[classifier]
#[inline(always)]
pub fn injector_egress_any(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast();
    act_on_egress(skb, Framing::Unknown, NO_MARKS, cgroup_egress(skb, Framing::Unknown))
}

/// `injector_dev_out` for devices whose frames begin otherwise.
#[classifier]
#[inline(always)]
pub fn injector_dev_out_any(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast();
    act_on_egress(skb, Framing::Unknown, device_marks(), device(skb, Framing::Unknown, EGRESS))
}

/// `injector_dev_in` for devices whose frames begin otherwise.
#[classifier]
#[inline(always)]
pub fn injector_dev_in_any(ctx: TcContext) -> i32 {
    let skb = ctx.as_ptr().cast();
    act_on_ingress(skb, Framing::Unknown, device(skb, Framing::Unknown, INGRESS))
}

#[inline(always)]
fn act_on_ingress(skb: *mut __sk_buff, framing: Framing, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Treat => act::arrive(skb, framing, arrival_mark(skb)),
        Verdict::Answer => dns::answer(skb, framing, INGRESS),
        Verdict::Reset => reset::reset(skb, framing, INGRESS, answer_mark()),
        Verdict::Reject => reject::reject(skb, framing, INGRESS, answer_mark()),
        // At ingress nobody is told of a drop.
        Verdict::Lose | Verdict::LocalDrop => TC_ACT_SHOT as i32,
    }
}

#[inline(always)]
fn act_on_egress(skb: *mut __sk_buff, framing: Framing, marks: Marks, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Lose => lose(),
        Verdict::Treat => act::leave(skb, framing, marks.clone),
        Verdict::Answer => dns::answer(skb, framing, EGRESS),
        Verdict::Reset => reset::reset(skb, framing, EGRESS, marks.answer),
        Verdict::Reject => reject::reject(skb, framing, EGRESS, marks.answer),
        Verdict::LocalDrop => TC_ACT_SHOT as i32,
    }
}

/// What our own packets carry in `tc_index`, so that the program that made them does not decide over them.
#[derive(Clone, Copy)]
struct Marks {
    clone: u32,
    answer: u32,
}

const NO_MARK: u32 = 0;
/// A clone of a cgroup's packet has no socket, so nobody's rules mean it any more. An answer that is made of the packet
/// itself has its mark already.
const NO_MARKS: Marks = Marks { clone: NO_MARK, answer: NO_MARK };

/// What all marks have that are more than an experiment's own, whoever's they are. They must be kept: a copy that has lost its mark is copied again.
pub(crate) const MADE_OR_DECIDED: u32 = 0x8000;
/// What tells the mark of a copy whose original was made or decided elsewhere before.
pub(crate) const OF_A_COPY: u32 = 0x1000;

/// What tells the mark of a device's clone from that of a cgroup's packet, which other devices' rules do mean.
const DEVICE_MARK: u32 = 0x8000;
/// What tells the mark of an answer from that of a clone: on loopback it arrives where the next program waits for it.
pub(crate) const ANSWER_MARK: u32 = 0xc000;

/// The mark of a device's clones.
#[inline(always)]
fn device_mark() -> u32 {
    armed().map_or(NO_MARK, |control| control.mark ^ DEVICE_MARK)
}

/// The mark of the clones of what arrives at a device. On loopback they come in by way of its egress, and answers are what is known in both
/// places there.
#[inline(always)]
fn arrival_mark(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the verifier checks each access to a field of the context.
    if unsafe { (*skb).ifindex } == LOOPBACK { answer_mark() } else { device_mark() }
}

/// The mark of the answers to a device's packets.
#[inline(always)]
fn answer_mark() -> u32 {
    armed().map_or(NO_MARK, |control| control.mark ^ ANSWER_MARK)
}

#[inline(always)]
fn device_marks() -> Marks {
    Marks { clone: device_mark(), answer: answer_mark() }
}

/// Frees the packet, and its sender hears that it was sent.
#[inline(always)]
pub(crate) fn lose() -> i32 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(0, 0) as i32 }
}

#[inline(always)]
fn cgroup_egress(skb: *mut __sk_buff, framing: Framing) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    let Some((id, rules)) = rules_of_socket(control, skb, EGRESS) else { return Verdict::Pass };
    // SAFETY: the verifier checks each access to a field of the context.
    unsafe {
        if (*skb).tc_index == control.mark {
            return Verdict::Pass;
        }
        (*skb).tc_index = control.mark;
    }
    strike(control, skb, framing, id, rules, EGRESS)
}

#[inline(always)]
fn device(skb: *mut __sk_buff, framing: Framing, direction: u32) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    // SAFETY: the verifier checks each access to a field of the context.
    let (ifindex, mark) = unsafe { ((*skb).ifindex, (*skb).tc_index) };
    // Without the flag of a copy of a copy, which keeps nothing of its mark but that it was made.
    let (own, rest) = match mark ^ control.mark {
        own if own & OF_A_COPY != 0 => (own ^ OF_A_COPY, MADE_OR_DECIDED),
        own => (own, 0),
    };
    // A copy of our own making, which was decided when it was made: further on it is a packet like another.
    if own == DEVICE_MARK {
        // SAFETY: as above.
        unsafe { (*skb).tc_index = rest };
        return Verdict::Pass;
    }
    // An answer of our own making, likewise; on loopback when it arrives.
    if own == ANSWER_MARK {
        if ifindex != LOOPBACK || direction == INGRESS {
            // SAFETY: as above.
            unsafe { (*skb).tc_index = rest };
        }
        return Verdict::Pass;
    }
    let Some(rules) = rules_of_device(ifindex, direction) else { return Verdict::Pass };
    strike(control, skb, framing, ifindex as u64, rules, direction)
}

/// Does nothing: what a benchmark compares the others with.
#[classifier]
#[inline(always)]
pub fn injector_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
