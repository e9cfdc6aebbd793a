//! What becomes of a packet that is struck and stays: it is changed, copied, kept back.
//!
//! A packet that the network delays is not its sender's any more, but one that waits in a queue of the host is: TCP then
//! believes its own queue full, and a bulk transfer over 20 ms falls to a hundredth. So what waits is a clone, which has no
//! socket, and the packet itself is freed at once, as a network card would have it.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_loop, bpf_set_hash, bpf_skb_ecn_set_ce, bpf_skb_set_tstamp,
};
use injector_common::rule::{EGRESS, INGRESS};
use injector_common::treatment::{MARK_CE, MAX_COPIES};

use crate::answer::LOOPBACK;
use crate::change;
use crate::maps::WALKS;
use crate::parse::Framing;
use crate::strike::Walk;
use crate::tally::count_failed;
use crate::tc::{MADE_OR_DECIDED, OF_A_COPY, lose};

/// `BPF_SKB_TSTAMP_DELIVERY_MONO`: the time stamp is a time of departure.
const DEPARTURE: u32 = 1;
/// `BPF_F_INGRESS` of `bpf_clone_redirect`.
const TO_INGRESS: u64 = 1;
/// The walk of the packet at hand, which `strike` has just left.
#[inline(always)]
pub(crate) fn walk(direction: u32) -> Option<&'static mut Walk> {
    let walk = WALKS.get_ptr_mut(direction)?;
    // SAFETY: a value of this CPU's own; programs of one direction do not preempt each other on it.
    Some(unsafe { &mut *walk })
}

/// A packet that leaves. The queue of the device (fq) holds what has a time of departure.
///
/// `mark` is what the clones carry in `tc_index`, if the program would decide over them again.
#[inline(never)]
pub(crate) fn leave(skb: *mut __sk_buff, framing: Framing, mark: u32) -> i32 {
    let Some(walk) = walk(EGRESS) else { return TC_ACT_UNSPEC };
    change::apply(skb, framing, walk);
    // Copied now: a clone may pass another device's program before it is out of our hands, and that has this walk too.
    let (rule, failed) = (walk.treated_by, walk.failed);
    let stays = walk.way.at_ns != walk.start_ns;
    if stays {
        // SAFETY: the helpers take any number.
        unsafe {
            bpf_set_hash(skb, walk.way.hash);
            bpf_skb_set_tstamp(skb, walk.way.at_ns, DEPARTURE);
        }
    }
    let sent = send_copies(skb, of_what(skb, mark), 0, walk.way.copies + u32::from(stays));
    if failed != 0 || !sent {
        count_failed(rule);
    }
    // What could not be cloned leaves by itself, also in time, if its socket has room.
    if stays && sent { lose() } else { TC_ACT_UNSPEC }
}

/// A packet that arrives at a device. It can be changed and copied; to keep it back takes the way round by an ifb.
#[inline(never)]
pub(crate) fn arrive(skb: *mut __sk_buff, framing: Framing, mark: u32) -> i32 {
    let Some(walk) = walk(INGRESS) else { return TC_ACT_UNSPEC };
    change::apply(skb, framing, walk);
    let (rule, failed) = (walk.treated_by, walk.failed);
    let sent = send_copies(skb, of_what(skb, mark), way_in(skb), walk.way.copies);
    if failed != 0 || !sent {
        count_failed(rule);
    }
    TC_ACT_UNSPEC
}

/// The mark for the copies of a packet. One that has been decided at a cgroup, or that is itself a copy, has copies which say so, or two
/// faults would make copies of each other's without an end.
#[inline(always)]
fn of_what(skb: *mut __sk_buff, mark: u32) -> u32 {
    // SAFETY: the verifier checks each access to a field of the context.
    let made = unsafe { (*skb).tc_index } & MADE_OR_DECIDED != 0;
    if made && mark != 0 { mark ^ OF_A_COPY } else { mark }
}

/// How a copy of what arrives comes in. What leaves loopback arrives there, with the route that it was given when it was sent. One that is put
/// in at ingress has none, and an IPv4 packet to 127.0.0.1 is then dropped as a martian (`ip_route_input_slow`).
#[inline(always)]
fn way_in(skb: *mut __sk_buff) -> u64 {
    // SAFETY: the verifier checks each access to a field of the context.
    if unsafe { (*skb).ifindex } == LOOPBACK { 0 } else { TO_INGRESS }
}

/// A packet that arrives at a cgroup. One that is kept back gets the mark `round`, by which it is sent the way round; its copies, which the plan
/// has refused for those, the mark `arrived`, by which they are not decided again.
#[inline(never)]
pub(crate) fn arrive_at_cgroup(skb: *mut __sk_buff, framing: Framing, arrived: u32, round: u32) -> i32 {
    let Some(walk) = walk(INGRESS) else { return TC_ACT_UNSPEC };
    let (rule, copies) = (walk.treated_by, walk.way.copies);
    let stays = walk.way.at_ns != walk.start_ns;
    hold(skb, framing);
    if stays {
        // SAFETY: the verifier checks each access to a field of the context.
        unsafe { (*skb).tc_index = round };
    }
    if !send_copies(skb, arrived, way_in(skb), copies) {
        count_failed(rule);
    }
    TC_ACT_UNSPEC
}

/// A packet that has arrived at a device and waits on its way round. It belongs to no sender here, so it may wait by itself.
/// Copies of it could not come back by that way, so the plan has refused them.
#[inline(never)]
pub(crate) fn hold(skb: *mut __sk_buff, framing: Framing) -> i32 {
    let Some(walk) = walk(INGRESS) else { return TC_ACT_UNSPEC };
    change::apply(skb, framing, walk);
    if walk.way.at_ns != walk.start_ns {
        // SAFETY: the helpers take any number.
        unsafe {
            bpf_set_hash(skb, walk.way.hash);
            bpf_skb_set_tstamp(skb, walk.way.at_ns, DEPARTURE);
        }
    }
    if walk.failed != 0 {
        count_failed(walk.treated_by);
    }
    TC_ACT_UNSPEC
}

/// A packet that arrives at a socket: all that may be changed there is its congestion mark.
#[inline(always)]
pub(crate) fn mark_at_socket(skb: *mut __sk_buff) {
    let Some(walk) = walk(INGRESS) else { return };
    // SAFETY: the helper checks the packet itself.
    let marked = walk.way.marks & MARK_CE != 0 && unsafe { bpf_skb_ecn_set_ce(skb) } == 1;
    if !marked {
        count_failed(walk.treated_by);
    }
}

/// The clones of one packet, for the callback of `bpf_loop`.
struct Copies {
    skb: *mut __sk_buff,
    flags: u64,
    failed: u64,
}

/// Sends so many clones to the packet's own device, each with the mark unless that is 0; false if one could not be made.
#[inline(always)]
fn send_copies(skb: *mut __sk_buff, mark: u32, flags: u64, count: u32) -> bool {
    if count == 0 {
        return true;
    }
    // SAFETY: the verifier checks each access to a field of the context.
    let before = unsafe { (*skb).tc_index };
    if mark != 0 {
        // SAFETY: as above.
        unsafe { (*skb).tc_index = mark };
    }
    let mut copies = Copies { skb, flags, failed: 0 };
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe { bpf_loop(count.min(MAX_COPIES + 1), send_copy as *mut c_void, (&raw mut copies).cast(), 0) };
    // SAFETY: as above. The packet itself goes on as it was.
    unsafe { (*skb).tc_index = before };
    copies.failed == 0
}

/// One clone, of the packet as it is now.
unsafe extern "C" fn send_copy(_number: u32, context: *mut c_void) -> i64 {
    // SAFETY: `send_copies` passes a pointer to its own `Copies`.
    let copies = unsafe { &mut *context.cast::<Copies>() };
    // SAFETY: the verifier checks the access to a field of the context; the helper has no preconditions.
    let status = unsafe { bpf_clone_redirect(copies.skb, (*copies.skb).ifindex, copies.flags) };
    copies.failed |= status as u64;
    0
}
