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

use crate::maps::INTERFACES;
use crate::parse::Framing;
use crate::strike::{Verdict, armed, span, strike, target_of_socket};

/// Packets that leave a cgroup, on every device of every network namespace it uses.
#[classifier]
pub fn injector_egress(ctx: TcContext) -> i32 {
    act_on_egress(cgroup_egress(ctx.as_ptr().cast(), Framing::Ethernet))
}

/// Packets that leave by a device, whoever sent them.
#[classifier]
pub fn injector_dev_out(ctx: TcContext) -> i32 {
    act_on_egress(device(ctx.as_ptr().cast(), Framing::Ethernet, EGRESS))
}

/// Packets that arrive at a device, whoever they are for.
#[classifier]
pub fn injector_dev_in(ctx: TcContext) -> i32 {
    act_on_ingress(device(ctx.as_ptr().cast(), Framing::Ethernet, INGRESS))
}

/// `injector_egress` for devices whose frames begin otherwise.
#[classifier]
pub fn injector_egress_any(ctx: TcContext) -> i32 {
    act_on_egress(cgroup_egress(ctx.as_ptr().cast(), Framing::Unknown))
}

/// `injector_dev_out` for devices whose frames begin otherwise.
#[classifier]
pub fn injector_dev_out_any(ctx: TcContext) -> i32 {
    act_on_egress(device(ctx.as_ptr().cast(), Framing::Unknown, EGRESS))
}

/// `injector_dev_in` for devices whose frames begin otherwise.
#[classifier]
pub fn injector_dev_in_any(ctx: TcContext) -> i32 {
    act_on_ingress(device(ctx.as_ptr().cast(), Framing::Unknown, INGRESS))
}

#[inline(always)]
fn act_on_ingress(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        // At ingress nobody is told of a drop.
        Verdict::Lose | Verdict::LocalDrop => TC_ACT_SHOT as i32,
    }
}

#[inline(always)]
fn act_on_egress(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        // SAFETY: the helper has no preconditions.
        Verdict::Lose => unsafe { bpf_redirect(0, 0) as i32 },
        Verdict::LocalDrop => TC_ACT_SHOT as i32,
    }
}

#[inline(always)]
fn cgroup_egress(skb: *mut __sk_buff, framing: Framing) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    let Some((id, target)) = target_of_socket(control, skb) else { return Verdict::Pass };
    // SAFETY: the verifier checks each access to a field of the context.
    unsafe {
        if (*skb).tc_index == control.mark {
            return Verdict::Pass;
        }
        (*skb).tc_index = control.mark;
    }
    strike(control, skb, framing, id, span(&target, EGRESS), EGRESS)
}

#[inline(always)]
fn device(skb: *mut __sk_buff, framing: Framing, direction: u32) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    // SAFETY: the verifier checks each access to a field of the context.
    let ifindex = unsafe { (*skb).ifindex };
    // SAFETY: the entry is copied out; the controller replaces entries whole and before it arms.
    let Some(target) = (unsafe { INTERFACES.get(ifindex) }) else { return Verdict::Pass };
    strike(control, skb, framing, ifindex as u64, span(target, direction), direction)
}

/// Does nothing: what a benchmark compares the others with.
#[classifier]
pub fn injector_empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
