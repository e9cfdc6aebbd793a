//! What arrives at a device where some fault keeps it back.
//!
//! A queue lets packets wait when they leave, so what arrives takes a way round: a filter behind all others redirects it to an ifb
//! of ours, whose root is fq, and after its time the kernel takes it for received by its own device (`ifb_ri_tasklet` in
//! `drivers/net/ifb.c`), past the filters that it has passed. These programs are at the ifb's egress, in front of the queue.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use injector_common::packet::Packet;
use injector_common::rule::{INGRESS, Rule};

use crate::act;
use crate::clock::departure_ns;
use crate::parse::{Framing, Offsets};
use crate::strike::{Buffer, Source, Verdict, Walk, armed, strike_at};
use crate::target::rules_of_device;
use crate::tc::ANSWER_MARK;

/// Packets that have arrived at an Ethernet device.
#[classifier]
pub fn injector_ifb(ctx: TcContext) -> i32 {
    act_on(ctx.as_ptr().cast(), Framing::Ethernet)
}

/// `injector_ifb` for devices whose frames begin otherwise.
#[classifier]
pub fn injector_ifb_any(ctx: TcContext) -> i32 {
    act_on(ctx.as_ptr().cast(), Framing::Unknown)
}

#[inline(always)]
fn act_on(skb: *mut __sk_buff, framing: Framing) -> i32 {
    match decided(skb, framing) {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Treat => act::hold(skb, framing),
        // Who sent it is elsewhere: nobody is told of a drop. What answers is refused together with what keeps back.
        Verdict::Lose | Verdict::LocalDrop | Verdict::Answer | Verdict::Reset | Verdict::Reject => {
            TC_ACT_SHOT as i32
        }
    }
}

#[inline(always)]
fn decided(skb: *mut __sk_buff, framing: Framing) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    // The device that it came from, by whose index the target is known.
    // SAFETY: the verifier checks each access to a field of the context.
    let (arrived_at, mark) = unsafe { ((*skb).ingress_ifindex, (*skb).tc_index) };
    // An answer of our own making.
    if mark == control.mark ^ ANSWER_MARK {
        // SAFETY: as above.
        unsafe { (*skb).tc_index = 0 };
        return Verdict::Pass;
    }
    let Some(rules) = rules_of_device(arrived_at, INGRESS) else { return Verdict::Pass };
    strike_at(control, OnItsWay(Buffer { skb, framing }), arrived_at as u64, rules, INGRESS)
}

/// A packet on its way round, which may have a time already at which it goes on: what arrives at a cgroup and was kept back by its faults.
#[derive(Clone, Copy)]
struct OnItsWay(Buffer);

impl Source for OnItsWay {
    const IS_ONE_SEGMENT: bool = Buffer::IS_ONE_SEGMENT;

    #[inline(always)]
    fn parse(self, direction: u32, packet: &mut Packet, offsets: &mut Offsets) -> Option<()> {
        self.0.parse(direction, packet, offsets)
    }

    #[inline(always)]
    fn start_ns(self, _direction: u32, now_ns: u64) -> u64 {
        departure_ns(self.0.skb, now_ns)
    }

    #[inline(always)]
    fn asks(self, walk: &mut Walk, rule: &Rule) -> bool {
        self.0.asks(walk, rule)
    }
}
