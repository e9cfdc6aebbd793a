//! What arrives at a cgroup, at traffic control of the devices where it arrives.
//!
//! In the socket's filter a packet may only pass or drop. Here it can be changed, copied and kept back, and where some fault asks for
//! that all rules of what arrives at cgroups are applied here. What is kept back takes a way round by an ifb as at a device,
//! but alone: the program marks it, and a filter behind all others sends there what has the mark.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use injector_common::packet::Packet;
use injector_common::rule::{INGRESS, Rule};

use crate::act;
use crate::parse::{self, Framing, Offsets};
use crate::socket;
use crate::strike::{Buffer, Source, Verdict, Walk, armed, strike_at};
use crate::target::rules_of_cgroup;
use crate::tc::MADE_OR_DECIDED;

/// `PACKET_HOST` (include/uapi/linux/if_packet.h): for this host, and neither for a group nor for somebody else.
const FOR_THIS_HOST: u32 = 0;

/// What tells the mark of a packet that was decided here, which is the same packet at a device above the one where it arrived.
const ARRIVED_MARK: u32 = 0xa000;
/// What tells the mark of one that is to take the way round.
const ROUND_MARK: u32 = 0xe000;

/// Packets that arrive at an Ethernet device.
#[classifier]
pub fn injector_arrive(ctx: TcContext) -> i32 {
    act_on(ctx.as_ptr().cast(), Framing::Ethernet)
}

/// `injector_arrive` for devices whose frames begin otherwise.
#[classifier]
pub fn injector_arrive_any(ctx: TcContext) -> i32 {
    act_on(ctx.as_ptr().cast(), Framing::Unknown)
}

/// Which packets take the way round: a filter whose actions send them there. Returns its class, 0 for those that go straight on.
#[classifier]
pub fn injector_round(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    let Some(control) = armed() else { return 0 };
    // SAFETY: the verifier checks each access to a field of the context.
    unsafe {
        if (*skb).tc_index != control.mark ^ ROUND_MARK {
            return 0;
        }
        (*skb).tc_index = control.mark ^ ARRIVED_MARK;
    }
    1
}

#[inline(always)]
fn act_on(skb: *mut __sk_buff, framing: Framing) -> i32 {
    let Some(control) = armed() else { return TC_ACT_UNSPEC };
    let arrived = control.mark ^ ARRIVED_MARK;
    match decided(skb, framing, arrived) {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Treat => act::arrive_at_cgroup(skb, framing, arrived, control.mark ^ ROUND_MARK),
        // At ingress nobody is told of a drop. What answers is refused for what arrives at a cgroup.
        Verdict::Lose | Verdict::LocalDrop | Verdict::Answer | Verdict::Reset | Verdict::Reject => {
            TC_ACT_SHOT as i32
        }
    }
}

#[inline(always)]
fn decided(skb: *mut __sk_buff, framing: Framing, arrived: u32) -> Verdict {
    let Some(control) = armed() else { return Verdict::Pass };
    // SAFETY: the verifier checks each access to a field of the context.
    let (mark, kind) = unsafe { ((*skb).tc_index, (*skb).pkt_type) };
    // Decided at the device below, or a copy or an answer that some experiment has made.
    if kind != FOR_THIS_HOST || mark & MADE_OR_DECIDED != 0 {
        return Verdict::Pass;
    }
    let Some(walk) = act::walk(INGRESS) else { return Verdict::Pass };
    if parse::packet(skb, framing, INGRESS, &mut walk.packet, &mut walk.offsets).is_none() {
        return Verdict::Pass;
    }
    socket::find_receiver(skb, walk);
    let id = walk.target;
    if id == 0 {
        return Verdict::Pass;
    }
    let Some(rules) = rules_of_cgroup(id, INGRESS) else { return Verdict::Pass };
    // SAFETY: as above.
    unsafe { (*skb).tc_index = arrived };
    strike_at(control, Parsed(Buffer { skb, framing }), id, rules, INGRESS)
}

/// A packet that is in the walk of its direction already.
#[derive(Clone, Copy)]
struct Parsed(Buffer);

impl Source for Parsed {
    const IS_ONE_SEGMENT: bool = Buffer::IS_ONE_SEGMENT;

    #[inline(always)]
    fn parse(self, _direction: u32, _packet: &mut Packet, _offsets: &mut Offsets) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn start_ns(self, _direction: u32, now_ns: u64) -> u64 {
        now_ns
    }

    #[inline(always)]
    fn asks(self, walk: &mut Walk, rule: &Rule) -> bool {
        self.0.asks(walk, rule)
    }
}
