//! What arrives at the sockets of a cgroup and its descendants.
//!
//! The program runs in the socket's filter, where the kernel has found the socket: a SYN and the ACK of a
//! handshake count for the listener, so a connection belongs to its cgroup from the first packet on. What
//! reaches no full socket does not come by: segments for TIME-WAIT, and resets and ICMP for closed ports.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use injector_common::rule::INGRESS;

use crate::act;
use crate::parse::Framing;
use crate::strike::{Verdict, armed, strike};
use crate::target::rules_of_socket;

const PASS: i32 = 1;
const DROP: i32 = 0;

/// Packets that arrive at a cgroup. At ingress the sender is never told of a drop.
#[cgroup_skb(ingress)]
#[inline(always)]
pub fn injector_ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.as_ptr().cast();
    match ingress(skb) {
        Verdict::Pass => PASS,
        Verdict::Treat => {
            act::mark_at_socket(skb);
            PASS
        }
        // No answer can be sent from here; the plan allows none but silence.
        Verdict::Lose | Verdict::LocalDrop | Verdict::Answer | Verdict::Reset | Verdict::Reject => DROP,
    }
}

#[inline(always)]
fn ingress(skb: *mut __sk_buff) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    let Some((id, rules)) = rules_of_socket(control, skb, INGRESS) else { return Verdict::Pass };
    strike(control, skb, Framing::Unknown, id, rules, INGRESS)
}
