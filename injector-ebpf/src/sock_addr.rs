//! Calls of a cgroup's processes that ask for a connection or an address: connect, bind, and UDP sends to an address.
//!
//! The kernel runs these programs at the head of the call (`inet_stream_connect`, `inet_bind`, `udp_sendmsg` and theirs
//! of IPv6), for the socket's cgroup and in the caller's context. A program that returns 0 makes the call fail, with the errno
//! that `bpf_set_retval` has left, before the socket or the network has seen anything of it.
//!
//! The caller may be preempted here by another one on the same CPU, unlike in the packet hooks. So nothing of a call is kept in a
//! map per CPU, and the counters of its rules are changed by atomic instructions.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_retval, bpf_loop, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use injector_common::call::{self, CALL_BIND, CALL_CONNECT, CALL_SENDMSG, MAX_ERRNO};
use injector_common::decide::{Outcome, decide, is_meant, note_strike};
use injector_common::layout::{CONTROL_TRACE, Control, MAX_RULES_PER_TARGET, Span};
use injector_common::packet::{Address, Packet};
use injector_common::rule::ACTION_CONNECT;
use injector_common::window::is_over;

use crate::maps::{RULES, needs};
use crate::memory::{FaultMemory, blur};
use crate::strike::{Tries, now_ns};
use crate::task::{count, record, struck_task};

const PASS: i32 = 1;
const FAIL: i32 = 0;

/// connect(2) to an IPv4 address.
#[cgroup_sock_addr(connect4)]
#[inline(always)]
pub fn injector_connect4(ctx: SockAddrContext) -> i32 {
    answer(CALL_CONNECT, ctx.sock_addr, v4)
}

/// connect(2) to an IPv6 address, IPv4 mapped included.
#[cgroup_sock_addr(connect6)]
#[inline(always)]
pub fn injector_connect6(ctx: SockAddrContext) -> i32 {
    answer(CALL_CONNECT, ctx.sock_addr, v6)
}

/// bind(2) to an IPv4 address.
#[cgroup_sock_addr(bind4)]
#[inline(always)]
pub fn injector_bind4(ctx: SockAddrContext) -> i32 {
    answer(CALL_BIND, ctx.sock_addr, v4)
}

/// bind(2) to an IPv6 address, IPv4 mapped included.
#[cgroup_sock_addr(bind6)]
#[inline(always)]
pub fn injector_bind6(ctx: SockAddrContext) -> i32 {
    answer(CALL_BIND, ctx.sock_addr, v6)
}

/// A UDP send to an IPv4 address. The kernel comes by here with mapped ones too.
#[cgroup_sock_addr(sendmsg4)]
#[inline(always)]
pub fn injector_sendmsg4(ctx: SockAddrContext) -> i32 {
    answer(CALL_SENDMSG, ctx.sock_addr, v4)
}

/// A UDP send to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
#[inline(always)]
pub fn injector_sendmsg6(ctx: SockAddrContext) -> i32 {
    answer(CALL_SENDMSG, ctx.sock_addr, v6)
}

/// The address of an IPv4 call. An IPv6 socket can make one too, so it is the hook that says the family.
#[inline(always)]
fn v4(context: *mut bpf_sock_addr) -> Address {
    // SAFETY: the verifier checks each access to a field of the context.
    Address::from_v4_word(unsafe { (*context).user_ip4 })
}

/// The address of an IPv6 call.
#[inline(always)]
fn v6(context: *mut bpf_sock_addr) -> Address {
    // SAFETY: as above. Volatile keeps it at reads of the width that every kernel allows.
    let word = |n: usize| unsafe { (&raw const (*context).user_ip6[n]).read_volatile() };
    Address { words: [word(0), word(1), word(2), word(3)] }
}

#[inline(always)]
fn answer(call: u32, context: *mut bpf_sock_addr, address: fn(*mut bpf_sock_addr) -> Address) -> i32 {
    let Some((control, id, rules)) = struck_task() else { return PASS };
    // SAFETY: the verifier checks each access to a field of the context.
    let (protocol, port) = unsafe { ((*context).protocol as u8, u16::from_be((*context).user_port as u16)) };
    let packet = call::packet(call, protocol, address(context), port);
    match errno_of(control, call, id, rules, packet) {
        errno @ 1..=MAX_ERRNO => {
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_set_retval(-(errno as i32)) };
            FAIL
        }
        _ => PASS,
    }
}

/// What the rules of a target share while one call walks through them; on the stack of its program.
struct Walk {
    packet: Packet,
    call: u32,
    target: u64,
    now_ns: u64,
    elapsed_ns: u64,
    first: u32,
    control_flags: u32,
    /// Of the rule that struck, else 0.
    errno: u32,
}

/// Applies the rules of the target's calls, in the order of the file; returns the errno of the first that strikes, else 0.
#[inline(always)]
fn errno_of(control: &Control, call: u32, id: u64, rules: Span, packet: Packet) -> u32 {
    let now_ns = now_ns(control);
    // A call that another program has refused before is not ours to count.
    // SAFETY: the helper has no preconditions.
    if is_over(now_ns, control.deadline_ns) || unsafe { bpf_get_retval() } != 0 {
        return 0;
    }
    let mut walk = Walk {
        packet,
        call,
        target: id,
        now_ns,
        elapsed_ns: now_ns.wrapping_sub(control.start_ns),
        first: rules.first,
        control_flags: control.flags,
        errno: 0,
    };
    // Else the verifier walks through the rules once for each thing that a comparison has told it of the packet, more than twice as far.
    blur::<16, _>(&mut walk.packet, now_ns);
    let count = rules.count.min(MAX_RULES_PER_TARGET);
    // SAFETY: the callback has the signature that the helper wants, and its context outlives the call.
    unsafe {
        bpf_loop(count, next_rule as *mut c_void, (&raw mut walk).cast(), 0);
        (&raw const walk.errno).read_volatile()
    }
}

/// One round of `bpf_loop`, which the verifier walks once and not for each rule. Returns 1 to stop.
unsafe extern "C" fn next_rule(at: u32, context: *mut c_void) -> i64 {
    // SAFETY: `errno_of` passes a pointer to its own `Walk`.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    walk.errno = apply(walk, walk.first + at);
    i64::from(walk.errno != 0)
}

/// Applies one rule; returns its errno if it struck, else 0.
#[inline(always)]
fn apply(walk: &Walk, index: u32) -> u32 {
    let Some(rule) = RULES.get(index) else { return 0 };
    let (treatment, needs) = (&rule.treatment, needs());
    if rule.action != ACTION_CONNECT
        || treatment.bits & walk.call == 0
        || !is_meant(rule, &walk.packet, &Tries(needs))
    {
        return 0;
    }
    let memory = FaultMemory::of(rule.fault, needs);
    let outcome = decide(rule, &walk.packet, walk.elapsed_ns, &memory);
    if outcome == Outcome::NotMeant {
        return 0;
    }
    count(index, outcome);
    if walk.control_flags & CONTROL_TRACE != 0 {
        record(rule, (walk.target, walk.now_ns, 0), (index, outcome), walk.packet);
    }
    if outcome != Outcome::Injected {
        return 0;
    }
    note_strike(rule, walk.elapsed_ns, &memory);
    treatment.count
}
